"""Adapters: each binds one web framework to a client. Import the one you need; nothing here imports any.

Rule 1: an adapter translates and delegates: `bridge` asks the endpoint, the framework carries the answer.
Rule 2: nothing connects before the first request, so an adapter may be set up before a web server forks.
"""
