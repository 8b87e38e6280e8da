"""Flask: start `app.py`."""
