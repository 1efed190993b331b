"""The parts that read what comes from outside."""

from __future__ import annotations

import io
import itertools
import os
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from weft_channel_ssh import AuthenticationError, ConnectError, HostKeyError
from weft_channel_ssh.cause import explain
from weft_channel_ssh.digest import digest
from weft_channel_ssh.errors import CutError
from weft_channel_ssh.marks import Sieve
from weft_channel_ssh.tree import pack, unpack

MARK = b"\x1eweft-1234"


@given(
    st.lists(
        st.one_of(st.binary(max_size=20), st.sampled_from([MARK, b"\x1e", b"\x1eweft-", b"\n"])), max_size=12
    ),
    st.lists(st.integers(0, 100), max_size=8),
)
def test_marks_are_found_however_the_stream_is_cut(parts: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(parts)
    whole, pieces = Sieve(MARK), Sieve(MARK)
    expected = whole.data(stream) + whole.rest()
    places = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    got = b"".join(pieces.data(stream[a:b]) for a, b in itertools.pairwise(places)) + pieces.rest()
    assert got == expected
    assert MARK not in stream or len(expected) <= len(stream)


def test_what_is_no_mark_is_not_held_back() -> None:
    sieve = Sieve(MARK)
    assert sieve.data(b"no line end, w") == b"no line end, w"
    assert sieve.data(b"before" + MARK + b" word\nafter") == b"beforeafter"


@given(st.binary(max_size=2000))
def test_sums_are_those_of_the_systems_own_commands(data: bytes) -> None:
    ours = digest(io.BytesIO(data))
    assert (ours.size, digest(io.BytesIO(data + b"more"), len(data))) == (len(data), ours)


@pytest.mark.parametrize("data", [b"", b"x", b"weft" * 100_000], ids=["empty", "one", "many"])
def test_cksum(data: bytes) -> None:
    said = subprocess.run(["cksum"], input=data, capture_output=True, check=True).stdout.split()
    assert digest(io.BytesIO(data)).cksum == int(said[0])


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


@pytest.mark.parametrize(
    "members",
    [
        [member("../outside")],
        [member("/outside")],
        [member("a/../../outside")],
        [member("link", tarfile.SYMTYPE, ".."), member("link/outside")],
        [member("hard", tarfile.LNKTYPE, "../secret")],
        [member("device", tarfile.CHRTYPE)],
    ],
    ids=lambda members: members[-1].name,
)
def test_nothing_is_written_outside_of_the_directory(tmp_path: Path, members: list[tarfile.TarInfo]) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for info in members:
            tar.addfile(info)
    (tmp_path / "secret").write_text("s")
    with pytest.raises(OSError, match=r"outside|neither|exists|Exists|directory"):
        unpack(stream, tmp_path / "inside")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["inside", "secret"]


def test_the_same_tree_is_the_same_bytes(tmp_path: Path) -> None:
    for name in ("b", "a", "c/d"):
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree" / name).write_text(name)
    one, two = io.BytesIO(), io.BytesIO()
    pack(tmp_path / "tree", one)
    pack(tmp_path / "tree", two)
    assert one.getvalue() == two.getvalue()
    os.mkfifo(tmp_path / "tree" / "fifo")
    with pytest.raises(OSError, match=r"fifo is neither a file"):
        pack(tmp_path / "tree", io.BytesIO())


@pytest.mark.parametrize(
    ("lines", "kind", "words"),
    [
        (
            [
                "debug1: get_agent_identities: ssh_fetch_identitylist: agent contains no identities",
                "alice@login: Permission denied (publickey,keyboard-interactive).",
            ],
            AuthenticationError,
            "it offers publickey, keyboard-interactive: the agent has no keys",
        ),
        (
            ["Received disconnect from 10.0.0.1 port 22:2: Too many authentication failures"],
            AuthenticationError,
            "IdentitiesOnly",
        ),
        (
            ["ssh: connect to host gate port 22: Connection timed out", "kex_exchange_identification: x"],
            ConnectError,
            "gate does not answer on port 22",
        ),
        (["kex_exchange_identification: read: Connection reset by peer"], CutError, "too many logins"),
        (["Connection to 10.0.0.1 port 22 timed out"], ConnectError, "nothing was heard of it for too long"),
        (["Connection closed by 10.0.0.1 port 22"], CutError, "was closed by 10.0.0.1 port 22 before"),
        (
            [
                "debug1: Server host key: ssh-ed25519 SHA256:abc",
                "No ED25519 host key is known for login and you have requested strict checking.",
                "Host key verification failed.",
            ],
            HostKeyError,
            "it shows ssh-ed25519 SHA256:abc",
        ),
    ],
)
def test_what_ssh_says_becomes_a_cause_and_a_remedy(
    lines: list[str], kind: type[Exception], words: str
) -> None:
    error = explain("login", ["-oUser=alice"], lines, asked=False)
    assert type(error) is kind
    assert words in str(error)
    assert "login" in str(error)


@pytest.mark.parametrize("shown", ["{key}", "{key}-cert", "{key}-cert.pub"])
def test_that_a_certificate_has_expired_is_said_where_ssh_says_nothing(
    tmp_path: Path, keygen: Callable[..., Path], shown: str
) -> None:
    key, authority = keygen(tmp_path / "id"), keygen(tmp_path / "authority")
    sign = ["-s", str(authority), "-I", "a", "-n", "alice", "-V", "20200101:20200102", f"{key}.pub"]
    subprocess.run(["ssh-keygen", "-q", *sign], check=True, timeout=30)
    names = (key, shown.format(key=key))
    offered = [f"debug1: Offering public key: {name} ED25519 SHA256:a explicit" for name in names]
    error = explain("login", [], [*offered, "alice@login: Permission denied (publickey)."], asked=False)
    assert f"the certificate {key}-cert.pub does not hold: it expired on 2020-01-02" in str(error)
    assert str(error).count("it expired") == 1
