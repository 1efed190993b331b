"""What an executor of a detached run has left in a directory, and what comes of it: the client's place, taken
by another process.

::

    sent     ──> the calls ─┐
    received ──> Client ────┴──> outcomes so far        the agent ══ AttachedStream ──> Client ──> the others
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from msgspec import structs
from weft_interfaces import (
    BlockLostError,
    ChannelError,
    DeathCertificate,
    Event,
    InputError,
    InterchangeLostError,
    ManagerLostError,
    Outcome,
)
from weft_interfaces.processes import Entry

from ..client import Client
from ..client_blobs import ClientBlobs
from ..messages import Begun, CloseBlocks, MalformedError, ManagerUp, Results, Returned, Stop, decode
from ..packing import BlobSerializer
from ..remote import InterchangeStream
from ..selector import find_selector
from ..setup import InterchangeSetup
from ..stream import StreamReader
from .durable import Folder, Record, Streams
from .line import AgentGoneError, Line
from .open import attach_to_agent
from .replay import Messages, Sent, read_sent

__all__ = ["Attachment"]

_MOST_LOSSES = 3  # times that a task is sent again
_FAREWELL = 5.0  # seconds that managers may take to end
_CANCELLED = 30.0  # seconds that the batch system may take to cancel what is left
_LOST = (BlockLostError, InterchangeLostError, ManagerLostError)  # which is no fault of the task's


class _Context:
    """What a client reports to."""

    detached = None
    make_scaler = None

    def __init__(
        self,
        directory: Path,
        completed: Callable[[Sequence[Outcome]], None],
        emit: Callable[[Sequence[Event]], None],
    ) -> None:
        self.run_id = directory.name
        self.directory = directory
        self.completed = completed
        self.emit = emit


class Attachment:
    """Takes the client's place for the calls in ``path``.

    completed: gets the outcome of each task once, whose ``id`` is the task's; from any thread. emit: takes
    events. names: of the tasks, by id: all that were handed to the executor. unfinished: those without an
    outcome. finished: the agent was ended as it should.

    Raises :class:`InputError` when another process has it, or when it cannot be read; then nothing was
    changed.
    """

    def __init__(
        self,
        path: Path,
        completed: Callable[[Sequence[Outcome]], None],
        emit: Callable[[Sequence[Event]], None] = lambda events: None,
    ) -> None:
        self.names: dict[int, str] = {}
        self.unfinished: set[int] = set()
        self.finished = False
        self._completed = completed
        self._emit = emit
        self._latest: dict[int, Entry] = {}  # by task
        self._losses: Counter[int] = Counter()
        self._stream: AttachedStream | None = None
        self._client: Client | None = None
        self._waiting: list[Entry] = []  # to be sent again when there is a client
        self._folder = Folder(path)
        try:
            self._blobs = ClientBlobs()
            self._task_of: Mapping[int, int] = self._folder.tries()
            self._agents = self._folder.agents
            self._records = [Record.read(each) for each in self._agents]
            self._read_calls()
        except BaseException:
            self._folder.close()
            raise

    def _read_calls(self) -> None:
        self._sent: list[Sent] = []
        earlier: dict[int, Entry] = {}
        try:
            for directory in self._agents:
                messages = Messages(directory / "sent")
                self._sent.append(read_sent(messages, self._blobs, earlier))
                self._end = messages.end
                earlier.update(self._sent[-1].entries)
        except (MalformedError, LookupError, OSError) as error:
            raise InputError(f"{self._folder.path} cannot be read: {error}") from error
        for sent in self._sent:
            for call_id in sorted(sent.entries):
                entry = sent.entries[call_id]
                task = self._task(call_id)
                self._latest[task] = entry
                self.names[task] = entry.options.options.name
        self.unfinished.update(self._latest)
        self._next_id = max((max(sent.entries, default=0) for sent in self._sent), default=0) + 1

    def _task(self, call_id: int) -> int:
        return self._task_of.get(call_id, call_id)

    @property
    def calls(self) -> dict[int, int]:
        """The last call of each task, by the task."""
        return {task: entry.id for task, entry in self._latest.items()}

    def leave_out(self, tasks: Collection[int]) -> None:
        """These were tried again elsewhere: nothing is reported of them. Before ``replay``."""
        self.unfinished.difference_update(tasks)
        for task in tasks:
            del self.names[task]

    @property
    def host(self) -> str:
        """Where the agent is, for messages."""
        return self._records[-1].channel.host if self._records else "nowhere"

    # -- what has come already ------------------------------------------------------------------------------

    def replay(self) -> None:
        """Report the outcomes that had come. Raises :class:`InputError` for files that are damaged."""
        clients: list[Client] = []
        for directory, record, sent in zip(self._agents, self._records, self._sent, strict=True):
            clients.append(self._make_client(record))
            clients[-1].strangers = len(self._agents) > 1
            clients[-1].restore(list(sent.entries.values()))
            try:
                self._rest = self._replay(clients, directory, sent)
            except (MalformedError, LookupError, OSError) as error:
                raise InputError(f"{directory / 'received'} cannot be read: {error}") from error
        for number, client in enumerate(clients[:-1], 1):
            self._lose(client, number)
        if clients:
            self._client = clients[-1]
        waiting, self._waiting = self._waiting, []
        if self._client is not None:
            self._client.submit(waiting)
        if self.ended and self.unfinished:
            self._agent_is_gone(self._end_file.read_text(encoding="utf-8"))

    @property
    def ended(self) -> bool:
        """Whether its agent has ended: all is known that there is to know."""
        return self._end_file.exists() or not self._agents

    @property
    def _end_file(self) -> Path:
        return self._folder.path / "ended"

    def _note_end(self, words: str) -> None:
        with contextlib.suppress(OSError):  # it will be found out again
            self._end_file.write_text(words, encoding="utf-8")

    def _make_client(self, record: Record) -> Client:
        import cloudpickle  # type: ignore[import-untyped]

        serializer = BlobSerializer(cloudpickle.Pickler, record.large, self._blobs)
        context = _Context(self._folder.path, self._hear, self._emit)
        return Client(record.label, context, serializer, self._blobs, window=None)

    def _replay(self, clients: Sequence[Client], directory: Path, sent: Sent) -> bytes:
        """Have the last of these hear again what it has heard; it may have got results of calls that the
        agents before it were sent. Returns what has come of the next message.
        """
        client = clients[-1]
        messages = Messages(directory / "received")
        returned: Counter[int] = Counter()
        for frames in messages:
            message = decode(frames)
            if type(message) is Returned:
                returned.update(message.ids)
            elif type(message) is Results:
                for each in clients:
                    each.receive(message, frames[1:])
            elif type(message) is ManagerUp:
                client.receive(ManagerUp(message.manager, structs.replace(message.info, holds=None)), ())
            elif type(message) is not Begun:
                client.receive(message, frames[1:])
        # What was returned as often as it was sent is with nobody.
        waiting = [call_id for call_id, times in returned.items() if times >= sent.times[call_id]]
        client.receive(Returned(waiting), ())
        return messages.rest

    def _lose(self, client: Client, number: int) -> None:
        """This agent was lost, and another was begun."""
        later = {call_id for other in self._sent[number:] for call_id in other.entries}
        lost = [call_id for call_id in client.unfinished() if call_id not in later]
        self._hear(
            [
                Outcome(
                    call_id,
                    None,
                    self._lost_error(self._task(call_id), "it was lost before the run was left"),
                )
                for call_id in lost
            ]
        )

    def _lost_error(self, task: int, reason: str) -> InterchangeLostError:
        certificate = DeathCertificate(kind="interchange", host=self.host, reason=reason)
        return InterchangeLostError(
            f"the interchange that had task {self.names[task]!r} is gone", [certificate]
        )

    # -- what comes -----------------------------------------------------------------------------------------

    def connect(self) -> None:
        """Begin to get the others, and send again what was lost. Raises :class:`ChannelError` and
        :class:`ConfigError` when the agent cannot be reached; then it can be tried again.
        """
        if self.ended or self._client is None or self._stream is not None:
            return
        record, client = self._records[-1], self._client
        streams = Streams(self._agents[-1])
        streams.sent.cut(self._end)
        reader = StreamReader()
        reader.feed(self._rest)
        stream = AttachedStream(record, client, streams, reader, self._note_end)
        try:
            stream.start()
        except AgentGoneError as error:
            streams.close()
            self._agent_is_gone(str(error))
            return
        except BaseException:
            streams.close()
            raise
        self._stream = stream
        stream.wake()

    def _agent_is_gone(self, words: str) -> None:
        self._note_end(words)
        self._pass_on(
            [Outcome(task, None, self._lost_error(task, words)) for task in sorted(self.unfinished)]
        )

    def _hear(self, outcomes: Sequence[Outcome]) -> None:
        """What has become of calls: the last try of each task says what has become of that."""
        final: list[Outcome] = []
        again: list[int] = []
        for outcome in outcomes:
            task = self._task(outcome.id)
            lost = isinstance(outcome.error, _LOST)
            self._losses[task] += lost
            if self._latest[task].id != outcome.id or task not in self.unfinished:
                continue
            if lost and self._losses[task] <= _MOST_LOSSES and self._may_send():
                again.append(task)
            else:
                final.append(outcome._replace(id=task))
        self._pass_on(final)
        if again:
            self._send_again(again)

    def _may_send(self) -> bool:
        return not (self.ended or (self._stream is not None and self._stream.is_over))

    def _send_again(self, tasks: Sequence[int]) -> None:
        entries = []
        for task in tasks:
            old = self._latest[task]
            entry = Entry(self._next_id, old.function, old.options, old.arguments, old.blobs)
            self._next_id += 1
            self._latest[task] = entry
            entries.append(entry)
        self._task_of = {
            **self._task_of,
            **{entry.id: task for entry, task in zip(entries, tasks, strict=True)},
        }
        self._folder.note_tries((entry.id, task) for entry, task in zip(entries, tasks, strict=True))
        if self._client is None:
            self._waiting += entries
            return
        self._client.submit(entries)
        if self._stream is not None:
            self._stream.wake()

    def _pass_on(self, outcomes: Sequence[Outcome]) -> None:
        if not outcomes:
            return
        self.unfinished.difference_update([outcome.id for outcome in outcomes])
        self._completed(outcomes)

    @property
    def without_nodes(self) -> bool:
        """Whether it is connected, tasks are left, and no node is there that could run them."""
        return (
            self._stream is not None
            and bool(self.unfinished)
            and not (self._client and self._client.managers)
        )

    # -- its end --------------------------------------------------------------------------------------------

    def finish(self) -> list[str]:
        """Every task has its outcome: end the agent, which leaves nothing. Returns what is left, in words."""
        leftovers: list[str] = []
        stream, client = self._stream, self._client
        if stream is not None and client is not None:
            client.close()
            client.tell(Stop("the run has ended"))
            stream.wake()
            with client.changed:
                client.changed.wait_for(lambda: not client.managers, _FAREWELL)
            leftovers += [
                f"manager {info.pid} on {info.host} (block {info.block}) does not end"
                for info in list(client.managers.values())
            ]
            if self._sent[-1].scaled:
                leftovers += self._close_blocks(stream, client)
            if stream.stop(_FAREWELL):
                self.finished = True
                self._note_end("the run has ended")
            else:
                leftovers.append(f"the agent on {self.host} does not end")
            self._stream = None
        self._folder.close()
        return leftovers

    def _close_blocks(self, stream: AttachedStream, client: Client) -> list[str]:
        """Have the agent cancel the jobs that it has left."""
        client.tell(CloseBlocks(_CANCELLED))
        stream.wake()
        with client.changed:
            ended = client.changed.wait_for(lambda: client.blocks_left is not None, _CANCELLED + 1.0)
        if ended:
            return client.blocks_left or []
        return [f"the agent on {self.host} has not said within {_CANCELLED:g} s that its jobs are cancelled"]

    def leave(self, timeout: float = 10.0) -> list[str]:
        """Let go of it; the run goes on. Returns what could not be handed over, in words."""
        stream, self._stream = self._stream, None
        leftovers = [] if stream is None else stream.leave(timeout)
        self._folder.close()
        return leftovers


class AttachedStream(InterchangeStream):
    """The stream of an agent that is there, from where the files end. There is no other one should it be
    lost: ``lost`` is told why. is_over: it was.
    """

    def __init__(
        self,
        record: Record,
        client: Client,
        streams: Streams,
        reader: StreamReader,
        lost: Callable[[str], object],
    ) -> None:
        super().__init__(
            record.label,
            client,
            InterchangeSetup(heartbeat_period=record.period, heartbeat_threshold=record.threshold),
            find_selector("least-loaded", "selector"),
            lambda setup: attach_to_agent(record, streams, client.report),
            watched=False,
            whole=True,
        )
        self.is_over = False
        self._first: StreamReader | None = reader
        self._lost = lost

    def _connect(self) -> None:
        reader, self._first = self._first, None
        if reader is None:
            raise ChannelError("the agent is gone, and with it what it had")
        self._process = self._open(b"")
        self._streams = reader, []
        self._began = time.monotonic()

    def _lose(self) -> None:
        self.is_over = True
        process = self._process
        self._lost(process.reason if isinstance(process, Line) else "")
        super()._lose()
