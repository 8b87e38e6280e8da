"""Two ends prove that they hold the same key, and nobody else gets anywhere."""

from __future__ import annotations

import contextlib
import pickle
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_bridge.errors import AuthenticationError, ProtocolError
from serve_bridge.wire.handshake import (
    HELLO_BYTES,
    MAGIC,
    OLDEST,
    PROOF_BYTES,
    VERSION,
    AnotherListener,
    Handshake,
    RoleRefused,
    UnknownKey,
    VersionMismatch,
    any_generation,
    identity,
)
from serve_bridge.wire.keys import CALLERS, OF_FILES, Key, Role
from serve_bridge.wire.seal import Seal

KEY = Key(b"k" * 32)
SOMEBODY = identity("generation", "replica")


def caller(key: Key = KEY, role: Role = Role.PYTHON, who: bytes = SOMEBODY) -> Handshake:
    """Return a caller's side."""
    return Handshake(key, role, who, caller=True)


def listener(key: Key = KEY, who: bytes = SOMEBODY) -> Handshake:
    """Return a listener's side."""
    return Handshake(key, Role.LISTENER, who, caller=False)


def shake(ours: Handshake, theirs: Handshake, more: bytes = b"") -> None:
    """Let a caller and a listener talk; *more* follows the caller's proof at once."""
    theirs.feed(ours.feed(theirs.feed(ours.start())) + more)


@pytest.mark.parametrize("role", CALLERS)
def test_who_holds_the_key_is_let_in_with_its_role(role: Role) -> None:
    """Both sides are done, and know each other."""
    ours, theirs = caller(role=role), listener()
    shake(ours, theirs)
    assert (ours.done, ours.peer_role, theirs.done, theirs.peer_role) == (True, Role.LISTENER, True, role)


def test_frames_may_follow_the_proof_at_once() -> None:
    """They are kept for later."""
    ours, theirs = caller(), listener()
    shake(ours, theirs, b"frames")
    assert theirs.rest == b"frames"


@given(st.integers(1, 200))
def test_a_handshake_may_come_in_any_pieces(size: int) -> None:
    """Reads have no borders."""
    ours, theirs = caller(), listener()

    def through(side: Handshake, data: bytes) -> bytes:
        return b"".join(side.feed(data[at : at + size]) for at in range(0, len(data), size))

    through(theirs, through(ours, through(theirs, ours.start())))
    assert (ours.done, theirs.done) == (True, True)


def test_a_listener_with_another_key_is_refused() -> None:
    """A caller sends it nothing but its hello."""
    ours = caller()
    with pytest.raises(AuthenticationError):
        ours.feed(listener(Key()).feed(ours.start()))
    assert not ours.done


def test_a_caller_with_another_key_is_refused() -> None:
    """It cannot make the proof."""
    theirs, ours = listener(), caller(Key.of_role(Role.CALL, bytes(32), KEY.id), Role.CALL)
    theirs.feed(ours.start())
    with pytest.raises(AuthenticationError):
        theirs.feed(bytes(PROOF_BYTES))
    assert not theirs.done


def test_a_recorded_caller_cannot_be_replayed() -> None:
    """The listener's nonce is another one."""
    ours, theirs = caller(), listener()
    hello = ours.start()
    proof = ours.feed(theirs.feed(hello))
    again = listener()
    again.feed(hello)
    with pytest.raises(AuthenticationError):
        again.feed(proof)


def test_a_recorded_listener_cannot_be_replayed() -> None:
    """The caller's nonce is another one."""
    recorded = listener().feed(caller().start())
    with pytest.raises(AuthenticationError):
        caller().feed(recorded)


def test_what_a_caller_says_cannot_be_reflected() -> None:
    """A caller does not take its own hello for a listener's."""
    ours = caller()
    with pytest.raises(AuthenticationError):
        ours.feed(ours.start() + bytes(PROOF_BYTES))


def test_a_listeners_proof_is_no_callers_proof() -> None:
    """Each side signs its name."""
    theirs = listener()
    proof = theirs.feed(caller().start())[HELLO_BYTES:]
    with pytest.raises(AuthenticationError):
        theirs.feed(proof)


