"""The register of classes that travel by value, such as those of `__main__`.

cloudpickle gives each of these classes an id. If a process unpickles a known id, it uses its existing class. Ray has a
copy of cloudpickle with a register of its own. Without this module, a class could leave by one pickler and return by
the other as a second class. An `except` clause with the first class would not catch the second.
"""

from __future__ import annotations

import sys
from typing import Any, Final

import cloudpickle.cloudpickle as _own

_RAYS: Final = "ray.cloudpickle.cloudpickle"
_BY_CLASS, _BY_ID, _LOCK = (f"_DYNAMIC_CLASS_TRACKER_{name}" for name in ("BY_CLASS", "BY_ID", "LOCK"))


def share_class_register() -> None:
    """Let Ray's pickler use the register of cloudpickle, if this process has loaded Ray. Later calls are free."""
    rays: Any = sys.modules.get(_RAYS)  # not imported: most processes do not use Ray
    if rays is None or getattr(rays, _LOCK, None) is getattr(_own, _LOCK):
        return
    if not all(hasattr(rays, name) for name in (_BY_CLASS, _BY_ID, _LOCK)):
        return  # Ray is still being imported
    with getattr(_own, _LOCK), getattr(rays, _LOCK):
        for name in (_BY_CLASS, _BY_ID):
            ours = getattr(_own, name)
            for key, value in list(getattr(rays, name).items()):
                ours.setdefault(key, value)
            setattr(rays, name, ours)
        setattr(rays, _LOCK, getattr(_own, _LOCK))
