"""The choice of the backend that answers a request, and of the backends that get a copy.

Rule 1: all traffic decisions are made here. No other module reads a weight.
Rule 2: the module has no I/O, no clock and no randomness of its own. A policy is arithmetic, and is tested so.
Rule 3: the derived values of a policy are computed once. For n backends with a weight above 0, a decision costs
    O(log n) without a key and O(n) with a key.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from itertools import accumulate
from numbers import Real
from typing import Any, Final, Self

from serve_bridge.errors import ConfigError
from serve_bridge.printable import shown

__all__ = ["TrafficPolicy"]

SUM_TOLERANCE: Final = 1e-5 + 1e-12
"""Upper limit for the difference between the sum of weights and 1. The small part allows for rounding errors."""


@dataclass(frozen=True)
class TrafficPolicy:
    """The weights and shadows of an endpoint. A policy is immutable and picklable, and decides alike in each process.

    Attributes:
        weights: Share of requests for each backend, from 0 to 1. The sum is 1, with a tolerance of 1e-5.
        shadows: Probability of a copy for each of these backends, above 0 and at most 1.

    Raises:
        ConfigError: There are no weights, a weight is not a number from 0 to 1, or the sum is not 1.
        TypeError: The weights are not a mapping of names, or a shadow's share is not a number from 0 to 1.
    """

    weights: Mapping[str, float]
    shadows: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "weights", checked_weights(self.weights))
        object.__setattr__(self, "shadows", checked_shadows(self.shadows))

    # These values are derived once. They are not fields, so equality and encodings ignore them.

    @cached_property
    def _shares(self) -> tuple[tuple[str, float], ...]:
        return tuple((name, weight) for name, weight in sorted(self.weights.items()) if weight > 0)

    @cached_property
    def _names(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self._shares)

    @cached_property
    def _bounds(self) -> tuple[float, ...]:
        bounds = tuple(accumulate(weight for _, weight in self._shares))
        # Sums of floats are rarely exactly 1. Without the last bound, each point below 1 still finds a backend.
        return tuple(bound / bounds[-1] for bound in bounds[:-1])

    @cached_property
    def _candidates(self) -> tuple[tuple[str, bytes, float], ...]:
        return tuple((name, name.encode() + b"\0", weight) for name, weight in self._shares)

    @cached_property
    def _draws(self) -> tuple[tuple[str, float], ...]:
        return tuple(self.shadows.items())

    @classmethod
    def split(cls, weights: Mapping[str, float]) -> Self:
        """Return a policy without shadows.

        Args:
            weights: Share of each backend, from 0 to 1. The sum is 1, with a tolerance of 1e-5.

        Raises:
            ConfigError: There are no weights, a weight is not a number from 0 to 1, or the sum is not 1.
            TypeError: *weights* is not a mapping of names.
        """
        return cls(weights)

    def with_weights(self, weights: Mapping[str, float]) -> TrafficPolicy:
        """Return this policy with other weights and the same shadows.

        Raises:
            ConfigError: As :meth:`split`.
            TypeError: As :meth:`split`.
        """
        return TrafficPolicy(weights, self.shadows)

    def with_shadow(self, backend: str, share: float) -> TrafficPolicy:
        """Return this policy with *backend* as a shadow. A backend with a weight may be a shadow too.

        Args:
            backend: Backend that gets the copies.
            share: Probability of a copy, from 0 to 1. 0 removes the shadow.

        Raises:
            TypeError: *share* is not a number from 0 to 1. A bool or NaN is not a number here.
        """
        return TrafficPolicy(self.weights, {**self.shadows, backend: share})

    def backends(self) -> frozenset[str]:
        """Return all backends of the policy, including shadows and backends with weight 0."""
        return frozenset(self.weights).union(self.shadows)

    def choose(self, point: float) -> str:
        """Return the backend for a request without a key.

        Args:
            point: A random number of the caller, at least 0 and below 1.
        """
        return self._names[bisect_right(self._bounds, point)]

    def choose_for_key(self, key: str) -> str:
        """Return the backend for requests with *key*, by weighted rendezvous hashing.

        All processes agree, also after a restart. After a change of weights, a key can move only to a backend whose
        weight has risen relative to that of the old backend. With two backends, exactly the changed share moves.
        """
        if len(self._names) == 1:
            return self._names[0]
        encoded = key.encode("utf-8", "surrogatepass")  # any str is a valid key, even half of a surrogate pair
        return min((arrival(prefix + encoded, weight), name) for name, prefix, weight in self._candidates)[1]

    def shadows_for(self, draw: Callable[[], float]) -> tuple[str, ...]:
        """Return the backends for copies of one request. Each shadow is decided independently.

        Args:
            draw: Returns a new random number, at least 0 and below 1. It is called once for each shadow.
        """
        if not self._draws:
            return ()
        return tuple(backend for backend, share in self._draws if draw() < share)


def arrival(text: bytes, weight: float) -> float:
    """Return the time at which a backend with this *weight* "arrives" at a key. The first backend owns the key.

    The digest is uniform over (0, 1), so arrival times are exponential with rate *weight*. A backend is therefore first
    with the probability of its weight divided by the sum of all weights.
    """
    point = (int.from_bytes(sha256(text).digest()[:6], "big") + 0.5) / 2**48
    return -math.log(point) / weight


def is_number(value: object) -> bool:
    """Return whether *value* is a real number. A bool does not count."""
    return isinstance(value, Real) and not isinstance(value, bool)


def checked_weights(weights: Any) -> dict[str, float]:
    """Check the *weights*, and return a copy with floats."""
    if not isinstance(weights, Mapping):
        raise TypeError(f"traffic must be a dict of weights by backend, got {shown(weights)}")
    if not weights:
        raise ConfigError("traffic must name at least one backend")
    for backend, weight in weights.items():
        check_backend(backend)
        if not is_number(weight) or not 0 <= weight <= 1 + SUM_TOLERANCE:
            raise ConfigError(
                f"the weight of backend {shown(backend)} must be a number from 0 to 1, got {shown(weight)}"
            )
    total = math.fsum(weights.values())
    if abs(total - 1) > SUM_TOLERANCE:
        raise ConfigError(f"the weights of an endpoint must sum to 1, but these sum to {total:.6g}")
    return {backend: float(weight) for backend, weight in weights.items()}


def checked_shadows(shadows: Any) -> dict[str, float]:
    """Check the *shadows*, and return a copy with floats and without shares of 0."""
    for backend, share in shadows.items():
        check_backend(backend)
        if not is_number(share) or not 0 <= share <= 1:
            raise TypeError(f"the share of shadow {shown(backend)} must be a number from 0 to 1, got {shown(share)}")
    return {backend: float(share) for backend, share in shadows.items() if share > 0}


def check_backend(backend: object) -> None:
    """Raise TypeError if *backend* is not a str. The controller checks whether the backend exists."""
    if not isinstance(backend, str):
        raise TypeError(f"the name of a backend must be a str, got {shown(backend)}")
