"""The agent: an interchange that outlives the connections with its client.

::

    start ──> serves ── End: the client has finished ──────────────────────────────────> managers end ──> gone
                │                                                                             ^
                ├── nobody comes for ``patience`` seconds: "cancel", or "drain" first ────────┤
                └── of a detached run, nobody for ``keep`` seconds after the last call ───────┘
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import tempfile
import time
import traceback
from collections.abc import Mapping
from typing import Any, NoReturn

import msgspec

from ..ledger import Ledger
from ..messages import Message
from ..serve import Service
from ..setup import InterchangeSetup
from ..stream import keep_in_files
from .addresses import own_addresses
from .blocks import AgentBlocks
from .link import Link
from .outbox import Outbox
from .places import RunPlace
from .wire import AGENT_PROTOCOL, Piece, read_json

__all__ = ["start_agent"]

_FAREWELL = 5.0  # seconds that managers may take to end
_CANCELLED = 60.0  # seconds that the batch system may take to cancel the jobs of a client that is gone
_NOBODY = 60.0  # seconds in which who has started it comes
_BACK = 10.0  # seconds in which a client whose connection broke is back
_AGAIN = 1.0  # seconds between two looks for managers that have come although there is nothing to do
_MEMORY = 8 << 20  # bytes for the client that are in memory, unless said
_DISK = 4 << 30  # and in files


def start_agent(place: RunPlace, hello: Piece) -> socket.socket:
    """Start the agent of a run, in a session of its own. Returns a connection with it.

    Raises :class:`OSError` with nothing left, :class:`MalformedError` for a greeting that says not how.
    """
    said = read_json(hello.frames[0])
    listener = place.make()
    incoming, outgoing = os.pipe()
    child = os.fork()
    if not child:
        os.close(incoming)
        _become_agent(place, listener, outgoing, said, bytes(hello.frames[1]))
    os.close(outgoing)
    os.waitpid(child, 0)
    listener.close()
    with open(incoming, "rb") as file:
        trouble = file.read().decode(errors="replace")
    connection = None if trouble else place.connect()
    if connection is None:
        trouble = trouble or f"it has ended at once; the end of its log:\n{place.log_tail()}"
        place.remove()
        raise OSError(trouble)
    return connection


def _become_agent(
    place: RunPlace, listener: socket.socket, parent: int, said: Mapping[str, Any], setup: bytes
) -> NoReturn:
    status = 1
    try:
        os.setsid()
        if os.fork():
            os._exit(0)
        os.chdir("/")
        os.umask(0o077)
        _let_go(place.log, {listener.fileno(), parent})
        agent = _begin(place, listener, parent, said, setup)
        if agent is not None:
            agent.run()
            status = 0
    except BaseException:  # noqa: BLE001  nothing of what its parent was to do may go on here
        traceback.print_exc()
    finally:
        os._exit(status)


def _begin(
    place: RunPlace, listener: socket.socket, parent: int, said: Mapping[str, Any], setup: bytes
) -> _Agent | None:
    """The agent, or words for the parent about why there is none."""
    with open(parent, "w", encoding="utf-8") as report:
        try:
            place.note(str(said.get("owner", "")))
            return _Agent(place, listener, said, _find_address(InterchangeSetup.load(setup)))
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            report.write(str(error) or type(error).__name__)
        except Exception:  # noqa: BLE001  a bug, which the client is to see, too
            report.write(traceback.format_exc())
        return None


def _find_address(setup: InterchangeSetup) -> InterchangeSetup:
    """Where it says "auto", managers try all that may lead to this host."""
    if setup.address != "auto":
        return setup
    found: InterchangeSetup = msgspec.structs.replace(setup, address=",".join(own_addresses()))
    return found


def _let_go(log: str, kept: set[int]) -> None:
    """Nothing that is open belongs to whoever has started this, but these."""
    null = os.open(os.devnull, os.O_RDONLY)
    written = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(null, 0)
    os.dup2(written, 1)
    os.dup2(written, 2)
    low = 3
    for descriptor in sorted(kept):
        os.closerange(low, descriptor)
        low = descriptor + 1
    os.closerange(low, os.sysconf("SC_OPEN_MAX") if os.sysconf("SC_OPEN_MAX") < 1 << 20 else 1 << 16)


class _Agent:
    def __init__(
        self, place: RunPlace, listener: socket.socket, said: Mapping[str, Any], setup: InterchangeSetup
    ) -> None:
        tempfile.tempdir = place.directory  # whatever is made goes away with it
        keep_in_files()
        self._place = place
        self._patience = float(said.get("patience", 600.0))
        self._drains = said.get("on_client_loss") == "drain"
        self._most = int(said.get("disk", _DISK))
        outbox = Outbox(int(said.get("memory", _MEMORY)), place.directory, self._disk_is_full)
        self._ledger = Ledger(lambda: outbox.end)
        self._service = Service(setup, self._send, self._overhear, self._ledger)
        self._blocks = AgentBlocks(self._service.server, self._service.say)
        self._keep = float(said.get("keep", 0.0))  # more than 0 in a detached run
        self._back = min(_BACK, setup.heartbeat_threshold)
        self._busy_at = self._look_at = 0.0
        about = {"protocol": AGENT_PROTOCOL, "host": socket.gethostname(), "pid": os.getpid()}
        self._link = Link(
            self._service.server,
            listener,
            about,
            str(said.get("token", "")),
            outbox,
            self._service.receive,
            setup.heartbeat_period,
        )
        self._full = False
        self._untold = ""  # what the disk has said

    def run(self) -> None:
        """Serve until the run is over; then nothing is left."""
        signal.signal(signal.SIGTERM, _end)
        for number in (signal.SIGHUP, signal.SIGINT):
            signal.signal(number, _ignore)  # by a function: commands must not inherit that
        server = self._service.server
        reason = "the agent was told to end"
        try:
            self._service.begin()
            while not self._link.ended and not self._is_over():
                self._round()
            reason = "the run has ended" if self._link.ended else "its client is gone"
        finally:
            with contextlib.suppress(Exception):
                self._blocks.freeze(reason)
                self._dismiss_managers(reason)
            with contextlib.suppress(Exception):
                self._blocks.end(_CANCELLED)
                self._blocks.close()
            self._place.remove()
            self._link.close()
            server.close()

    def _round(self) -> None:
        server = self._service.server
        patience = min(server.prepare(), self._service.tell())
        patience = min(patience, self._link.tick())
        server.serve(server.wait(patience))
        self._ledger.confirm(self._link.outbox.confirmed)
        server.interchange.hold(len(self._link.outbox) > self._most or self._full)
        if self._untold:
            server.interchange.trouble(self._untold)
            self._untold = ""
        if not len(self._link.outbox):
            self._full = False
        if self._keep:
            self._spare_managers()

    def _spare_managers(self) -> None:
        """Their nodes are not to wait for a client that is gone once nothing is left to do."""
        now, interchange = time.monotonic(), self._service.server.interchange
        if interchange.running:
            self._busy_at = now
        if self._link.connected or now < self._look_at or now - self._link.heard_at < self._back:
            return
        self._look_at = now + _AGAIN
        if interchange.empty and not self._blocks.rest() and interchange.roster:
            self._service.stop("its run has been left, and nothing is left to do")

    def _is_over(self) -> bool:
        """Whether the client is gone for good, and nothing is left to do for it."""
        patience = self._patience if self._link.met else min(self._patience, _NOBODY)
        if self._keep and self._link.met:
            return time.monotonic() - max(self._link.heard_at, self._busy_at) >= self._keep
        if time.monotonic() - self._link.heard_at < patience:
            return False
        self._blocks.abandon()
        return not self._drains or (self._service.server.interchange.idle and not self._blocks.awaited)

    def _dismiss_managers(self, reason: str) -> None:
        server = self._service.server
        self._service.stop(reason)
        deadline = time.monotonic() + _FAREWELL
        while server.interchange.roster and time.monotonic() < deadline:
            server.serve(server.wait(min(0.25, server.prepare())))

    def _overhear(self, message: Message) -> bool:
        return self._blocks.overhear(message)

    def _send(self, frames: list[Any]) -> None:
        self._link.send(frames)

    def _disk_is_full(self, error: OSError) -> None:
        """No more is to come. The client is told in the next round: now a message to it is half there."""
        self._full = True
        self._untold = (
            f"what waits for the client finds no room in {self._place.directory} on {socket.gethostname()} "
            f"({error.strerror}): no more calls are given out until it has been fetched; set TMPDIR there to "
            "a directory with more room, for all commands of this user"
        )


def _ignore(number: int, frame: object) -> None:
    """A terminal is nothing to an agent."""


def _end(number: int, frame: object) -> None:
    raise SystemExit(128 + number)
