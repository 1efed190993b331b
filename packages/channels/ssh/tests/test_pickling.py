"""A channel in another process: its settings go there, its connection and its secrets do not."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
from weft_channel_ssh import OpenSSHChannel, SSHChannel


def secret() -> str:
    """Stands for one that asks a keyring."""
    return "".join(["pass", "word"])


def copy(channel: Any) -> tuple[Any, bytes]:
    data = pickle.dumps(channel)
    return pickle.loads(data), data


def test_the_same_way_leads_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also from another directory."""
    monkeypatch.chdir(tmp_path)
    channel = SSHChannel(
        "alice@login:2222",
        key_filename="keys/one",
        jump=[SSHChannel("bob@gate", config=None), "carol@inner"],
        known_hosts=["hosts"],
        password=secret,
        keepalive=5,
        config=None,
        environment={"NAME": "value"},
    )
    monkeypatch.chdir("/")
    other, data = copy(channel)
    assert (other, repr(other)) == (channel, repr(channel))
    assert b"password" in data, "the setting's name"
    assert data.count(b"password") == 1, "and not what the function returns"
    destination = other._connection.destination
    assert destination.key_files == (str(tmp_path / "keys/one"),)
    assert destination.known_hosts == (str(tmp_path / "hosts"),)
    assert destination.keepalive == 5


def test_nothing_that_is_connected_goes_along(site: Any) -> None:
    channel = site.channel()
    assert channel.run(["true"]).exit_status == 0
    other, _ = copy(channel)
    assert not other._is_connected()
    assert other.run(["true"]).exit_status == 0
    other.close()


def test_a_function_that_cannot_be_pickled_is_not_left_out() -> None:
    with pytest.raises((pickle.PicklingError, AttributeError)):
        pickle.dumps(SSHChannel("login", password=lambda: "x", config=None))


def test_the_users_own_ssh() -> None:
    channel = OpenSSHChannel("login", ["-p", "2222"], environment={"NAME": "value"})
    other, _ = copy(channel)
    assert other == channel
    assert repr(other) == repr(channel)
