"""The first examples: one file per framework, started with `python app.py` in its own folder."""
