"""The Celery application of the benchmark: one task, its broker and result backend in the environment."""

import os
from typing import Any

from celery import Celery

from benchmarks import BODY

REDIS = os.environ["CELERY_BENCHMARK_REDIS"]
app: Any = Celery("benchmark", broker=REDIS, backend=REDIS)


@app.task(name="noop")  # type: ignore[untyped-decorator]  # Celery has no types
def noop() -> str:
    """Answer at once, with text: what its JSON can carry."""
    return BODY.decode()
