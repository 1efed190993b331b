"""What the user is told of the connection with an agent."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from weft_executor_htex.agent.news import News


def tell(
    caplog: pytest.LogCaptureFixture, *events: tuple[str, dict[str, Any]]
) -> tuple[list[str], list[str]]:
    """The words of the events that are passed on, and of the warnings."""
    passed: list[str] = []
    news = News(lambda kind, **data: passed.append(data["words"]), 3600.0)
    with caplog.at_level(logging.WARNING, "weft"):
        for kind, data in events:
            news(kind, host="login", **data)
    return passed, [record.getMessage() for record in caplog.records if record.name == "weft"]


def test_each_change_is_an_event_and_a_warning_in_the_same_words(caplog: pytest.LogCaptureFixture) -> None:
    passed, warned = tell(
        caplog,
        ("connection.lost", {"reason": "nothing was heard for 34 s"}),
        ("connection.restored", {"seconds": 12.0}),
        ("agent.lost", {"reason": "it has ended"}),
    )
    assert warned == passed
    assert "on login is lost (nothing was heard for 34 s)" in passed[0]
    assert "for up to 1h00m (agent.reconnect)" in passed[0]
    assert "reached again after 12.0s" in passed[1]
    assert "on login is lost: it has ended" in passed[2]


def test_attempts_that_fail_are_all_events_and_now_and_then_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    failed = [("connection.failed", {"reason": f"no route {number}", "again_in": 1.0}) for number in range(3)]
    passed, warned = tell(caplog, *failed, ("connection.restored", {"seconds": 1.0}), failed[0])
    assert [words.rpartition(" ")[2] for words in passed[:3]] == ["0", "1", "2"]
    assert warned == [passed[0], passed[3], passed[4]]
