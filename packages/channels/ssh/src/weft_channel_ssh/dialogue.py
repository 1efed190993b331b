"""The conversation of authentication (RFC 4252, 4256), turn by turn, in the thread of who authenticates.

paramiko's own asks its questions in the thread that reads the connection, so that a server that hangs up
while a person looks for the second factor is not noticed; signs before it knows whether a key is wanted; and
gives away neither what the server offers after a failure nor its banner.
"""

from __future__ import annotations

import queue
from collections.abc import Callable
from typing import Any, NamedTuple

import paramiko
from paramiko import Message
from paramiko.auth_handler import AuthHandler
from paramiko.common import (
    MSG_SERVICE_ACCEPT,
    MSG_USERAUTH_BANNER,
    MSG_USERAUTH_FAILURE,
    MSG_USERAUTH_INFO_REQUEST,
    MSG_USERAUTH_SUCCESS,
    cMSG_SERVICE_REQUEST,
    cMSG_USERAUTH_INFO_RESPONSE,
    cMSG_USERAUTH_REQUEST,
)

from .errors import ConnectError

__all__ = ["Asked", "Dialogue", "Outcome"]

_TURN = 30.0  # seconds for an answer of the server; PAM delays those to wrong passwords by some
_MOST_BANNER = 4096  # characters that are kept


class Outcome(NamedTuple):
    """The end of an attempt. methods: what the server takes next. partial: right, but more is wanted."""

    success: bool
    methods: tuple[str, ...] = ()
    partial: bool = False


class Asked(NamedTuple):
    """The server asks: for answers to prompts (text, echo), for the signature of a key, or for a new
    password.
    """

    instructions: str
    prompts: tuple[tuple[str, bool], ...]


class Dialogue(AuthHandler):
    """What paramiko gives the messages of authentication to. Each turn raises :class:`ConnectError` when the
    server hangs up or falls silent.
    """

    def __init__(self, transport: paramiko.Transport, user: str, name: str) -> None:
        super().__init__(transport)
        self.username = self._user = user
        self._name = name
        self._paramiko: Any = self.transport  # whose stubs leave out what is needed here
        self.banners = ""
        self._turns: queue.SimpleQueue[Outcome | Asked | str] = queue.SimpleQueue()
        self._gone = False

    # -- turns ----------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Ask to be let in at all."""
        message = Message()
        message.add_byte(cMSG_SERVICE_REQUEST)
        message.add_string("ssh-userauth")
        self._send(message)
        self._next()

    def request(self, method: str, *fields: str | bytes | bool) -> Outcome | Asked:
        """Try a method."""
        self.auth_method = method
        message = Message()
        message.add_byte(cMSG_USERAUTH_REQUEST)
        for field in (self._user, "ssh-connection", method, *fields):
            if isinstance(field, bool):
                message.add_boolean(field)
            else:
                message.add_string(field)
        self._send(message)
        return self._answer()

    def respond(self, answers: list[str]) -> Outcome | Asked:
        """Answer prompts."""
        message = Message()
        message.add_byte(cMSG_USERAUTH_INFO_RESPONSE)
        message.add_int(len(answers))
        for answer in answers:
            message.add_string(answer.encode(errors="surrogateescape"))
        self._send(message)
        return self._answer()

    def signed(self, algorithm: str, blob: bytes) -> bytes:
        """What a key has to sign."""
        message = Message()
        message.add_string(self._paramiko.session_id)
        message.add_byte(cMSG_USERAUTH_REQUEST)
        for text in (self._user, "ssh-connection", "publickey"):
            message.add_string(text)
        message.add_boolean(True)
        message.add_string(algorithm)
        message.add_string(blob)
        return message.asbytes()

    def stands(self) -> bool:
        """Whether the server still listens."""
        return not self._gone and bool(self.transport.is_active())

    def _send(self, message: Message) -> None:
        try:
            self._paramiko._send_message(message)
        except (EOFError, OSError, paramiko.SSHException) as error:
            raise self._cut() from error

    def _answer(self) -> Outcome | Asked:
        turn = self._next()
        assert not isinstance(turn, str), "the service is accepted once, at the beginning"
        return turn

    def _next(self) -> Outcome | Asked | str:
        try:
            turn = self._turns.get(timeout=_TURN)
        except queue.Empty:
            raise ConnectError(
                f"{self._name}: the server said nothing for {_TURN:g} s during authentication: is the "
                "network still up?"
            ) from None
        if turn == "gone":
            raise self._cut()
        return turn

    def _cut(self) -> ConnectError:
        error = self.transport.saved_exception
        why = "" if error is None or isinstance(error, EOFError) else f" ({error})"
        return ConnectError(
            f"{self._name}: the connection was cut during authentication{why}: by the server, after too many "
            "or too slow attempts, or on the way"
        )

    # -- what paramiko calls, in the thread that reads ------------------------------------------------------

    def abort(self) -> None:
        self._gone = True
        self._turns.put("gone")

    @property
    def _handler_table(self) -> dict[int, Callable[[Message], None]]:
        return {
            MSG_SERVICE_ACCEPT: lambda _: self._turns.put("accepted"),
            MSG_USERAUTH_SUCCESS: self._success,
            MSG_USERAUTH_FAILURE: self._failure,
            MSG_USERAUTH_BANNER: self._banner,
            # The same number says that a key is wanted, or that a password has to be changed.
            MSG_USERAUTH_INFO_REQUEST: self._asked,
        }

    def _success(self, _: Message) -> None:
        self.authenticated = True
        self._paramiko._auth_trigger()
        self._turns.put(Outcome(True))

    def _failure(self, message: Message) -> None:
        methods = message.get_list()
        self._turns.put(Outcome(False, tuple(filter(None, methods)), message.get_boolean()))

    def _banner(self, message: Message) -> None:
        text = message.get_binary().decode(errors="replace")
        self.banners = (self.banners + text)[:_MOST_BANNER]

    def _asked(self, message: Message) -> None:
        if self.auth_method == "keyboard-interactive":
            title, instructions = _text(message), _text(message)
            message.get_binary()
            prompts = tuple(
                (_text(message), message.get_boolean()) for _ in range(min(message.get_int(), 100))
            )
            self._turns.put(Asked("\n".join(filter(None, (title, instructions))), prompts))
        elif self.auth_method == "password":
            self._turns.put(Asked(_text(message), ()))
        else:
            self._turns.put(Asked("", ()))


def _text(message: Any) -> str:
    text: bytes = message.get_binary()
    return text.decode(errors="replace")
