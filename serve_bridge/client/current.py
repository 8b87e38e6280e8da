"""The current client of this process, on which the functions of `serve_bridge` act, and the instances it started."""

from __future__ import annotations

import atexit
import sys
import threading
from collections.abc import Callable
from functools import partial

from serve_bridge.client.client import Client
from serve_bridge.client.instance_link import InstanceLink, link_at
from serve_bridge.client.registry import end_each
from serve_bridge.context import current_replica
from serve_bridge.errors import ControlPlaneLost, InstanceClosed, NotConnected
from serve_bridge.instance.instance import Instance

_lock = threading.RLock()
_current: Client | None = None
_started: list[InstanceLink] = []
_was_shut_down = False


def current_client() -> Client:
    """Return the process's current client.

    Raises:
        NotConnected: There is none yet.
        InstanceClosed: It was shut down.
    """
    client = own_client() or _current
    if client is not None:
        return client
    if _was_shut_down:
        raise InstanceClosed("the instance was shut down; call serve_bridge.start() or connect() again")
    raise NotConnected("no instance: call serve_bridge.start(), or serve_bridge.connect() to join a running one")


def own_client() -> Client | None:
    """Return a client of the instance whose replica runs the calling code; None outside of replicas."""
    context = current_replica()
    return Client(link_at(context.generation, "")) if context is not None else None


def set_current(client: Client | None) -> Client | None:
    """Make *client* the process's current one; None: leave it without one. Return the former one."""
    global _current
    with _lock:
        before, _current = _current, client
    return before


def shut_down_current(*, forget: bool) -> None:
    """Shut the current client's instance down; without a current client nothing happens.

    With *forget* its kept state is removed too.

    Raises:
        ControlPlaneLost: Ray's control plane does not answer. The client stays the current one.
    """
    global _was_shut_down
    client = set_current(None)
    if client is not None:
        try:
            client.shutdown(forget)
        except ControlPlaneLost:
            set_current(client)
            raise
        finally:
            _was_shut_down = _current is None


def started_here(instance: Instance, ended: Callable[[], None], *, lease: bool) -> InstanceLink:
    """Return a link to *instance*, which this process has started; *ended* is called after its shutdown.

    With *lease* the instance ends with this process.
    """
    link = InstanceLink(instance, on_end=ended, lease=lease)
    if link.is_owner:
        link.hold()
    _started.append(link)
    # The last registered function runs first. So the instance ends before Ray disconnects at exit.
    atexit.unregister(_end_with_process)
    atexit.register(_end_with_process)
    started = sys.modules.get("multiprocessing.process")
    if started is not None and started.parent_process() is not None:
        from multiprocessing.util import Finalize  # late: only processes of multiprocessing need it

        Finalize(None, _end_with_process, exitpriority=0)  # such a process ends without the functions of `atexit`
    return link


def _end_with_process() -> None:
    """End the instances started here, unless they are detached."""
    # If one fails, its controller ends by itself as soon as this process is gone.
    end_each([partial(link.shutdown, forget=False) for link in _started if link.is_owner])
