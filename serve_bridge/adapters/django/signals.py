"""Signals of forwarded requests; receivers take `**kwargs`; what one raises is logged and goes nowhere.

The sender is the view.
"""

from django.dispatch import Signal

forwarded = Signal()
"""An endpoint has answered: `request`, `endpoint`, `status`, `request_id`. The body may still be on its way."""

forward_failed = Signal()
"""There is no answer, or user code raised: `request`, `endpoint`, `status`, `request_id`, `error`."""
