"""Why ssh did not get to a host, from its words, and what to do about it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from weft_interfaces import ChannelError

from .errors import AuthenticationError, ConnectError, CutError, HostKeyError

__all__ = ["explain"]

# What cannot be reached: ssh's words for it, and what they mean.
_UNREACHED = (
    (
        r"Could not resolve hostname (\S+): (.*)",
        "the name {0} is not known ({1}): is it spelled right, is the network up?",
    ),
    (
        r"connect to host (\S+) port (\d+): (Connection refused)",
        "{0} refuses connections on port {1}: does its sshd run there?",
    ),
    (
        r"connect to host (\S+) port (\d+): (.*timed out.*)",
        "{0} does not answer on port {1}: is it up, does a firewall or a missing VPN stand between?",
    ),
    (r"connect to host (\S+) port (\d+): (.*)", "{0} cannot be reached on port {1}: {2}"),
    (
        r"Connection (?:to \S+ port \d+ )?timed out",
        "nothing was heard of it for too long before the user was let in: is the network still up?",
    ),
    (r"open failed: (?:connect failed: )?(.*)", "a jump host could not go on to the next host: {0}"),
)
_CUT = (
    (
        r"(?:kex|ssh)_exchange_identification: (.*)",
        "the connection was cut before the host had said who it is ({0}): too many logins, or no sshd there",
    ),
    (
        r"Connection (closed|reset)(.*)",
        "the connection was {0}{1} before the user was let in",
    ),
)


def explain(host: str, options: Sequence[str], lines: Sequence[str], asked: bool) -> ChannelError:
    """The error for a connection that could not be made.

    lines: what ssh has said, with ``-v``. asked: whether the user could be asked for passwords.
    """
    words = [line for line in lines if not line.startswith("debug1:")]
    text, log = "\n".join(words), "\n".join(lines)
    by_hand = shlex.join(["ssh", *options, host, "true"])
    if error := _host_key(host, by_hand, text, log) or _refused_user(host, by_hand, text, log, asked):
        return error
    for kind, causes in ((ConnectError, _UNREACHED), (CutError, _CUT)):
        for pattern, remedy in causes:
            if said := re.search(pattern, text):
                return kind(f"{host} cannot be reached: {remedy.format(*said.groups())}{_via(log, said)}")
    last = "; ".join(words[-3:]) or "ssh ended without a word"
    return ChannelError(
        f"{host} cannot be reached: {last}. To see more: {shlex.join(['ssh', '-v', *options, host])}"
    )


def _host_key(host: str, by_hand: str, text: str, log: str) -> ChannelError | None:
    sent = re.findall(r"Server host key: (\S+) (SHA256:\S+)", log)
    key = " ".join(sent[-1]) if sent else "of unknown fingerprint"
    if "IDENTIFICATION HAS CHANGED" in text or re.search(r"[Hh]ost key for \S+ has changed", text):
        place = re.search(r"Offending .* key in (\S+?):(\d+)", text)
        known = f" The key that is known stands in line {place[2]} of {place[1]}." if place else ""
        return HostKeyError(
            f"the host key of {host} has changed: it now shows {key}. Nothing was sent to it: somebody may "
            f"stand between.{known} If the site says that its key is a new one, remove the old one "
            "(ssh-keygen -R, with the name as it stands there) and accept the new one"
        )
    if "REVOKED HOST KEY" in text or "is revoked" in text:
        return HostKeyError(f"the host key of {host} is revoked: {key}. Nothing was sent to it; ask the site")
    if "Host key verification failed" in text:
        accept = f"ssh -oStrictHostKeyChecking=ask -oBatchMode=no {by_hand.partition(' ')[2]}"
        return HostKeyError(
            f"the host key of {host} is not known: it shows {key}. Nothing was sent to it. Compare this with "
            f"what the site publishes; if it is the same, accept it by: {accept}"
        )
    return None


def _refused_user(host: str, by_hand: str, text: str, log: str, asked: bool) -> ChannelError | None:
    said = re.search(r"(?:(\S+?): )?Permission denied \(([\w,-]*)\)", text)
    if said is None:
        if many := re.search(r"(.*Too many authentication failures.*)", text):
            return AuthenticationError(
                f"{host} lets the user in by none of so many keys ({many[1]}): name the right one, with "
                "IdentityFile and IdentitiesOnly in ~/.ssh/config"
            )
        return None
    methods = said[2].split(",")
    hints = []
    if "publickey" in methods:
        hints.append(_keys(text, log))
    if {"password", "keyboard-interactive"} & set(methods) and not asked:
        hints.append(
            "a password or a code can be asked for in a terminal, in a cell of a notebook "
            "(authenticate()), or by the program that SSH_ASKPASS names, and there is none of them"
        )
    elif asked and {"password", "keyboard-interactive"} & set(methods):
        hints.append("the password or the code was wrong, or not given")
    who = f"{said[1]} " if said[1] and "@" in said[1] else ""
    why = "; ".join(filter(None, hints))
    return AuthenticationError(
        f"{host} does not let the user {who}in; it offers {', '.join(methods)}: {why}. Try by hand: {by_hand}"
    )


def _keys(text: str, log: str) -> str:
    if bad := re.search(
        r"(Permissions \S+ for '.*' are too open|Load key .*|.*[Cc]ertificate.*expired.*)", text
    ):
        return bad[1].rstrip(".")
    # Before OpenSSH 7.6 the kind of the key stands between.
    offered = re.findall(r"Offering (?:\S+ )?public key: (\S+)", log)
    if "agent contains no identities" in log:
        agent = "the agent has no keys (ssh-add adds one)"
    elif re.search(r"get_agent_identities: ssh_get_authentication_socket|SSH_AUTH_SOCK", log):
        agent = "no agent runs"
    else:
        agent = ""
    tried = (
        f"these keys were not accepted: {', '.join(dict.fromkeys(offered))} (does the site know them, have "
        "they expired?)"
        if offered
        else "there is no key to offer"
    )
    return "; ".join(filter(None, (agent, tried, *_expired(dict.fromkeys(offered)))))


def _expired(names: Iterable[str]) -> Iterator[str]:
    """What is wrong with the certificates among the keys, of which ssh says nothing."""
    from .keys import expiry, read_public

    paths = [Path(name + ending) for name in names for ending in ("", ".pub", "-cert.pub")]
    for path in dict.fromkeys(paths):
        public = read_public(path)
        if public is not None and (why := expiry(public)):
            yield f"the certificate {path} does not hold: {why}; have it renewed"


def _via(log: str, said: re.Match[str]) -> str:
    """That it is a jump host that could not be reached, when ssh was to go through one."""
    if "stdio forwarding failed" in log or "UNKNOWN port 65535" in log:
        return " The way leads through a jump host (ProxyJump): look at each of its stations"
    return ""
