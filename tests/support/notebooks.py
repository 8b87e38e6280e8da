"""A notebook: a real Jupyter kernel that runs cells one by one."""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

LIMIT_S = 60


class Notebook:
    """A notebook whose kernel runs."""

    def __init__(self, client: NotebookClient) -> None:
        self._client = client

    def run(self, cell: str) -> str:
        """Run *cell* and return what it prints; an exception of the cell is `nbclient`'s CellExecutionError."""
        cells = self._client.nb.cells
        cells.append(nbformat.v4.new_code_cell(textwrap.dedent(cell)))
        done = self._client.execute_cell(cells[-1], len(cells) - 1)
        return "".join(output["text"] for output in done["outputs"] if output.get("name") == "stdout").strip()


@contextmanager
def notebook_in(directory: Path, environment: Mapping[str, str]) -> Iterator[Notebook]:
    """A notebook that lies in *directory*, which its kernel runs in."""
    options: dict[str, Any] = {"resources": {"metadata": {"path": str(directory)}}}
    client = NotebookClient(nbformat.v4.new_notebook(), timeout=LIMIT_S, kernel_name="python3", **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the client's own loop and sockets
        with client.setup_kernel(env=dict(environment)):
            yield Notebook(client)
