"""The files of an instance on other Ray nodes than that of its controller: its sockets, and copies of its file.

Rule 1: a Ray task does the work on each node, because a node may have no process of the instance.
Rule 2: a failure is only logged, because a node may have gone. The work has a time limit.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any, Final

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from serve_bridge.instance import instance_file as instances
from serve_bridge.instance.instance import Instance

WAIT_S: Final = 10.0
"""Upper limit for the work on all nodes, in seconds."""

_logger = logging.getLogger("serve_bridge.controller")


async def update_files(instance: Instance, nodes: Iterable[str]) -> None:
    """Write the address of the controller into the existing files of *instance* on *nodes*."""
    await _done(nodes, instances.update_here, instance)


async def remove_files(instance: Instance, nodes: Iterable[str]) -> None:
    """Remove the files and sockets of *instance* on *nodes*."""
    await _done(nodes, instances.remove_here, instance.name, instance.generation)


async def _done(nodes: Iterable[str], work: Callable[..., None], *arguments: Any) -> None:
    # On a thread, because Ray writes *work* to its control plane first, which may not answer.
    async with asyncio.timeout(WAIT_S):
        begun = await asyncio.to_thread(begin_on, nodes, work, *arguments)
    if not begun:
        return
    waiting = [asyncio.ensure_future(reference) for reference in begun]
    done, late = await asyncio.wait(waiting, timeout=WAIT_S)
    for task in late:
        task.cancel()
    for task in done:
        if (error := task.exception()) is not None:
            _logger.warning("the files of the instance on another node: %s", error)


def begin_on(nodes: Iterable[str], work: Callable[..., Any], *arguments: Any, **options: Any) -> list[Any]:
    """Start *work* with *arguments* on each of *nodes*; return the references of the results.

    Args:
        nodes: The ids of the nodes.
        work: A function of this package.
        *arguments: Its arguments.
        **options: Options of the Ray tasks.
    """
    # Its worker ends with the task. Otherwise Ray could use it for a later actor, which would have this process's code.
    decorate: Any = ray.remote(max_calls=1)
    task: Any = decorate(work)
    begun = []
    for node in nodes:
        strategy = NodeAffinitySchedulingStrategy(node, soft=False)
        given = {"num_cpus": 0, "max_retries": 0, "scheduling_strategy": strategy, **options}
        begun.append(task.options(**given).remote(*arguments))
    return begun


def remove_now(name: str, generation: str, nodes: Iterable[str]) -> None:
    """Do the same as `remove_files`, in a process without an event loop."""
    begun = begin_on(nodes, instances.remove_here, name, generation)
    if begun:
        ray.wait(begun, num_returns=len(begun), timeout=WAIT_S)
