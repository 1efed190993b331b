"""Each connection takes a file descriptor, of which there are only so many."""

from __future__ import annotations

import json
import select
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from weft_executor_htex import messages
from weft_executor_htex.link import Link, connect
from weft_executor_htex.setup import ManagerSetup

pytestmark = pytest.mark.once

PATIENCE = 30.0

CLIENT = textwrap.dedent("""
    import json, resource, sys
    from pathlib import Path
    from weft_executor_htex import HighThroughputExecutor
    from weft_interfaces import Blocks
    from weft_interfaces.memory import InMemoryProvider, RecordingContext

    address, soft, hard = json.loads(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    context = RecordingContext(Path("unused"))
    blocks = Blocks(provider=InMemoryProvider())
    executor = HighThroughputExecutor(workers_per_node=1, blocks=blocks, address=address)
    executor.start(context)
    try:
        print(executor.command("b").input.decode(), flush=True)
        for line in sys.stdin:
            events = [[event.kind, event.data.get("reason")] for event in context.events]
            print(json.dumps([resource.getrlimit(resource.RLIMIT_NOFILE), events]), flush=True)
    finally:
        executor.shutdown(cancel=True)
""")


class Client:
    """A process with an executor, and few descriptors."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        assert process.stdin is not None
        assert process.stdout is not None
        self._ask, self._answers = process.stdin, process.stdout
        self.setup = ManagerSetup.load(self._answers.readline().encode())

    def state(self) -> tuple[list[int], list[tuple[str, str]]]:
        """Its limits, and the events so far."""
        self._ask.write("\n")
        self._ask.flush()
        limits, events = json.loads(self._answers.readline())
        return limits, [(kind, reason) for kind, reason in events]


@contextmanager
def client(address: str | None, soft: int, hard: int) -> Iterator[Client]:
    command = [sys.executable, "-c", CLIENT, json.dumps([address, soft, hard])]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Client(process)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(PATIENCE) == 0


class Peers:
    """Connections with the interchange."""

    def __init__(self, setup: ManagerSetup) -> None:
        self._setup = setup
        self._links: list[Link] = []

    def connect(self, silent: bool = False) -> Link:
        """One more; it registers unless it is to be silent."""
        [endpoint] = self._setup.access.endpoints
        link = connect(endpoint, self._setup)
        self._links.append(link)
        host = f"host{len(self._links)}"
        register = messages.Register(messages.PROTOCOL, messages.PYTHON, host, 1, "b", 1, None, 0, None)
        if not silent:
            link.send(messages.encode(register))
        return link

    def close(self) -> None:
        for link in self._links:
            link.close()
        self._links.clear()

    def __enter__(self) -> Peers:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def answer(link: Link) -> Any:
    """The first message that comes."""
    deadline = time.monotonic() + PATIENCE
    while not (heard := link.receive()):
        assert heard is not None, "the connection ended"
        assert time.monotonic() < deadline, "no answer"
        select.select([link.fileno()], [], [], max(0.0, min(link.due() - time.monotonic(), PATIENCE)))
    return messages.decode(heard[0])


@pytest.mark.parametrize("address", [None, "127.0.0.1"], ids=["unix", "tcp"])
def test_managers_that_no_descriptor_is_left_for_are_refused_in_words(
    address: str | None, eventually: Any
) -> None:
    """The limit is raised as far as it goes; both sides name it, and what is to be done."""
    with client(address, soft=100, hard=200) as here, Peers(here.setup) as peers:
        answers = [answer(peers.connect()) for _ in range(150)]
        accepted = [each for each in answers if type(each) is messages.Accepted]
        refused = [each.reason for each in answers if type(each) is messages.Refused]
        assert here.state()[0] == [200, 200]
        assert 80 < len(accepted) < 136
        assert len(accepted) + len(refused) == 150
        assert f"there are {len(accepted)} managers, and no room for that on host150" in refused[-1]
        assert "200 files open" in refused[-1]
        assert "ulimit -Hn" in refused[-1]

        def told() -> list[str]:
            return [reason for kind, reason in here.state()[1] if kind == "manager.gone"]

        eventually(lambda: told() == refused, "they are not told of")


@pytest.mark.parametrize("address", [None, "127.0.0.1"], ids=["unix", "tcp"])
def test_connections_that_no_descriptor_is_left_for_are_reported_and_come_later(
    address: str | None, eventually: Any
) -> None:
    with client(address, soft=100, hard=100) as here, Peers(here.setup) as peers:
        for _ in range(110):
            peers.connect(silent=True)

        def troubles() -> list[str]:
            return [reason for kind, reason in here.state()[1] if kind == "interchange.trouble"]

        eventually(troubles, "the trouble is not reported")
        assert "100 files open" in troubles()[0]
        assert "ulimit -Hn" in troubles()[0]
        late = peers.connect()
        peers._links.remove(late)
        peers.close()
        assert type(answer(late)) is messages.Accepted
        assert len(troubles()) < 10
        late.close()
