"""Jobs that an agent has asked for which is gone, and what the next one makes of them."""

from __future__ import annotations

import json
import pickle
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest
from weft_executor_htex.agent import earlier, plan
from weft_executor_htex.agent.blocks import AgentBlocks
from weft_executor_htex.messages import BlocksClosed, CloseBlocks, Message, Notes, Scale, Stop
from weft_executor_htex.selector import LeastLoaded
from weft_executor_htex.server import Server
from weft_executor_htex.setup import InterchangeSetup
from weft_interfaces import Blocks, BlockShape, ConfigError, JobId, JobSpec, ProviderError
from weft_interfaces.memory import InMemoryChannel, InMemoryProvider
from weft_interfaces.testing.recorder import PATIENCE

pytestmark = pytest.mark.once


class Queue(InMemoryProvider):
    """A batch system that is asked from everywhere: pickled, it is the same."""

    def __init__(self) -> None:
        super().__init__(queue_time=None)
        self.searches = 0
        self.cancelled: list[JobId] = []
        self.trouble: Exception | None = None
        self.hangs: threading.Event | None = None

    def __reduce__(self) -> Any:
        return current, ("queue",)

    def find_specs(self, tag: str) -> Mapping[str, JobId]:
        self.searches += 1
        if self.hangs is not None:
            assert self.hangs.wait(PATIENCE)
        if self.trouble is not None:
            raise self.trouble
        return super().find_specs(tag)

    def cancel(self, ids: Sequence[JobId]) -> None:
        if self.trouble is not None:
            raise self.trouble
        self.cancelled += ids
        super().cancel(ids)

    def put(self, *numbers: int, label: str = "htex", tag: str = "run1") -> dict[str, JobId]:
        """Jobs of blocks with these numbers, by block id."""
        return {spec.id: self.submit(spec) for spec in (_spec(tag, label, number) for number in numbers)}


class Unsearchable(Queue):
    """One that knows its jobs by their names only."""

    find_specs = None  # type: ignore[assignment]

    def find(self, tag: str) -> Mapping[JobId, str]:
        return {job: self.specs[job].name for job in InMemoryProvider.find_specs(self, tag).values()}


def _spec(tag: str, label: str, number: int) -> JobSpec:
    return JobSpec(
        id=f"{tag}-{label}-{number}",
        name=f"weft-{label}-{number}",
        command=["manager"],
        shape=BlockShape(),
        directory="/",
        tag=tag,
    )


class Maker:
    """Makes scalers that say what was asked of them. Pickled, it is the same."""

    def __init__(self) -> None:
        self.said: list[Any] = []
        self.adopted: list[Mapping[str, JobId]] = []
        self.left: list[str] = []

    def __reduce__(self) -> Any:
        return current, ("maker",)

    def __call__(self, executors: Any, *, adopt: Mapping[str, JobId], **options: Any) -> Maker:
        self.adopted.append(adopt)
        return self

    def start(self) -> None:
        self.said.append("start")

    def wake(self) -> None:
        self.said.append("wake")

    def freeze(self, reason: str = "") -> None:
        self.said.append(reason)

    def close(self, timeout: float = 10.0, *, tidy: bool = True) -> list[str]:
        self.said.append(tidy)
        return self.left


_current: dict[str, Any] = {}


def current(name: str) -> Any:
    """What is unpickled as the same that was pickled."""
    return _current[name]


class Login:
    """A login node, with the agents of a run."""

    def __init__(self, queue: Queue) -> None:
        self.queue = _current["queue"] = queue
        self.maker = _current["maker"] = Maker()
        self.plan = plan.Plan("htex", "run1", self.maker, Blocks(provider=queue))
        self._agents: list[Agent] = []

    def dump(self, *, follows: bool = True) -> bytes:
        return self.plan.dump(["manager"], b"{}", slots_per_node=1, follows=follows)

    def agent(self, *, follows: bool = True) -> Agent:
        """The next one, which is told what to do."""
        self._agents.append(Agent(self, self.dump(follows=follows)))
        return self._agents[-1]

    def close(self) -> None:
        for agent in self._agents:
            agent.drop()


