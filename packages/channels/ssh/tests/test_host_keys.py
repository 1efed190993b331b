from __future__ import annotations

import base64
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from weft_channel_ssh import HostKeyError
from weft_channel_ssh.configuration import Destination
from weft_channel_ssh.host_keys import check_host_key, fingerprint, known_types

pytestmark = pytest.mark.once  # of the protocol and its files, not of Python

KEY, OTHER = b"\0\0\0\x0bssh-ed25519\0\0\0\x04key1", b"\0\0\0\x0bssh-ed25519\0\0\0\x04key2"

Check = Callable[..., None]


def line(names: str, key: bytes = KEY, kind: str = "ssh-ed25519") -> str:
    return f"{names} {kind} {base64.b64encode(key).decode()} a comment\n"


@pytest.fixture
def destination(tmp_path: Path) -> Callable[..., Destination]:
    def destination(text: str, port: int = 22, alias: str | None = None) -> Destination:
        (tmp_path / "hosts").write_text(text)
        return Destination(
            name="l",
            hostname="Login.site",
            user="a",
            port=port,
            known_hosts=(str(tmp_path / "none"), str(tmp_path / "hosts")),
            host_key_alias=alias,
        )

    return destination


@pytest.mark.parametrize(
    ("names", "port"),
    [
        ("login.site", 22),
        ("other,login.site", 22),
        ("*.site", 22),
        ("l?gin.site,!bad.site", 22),
        ("[login.site]:2222", 2222),
        ("[*.site]:2222", 2222),
        ("login.site", 2222),
    ],
)
def test_hosts_that_are_known(destination: Callable[..., Destination], names: str, port: int) -> None:
    check_host_key(destination(f"# a comment\n\nbroken\n{line(names)}", port), "ssh-ed25519", KEY)


@pytest.mark.parametrize(
    ("names", "port"),
    [
        ("other", 22),
        ("*.site,!login.site", 22),
        ("[login.site]:2222", 22),
        ("[login.site]:2222", 2200),
        ("", 22),
    ],
)
def test_hosts_that_are_not_known(destination: Callable[..., Destination], names: str, port: int) -> None:
    with pytest.raises(
        HostKeyError, match=r"this host is not known: its ssh-ed25519 key is SHA256:"
    ) as caught:
        check_host_key(destination(line(names) if names else "", port), "ssh-ed25519", KEY)
    assert fingerprint(KEY) in str(caught.value)
    assert f"ssh-ed25519 {base64.b64encode(KEY).decode()}" in str(caught.value)


def test_the_command_that_is_shown_accepts_the_host(destination: Callable[..., Destination]) -> None:
    where = destination("", 2222)
    with pytest.raises(HostKeyError) as caught:
        check_host_key(where, "ssh-ed25519", KEY)
    subprocess.run(["sh", "-c", str(caught.value).partition("then run: ")[2]], check=True, timeout=10)
    check_host_key(where, "ssh-ed25519", KEY)


def test_names_that_are_hashed(destination: Callable[..., Destination], tmp_path: Path) -> None:
    (tmp_path / "plain").write_text(line("[login.site]:2222"))
    subprocess.run(
        ["ssh-keygen", "-q", "-H", "-f", str(tmp_path / "plain")], check=True, timeout=10, capture_output=True
    )
    hashed = (tmp_path / "plain").read_text()
    assert "login" not in hashed
    check_host_key(destination(hashed, 2222), "ssh-ed25519", KEY)
    with pytest.raises(HostKeyError, match="is not known"):
        check_host_key(destination(hashed, 22), "ssh-ed25519", KEY)


def test_a_key_that_has_changed(destination: Callable[..., Destination], tmp_path: Path) -> None:
    where = destination(f"#\n{line('login.site', OTHER)}")
    with pytest.raises(HostKeyError, match="the host's key has changed") as caught:
        check_host_key(where, "ssh-ed25519", KEY)
    words = str(caught.value)
    assert f"{tmp_path}/hosts:2 knows it by another: {fingerprint(OTHER)}" in words
    assert f"ssh-keygen -R login.site -f {tmp_path}/hosts && echo" in words


def test_a_key_of_another_type_is_a_change(destination: Callable[..., Destination]) -> None:
    where = destination(line("login.site", OTHER, "ssh-rsa"))
    assert known_types(where) == ["ssh-rsa"]
    with pytest.raises(HostKeyError, match=r"has changed.*a key of another type: ssh-rsa"):
        check_host_key(where, "ssh-ed25519", KEY)


def test_a_key_that_is_revoked(destination: Callable[..., Destination]) -> None:
    with pytest.raises(HostKeyError, match=r"hosts:2 says that this key is revoked"):
        check_host_key(destination(line("login.site") + "@revoked " + line("*")), "ssh-ed25519", KEY)


def test_a_certificate_authority_is_not_understood(destination: Callable[..., Destination]) -> None:
    with pytest.raises(
        HostKeyError, match=r"certificate authority, which SSHChannel cannot check.*OpenSSHChannel"
    ):
        check_host_key(destination("@cert-authority " + line("*.site", OTHER)), "ssh-ed25519", KEY)


def test_a_host_under_another_name(destination: Callable[..., Destination]) -> None:
    check_host_key(destination(line("cluster"), 2222, alias="Cluster"), "ssh-ed25519", KEY)
    with pytest.raises(HostKeyError, match="is not known"):
        check_host_key(destination(line("login.site"), 2222, alias="cluster"), "ssh-ed25519", KEY)
