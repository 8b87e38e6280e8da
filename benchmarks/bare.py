"""The application that uvicorn serves without a bridge."""

from benchmarks.sites import application

app = application()
