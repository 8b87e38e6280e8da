"""The error tree: builtins, statuses, texts and the way through pickle."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator

import pytest

from serve_bridge import errors

SAMPLES: list[errors.ServeBridgeError] = [
    errors.AuthenticationError("the key is another instance's"),
    errors.BackendError("lib.Odd", "it broke", "Traceback: line 1"),
    errors.BackendNotFound("v2", ("v1",)),
    errors.BackendOverloaded("all full"),
    errors.BackendStartError("v1", "its constructor raised", "Traceback: line 1"),
    errors.ConfigError("num_replicas must be an int"),
    errors.ControlPlaneLost("the GCS does not answer"),
    errors.DeadlineExceeded("60 s are over", "no"),
    errors.DeploymentError("create backend v2", "it cannot start", ("create backend v1",), ("create endpoint e",)),
    errors.EndpointNotFound("digits", ("letters", "faces")),
    errors.InstanceClosed("shut down"),
    errors.MethodNotExposed("v1", "train"),
    errors.NotAllowed("shutdown needs the role manage"),
    errors.NotConnected("nothing runs"),
    errors.ProtocolError("unknown frame"),
    errors.ReplicaDied("replica 3 died", "unknown"),
    errors.SerializationError("a lock"),
]
BUILTINS: list[tuple[type[errors.ServeBridgeError], type[Exception], int]] = [
    (errors.ConfigError, ValueError, 500),
    (errors.EndpointNotFound, KeyError, 404),
    (errors.EndpointNotFound, ValueError, 404),
    (errors.BackendNotFound, KeyError, 404),
    (errors.BackendNotFound, ValueError, 404),
    (errors.MethodNotExposed, AttributeError, 404),
    (errors.BackendOverloaded, errors.ServeBridgeError, 503),
    (errors.DeadlineExceeded, TimeoutError, 504),
    (errors.NotAllowed, PermissionError, 500),
    (errors.ReplicaDied, ConnectionError, 502),
    (errors.BackendError, RuntimeError, 500),
    (errors.BackendStartError, RuntimeError, 500),
    (errors.DeploymentError, RuntimeError, 500),
    (errors.SerializationError, TypeError, 500),
    (errors.NotConnected, ConnectionError, 503),
    (errors.InstanceClosed, RuntimeError, 503),
    (errors.ControlPlaneLost, ConnectionError, 503),
]


def leaves(root: type[errors.ServeBridgeError]) -> Iterator[type[errors.ServeBridgeError]]:
    """Yield the classes of the tree that have no subclass in its module."""
    below = [each for each in root.__subclasses__() if each.__module__ == errors.__name__]
    if not below:
        yield root
    for each in below:
        yield from leaves(each)


def fields_of(error: errors.ServeBridgeError) -> dict[str, object]:
    """Return all that tells one error from another."""
    return {"type": type(error), "text": str(error), "args": error.args, **vars(error)}


def test_the_samples_cover_the_whole_tree() -> None:
    """A new leaf needs a sample here, or nobody knows whether it pickles."""
    assert {type(sample) for sample in SAMPLES} == set(leaves(errors.ServeBridgeError))


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: type(sample).__name__)
def test_an_error_survives_pickling(sample: errors.ServeBridgeError, protocol: int) -> None:
    """Type, text, arguments and fields are the same on the other side."""
    assert fields_of(pickle.loads(pickle.dumps(sample, protocol))) == fields_of(sample)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: type(sample).__name__)
def test_an_error_can_be_copied(sample: errors.ServeBridgeError) -> None:
    """Debuggers and retry loops copy exceptions."""
    assert fields_of(copy.copy(sample)) == fields_of(sample)


@pytest.mark.parametrize(("leaf", "builtin", "status"), BUILTINS)
def test_a_leaf_is_the_builtin_users_catch_and_knows_its_status(
    leaf: type[errors.ServeBridgeError], builtin: type[Exception], status: int
) -> None:
    """`except ValueError` works, and the class alone tells the status."""
    assert issubclass(leaf, builtin)
    assert leaf.http_status == status


def test_a_missing_name_is_listed_beside_the_known_ones() -> None:
    """The text is a sentence, not the repr that a bare KeyError prints."""
    assert str(errors.EndpointNotFound("digits", {"letters", "faces"})) == (
        "no endpoint 'digits'. Known: faces, letters"
    )


def test_a_long_list_of_known_names_is_cut() -> None:
    """Ten thousand endpoints make no log line of a megabyte."""
    text = str(errors.BackendNotFound("x", [f"backend-{number:05}" for number in range(10_000)]))
    assert text.endswith("backend-00019 and 9980 more")


def test_a_name_from_the_wire_is_cut() -> None:
    """A header of 64 KiB does not end up in the log whole."""
    assert len(str(errors.MethodNotExposed("v1", "m" * 65_536))) < 500


UNSTARTED = [errors.BackendOverloaded, errors.InstanceClosed, errors.NotConnected]


@pytest.mark.parametrize("leaf", UNSTARTED)
def test_an_error_before_the_start_proves_that_nothing_ran(leaf: type[errors.NothingStarted]) -> None:
    """The class alone is the proof."""
    assert leaf("full").executed == "no"


@pytest.mark.parametrize("leaf", [*UNSTARTED, errors.DeadlineExceeded, errors.ReplicaDied])
def test_a_withdrawn_proof_stays_withdrawn_in_another_process(leaf: type[errors.DeadlineExceeded]) -> None:
    """It belongs to one error, not to its class: the pickle carries it."""
    error = leaf("gone")
    error.executed = "unknown"
    assert pickle.loads(pickle.dumps(error)).executed == "unknown"


@pytest.mark.parametrize("leaf", [errors.DeadlineExceeded, errors.ReplicaDied])
def test_without_a_proof_the_work_may_have_run(
    leaf: type[errors.DeadlineExceeded] | type[errors.ReplicaDied],
) -> None:
    """Proof has to be given; it is never a default."""
    assert leaf("gone").executed == "unknown"
    assert leaf("gone", executed="no").executed == "no"


def test_an_os_error_among_them_has_no_errno() -> None:
    """Its second argument is not taken for a system error's text."""
    error = errors.ReplicaDied("gone", "no")
    assert (error.errno, str(error)) == (None, "gone")


def test_a_backend_error_shows_the_remote_traceback_below_its_own_only() -> None:
    """The text, which an answer may hold, is free of it."""
    error = errors.BackendError("ValueError", "no such row", "line 7 in model.py")
    assert str(error) == "the backend raised ValueError: no such row"
    assert error.__notes__ == ["In the replica:\nline 7 in model.py"]


def test_control_characters_of_user_code_are_escapes_in_the_text_of_an_error() -> None:
    """Frameworks log the text; the attribute keeps the characters."""
    error = errors.BackendError("Odd\nName", "red \x1b[31m\nbell \a")
    assert str(error) == "the backend raised Odd\\nName: red \\x1b[31m\nbell \\x07"
    assert error.text == "red \x1b[31m\nbell \a"


def test_a_start_error_holds_the_replicas_traceback() -> None:
    """Whoever creates a backend sees why it did not start."""
    assert "line 7 in model.py" in str(errors.BackendStartError("v1", "it raised", "line 7 in model.py"))
