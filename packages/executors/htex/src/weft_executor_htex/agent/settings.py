"""How the agent works: the executor's parameter ``agent``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from weft_interfaces import ConfigError, parse_bytes, parse_seconds

__all__ = ["AgentSettings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSettings:
    """For an interchange that lives on the host of a channel.

    python: what runs it there, 3.8 or newer; the first one on ``PATH`` that is new enough unless said.
    Nothing needs to be installed in it.
    directory: where its file is kept there, relative to the home directory; ``~/.cache/weft`` unless said.
    reconnect: seconds, or text such as ``"1h"``, for which a connection that broke is made again; then the
    calls that the agent had are lost.
    on_client_loss: what it does when nobody came back for ``patience`` (seconds or text): ``"cancel"`` ends
    its managers, ``"drain"`` has them finish first what they were given, for its effects: nobody gets the
    results.
    disk: bytes, or text such as ``"4GB"``, of results that wait in files for the connection to come back;
    with more waiting, it gives out no calls.
    blocks: who asks for blocks: ``"agent"``, also while there is no connection; ``"client"``, through the
    channel; ``"auto"``: the agent, unless something of the provider, the launcher or the scaling policy
    cannot go there, which an event then says.
    keep: seconds or text; in a run with ``detach=True`` the agent does neither of ``on_client_loss`` when its
    client is gone: it goes on with what it was given, ends its managers when nothing is left for them, and
    keeps the results for so long.
    """

    python: str | None = None
    directory: str | None = None
    reconnect: float | str = "1h"
    on_client_loss: Literal["cancel", "drain"] = "cancel"
    patience: float | str = "10min"
    disk: int | str = "4GB"
    blocks: Literal["auto", "agent", "client"] = "auto"
    keep: float | str = "7d"

    def __post_init__(self) -> None:
        for field in ("reconnect", "patience", "keep"):
            object.__setattr__(self, field, parse_seconds(getattr(self, field), f"agent.{field}"))
        object.__setattr__(self, "disk", parse_bytes(self.disk, "agent.disk"))
        if self.on_client_loss not in ("cancel", "drain"):
            raise ConfigError(
                f'agent.on_client_loss must be "cancel" or "drain", not {self.on_client_loss!r}',
                "agent.on_client_loss",
            )
        if self.blocks not in ("auto", "agent", "client"):
            raise ConfigError(
                f'agent.blocks must be "auto", "agent" or "client", not {self.blocks!r}', "agent.blocks"
            )
