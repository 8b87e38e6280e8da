"""The application for uvicorn without a bridge."""

from benchmarks.contenders.sites import application

app = application()
