"""The Celery application: one task. The environment names its broker and result backend."""

import os
from typing import Any

from celery import Celery

from benchmarks import BODY

REDIS = os.environ["CELERY_BENCHMARK_REDIS"]
app: Any = Celery("benchmark", broker=REDIS, backend=REDIS)


@app.task(name="noop")  # type: ignore[untyped-decorator]  # Celery has no types
def noop() -> str:
    """Answer at once with text, because Celery encodes results as JSON."""
    return BODY.decode()
