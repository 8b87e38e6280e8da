"""The application that uvicorn serves without a bridge."""

from benchmarks.contenders.sites import application

app = application()
