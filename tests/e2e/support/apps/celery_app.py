"""A Celery app whose tasks call handles; its broker and its results are files."""

from __future__ import annotations

import os
from functools import cache
from typing import Any

from celery import Celery
from celery.exceptions import SoftTimeLimitExceeded

import serve_bridge as serve

QUEUE = os.environ["QUEUE_DIRECTORY"]

app = Celery("calls", broker="filesystem://", backend=f"file://{QUEUE}/results")
app.conf.update(
    broker_transport_options={
        "polling_interval": 0.05,
        "data_folder_in": f"{QUEUE}/messages",
        "data_folder_out": f"{QUEUE}/outbox",
        "control_folder": f"{QUEUE}/control",
    },
    broker_connection_retry_on_startup=True,
    worker_prefetch_multiplier=1,
)


@cache
def client() -> serve.Client:
    """Return the process's client, connected on first use as the docs say."""
    return serve.connect()


@app.task
def ask(text: str) -> Any:
    """Return what the backend makes of *text*, and the process that asked."""
    return [client().get_handle("echo").call(text), os.getpid()]


@app.task(soft_time_limit=1, time_limit=30)
def wait() -> str:
    """Wait for a slow backend; return how that ended."""
    try:
        client().get_handle("slow").call()
    except SoftTimeLimitExceeded:
        return "out of time"
    return "answered"
