"""Starlette: start `app.py`."""