@pytest.mark.parametrize("who", [identity("other", "replica"), identity("generation", "other")])
def test_a_caller_that_means_somebody_else_is_refused(who: bytes) -> None:
    """A socket that was used again answers nobody of before."""
    with pytest.raises(AuthenticationError):
        listener().feed(caller(who=who).start())


@pytest.mark.parametrize("position", range(9))
def test_another_magic_version_or_role_is_refused(position: int) -> None:
    """Before anything else is looked at."""
    hello = bytearray(caller().start())
    hello[position] ^= 0x7F
    with pytest.raises(AuthenticationError):
        listener().feed(bytes(hello))


def test_a_changed_hello_spoils_the_proof() -> None:
    """A role cannot be raised on the way."""
    ours, theirs = caller(role=Role.EDGE), listener()
    hello = bytearray(ours.start())
    hello[8] = Role.PYTHON
    with pytest.raises(AuthenticationError):
        ours.feed(theirs.feed(bytes(hello)))


@pytest.mark.parametrize("claimed", [Role.PYTHON, Role.CONTROLLER])
def test_a_role_is_proved_by_its_own_key(claimed: Role) -> None:
    """The key of the edge role proves no other role."""
    stolen = KEY.only(Role.EDGE)
    stolen._valid[0].roles[claimed] = stolen.of(Role.EDGE)
    ours, theirs = caller(stolen, claimed), listener()
    with pytest.raises(AuthenticationError):
        shake(ours, theirs)
    assert not theirs.done


def test_a_listener_knows_the_roles_whose_keys_it_has() -> None:
    """A replica has no key for the controller's role to a proxy, which a proxy could claim."""
    with pytest.raises(AuthenticationError, match="role"):
        shake(caller(role=Role.CONTROLLER), listener(KEY.only(Role.EDGE, Role.PYTHON)))


def test_the_keys_of_roles_do_not_tell_the_secret() -> None:
    """Nor do they travel with it."""
    part = pickle.loads(pickle.dumps(KEY.only(Role.EDGE)))
    assert KEY.secret not in pickle.dumps(part)
    with pytest.raises(ValueError, match="secret"):
        _ = part.secret
    ours, theirs = caller(part, Role.EDGE), listener()
    shake(ours, theirs)
    assert theirs.peer_role == Role.EDGE


def test_a_stranger_is_refused_at_its_first_byte() -> None:
    """It need not finish a hello."""
    with pytest.raises(AuthenticationError):
        listener().feed(b"GET / HTTP/1.1\r\n")


def test_nothing_is_answered_before_a_whole_hello() -> None:
    """And nothing is done after it but the proof."""
    theirs = listener()
    assert theirs.feed(MAGIC) == b""
    assert not theirs.done


@given(st.binary(max_size=300))
def test_no_bytes_raise_anything_but_a_refusal(data: bytes) -> None:
    """Whatever a stranger says, it is not let in."""
    for side in (listener(), caller()):
        with contextlib.suppress(AuthenticationError):
            side.feed(data)
        assert not side.done


@pytest.mark.parametrize("shown", [repr(KEY), str(KEY), f"{KEY}", f"{[KEY]}"])
def test_a_key_is_never_shown(shown: str) -> None:
    """Not in a log line, nor in an error."""
    assert "kkk" not in shown
    assert "6b6b" not in shown


def test_a_key_travels_as_a_constructor_argument() -> None:
    """By pickle, between processes of one user."""
    assert pickle.loads(pickle.dumps(KEY)).secret == KEY.secret


def test_a_key_has_32_bytes() -> None:
    """A shorter one is a mistake."""
    with pytest.raises(ValueError, match="32"):
        Key(b"short")


def seals() -> tuple[Seal, Seal]:
    """Return the two ends of one direction."""
    ours, theirs = caller(), listener()
    shake(ours, theirs)
    return ours.seals()[0], theirs.seals()[1]


def test_sealed_data_comes_out_as_it_went_in_however_it_is_cut() -> None:
    """More than one record, in small pieces."""
    out, into = seals()
    data = bytes(range(256)) * 3000
    sealed = out.close(b"first") + out.close(data)
    opened = b"".join(into.open(sealed[at : at + 70_001]) for at in range(0, len(sealed), 70_001))
    assert opened == b"first" + data