class Agent:
    def __init__(self, login: Login, data: bytes) -> None:
        self._maker = login.maker
        settings = InterchangeSetup(heartbeat_period=1.0, heartbeat_threshold=10.0)
        self._server = Server(settings, LeastLoaded(), lambda message, payloads: None)
        self.said: list[Message] = []
        self.blocks = AgentBlocks(self._server, self.said.append)
        assert self.blocks.overhear(Scale(data))

    def until(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline
            self._server.serve(self._server.wait(min(0.1, self._server.prepare())))

    def begun(self) -> Mapping[str, JobId]:
        """What its scaler has adopted."""
        self.until(lambda: "start" in self._maker.said)
        return self._maker.adopted[-1]

    def notes(self, kind: str) -> list[dict[str, Any]]:
        told = [note for message in self.said if isinstance(message, Notes) for note in message.notes]
        return [json.loads(note.data) for note in told if note.kind == kind]

    def close(self, timeout: float = PATIENCE) -> list[str]:
        """Have its blocks closed; what could not be done."""
        self.blocks.overhear(Stop("the run is closing"))
        self.blocks.overhear(CloseBlocks(timeout))
        self.until(lambda: isinstance(self.said[-1], BlocksClosed) if self.said else False)
        closed = self.said[-1]
        assert isinstance(closed, BlocksClosed)
        return list(closed.leftovers)

    def drop(self) -> None:
        self.blocks.close()
        self._server.close()


@pytest.fixture
def login(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Login]:
    """One where a first agent has been."""
    monkeypatch.setattr(plan, "_local_channel", lambda: InMemoryChannel)
    monkeypatch.setattr(earlier, "_RETRY_FIRST", 0.01)
    monkeypatch.setattr(earlier, "_RETRY_MOST", 0.02)
    login = Login(getattr(request, "param", Queue)())
    login.dump()
    yield login
    login.close()


# -- the plan -----------------------------------------------------------------------------------------------


def test_jobs_are_to_be_adopted_whose_managers_find_the_next_agent(login: Login) -> None:
    plans = [pickle.loads(login.dump(follows=follows)) for follows in (True, True, False, True, False)]
    assert [(each["adopt"], each["since"], each["first"]) for each in plans] == [
        (True, 1, 10_001),
        (True, 1, 20_001),
        (False, 30_001, 30_001),
        (True, 30_001, 40_001),
        (False, 50_001, 50_001),
    ]


# -- the agent ----------------------------------------------------------------------------------------------


def test_the_first_agent_looks_for_nothing(login: Login) -> None:
    login.queue.put(1)
    login.plan = plan.Plan("htex", "run1", login.maker, Blocks(provider=login.queue))
    agent = login.agent()
    assert agent.begun() == {}
    assert agent.close() == []
    assert login.queue.searches == 0
    assert login.queue.cancelled == []


def test_the_next_agent_adopts_jobs_that_wait_and_that_run(login: Login) -> None:
    jobs = login.queue.put(1, 2, 7)
    login.queue.start(jobs["run1-htex-2"])
    login.queue.put(10_001)
    login.queue.put(1, label="other")
    login.queue.put(1, tag="run2")
    agent = login.agent()
    assert agent.begun() == jobs
    assert agent.notes("scaling.cancelled") == []
    assert agent.close() == []
    assert login.queue.cancelled == [], "those are its scaler's"
    assert login.maker.said == ["start", "the run is closing", True]


def test_jobs_whose_managers_cannot_come_back_are_cancelled(login: Login) -> None:
    old = login.queue.put(1)
    assert login.agent(follows=False).begun() == {}
    assert login.queue.cancelled == list(old.values())


def test_so_are_those_that_an_agent_between_had_no_time_to_cancel(login: Login) -> None:
    old = login.queue.put(1)
    login.dump(follows=False)
    new = login.queue.put(10_001)
    assert login.agent().begun() == new
    assert login.queue.cancelled == list(old.values())


def test_an_agent_waits_for_a_batch_system_that_does_not_answer(login: Login) -> None:
    jobs = login.queue.put(1)
    login.queue.trouble = ProviderError("squeue: timed out")
    agent = login.agent()
    agent.until(lambda: login.queue.searches > 3 and agent.notes("scaling.error"))
    assert login.maker.adopted == [], "no block is asked for"
    (note,) = agent.notes("scaling.error")
    assert note["reason"] == (
        "what an agent that is gone has asked for could not be looked up, no block is asked for before: "
        "squeue: timed out"
    )
    login.queue.trouble = None
    assert agent.begun() == jobs


@pytest.mark.parametrize("error", [ProviderError("squeue: timed out"), ConfigError("no squeue")])
def test_what_was_not_found_for_long_is_cancelled_in_the_end(
    login: Login, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    jobs = login.queue.put(1)
    login.queue.trouble = error
    monkeypatch.setattr(earlier, "_PATIENCE", 0.05)
    agent = login.agent()
    assert agent.begun() == {}
    agent.until(lambda: "it is left alone until the run ends" in str(agent.notes("scaling.error")))
    login.queue.trouble = None
    assert agent.close() == []
    assert login.queue.cancelled == list(jobs.values())
    assert agent.notes("scaling.cancelled")[0]["jobs"] == list(jobs.values())


def test_the_end_of_the_run_ends_the_search(login: Login) -> None:
    login.queue.put(1)
    login.queue.trouble = ProviderError("squeue: timed out")
    agent = login.agent()
    agent.until(lambda: login.queue.searches)
    agent.blocks.overhear(Stop("the run is closing"))
    assert agent.begun() == {}
    assert login.maker.said == ["the run is closing", "start"]


def test_closing_does_not_wait_for_the_search(login: Login) -> None:
    login.queue.put(1)
    login.queue.trouble = ProviderError("squeue: timed out")
    agent = login.agent()
    agent.until(lambda: login.queue.searches)
    (left,) = agent.close()
    assert left == "what an agent that is gone has asked for could not be cancelled: squeue: timed out"


def test_closing_keeps_its_time_when_the_batch_system_hangs(login: Login) -> None:
    jobs = login.queue.put(1)
    login.queue.hangs = threading.Event()
    agent = login.agent()
    agent.until(lambda: login.queue.searches)
    assert agent.close(0.3) == [
        "the batch system has not answered for 0.3 s when it was asked for jobs of an agent before this one"
    ]
    login.queue.hangs.set()
    agent.until(lambda: login.maker.adopted == [jobs] and True in login.maker.said)
    assert "start" not in login.maker.said, "it cancels them late, and asks for none"


def test_what_was_just_being_submitted_is_cancelled_in_the_end(login: Login) -> None:
    adopted = login.queue.put(1)
    agent = login.agent()
    assert agent.begun() == adopted
    late = login.queue.put(2)
    assert agent.close() == []
    assert login.queue.cancelled == list(late.values())


def test_a_provider_that_hangs_is_not_asked_by_a_second_thread(login: Login) -> None:
    login.queue.put(1)
    agent = login.agent()
    agent.begun()
    searches = login.queue.searches
    login.maker.left = ["provider Queue has not answered"]
    assert agent.close() == [
        "provider Queue has not answered",
        "jobs that an agent before this one has asked for were not looked for",
    ]
    assert login.queue.searches == searches


@pytest.mark.parametrize("login", [Unsearchable], indirect=True)
def test_jobs_that_are_known_by_their_names_only_are_cancelled(login: Login) -> None:
    jobs = login.queue.put(1, 2)
    login.queue.put(10_001)
    agent = login.agent()
    assert agent.begun() == {}
    assert login.queue.cancelled == list(jobs.values())
    assert agent.close() == []
