"""Whole runs on a remote site whose login node, account or client is not as it should be: what is seen of it
and when, and that nothing is lost, doubled or left. ``pytest -rP`` shows what was measured.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import weft
from servers.process import program, wait_until
from servers.site import Site, remote_site
from servers.siteconfig import site_config
from servers.sshclient import agent, make_key
from servers.visit import BOUND, Visit
from weft_executor_htex.agent import line as line_module
from weft_executor_htex.agent.install import AgentHost
from weft_executor_htex.agent.line import Line
from weft_executor_htex.agent.wire import AGENT_PROTOCOL

pytestmark = [pytest.mark.once, pytest.mark.timeout(120)]

both = pytest.mark.parametrize("kind", ["ssh", "openssh"])
HOUR = 3600.0
CACHE = ".cache/weft"
IN_MEMORY = 8 << 20  # bytes of results that the agent has without any file
TASKS, SIZE = 150, 300_000


@pytest.fixture
def visit(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Visit]:
    monkeypatch.delenv("SSH_ASKPASS", raising=False)
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    with contextlib.ExitStack() as stack:
        yield Visit(site, tmp_path, stack)


def since(visit: Visit, begun: float, kind: str, words: str = "") -> tuple[str, float]:
    """What an event says, and how long after this moment it came."""
    at, event = visit.events.wait(kind, words)
    return f"{kind}: {event.data['reason']}", at - begun


def own_answers(kind: str, **answers: Any) -> dict[str, Any]:
    """For the channel that is not answered by a program; the user's own ssh is."""
    return answers if kind == "ssh" else {}


# -- who comes ----------------------------------------------------------------------------------------------


