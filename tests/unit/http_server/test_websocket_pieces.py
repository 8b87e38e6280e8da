"""The pieces of a message take little memory, and their sum is known."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serve_bridge.http_server.websocket_pieces import MessagePieces, memory_of


@given(st.lists(st.binary(max_size=9_000), max_size=600))
def test_the_message_is_its_pieces_in_order(pieces: list[bytes]) -> None:
    """However short or long they are; afterwards nothing is held."""
    message = MessagePieces(b"")
    for piece in pieces:
        message.add(piece)
    assert message.joined() == b"".join(pieces)
    assert message.held == 0


def test_many_short_pieces_count_about_as_much_as_one_message() -> None:
    """Each object of a wide text takes more than its characters, so pieces are joined as they arrive."""
    message = MessagePieces("")
    for _ in range(20_000):
        message.add("\N{SNOWMAN}")
    assert message.held <= 2 * memory_of(20_000 * "\N{SNOWMAN}")
