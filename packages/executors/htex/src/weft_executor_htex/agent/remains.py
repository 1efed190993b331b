"""Agents that their clients have left, and nobody waits for."""

from __future__ import annotations

import json
from typing import Any

from weft_interfaces import Channel, ChannelError

from .install import AgentHost
from .settings import AgentSettings

__all__ = ["AgentRemains", "owner_of"]

_TIMEOUT = 60.0  # seconds for a command there


def owner_of(run_id: str, label: str) -> str:
    """What an agent is known by that an executor of a run has started."""
    return json.dumps([run_id, label])


class AgentRemains:
    """The agents of ``owner`` on the host of a channel.

    Methods raise :class:`ChannelError`, and :class:`ConfigError` for a host that is not fit for agents.
    """

    def __init__(self, channel: Channel, settings: AgentSettings, owner: str) -> None:
        self._host = AgentHost(channel, settings.python, settings.directory)
        self._owner = owner

    def find(self) -> list[str]:
        """What there is, in words."""
        return [_in_words(each) for each in self._ask("find")]

    def end(self) -> None:
        """End all that is there. Returning: nothing is left."""
        left = self._ask("reap")
        if left:
            raise ChannelError(f"{'; '.join(map(_in_words, left))}: connect to that host to end it")

    def _ask(self, command: str) -> list[dict[str, Any]]:
        try:
            ended = self._host.run(command, self._owner, _TIMEOUT)
        except TimeoutError as error:
            raise ChannelError(f"{self._host.host} does not answer: {error}") from error
        lines = ended.stdout.decode(errors="replace").splitlines()
        if ended.exit_status or "weft-end" not in lines:
            said = ended.stderr.decode(errors="replace").strip()[-2000:]
            raise ChannelError(f"agents on {self._host.host} cannot be looked for: {said or 'no answer'}")
        return [json.loads(line.partition(" ")[2]) for line in lines if line.startswith("weft-agent ")]


def _in_words(about: dict[str, Any]) -> str:
    state = "runs" if about["runs"] else "ended without removing its files" if about["here"] else "may run"
    return f"agent {about['pid']} on {about['host']}, which {state}"
