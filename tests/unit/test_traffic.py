"""A traffic policy as arithmetic: splits, keys and shadows."""

from __future__ import annotations

import math
import pickle
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_bridge.errors import ConfigError
from serve_bridge.traffic import TrafficPolicy

KEYS = [f"user-{number}" for number in range(20_000)]
shares = st.floats(min_value=0.0, max_value=1.0)
points = st.floats(min_value=0.0, max_value=1.0, exclude_max=True)


@st.composite
def splits(draw: st.DrawFn) -> dict[str, float]:
    """Any weights that a user may set."""
    parts = draw(st.lists(st.integers(0, 1000), min_size=1, max_size=6).filter(any))
    return {f"v{number}": part / sum(parts) for number, part in enumerate(parts)}


def owners(weights: dict[str, float]) -> list[str]:
    """Return the owner of each key under a split."""
    policy = TrafficPolicy.split(weights)
    return [policy.choose_for_key(key) for key in KEYS]


def spread(choose: Callable[[float], str], requests: int = 10_000) -> Counter[str]:
    """Return how many of evenly spread points each backend gets."""
    return Counter(choose(number / requests) for number in range(requests))


def test_a_split_without_a_key_follows_the_weights() -> None:
    """Points spread over [0, 1) are divided exactly as asked."""
    policy = TrafficPolicy.split({"v1": 0.9, "v2": 0.1})
    assert spread(policy.choose) == {"v1": 9_000, "v2": 1_000}


def test_a_backend_with_weight_0_gets_nothing() -> None:
    """It stays named, and is never chosen, at the borders neither."""
    policy = TrafficPolicy.split({"a": 0, "v1": 1.0, "z": 0.0})
    assert {policy.choose(point) for point in (0.0, 0.5, math.nextafter(1.0, 0.0))} == {"v1"}
    assert policy.choose_for_key("user-1") == "v1"
    assert policy.backends() == {"a", "v1", "z"}


@given(splits(), points)
def test_every_point_finds_a_backend_with_a_weight(weights: dict[str, float], point: float) -> None:
    """Rounding leaves no gap at the end of the line."""
    assert weights[TrafficPolicy.split(weights).choose(point)] > 0


@given(splits(), st.text(st.characters()))
def test_every_key_finds_a_backend_with_a_weight(weights: dict[str, float], key: str) -> None:
    """Any str is a key, the empty one and half a surrogate pair too."""
    assert weights[TrafficPolicy.split(weights).choose_for_key(key)] > 0


@given(splits(), points, st.text(), st.randoms())
def test_the_order_of_the_weights_does_not_matter(
    weights: dict[str, float], point: float, key: str, random: Any
) -> None:
    """Two processes that got the same policy in another order agree."""
    shuffled = list(weights.items())
    random.shuffle(shuffled)
    one, other = TrafficPolicy.split(weights), TrafficPolicy.split(dict(shuffled))
    assert one.choose(point) == other.choose(point)
    assert one.choose_for_key(key) == other.choose_for_key(key)


def test_keys_keep_their_owner_in_every_process_and_version() -> None:
    """These answers are a promise: a change here moves every user's sessions."""
    policy = TrafficPolicy.split({"v1": 0.5, "v2": 0.3, "v3": 0.2})
    keys = ["", "user-1", "user-2", "user-3", "\0", "ключ", "😀"]
    assert [policy.choose_for_key(key) for key in keys] == ["v1", "v1", "v2", "v1", "v1", "v2", "v1"]


def test_keys_are_divided_by_weight() -> None:
    """Of 20,000 keys each backend owns its share, within four standard deviations."""
    counts = Counter(owners({"v1": 0.9, "v2": 0.1}))
    assert abs(counts["v2"] / len(KEYS) - 0.1) < 4 * math.sqrt(0.1 * 0.9 / len(KEYS))


def test_with_two_backends_exactly_the_changed_share_of_keys_moves() -> None:
    """From 50 to 60 % moves a tenth of the keys, in one direction."""
    before, after = owners({"v1": 0.5, "v2": 0.5}), owners({"v1": 0.6, "v2": 0.4})
    moved = Counter(pair for pair in zip(before, after, strict=True) if pair[0] != pair[1])
    assert set(moved) == {("v2", "v1")}
    assert abs(moved["v2", "v1"] / len(KEYS) - 0.1) < 4 * math.sqrt(0.1 * 0.9 / len(KEYS))


def test_keys_do_not_move_between_backends_whose_ratio_stays() -> None:
    """A new backend takes keys from the others, which exchange none."""
    before = owners({"v1": 0.5, "v2": 0.5})
    after = owners({"v1": 0.4, "v2": 0.4, "v3": 0.2})
    assert {new for old, new in zip(before, after, strict=True) if old != new} == {"v3"}


def test_a_backend_that_loses_its_weight_gives_all_its_keys_away_and_no_other_moves() -> None:
    """Weight 0 takes a backend out, and leaves the rest alone."""
    before = owners({"v1": 0.4, "v2": 0.4, "v3": 0.2})
    after = owners({"v1": 0.5, "v2": 0.5, "v3": 0.0})
    assert {old for old, new in zip(before, after, strict=True) if old != new} == {"v3"}


