"""Signals about forwarded requests. The sender is the view.

A receiver takes `**kwargs`. An exception of a receiver is logged, and has no other effect.
"""

from django.dispatch import Signal

forwarded = Signal()
"""Sent when an endpoint has answered, with `request`, `endpoint`, `status`, `request_id`. The body may follow later."""

forward_failed = Signal()
"""Sent when a request failed or user code raised, with `request`, `endpoint`, `status`, `request_id`, `error`."""