@given(st.integers(0, 24), st.integers(1, 255))
def test_a_changed_record_is_refused(position: int, change: int) -> None:
    """Wherever it was changed, nothing of it is read."""
    out, into = seals()
    record = bytearray(out.close(b"hello"))
    record[position] ^= change
    with contextlib.suppress(ProtocolError):
        assert into.open(bytes(record)) == b""  # its length was changed: it waits for more, in vain


def test_a_dropped_record_is_noticed() -> None:
    """By the next one."""
    out, into = seals()
    out.close(b"first")
    with pytest.raises(ProtocolError):
        into.open(out.close(b"second"))


def test_a_repeated_record_is_refused() -> None:
    """Each counts once."""
    out, into = seals()
    record = out.close(b"once")
    into.open(record)
    with pytest.raises(ProtocolError):
        into.open(record)


def test_a_record_cannot_be_sent_back() -> None:
    """The two directions have keys of their own."""
    ours, theirs = caller(), listener()
    shake(ours, theirs)
    out, into = ours.seals()
    with pytest.raises(ProtocolError):
        into.open(out.close(b"mine"))


def test_keys_differ_between_connections() -> None:
    """A record of yesterday means nothing today."""
    (out, _), (_, into) = seals(), seals()
    with pytest.raises(ProtocolError):
        into.open(out.close(b"elsewhere"))


def test_a_record_above_the_limit_is_refused_before_it_has_come() -> None:
    """Its length is enough."""
    _, into = seals()
    with pytest.raises(ProtocolError):
        into.open((Seal.LIMIT + 1).to_bytes(4, "little") + bytes(16))


@pytest.mark.parametrize("key", [KEY, KEY.only(Role.PYTHON), KEY.only(Role.EDGE, Role.CONTROLLER)], ids=str)
def test_a_key_travels_as_text(key: Key) -> None:
    """With the roles that it has, and no other."""
    again = Key.of_text(key.text)
    assert [again.holds(role) for role in CALLERS] == [key.holds(role) for role in CALLERS]
    assert again.text == key.text


def of_another_version(hello: bytes) -> bytes:
    """Return *hello* as a process would say it that only speaks later versions."""
    return hello[:7] + bytes([VERSION + 1]) + hello[8:9] + bytes([VERSION + 2]) + hello[10:]


BOTH_VERSIONS = (
    rf"versions {VERSION + 1} to {VERSION + 2} of .* versions {OLDEST} to {VERSION}; install the same version"
)


@pytest.mark.parametrize(
    ("callers", "listeners", "agreed"),
    [
        ((2, 2), (2, 3), 2),
        ((2, 3), (2, 2), 2),
        ((2, 3), (2, 3), 3),
        ((3, 5), (2, 4), 4),
        ((2, 4), (3, 5), 4),
        ((4, 4), (2, 4), 4),
    ],
)
def test_both_sides_speak_the_highest_version_of_both(
    callers: tuple[int, int], listeners: tuple[int, int], agreed: int
) -> None:
    """A version may differ by any number, if the ranges have one in common."""
    ours = Handshake(KEY, Role.PYTHON, SOMEBODY, caller=True, versions=callers)
    theirs = Handshake(KEY, Role.LISTENER, SOMEBODY, caller=False, versions=listeners)
    shake(ours, theirs)
    assert (ours.done, ours.version, theirs.done, theirs.version) == (True, agreed, True, agreed)


@pytest.mark.parametrize(("callers", "listeners"), [((2, 3), (4, 5)), ((4, 5), (2, 3)), ((2, 2), (3, 3))])
def test_ranges_without_a_common_version_are_refused(callers: tuple[int, int], listeners: tuple[int, int]) -> None:
    """Both sides name both ranges."""
    ours = Handshake(KEY, Role.PYTHON, SOMEBODY, caller=True, versions=callers)
    theirs = Handshake(KEY, Role.LISTENER, SOMEBODY, caller=False, versions=listeners)
    with pytest.raises(VersionMismatch) as told:
        theirs.feed(ours.start())
    with pytest.raises(VersionMismatch) as known:
        ours.feed(theirs.last_words)
    for error, peers, own in ((told, callers, listeners), (known, listeners, callers)):
        assert all(
            re.search(rf"{part} speaks versions? {low}\b", str(error.value))
            for part, (low, _) in (("the peer", peers), ("this process", own))
        )