@pytest.mark.parametrize(
    "weights",
    [
        {},
        {"v1": 0.5},
        {"v1": 0.5, "v2": 0.50002},
        {"v1": 1.1, "v2": -0.1},
        {"v1": -1.0, "v2": 2.0},
        {"v1": 0.0},
        {"v1": math.nan},
        {"v1": math.inf},
        {"v1": 10**400},
        {"v1": True},
        {"v1": "1.0"},
        {"v1": None},
        {"v1": 1j},
    ],
    ids=repr,
)
def test_weights_that_are_no_split_are_refused(weights: Any) -> None:
    """A ValueError, whatever is wrong with a weight."""
    with pytest.raises(ConfigError):
        TrafficPolicy.split(weights)


@pytest.mark.parametrize("weights", [None, [("v1", 1.0)], "v1", {1: 1.0}, {None: 1.0}], ids=repr)
def test_what_is_no_mapping_of_names_is_a_type_error(weights: Any) -> None:
    """A wrong container, or a backend that is no str."""
    with pytest.raises(TypeError):
        TrafficPolicy.split(weights)


@pytest.mark.parametrize(
    "weights",
    [
        {"v1": 1},
        {"v1": 0.33333, "v2": 0.33333, "v3": 0.33333},
        {"v1": 0.500005, "v2": 0.500004},
        {"v1": Fraction(1, 3), "v2": Fraction(2, 3)},
        {f"v{number}": 0.001 for number in range(1000)},
    ],
    ids=len,
)
def test_weights_that_sum_to_1_within_the_tolerance_are_a_split(weights: Any) -> None:
    """Thirds written by hand are fine, and so are ints and fractions."""
    assert TrafficPolicy.split(weights).weights == {name: float(part) for name, part in weights.items()}


@pytest.mark.parametrize("share", [-0.1, 1.1, math.nan, math.inf, True, False, "0.5", None, 1j], ids=repr)
def test_a_share_outside_0_to_1_is_a_type_error(share: Any) -> None:
    """The classic API raised TypeError here, and so does this one."""
    with pytest.raises(TypeError):
        TrafficPolicy.split({"v1": 1.0}).with_shadow("v2", share)


def test_a_share_of_0_removes_a_shadow() -> None:
    """The policy is then what it was before."""
    policy = TrafficPolicy.split({"v1": 1.0})
    assert policy.with_shadow("v2", 0.5).with_shadow("v2", 0) == policy


def test_a_share_of_0_for_no_shadow_leaves_no_phantom() -> None:
    """Nothing was there, nothing is."""
    assert TrafficPolicy.split({"v1": 1.0}).with_shadow("v2", 0.0).backends() == {"v1"}


def test_shadows_stay_when_the_weights_change() -> None:
    """A new split says nothing about copies."""
    policy = TrafficPolicy.split({"v1": 1.0}).with_shadow("v3", 0.5).with_weights({"v2": 1.0})
    assert policy == TrafficPolicy({"v2": 1.0}, {"v3": 0.5})


def test_a_policy_is_not_changed_by_what_is_made_from_it() -> None:
    """Each change returns a new policy; the caller's dict is not shared either."""
    weights = {"v1": 1.0}
    policy = TrafficPolicy.split(weights)
    policy.with_shadow("v2", 1.0)
    weights["v1"] = 0.0
    assert policy == TrafficPolicy({"v1": 1.0}, {})


def test_each_shadow_is_drawn_on_its_own() -> None:
    """Two shadows take two draws, and each follows its own one."""
    policy = TrafficPolicy({"v1": 1.0}, {"s1": 0.5, "s2": 0.5})
    draws = iter([0.4, 0.6, 0.6, 0.4])
    assert policy.shadows_for(draws.__next__) == ("s1",)
    assert policy.shadows_for(draws.__next__) == ("s2",)


@given(points)
def test_a_share_of_1_copies_every_request(point: float) -> None:
    """Whatever is drawn."""
    assert TrafficPolicy({"v1": 1.0}, {"s1": 1}).shadows_for(lambda: point) == ("s1",)


def test_without_shadows_nothing_is_drawn() -> None:
    """The common request costs no random number."""
    draws = iter([0.0])
    assert TrafficPolicy.split({"v1": 1.0}).shadows_for(draws.__next__) == ()
    assert list(draws) == [0.0]


@given(splits(), st.dictionaries(st.sampled_from(["s1", "s2"]), shares), st.text())
def test_a_policy_travels_by_pickle_and_msgpack(weights: dict[str, float], shadows: dict[str, float], key: str) -> None:
    """It decides on the other side as it did here, after a first use too."""
    policy = TrafficPolicy(weights, shadows)
    owner = policy.choose_for_key(key)
    packed = msgspec.msgpack.decode(msgspec.msgpack.encode(policy), type=TrafficPolicy)
    for copy in (pickle.loads(pickle.dumps(policy)), packed):
        assert copy == policy
        assert copy.choose_for_key(key) == owner


def test_a_bad_policy_from_the_wire_is_refused() -> None:
    """Decoding checks what constructing checks."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(msgspec.msgpack.encode({"weights": {"v1": 0.5}}), type=TrafficPolicy)
