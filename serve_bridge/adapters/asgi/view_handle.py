"""Handles for the views of ASGI applications. A missing endpoint or a full queue becomes a 503; see `unavailable`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any

from serve_bridge.adapters.asgi.unavailable import unavailable_in_app
from serve_bridge.client.call_options import CallOptions
from serve_bridge.client.handle import Handle
from serve_bridge.client.instance_link import InstanceLink


def view_handle(link: InstanceLink, endpoint: str, options: CallOptions) -> Handle:
    """Return a handle for *endpoint* with *options*. The endpoint need not exist yet."""
    return ViewHandle(link, endpoint, options)


class ViewHandle(Handle):
    """A handle whose errors of `errors.UNAVAILABLE` become a 503 if a view does not catch them."""

    def call(self, /, *args: Any, **kwargs: Any) -> Any:
        """See `Handle.call`."""
        with unavailable_in_app():
            return super().call(*args, **kwargs)

    async def acall(self, /, *args: Any, **kwargs: Any) -> Any:
        """See `Handle.acall`."""
        with unavailable_in_app():
            return await super().acall(*args, **kwargs)

    def stream(self, /, *args: Any, **kwargs: Any) -> Iterator[Any]:
        """See `Handle.stream`."""
        with unavailable_in_app():
            items = super().stream(*args, **kwargs)
        return _iterated(items)

    async def astream(self, /, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        """See `Handle.astream`."""
        items: Any = super().astream(*args, **kwargs)
        with unavailable_in_app():
            async with aclosing(items):
                async for item in items:
                    yield item

    def remote(self, /, *args: Any, **kwargs: Any) -> Any:
        """See `Handle.remote`."""
        with unavailable_in_app():
            return super().remote(*args, **kwargs)

    def __reduce__(self) -> Any:
        return (Handle, super().__reduce__()[1])  # in another process it may be used outside of a view


def _iterated(items: Any) -> Iterator[Any]:
    try:
        with unavailable_in_app():
            yield from items
    finally:
        items.close()
