"""FastAPI: start `app.py`."""