def test_nobody_between_both_sides_can_lower_the_version() -> None:
    """The proofs cover the offered range."""
    ours, theirs = caller(), listener()
    hello = ours.start()
    with pytest.raises(AuthenticationError):
        ours.feed(theirs.feed(hello[:9] + bytes([OLDEST]) + hello[10:]))
    assert theirs.version == OLDEST


def test_a_listener_tells_a_caller_of_another_version_its_own() -> None:
    """So that the caller can name both, as the listener does."""
    theirs = listener()
    with pytest.raises(VersionMismatch, match=BOTH_VERSIONS):
        theirs.feed(of_another_version(caller().start()))
    assert (theirs.last_words[:8], theirs.last_words[9]) == (MAGIC + bytes([OLDEST]), VERSION)
    assert len(theirs.last_words) == HELLO_BYTES


def test_a_caller_knows_a_listener_of_another_version_by_its_hello() -> None:
    """No proof follows."""
    with pytest.raises(VersionMismatch, match=BOTH_VERSIONS):
        caller().feed(of_another_version(caller().start()))


def rotated() -> tuple[Key, Key, Key]:
    """Return an old key, a new one, and both as one."""
    old, new = Key(b"o" * 32), Key(b"n" * 32)
    return old, new, Key.joined([new, old])


@pytest.mark.parametrize("which", [0, 1, 2], ids=["old", "new", "both"])
def test_a_listener_accepts_each_valid_key(which: int) -> None:
    """The id in the caller's hello says which one it is."""
    keys = rotated()
    ours, theirs = caller(keys[which]), listener(keys[2])
    shake(ours, theirs)
    assert theirs.done
    assert theirs.key_id == (keys[0] if which == 0 else keys[1]).id
    assert theirs.seals()[1].open(ours.seals()[0].close(b"x")) == b"x"


def test_a_caller_without_key_ids_has_the_oldest_key() -> None:
    """Version 2 of the protocol began without ids: its peers send zeros."""
    old, _, both = rotated()
    without_id = Key.of_text(",".join(each for each in old.only(Role.PYTHON).text.split(",") if "id:" not in each))
    ours, theirs = caller(without_id), listener(both)
    assert ours.start()[10:16] == bytes(6)
    shake(ours, theirs)
    assert theirs.done


@pytest.mark.parametrize(
    ("ours", "theirs", "refusal"),
    [
        (caller(Key(b"o" * 32)), listener(), UnknownKey),
        (caller(role=Role.CONTROLLER), listener(KEY.only(Role.PYTHON)), RoleRefused),
        (caller(who=identity("generation", "another")), listener(), AnotherListener),
    ],
    ids=["key", "role", "listener"],
)
def test_a_refused_caller_learns_why(ours: Handshake, theirs: Handshake, refusal: type[AuthenticationError]) -> None:
    """Both sides raise the same error, and no proof was exchanged."""
    with pytest.raises(refusal):
        theirs.feed(ours.start())
    assert len(theirs.last_words) == HELLO_BYTES
    with pytest.raises(refusal):
        ours.feed(theirs.last_words)


def test_a_listener_is_reached_under_its_alias() -> None:
    """A web host does not know the generation before it is connected."""
    alias = identity(any_generation("main"), "controller")
    theirs = Handshake(KEY, Role.LISTENER, SOMEBODY, caller=False, alias=alias)
    shake(caller(who=alias), theirs)
    assert theirs.done


@pytest.mark.parametrize("role", OF_FILES)
def test_the_key_of_a_role_proves_weaker_roles_only(role: Role) -> None:
    """A key file has one key, from which those of weaker roles derive."""
    key = Key.of_role(role, KEY.of(role), KEY.id)
    for claimed in OF_FILES:
        assert key.holds(claimed) == (claimed <= role)
        if claimed <= role:
            theirs = listener()
            shake(caller(key, claimed), theirs)
            assert theirs.peer_role == claimed


def test_several_keys_travel_as_text_and_pickled() -> None:
    """Their order stays."""
    _, _, both = rotated()
    for again in (Key.of_text(both.text), pickle.loads(pickle.dumps(both))):
        assert [each.id for each in again.each] == [each.id for each in both.each]
