from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from weft_channel_ssh.keys import KeyFile, KeyFileError, expiry, read_public

pytestmark = pytest.mark.once  # of the protocol and its files, not of Python

Keygen = Callable[..., Path]
KINDS = [("ed25519",), ("ecdsa",), ("rsa", "-b", "2048"), ("rsa", "-b", "2048", "-m", "PEM")]


@pytest.mark.parametrize("kind", KINDS, ids=" ".join)
@pytest.mark.parametrize("beside", [True, False])
def test_keys_with_a_passphrase(tmp_path: Path, keygen: Keygen, kind: tuple[str, ...], beside: bool) -> None:
    path = keygen(tmp_path / "key", "-t", *kind, "-N", "open sesame")
    public = read_public(tmp_path / "key.pub")
    if not beside:
        (tmp_path / "key.pub").unlink()
    file, asked = KeyFile(str(path)), []

    def passphrase() -> str:
        asked.append(1)
        return "open sesame"

    hidden = not beside and "PEM" in kind  # such a file keeps all to itself
    assert file.public() == (None if hidden else public)
    assert public is not None
    for _ in range(2):
        assert file.unlocked(passphrase).asbytes() == public.blob
    assert asked == [1], "what is unlocked stays so"
    assert file.public() == public
    assert "sesame" not in repr(file)
    with pytest.raises(KeyFileError, match="the passphrase is wrong"):
        KeyFile(str(path)).unlocked(lambda: "close sesame")


@pytest.mark.parametrize("kind", KINDS, ids=" ".join)
def test_keys_without(tmp_path: Path, keygen: Keygen, kind: tuple[str, ...]) -> None:
    file = KeyFile(str(keygen(tmp_path / "key", "-t", *kind)))
    assert file.public() == read_public(tmp_path / "key.pub")
    (tmp_path / "key.pub").unlink()
    assert KeyFile(str(file.path)).public() == file.public()


@pytest.mark.parametrize(
    "text", ["", "no key", "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n"]
)
def test_files_that_are_no_keys(tmp_path: Path, text: str) -> None:
    (tmp_path / "key").write_text(text)
    with pytest.raises(KeyFileError):
        KeyFile(str(tmp_path / "key")).public()


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
@pytest.mark.parametrize(
    ("validity", "words"),
    [
        ("-5m:+1d", None),
        ("-2d:-1d", "it expired on "),
        ("+1d:+2d", "it holds from "),
        ("always:forever", None),
    ],
)
def test_certificates(tmp_path: Path, keygen: Keygen, kind: str, validity: str, words: str | None) -> None:
    authority, path = keygen(tmp_path / "ca"), keygen(tmp_path / "key", "-t", kind)
    sign = [
        "ssh-keygen",
        "-q",
        "-s",
        str(authority),
        "-I",
        "alice",
        "-n",
        "alice",
        "-V",
        validity,
        f"{path}.pub",
    ]
    subprocess.run(sign, check=True, timeout=30)
    certificate = read_public(tmp_path / "key-cert.pub")
    assert certificate is not None
    assert (expiry(certificate) or "").startswith(words or "")
    assert (expiry(certificate) is None) == (words is None)
    public = read_public(tmp_path / "key.pub")
    assert public is not None
    assert expiry(public) is None