@both
def test_a_wrong_password_is_named_and_the_host_is_left_alone(
    visit: Visit, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in visit.site.answers("wrong").items():
        monkeypatch.setenv(name, value)
    with visit.site.asking("password"):
        before = visit.site.sshd.log.count("Failed password")
        answers = own_answers(kind, password=lambda: "wrong")
        channel = visit.channel(kind, options=["-oNumberOfPasswordPrompts=1"], **answers)
        said, seconds = visit.refused(channel, "login", "password")
        assert visit.site.sshd.log.count("Failed password") == before + 1
        visit.tell(f"wrong password, {kind}", said, seconds)


@both
def test_a_wrong_second_factor_is_named(visit: Visit, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in visit.site.answers("000000").items():
        monkeypatch.setenv(name, value)
    with visit.site.asking("keyotp"):
        answers = own_answers(kind, prompts=lambda question: "000000")
        channel = visit.channel(kind, options=["-oNumberOfPasswordPrompts=1"], **answers)
        said, seconds = visit.refused(channel, "login", "second factor" if kind == "ssh" else "code")
        visit.tell(f"wrong second factor, {kind}", said, seconds)


@both
def test_a_key_that_the_server_takes_no_more_is_named(visit: Visit, kind: str) -> None:
    said, seconds = visit.refused(visit.channel(kind, key="expired"), "publickey", "keys/expired")
    visit.tell(f"key that the server does not take any more, {kind}", said, seconds)


@both
def test_a_certificate_that_has_expired_is_named_with_its_date(visit: Visit, kind: str) -> None:
    keys = visit.site.keys
    authority = make_key(visit.folder / "authority")
    make_key(keys / "certified")
    sign = ["-s", str(visit.folder / "authority"), "-I", "alice", "-n", "alice", "-V", "20200101:20200102"]
    subprocess.run([program("ssh-keygen"), "-q", *sign, str(keys / "certified.pub")], check=True, timeout=20)
    trusted = visit.site.path("/etc/authorities")
    trusted.write_text(f"{authority}\n")
    with visit.site.asking(settings="TrustedUserCAKeys /etc/authorities\n"):
        said, seconds = visit.refused(
            visit.channel(kind, key="certified"), "certificate", "it expired on 2020-01-02"
        )
        visit.tell(f"expired certificate, {kind}", said, seconds)


@both
def test_an_ssh_agent_without_keys_is_named(
    visit: Visit, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with agent(tmp_path) as socket:
        monkeypatch.setenv("SSH_AUTH_SOCK", str(socket))
        said, seconds = visit.refused(visit.channel(kind, key="none"), "agent has no keys", "ssh-add")
        visit.tell(f"ssh agent without keys, {kind}", said, seconds)


# -- which host it is ---------------------------------------------------------------------------------------


def heard(visit: Visit, begun: int) -> list[str]:
    """What the login node's sshd has heard about users since then."""
    said = visit.site.sshd.log[begun:]
    return re.findall(r"(?:Accepted|Failed|Postponed|Invalid user|authenticating user)[^\n]*", said)


@both
def test_an_unknown_host_is_sent_nothing_and_the_line_that_is_shown_accepts_it(
    visit: Visit, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = visit.site.known_hosts.read_text()
    visit.site.known_hosts.write_text("")
    begun = len(visit.site.sshd.log)
    try:
        channel = visit.channel(kind)
        shown = subprocess.run(
            [program("ssh-keygen"), "-lf", f"{visit.site.sshd.key}.pub"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()[1]
        said, seconds = visit.refused(channel, "not known", shown, "Nothing was sent")
        assert heard(visit, begun) == []
        accept = re.split(r"then run: |accept it by: ", said)[1]
        environment = {"PATH": "/usr/bin:/bin", **visit.site.answers("yes")}
        subprocess.run(
            ["sh", "-c", accept], env=environment, timeout=30, check=True, stdin=subprocess.DEVNULL
        )
        again = visit.channel(kind)
        assert again.run(["hostname"], timeout=BOUND).stdout == b"login\n"
        visit.tell(f"host unknown, {kind}", said, seconds)
    finally:
        visit.site.known_hosts.write_text(known)


@both
def test_a_host_whose_key_has_changed_is_refused_and_sent_nothing(visit: Visit, kind: str) -> None:
    visit.site.sshd.change_host_key()
    begun = len(visit.site.sshd.log)
    try:
        channel = visit.channel(kind, **own_answers(kind, password=lambda: "secret"))
        said, seconds = visit.refused(channel, "changed", "Nothing was sent", "ssh-keygen -R")
        assert heard(visit, begun) == []
    finally:
        visit.site.trust()
    visit.tell(f"host key changed, {kind}", said, seconds)


@both
def test_a_jump_host_that_is_down_is_named(visit: Visit, kind: str) -> None:
    visit.site.sshd.stop()
    try:
        said, seconds = visit.refused(
            visit.channel(kind, "c1"), "c1", f"{visit.site.block}.2", "jump host", "refuse"
        )
    finally:
        visit.site.sshd.start()
    visit.tell(f"jump host down, {kind}", said, seconds)


# -- room ---------------------------------------------------------------------------------------------------


@pytest.fixture
def cacheless(visit: Visit) -> None:
    """The site has never had an agent."""
    visit.site.run(["rm", "-rf", "/home/alice/.cache"])


@pytest.mark.usefixtures("cacheless")
@both
def test_a_disk_that_is_full_when_the_agent_is_sent_is_named(visit: Visit, kind: str) -> None:
    with visit.site.full_home():
        said, seconds = visit.refused(
            visit.channel(kind), "login", "No space left", "AgentSettings(directory"
        )
        visit.tell(f"disk full, for the agent's file, {kind}", said, seconds)


@pytest.mark.usefixtures("cacheless")
@both
def test_a_home_that_is_not_writable_is_named(visit: Visit, kind: str) -> None:
    with visit.site.unwritable_home():
        said, seconds = visit.refused(visit.channel(kind), "login", "Permission denied", "/home/alice/.cache")
        visit.tell(f"home not writable, for the agent's file, {kind}", said, seconds)


def test_a_home_that_is_not_writable_for_jobs_is_named(visit: Visit) -> None:
    visit.site.run(["rm", "-rf", "/home/alice/.weft"])
    channel = visit.channel("openssh", environment={"XDG_CACHE_HOME": "/scratch/cache"})
    with visit.site.unwritable_home():
        said, seconds = visit.refused(channel, "login", "Permission denied", ".weft")
    visit.site.run(["rm", "-rf", "/scratch/cache"])
    visit.tell("home not writable, for the job's directory", said, seconds)


def test_a_disk_that_is_full_when_an_agent_begins_is_named(visit: Visit) -> None:
    AgentHost(visit.channel("openssh")).prepare()
    with visit.site.full_home():
        said, seconds = visit.refused(
            visit.channel("openssh"), "login", "No space left", "AgentSettings(directory"
        )
        visit.tell("disk full, for the agent's record", said, seconds)


def test_blocks_wait_for_room_for_their_jobs_files(visit: Visit) -> None:
    kept = weft.AgentSettings(directory="/scratch/agent")
    channel = visit.channel("ssh", environment={"XDG_CACHE_HOME": "/scratch/cache"})
    begun = time.monotonic()
    with contextlib.ExitStack() as full:
        full.enter_context(visit.site.full_home())
        with visit.run(channel, agent=kept):
            futures = visit.submit(4)
            said, seconds = since(visit, begun, "block.refused", "No space left")
            full.close()
            visit.collect(futures)
    visit.site.run(["rm", "-rf", "/scratch/agent", "/scratch/cache"])
    visit.tell("disk full, for the job's directory", said, seconds)


def test_results_that_find_no_room_wait_in_memory_and_no_more_tasks_begin(visit: Visit) -> None:
    """While nobody can come for them."""
    visit.site.set_startup('export TMPDIR=$HOME/temporary; mkdir -p "$TMPDIR"\n')
    sshd = visit.site.sshd
    try:
        with visit.run(visit.channel("openssh"), heartbeat_period=0.5, heartbeat_threshold=3):
            visit.collect(visit.submit(1))
            with visit.site.full_home():
                futures = visit.submit(TASKS, 0.01, SIZE)
                wait_until("they have arrived", lambda: len(visit.begun()) > 2, BOUND)
                sshd.cut()
                sshd.stop()
                wait_until("no more begin", Steady(visit, IN_MEMORY // SIZE), BOUND)
                begun = len(visit.begun())
            sshd.start()
            back = time.monotonic()
            said, seconds = since(visit, back, "interchange.trouble", "No space left")
            visit.collect(futures)
        assert begun < TASKS
    finally:
        if not sshd.sessions():
            sshd.restart()
        visit.site.set_startup("")
    visit.tell("disk full, for results that wait", said, seconds)
    visit.site.run(["rm", "-rf", "/home/alice/temporary"])


class Steady:
    """Whether no task has begun for a second, after the first so many."""

    def __init__(self, visit: Visit, first: int) -> None:
        self._visit, self._first = visit, first
        self._begun, self._at = 0, time.monotonic()

    def __call__(self) -> bool:
        begun = len(self._visit.begun())
        if begun != self._begun:
            self._begun, self._at = begun, time.monotonic()
        return begun > self._first and time.monotonic() - self._at > 1.0


@pytest.mark.parametrize(
    ("where", "setting"), [("missing", "/nowhere"), ("not writable", "/etc")], ids=["missing", "not-writable"]
)
def test_a_useless_directory_for_temporary_files_stops_nothing(
    visit: Visit, where: str, setting: str
) -> None:
    """Jobs inherit it from the login node."""
    visit.site.set_startup(f"export TMPDIR={setting}\n")
    begun = time.monotonic()
    try:
        with visit.run(visit.channel("ssh")):
            visit.collect(visit.submit(8))
            seconds = time.monotonic() - begun
    finally:
        visit.site.set_startup("")
    visit.tell(f"TMPDIR {where}, on the login node and in jobs", "nothing", seconds)


def test_without_any_directory_for_temporary_files_the_agent_says_so(visit: Visit) -> None:
    places = ["/tmp", "/var/tmp"]
    visit.site.run(["chmod", "755", *places])
    try:
        with visit.site.unwritable_home():
            channel = visit.channel("ssh", environment={"XDG_CACHE_HOME": "/scratch/cache"})
            said, seconds = visit.refused(channel, "login", "TMPDIR")
    finally:
        visit.site.run(["chmod", "1777", *places])
    visit.site.run(["rm", "-rf", "/scratch/cache"])
    visit.tell("no directory for temporary files on the login node", said, seconds)


def test_nodes_without_any_directory_for_temporary_files_are_named_once(visit: Visit) -> None:
    places, nodes = ["/tmp", "/var/tmp"], [host.name for host in visit.site.nodes]
    for node in nodes:
        visit.site.run(["rm", "-rf", "/tmp/weft-1500"], node)  # of earlier runs
        visit.site.run(["chmod", "755", *places], node)
    try:
        said, seconds = visit.refused(visit.channel("ssh"), "on c1: ", "/tmp is not writable", "set scratch=")
    finally:
        for node in nodes:
            visit.site.run(["chmod", "1777", *places], node)
    visit.tell("no directory for temporary files on the compute nodes", said, seconds)


# -- what is there ------------------------------------------------------------------------------------------


def test_other_versions_of_the_agent_are_left_alone_and_a_damaged_one_is_replaced(visit: Visit) -> None:
    cache = visit.site.home / CACHE
    with visit.run(visit.channel("ssh")):
        visit.collect(visit.submit(1))
    ours = max(cache.glob("weft-agent-*.pyz"), key=lambda path: path.stat().st_mtime)
    whole = ours.read_bytes()
    others = [cache / f"weft-agent-{digit * 24}.pyz" for digit in "0f"]
    for each in (*others, ours):
        each.write_bytes(b"not what it was")
    begun = time.monotonic()
    with visit.run(visit.channel("ssh")):
        visit.collect(visit.submit(4))
        seconds = time.monotonic() - begun
    assert ours.read_bytes() == whole
    assert [each.read_bytes() for each in others] == [b"not what it was"] * 2
    for each in others:
        each.unlink()
    visit.tell(
        "agent's file damaged, and files of an older and a newer version beside it", "nothing", seconds
    )


def test_clients_of_other_versions_are_refused_in_words_and_the_run_goes_on(
    visit: Visit, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: dict[str, tuple[str, float]] = {}
    with visit.run(visit.channel("ssh")) as run:
        futures = visit.submit(4, 0.2)
        ours = run.executors["htex"]._session.placement._process  # type: ignore[attr-defined]
        host = AgentHost(visit.channel("openssh"))
        host.prepare()
        settings: dict[str, Any] = {"patience": 10.0, "period": 1.0, "threshold": 10.0}
        settings |= {"token": ours.token, "run": ours.run, "report": lambda kind, **_: None}
        for age, step in (("newer", -1), ("older", 1)):
            begun = time.monotonic()
            with monkeypatch.context() as patch:
                patch.setattr(line_module, "AGENT_PROTOCOL", AGENT_PROTOCOL + step)
                with pytest.raises(weft.WeftError, match="speaks protocol") as caught:
                    Line(host, b"", {}, **settings)
            said[age] = str(caught.value), time.monotonic() - begun
        visit.collect(futures)
    assert "connection.lost" not in visit.events.kinds()
    for age, (words, seconds) in said.items():
        visit.tell(f"agent that runs is {age} than the client", words, seconds)


SCRIPT = """
import weft

@weft.task
def double(number):
    return 2 * number

print(sum(weft.gather([double(number) for number in range(50)]).result()))
"""


def test_two_runs_of_a_user_at_once_do_not_disturb_each_other(visit: Visit, tmp_path: Path) -> None:
    other = site_config(visit.site.channel("openssh"), blocks="init = 1\nmax = 1")
    (tmp_path / "site.toml").write_text(other)
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "weft", "run", "--quiet", "--config", "site.toml", "script.py"]
    begun = time.monotonic()
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            with visit.run(visit.channel("ssh")):
                visit.collect(visit.submit(4))
                stdout, stderr = process.communicate(timeout=BOUND)
                assert (process.returncode, stdout) == (0, "2450\n"), stderr
                # The other one has tidied up behind itself.
                visit.collect(visit.submit(4))
            seconds = time.monotonic() - begun
        finally:
            process.kill()
    assert not {"connection.lost", "block.refused"} & set(visit.events.kinds())
    visit.tell("two runs of the same user at once", "nothing", seconds)


def test_a_startup_file_that_prints_stops_nothing(visit: Visit) -> None:
    visit.site.set_startup("echo junk; echo '{\"there\": true}'; echo more junk >&2; false; cd /\n")
    begun = time.monotonic()
    try:
        with visit.run(visit.channel("openssh")):
            visit.collect(visit.submit(8))
            seconds = time.monotonic() - begun
    finally:
        visit.site.set_startup("")
    visit.tell("~/.bashrc prints junk", "nothing", seconds)


@both
def test_a_startup_file_that_ends_the_shell_is_named(visit: Visit, kind: str) -> None:
    visit.site.set_startup("echo 'module: command not found' >&2; exit 5\n")
    try:
        said, seconds = visit.refused(
            visit.channel(kind), "login", "exit status 5", "module: command not found", ".bashrc"
        )
    finally:
        visit.site.set_startup("")
    visit.tell(f"~/.bashrc fails, {kind}", said, seconds)


OLD = '#!/bin/sh\n[ "$1" = -V ] && echo Python 3.6.8 && exit\nexit 1\n'


@pytest.mark.parametrize(
    ("what", "script", "words"),
    [("none", None, "there is none"), ("too old", OLD, "python3 is Python 3.6.8")],
)
def test_a_login_node_without_a_python_that_is_new_enough_is_named(
    visit: Visit, what: str, script: str | None, words: str
) -> None:
    python = visit.site.path("/run/login/python3")
    good = python.read_text()
    try:
        if script is None:
            python.unlink()
        else:
            python.write_text(script)
        said, seconds = visit.refused(
            visit.channel("ssh"), "Python 3.8 or newer on login", words, "AgentSettings(python"
        )
    finally:
        python.write_text(good)
        python.chmod(0o755)
    visit.tell(f"Python on the login node: {what}", said, seconds)


# -- time ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ahead", [HOUR, -HOUR], ids=["ahead", "behind"])
def test_clocks_of_the_site_that_are_wrong_by_an_hour_end_no_block(
    ahead: float, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    def left() -> float | None:
        return weft.remaining()

    folder = tmp_path_factory.mktemp("site") / "s"
    with (
        remote_site(folder, nodes=1, clock=ahead, compute_python=Path(sys.executable)) as site,
        contextlib.ExitStack() as stack,
    ):
        visit = Visit(site, tmp_path, stack)
        begun = time.monotonic()
        with visit.run(visit.channel("ssh")):
            visit.collect(visit.submit(2))
            first = time.time()
            seconds = time.monotonic() - begun
            # From now on it is known when the batch system ends the block.
            visit.events.wait("block.running")
            remaining = weft.task(left)().result(BOUND)
            visit.collect(visit.submit(2))
            assert remaining is not None
            assert 1200 - 100 < remaining <= 1200
            assert not {"block.ended", "block.end_moved", "manager.gone"} & set(visit.events.kinds())
        _, running = visit.events.wait("block.running")
        assert abs(float(running.data["ends_at"]) - first - 1200) < 60
        direction = "ahead" if ahead > 0 else "behind"
        visit.tell(f"clocks of the site an hour {direction}", "nothing", seconds)


@both
def test_a_login_node_that_is_rebooted_costs_nothing(visit: Visit, kind: str) -> None:
    """Nodes go on with what they have, and find the next agent when the login node is back."""
    with visit.run(visit.channel(kind), blocks=2):
        visit.collect(visit.submit(4))
        futures = visit.submit(8, 0.5)
        wait_until("some have begun", lambda: len(visit.begun()) > 5, BOUND)
        begun = time.monotonic()
        visit.site.reboot()
        said, seconds = since(visit, begun, "connection.lost")
        visit.collect(futures)
        assert visit.events.kinds().count("block.requested") == 2
    visit.tell(f"login node rebooted, {kind}", said, seconds)
