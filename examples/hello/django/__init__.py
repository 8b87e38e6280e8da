"""Django: start `app.py`."""
