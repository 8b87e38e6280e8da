"""No web framework: start `app.py`."""
