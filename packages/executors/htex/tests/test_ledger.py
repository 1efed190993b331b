"""When messages of managers are safe."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from weft_executor_htex import ledger as module
from weft_executor_htex.ledger import Ledger
from weft_executor_htex.session import Session


class Stream:
    """What goes to the client, and the sessions of three managers."""

    def __init__(self) -> None:
        self.end = self.confirmed = 0
        self.ledger = Ledger(lambda: self.end)
        self.sessions = [Session(deferred=True) for _ in range(3)]
        self.positions: list[list[int]] = [[], [], []]  # where the stream ended after each message

    def take(self, number: int, follows: int, size: int = 10) -> None:
        """A message of this manager, from which so many bytes for the client follow."""
        self.end += follows
        session = self.sessions[number]
        session.received += 1
        self.positions[number].append(self.end)
        self.ledger.note(session, [bytes(size)])

    def confirm(self, position: int) -> None:
        self.confirmed = position
        self.ledger.confirm(position)


@given(
    st.lists(
        st.one_of(
            st.tuples(st.integers(0, 2), st.integers(0, 3)),
            st.floats(0, 1),
        ),
        max_size=60,
    )
)
def test_a_message_is_safe_when_the_client_has_what_followed_and_not_before(
    acts: list[tuple[int, int] | float],
) -> None:
    stream = Stream()
    for act in acts:
        if isinstance(act, float):
            stream.confirm(stream.confirmed + int(act * (stream.end - stream.confirmed)))
        else:
            stream.take(*act)
        for session, positions in zip(stream.sessions, stream.positions, strict=True):
            assert all(position <= stream.confirmed for position in positions[: session.safe])
    stream.confirm(stream.end)
    assert [session.safe for session in stream.sessions] == [len(each) for each in stream.positions]


def test_the_client_is_heard_of_though_it_never_has_everything() -> None:
    """Calls that come without end: some of what one manager has said is always on its way."""
    stream = Stream()
    for number in range(1000):
        stream.take(0, 5)
        stream.take(1, 5)
        stream.confirm(max(0, stream.end - 15))
        assert stream.sessions[0].safe >= number - 4
        assert stream.sessions[1].safe >= number - 4


def test_a_manager_does_not_keep_without_end_for_a_client_that_is_away() -> None:
    stream = Stream()
    for _ in range(20):
        stream.take(0, 1, size=module._MOST // 8)
        stream.take(1, 1)
        kept = stream.sessions[0].received - stream.sessions[0].safe
        assert kept <= 9
    assert stream.sessions[0].safe >= 11
    assert stream.sessions[1].safe == 0
