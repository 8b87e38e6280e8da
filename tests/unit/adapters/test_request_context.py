"""What goes along of a framework's request, to the backend's `request.state`."""

from __future__ import annotations

from enum import Enum
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from werkzeug.local import LocalProxy

from serve_bridge.adapters.bridge.request_context import compile_context
from serve_bridge.errors import ConfigError, SerializationError

KEY = UUID("0b7cb4c6-5ef5-4c0b-ba0a-4c2f9a4f0f0c")


class LazyText(str):
    """As a framework's safe text, whose text is itself."""

    def __str__(self) -> str:
        return self


class Role(str, Enum):  # noqa: UP042 - applications have such classes too
    """As an application names its roles."""

    ADMIN = "admin"


class Level(int, Enum):
    """As an application counts its levels."""

    HIGH = 3


class Ratio(float):
    """As a number of NumPy."""


def request(**attributes: Any) -> SimpleNamespace:
    """Return a request of no framework."""
    return SimpleNamespace(**attributes)


def context(value: Any, web_request: Any) -> Any:
    """Return what goes along."""
    return compile_context("context", value)(web_request)


def test_paths_lead_through_attributes_and_keys() -> None:
    """A session has keys, a user attributes."""
    web = request(user=SimpleNamespace(pk=7), session={"tenant": "t"})
    assert context({"user_id": "user.pk", "tenant": "session.tenant"}, web) == {"user_id": 7, "tenant": "t"}


@pytest.mark.parametrize("path", ["session.gone", "user.gone", "user.gone.further"])
def test_what_is_missing_below_is_none(path: str) -> None:
    """An anonymous user has no key."""
    assert context({"x": path}, request(user=SimpleNamespace(), session={})) == {"x": None}


def test_what_is_missing_at_the_beginning_is_a_mistake() -> None:
    """A misspelt name must not look like nobody."""
    with pytest.raises(ConfigError, match=r"the request has no attribute 'usr', which 'usr.pk' begins with"):
        context({"x": "usr.pk"}, request(user=1))


def test_a_function_may_compute_it() -> None:
    """Given the framework's request."""
    assert context(lambda web: {"admin": web.user == "root"}, request(user="root")) == {"admin": True}


@pytest.mark.parametrize(
    ("value", "sent"), [("a", "a"), (5, 5), (1.5, 1.5), (True, True), (None, None), (KEY, str(KEY))]
)
def test_plain_values_go_along(value: Any, sent: Any) -> None:
    """A UUID as its text."""
    assert context({"x": "value"}, request(value=value)) == {"x": sent}


@pytest.mark.parametrize(
    ("value", "sent"),
    [
        *((LazyText("a"), "a"), (Role.ADMIN, "admin"), (Level.HIGH, 3), (Ratio(1.5), 1.5)),
        *((LocalProxy(lambda: Role.ADMIN), "admin"), (LocalProxy(lambda: True), True)),
        (LocalProxy(lambda: None), None),
    ],
)
def test_a_kind_of_plain_value_goes_along_as_its_value(value: Any, sent: Any) -> None:
    """Its class stays here, and so does the name of an Enum's member."""
    (found,) = context({"x": "value"}, request(value=value)).values()
    assert (type(found), found) == (type(sent), sent)


@pytest.mark.parametrize(("value", "why"), [(1 << 64, "more than 64 bits"), ("\ud800", "encoded as UTF-8")])
def test_a_value_that_cannot_be_sent_is_named(value: Any, why: str) -> None:
    """Before the request takes a place in a queue."""
    with pytest.raises(SerializationError, match=rf"context\['x'\] is .*{why}"):
        context({"x": "value"}, request(value=value))


@pytest.mark.parametrize("value", [[1], {"a": 1}, object(), b"x"])
def test_nothing_else_goes_along(value: Any) -> None:
    """The error names it by its class, and shows no value."""
    with pytest.raises(SerializationError, match=rf"context\['x'\] is a {type(value).__name__}; a context value"):
        context({"x": "value"}, request(value=value))


def test_a_function_returns_a_mapping_of_names() -> None:
    """Nothing else."""
    with pytest.raises(SerializationError, match=r"context must return a mapping, got list"):
        context(lambda web: [], request())
    with pytest.raises(SerializationError, match=r"with str keys, got 5"):
        context(lambda web: {5: "a"}, request())


@pytest.mark.parametrize("value", ["user.pk", ["user"], {"user": 5}, {5: "user"}, 7])
def test_a_list_maps_names_to_paths(value: Any) -> None:
    """Or it is none."""
    with pytest.raises(ConfigError, match=r"context must be a dict of names and paths"):
        compile_context("context", value)


@pytest.mark.parametrize("path", ["", "a..b", "_state", "__class__", "a b", "user.pk()"])
def test_a_path_is_of_names_and_begins_with_a_public_one(path: str) -> None:
    """Which is known when the route is made."""
    with pytest.raises(
        ConfigError, match=r"context\['x'\] must be a dotted path of names that begins with a public one"
    ):
        compile_context("context", {"x": path})


class Session(dict[str, Any]):
    """A session with an attribute of its own."""

    _user_id = "private"


def test_a_key_may_begin_with_an_underscore() -> None:
    """As flask-login's and Django's keys of the user's id do; what is no key is None, whatever attributes there are."""
    web = request(session=Session(_auth={"_hash": "h"}))
    paths = {"hash": "session._auth._hash", "user": "session._user_id", "none": "session._gone._further"}
    assert context(paths, web) == {"hash": "h", "user": None, "none": None}


@pytest.mark.parametrize("path", ["user._state", "user.__class__", "session.user._state"])
def test_a_private_attribute_does_not_go_along(path: str) -> None:
    """What has no keys shows only when a request comes."""
    user = SimpleNamespace(_state="private")
    with pytest.raises(ConfigError, match=r"context\['x'\]: '.*' leads to the private attribute '_.*' of a Simple"):
        context({"x": path}, request(user=user, session={"user": user}))
