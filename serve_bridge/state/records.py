"""The state of an instance as records: everything that users asked for, in a form for JSON.

Rule 1: the records are the file format. `document.FORMAT` grows with each change of a field.
Rule 2: code and other pickled values are not part of a record. The record names them by the SHA-256 of their bytes.
Rule 3: no user code is imported. A pickled value is opened only if it consists of plain data.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
from msgspec import UNSET, UnsetType

from serve_bridge.config.backend_config import BackendConfig
from serve_bridge.errors import SerializationError
from serve_bridge.specs import BackendSpec, EndpointSpec, Origin, UnfinishedDeployment
from serve_bridge.traffic import TrafficPolicy
from serve_bridge.wire.opaque import Opaque

LONGEST_PLAIN: Final = 64 * 1024
"""Upper limit for the pickle of a value that a record shows as JSON, in bytes."""


class OriginRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The deployment of a backend or an endpoint; see `specs.Origin`."""

    owner: str
    time: float
    version: str
    fingerprint: str
    declared: tuple[str, ...]
    search_path: tuple[str, ...]

    @classmethod
    def of(cls, origin: Origin | None) -> OriginRecord | None:
        """Return the record of *origin*."""
        if origin is None:
            return None
        return cls(
            owner=origin.owner,
            time=origin.time,
            version=origin.version,
            fingerprint=origin.fingerprint,
            declared=tuple(origin.declared),
            search_path=tuple(origin.search_path),
        )

    def restored(self) -> Origin:
        """Return the origin of this record."""
        return Origin(self.owner, self.time, self.version, self.fingerprint, self.declared, self.search_path)


class ValueRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A value of user code.

    Attributes:
        value: The value, if JSON can express it exactly.
        pickled: Otherwise: the SHA-256 of its pickle.
        digest: Otherwise: the digest of its content, by which two values are compared.
    """

    value: Any | UnsetType = UNSET
    pickled: str = ""
    digest: str = ""

    @classmethod
    def of(cls, packed: Opaque, blobs: dict[str, bytes]) -> ValueRecord:
        """Return the record of *packed*; add a pickle to *blobs*."""
        if len(packed.data) <= LONGEST_PLAIN:
            try:
                value = json.loads(json.dumps(packed.plain(), allow_nan=False))
                if Opaque(value) == packed:  # JSON makes lists of tuples, and strings of other keys
                    return cls(value=value)
            except (SerializationError, TypeError, ValueError, RecursionError):
                pass
        return cls(pickled=_named(packed.data, blobs), digest=packed.digest)

    def restored(self, blob: Callable[[str], bytes]) -> Opaque:
        """Return the packed value of this record; *blob* returns the pickle with a SHA-256."""
        if self.value is not UNSET:
            return Opaque(self.value)
        return Opaque.of_parts(blob(self.pickled), self.digest)

    def is_same(self, other: ValueRecord | None) -> bool:
        """Return whether the other record is of a value with the same content."""
        if other is None:
            return False
        return self == other if self.value is not UNSET else bool(self.digest) and self.digest == other.digest


class BackendRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One backend.

    Attributes:
        code: SHA-256 of its code.
        options: The options that users gave; the defaults of the running version apply to all others.
        user_config, ray_actor_options: Values of user code.
        is_async, is_application, revision, origin: See `specs.BackendSpec`.
    """

    code: str
    is_async: bool
    is_application: bool
    revision: int
    options: dict[str, Any]
    user_config: ValueRecord | None
    ray_actor_options: ValueRecord
    origin: OriginRecord | None

    @classmethod
    def of(cls, backend: BackendSpec, blobs: dict[str, bytes]) -> BackendRecord:
        """Return the record of *backend*; add its code and pickles to *blobs*."""
        options = {name: getattr(backend.config, name) for name in sorted(backend.config.given)}
        user_config = options.get("user_config")
        if isinstance(user_config, Opaque):
            del options["user_config"]
        return cls(
            code=_named(backend.code, blobs),
            is_async=backend.is_async,
            is_application=backend.is_application,
            revision=backend.revision,
            options=json.loads(json.dumps(msgspec.to_builtins(options))),
            user_config=ValueRecord.of(user_config, blobs) if isinstance(user_config, Opaque) else None,
            ray_actor_options=ValueRecord.of(backend.actor_options, blobs),
            origin=OriginRecord.of(backend.origin),
        )

    def restored(self, name: str, blob: Callable[[str], bytes]) -> BackendSpec:
        """Return the backend of this record; *blob* returns the bytes with a SHA-256.

        Raises:
            ConfigError: An option is unknown to this version, or has a bad value.
        """
        return BackendSpec(
            name=name,
            code=blob(self.code),
            is_async=self.is_async,
            config=self.config(blob),
            actor_options=self.ray_actor_options.restored(blob),
            revision=self.revision,
            origin=self.origin.restored() if self.origin is not None else None,
            is_application=self.is_application,
        )

    def config(self, blob: Callable[[str], bytes]) -> BackendConfig:
        """Return the options of this record, with a packed `user_config`."""
        options = dict(self.options)
        if self.user_config is not None:
            options["user_config"] = self.user_config.restored(blob)
        return BackendConfig(**options)

    @property
    def blobs(self) -> frozenset[str]:
        """The SHA-256 of its code and pickles."""
        values = [value.pickled for value in (self.user_config, self.ray_actor_options) if value is not None]
        return frozenset({self.code, *(pickled for pickled in values if pickled)})


class EndpointRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One endpoint; see `specs.EndpointSpec`."""

    route: str | None
    methods: tuple[str, ...]
    traffic: dict[str, float]
    shadows: dict[str, float]
    timeout_s: float | None
    origin: OriginRecord | None

    @classmethod
    def of(cls, endpoint: EndpointSpec) -> EndpointRecord:
        """Return the record of *endpoint*."""
        return cls(
            route=endpoint.route,
            methods=tuple(endpoint.methods),
            traffic=dict(endpoint.policy.weights),
            shadows=dict(endpoint.policy.shadows),
            timeout_s=endpoint.timeout_s,
            origin=OriginRecord.of(endpoint.origin),
        )

    def restored(self, name: str) -> EndpointSpec:
        """Return the endpoint of this record.

        Raises:
            ConfigError, TypeError: Its traffic is not a split.
        """
        origin = self.origin.restored() if self.origin is not None else None
        return EndpointSpec(
            name, self.route, self.methods, TrafficPolicy(self.traffic, self.shadows), origin, self.timeout_s
        )


class DeploymentRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One incomplete deployment; see `specs.UnfinishedDeployment`."""

    time: float
    begun: tuple[str, ...]
    left: tuple[str, ...]
    created: tuple[str, ...]
    failure: str

    @classmethod
    def of(cls, deployment: UnfinishedDeployment) -> DeploymentRecord:
        """Return the record of *deployment*."""
        return cls(
            time=deployment.time,
            begun=tuple(deployment.begun),
            left=tuple(deployment.left),
            created=tuple(sorted(deployment.created)),
            failure=deployment.failure,
        )

    def restored(self, project: str) -> UnfinishedDeployment:
        """Return the deployment of this record."""
        return UnfinishedDeployment(project, self.time, self.begun, self.left, frozenset(self.created), self.failure)


class StateRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The state of an instance.

    Attributes:
        instance: Its name.
        backends: By name.
        endpoints: By name, in the order of their creation. Routes are matched in this order.
        unfinished: Incomplete deployments, by project.
    """

    instance: str
    backends: dict[str, BackendRecord] = {}
    endpoints: dict[str, EndpointRecord] = {}
    unfinished: dict[str, DeploymentRecord] = {}

    @property
    def blobs(self) -> frozenset[str]:
        """The SHA-256 of all code and pickles."""
        return frozenset().union(*(backend.blobs for backend in self.backends.values()))

    def restored(
        self, blob: Callable[[str], bytes]
    ) -> tuple[dict[str, BackendSpec], dict[str, EndpointSpec], dict[str, UnfinishedDeployment]]:
        """Return the backends, endpoints and incomplete deployments of this record.

        Raises:
            ConfigError, TypeError: A record is not valid for this version.
        """
        return (
            {name: backend.restored(name, blob) for name, backend in self.backends.items()},
            {name: endpoint.restored(name) for name, endpoint in self.endpoints.items()},
            {project: deployment.restored(project) for project, deployment in self.unfinished.items()},
        )


class Recorder:
    """Makes the records of one instance. An unchanged backend is not packed and hashed again."""

    def __init__(self, instance: str) -> None:
        self._instance = instance
        self._known: dict[str, tuple[BackendSpec, BackendRecord, dict[str, bytes]]] = {}

    def record(
        self,
        backends: Mapping[str, BackendSpec],
        endpoints: Mapping[str, EndpointSpec],
        unfinished: Mapping[str, UnfinishedDeployment],
    ) -> tuple[StateRecord, dict[str, bytes]]:
        """Return the record of a state, and the bytes of its code and pickles by their SHA-256."""
        known: dict[str, tuple[BackendSpec, BackendRecord, dict[str, bytes]]] = {}
        for name, backend in backends.items():
            found = self._known.get(name)
            if found is None or found[0] is not backend:
                own: dict[str, bytes] = {}
                found = (backend, BackendRecord.of(backend, own), own)
            known[name] = found
        self._known = known
        record = StateRecord(
            instance=self._instance,
            backends={name: backend for name, (_, backend, _) in known.items()},
            endpoints={name: EndpointRecord.of(endpoint) for name, endpoint in endpoints.items()},
            unfinished={project: DeploymentRecord.of(each) for project, each in unfinished.items()},
        )
        return record, {digest: data for _, _, own in known.values() for digest, data in own.items()}


def digest_of(data: bytes) -> str:
    """Return the name of *data* in records: its SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def _named(data: bytes, blobs: dict[str, bytes]) -> str:
    digest = digest_of(data)
    blobs[digest] = data
    return digest
