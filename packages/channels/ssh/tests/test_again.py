"""When a transfer that has lost its connection is tried again."""

from __future__ import annotations

import pytest
from weft_channel_ssh import ConnectError, again
from weft_channel_ssh.again import Again

LOST = ConnectError("lost")


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(again, "_LONGEST_PAUSE", 0.0)
    monkeypatch.setattr(again, "_PAUSE", 0.0)


def test_what_was_never_reached_is_not_tried_again() -> None:
    with pytest.raises(ConnectError, match="lost"):
        Again().wait(LOST)


def test_it_goes_on_while_something_arrives() -> None:
    transfer = Again()
    for size in range(20):
        transfer.reached(size)
        transfer.wait(LOST)


def test_attempts_in_vain_are_given_up() -> None:
    transfer = Again()
    for _ in range(4):
        transfer.reached(7)
        transfer.wait(LOST)
    transfer.reached(7)
    with pytest.raises(ConnectError, match="lost"):
        transfer.wait(LOST)


def test_a_far_side_that_does_not_come_back_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    transfer = Again()
    transfer.reached(0)
    transfer.wait(LOST)
    transfer.wait(LOST)
    monkeypatch.setattr(again, "_PATIENCE", -1.0)
    with pytest.raises(ConnectError, match="lost"):
        transfer.wait(LOST)
