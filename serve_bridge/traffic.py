"""Which backend of an endpoint answers a request, and which ones get a copy of it.

Rule 1: every traffic decision is made here; no other module reads a weight.
Rule 2: no I/O, no clock, no randomness of its own. A policy is arithmetic, and is tested as arithmetic.
Rule 3: what depends on the policy alone is computed once; a decision costs O(log n) without a key and O(n)
    with one, n being the backends with a weight above 0.
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

SUM_TOLERANCE: Final = 1e-5 + 1e-12  # the sum of floats may miss the tolerance itself by a rounding error


@dataclass(frozen=True)
class TrafficPolicy:
    """An endpoint's split and shadows: immutable, picklable, and the same decision in every process.

    Attributes:
        weights: Share of the requests that each backend answers, 0 included; they sum to 1 within 1e-5.
        shadows: Probability, above 0 and at most 1, with which each of these backends gets a copy.

    Raises:
        ConfigError: There are no weights, one is no number from 0 to 1, or they do not sum to 1.
        TypeError: The weights are no mapping of names, or a shadow's share is no number in [0, 1].
    """

    weights: Mapping[str, float]
    shadows: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "weights", checked_weights(self.weights))
        object.__setattr__(self, "shadows", checked_shadows(self.shadows))

    # Derived once, and no fields: neither equality nor a wire format sees them.

    @cached_property
    def _shares(self) -> tuple[tuple[str, float], ...]:
        return tuple((name, weight) for name, weight in sorted(self.weights.items()) if weight > 0)

    @cached_property
    def _names(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self._shares)

    @cached_property
    def _bounds(self) -> tuple[float, ...]:
        bounds = tuple(accumulate(weight for _, weight in self._shares))
        # Without the last bound every point finds a backend, though floats rarely sum to 1 exactly.
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
            weights: Share of each backend, 0 or more; they sum to 1 within 1e-5.

        Raises:
            ConfigError: There are no weights, one is no number from 0 to 1, or they do not sum to 1.
            TypeError: *weights* is no mapping of names.
        """
        return cls(weights)

    def with_weights(self, weights: Mapping[str, float]) -> TrafficPolicy:
        """Return this policy with another split; its shadows stay.

        Raises:
            ConfigError: As :meth:`split`.
            TypeError: As :meth:`split`.
        """
        return TrafficPolicy(weights, self.shadows)

    def with_shadow(self, backend: str, share: float) -> TrafficPolicy:
        """Return this policy with *backend* as a shadow, one that answers too if it likes.

        Args:
            backend: Who gets the copies.
            share: Probability of a copy, in [0, 1]. 0 removes the shadow, if there is one.

        Raises:
            TypeError: *share* is no number in [0, 1]; a bool or NaN is none.
        """
        return TrafficPolicy(self.weights, {**self.shadows, backend: share})

    def backends(self) -> frozenset[str]:
        """Return every backend that the policy names, those with weight 0 and the shadows included."""
        return frozenset(self.weights).union(self.shadows)

    def choose(self, point: float) -> str:
        """Return the backend that answers a request without a key.

        Args:
            point: A random number in [0, 1), drawn by the caller.
        """
        return self._names[bisect_right(self._bounds, point)]

    def choose_for_key(self, key: str) -> str:
        """Return the backend that owns *key*: weighted rendezvous hashing.

        Every process agrees, today and after a restart. When weights change, a key moves only to a backend
        whose weight rose relative to its old owner's; with two backends exactly the changed share moves.
        """
        if len(self._names) == 1:
            return self._names[0]
        encoded = key.encode("utf-8", "surrogatepass")  # any str is a key, even half of a surrogate pair
        return min((arrival(prefix + encoded, weight), name) for name, prefix, weight in self._candidates)[1]

    def shadows_for(self, draw: Callable[[], float]) -> tuple[str, ...]:
        """Return the backends that get a copy of one request, each decided on its own.

        Args:
            draw: Returns a new random number in [0, 1); called once a shadow, and not at all without shadows.
        """
        if not self._draws:
            return ()
        return tuple(backend for backend, share in self._draws if draw() < share)


def arrival(text: bytes, weight: float) -> float:
    """Return when a backend of this weight "arrives" at a key; the first one to arrive owns it.

    The digest is spread evenly over (0, 1), so arrivals are exponential with rate *weight*, and a backend is
    first with a probability of its weight over the sum of all weights.
    """
    point = (int.from_bytes(sha256(text).digest()[:6], "big") + 0.5) / 2**48
    return -math.log(point) / weight


def is_number(value: object) -> bool:
    """Return whether *value* is a real number; a bool is none."""
    return isinstance(value, Real) and not isinstance(value, bool)


def checked_weights(weights: Any) -> dict[str, float]:
    """Return a copy of the weights, every one a float, once they make a split."""
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
        raise ConfigError(f"the weights of an endpoint must sum to 1, these sum to {total:.6g}")
    return {backend: float(weight) for backend, weight in weights.items()}


def checked_shadows(shadows: Any) -> dict[str, float]:
    """Return a copy of the shadows, every share a float, without those that get nothing."""
    for backend, share in shadows.items():
        check_backend(backend)
        if not is_number(share) or not 0 <= share <= 1:
            raise TypeError(f"the share of shadow {shown(backend)} must be a number from 0 to 1, got {shown(share)}")
    return {backend: float(share) for backend, share in shadows.items() if share > 0}


def check_backend(backend: object) -> None:
    """Raise TypeError unless *backend* can be a name; whether it names anything is known elsewhere."""
    if not isinstance(backend, str):
        raise TypeError(f"a backend is named by a str, got {shown(backend)}")
