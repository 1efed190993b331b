"""Who we are: which methods the server takes, what there is to offer, and in words why none of it was
enough.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import paramiko
from weft_interfaces import AuthenticationNeededError, ConfigError

from .agent import Agent, AgentError, AgentKey
from .configuration import Destination
from .dialogue import Asked, Dialogue, Outcome
from .errors import AuthenticationError
from .keys import KeyFile, KeyFileError, Public, expiry, read_public
from .prompts import Answerer, Question

__all__ = ["Credentials", "authenticate"]

_MOST_STEPS = 8  # factors that a server may ask for
_PERSONS_TRIES = 3  # of a person who may mistype
_PASSWORD = re.compile(r"passw|kennwort|mot de passe|contrase", re.IGNORECASE)
_SECOND = re.compile(r"one.?time|otp|verification|token|passcode|second|factor|duo", re.IGNORECASE)


@dataclass(slots=True)
class Credentials:
    """What may be offered to one host. The unlocked keys are remembered, answers are not.

    password: gives the password when it is needed. prompts: answers questions; None asks a person.
    """

    key_files: Sequence[KeyFile]
    password: Callable[[], str] | None = field(default=None, repr=False)
    prompts: Answerer | None = field(default=None, repr=False)


class _Offer(NamedTuple):
    """A key that can be offered. sign: makes a signature of data by an algorithm."""

    name: str
    public: Public
    sign: Callable[[bytes, str], bytes]


def authenticate(
    destination: Destination, dialogue: Dialogue, credentials: Credentials, ask: Answerer, algorithms: bytes
) -> None:
    """Return once the server has let us in. algorithms: the server's list of those for signatures.

    Raises :class:`AuthenticationError` if it does not, with all that was tried;
    :class:`~weft_interfaces.AuthenticationNeededError` if a person could not be asked; and
    :class:`ConnectError` if the connection was cut.
    """
    _Attempt(destination, dialogue, credentials, ask, algorithms.decode(errors="replace").split(",")).run()


class _Attempt:
    def __init__(
        self,
        destination: Destination,
        dialogue: Dialogue,
        credentials: Credentials,
        ask: Answerer,
        algorithms: list[str],
    ) -> None:
        self.destination, self.dialogue, self.credentials = destination, dialogue, credentials
        self.ask, self.algorithms = ask, algorithms
        self.tried: list[str] = []
        self.remedies: list[str] = []
        self.used: set[bytes] = set()
        self.nobody = False
        self.password_given = False

    def run(self) -> None:
        self.dialogue.begin()
        outcome = self._outcome(self.dialogue.request("none"))
        offered = outcome.methods
        for _ in range(_MOST_STEPS):
            if outcome.success:
                return
            step = self._step(outcome.methods)
            if step is None:
                break
            outcome = step
        raise self._failure(offered, outcome.methods)

    def _step(self, methods: Sequence[str]) -> Outcome | None:
        """Try what the server takes until something is right; None if nothing is."""
        for name, method in self._methods():
            if name not in methods:
                continue
            if name in self.destination.refused:
                self.tried.append(f"{name}: switched off in the configuration")
                continue
            outcome = method()
            if outcome is not None:
                return outcome
        return None

    def _methods(self) -> list[tuple[str, Callable[[], Outcome | None]]]:
        rest: list[tuple[str, Callable[[], Outcome | None]]] = [
            ("keyboard-interactive", self._interactive),
            ("password", self._password),
        ]
        if self.credentials.password is not None:
            rest.reverse()
        return [("publickey", self._keys), *rest]

    def _outcome(self, turn: Outcome | Asked) -> Outcome:
        if isinstance(turn, Asked):
            raise AuthenticationError(
                f"{self.destination}: the server asks what nobody understands, and is left alone"
            )
        return turn

    # -- keys -----------------------------------------------------------------------------------------------

    def _keys(self) -> Outcome | None:
        count = 0
        with contextlib.closing(self._offers()) as offers:
            for offer in offers:
                if offer.public.blob in self.used:
                    continue
                count += 1
                outcome = self._offer(offer)
                if outcome is not None:
                    self.used.add(offer.public.blob)
                    return outcome
        if not count:
            self.remedies.append("give it a key: ssh-add, or key_filename=")
        return None

    def _offer(self, offer: _Offer) -> Outcome | None:
        if (why := expiry(offer.public)) is not None:
            self.tried.append(f"publickey: {offer.name}: {why}")
            self.remedies.append("have the certificate renewed")
            return None
        algorithm, signature_algorithm = self._algorithms(offer.public.type)
        turn = self.dialogue.request("publickey", False, algorithm, offer.public.blob)
        if isinstance(turn, Asked):  # the key is wanted
            data = self.dialogue.signed(algorithm, offer.public.blob)
            try:
                signature = offer.sign(data, signature_algorithm)
            except (KeyFileError, AgentError, paramiko.SSHException) as error:
                self.tried.append(f"publickey: {offer.name}: the server wants it, but {error}")
                return None
            except AuthenticationNeededError as error:
                self._nobody(f"publickey: {offer.name}: the server wants it, but {error}")
                return None
            turn = self.dialogue.request("publickey", True, algorithm, offer.public.blob, signature)
        outcome = self._outcome(turn)
        if outcome.success or outcome.partial:
            # What else was not to be had matters no more.
            self.tried = [words for words in self.tried if not words.startswith("publickey: ")]
            self.tried.append(f"publickey: {offer.name} was accepted")
            return outcome
        self.tried.append(f"publickey: the server refused {offer.name}")
        return None

    def _algorithms(self, kind: str) -> tuple[str, str]:
        """How a key is called in requests, and its signatures: those of RSA have had several kinds."""
        if kind.startswith("ssh-rsa"):
            suffix = kind.removeprefix("ssh-rsa")
            plain = (
                "rsa-sha2-256"
                if "rsa-sha2-512" not in self.algorithms and self.algorithms != [""]
                else "rsa-sha2-512"
            )
            return plain + suffix, plain
        return kind, kind.partition("-cert-")[0]

    def _offers(self) -> Generator[_Offer, None, None]:
        """Agent first, so that nobody is asked for a passphrase that the agent does not need."""
        files = list(self._files())
        wanted = {public.blob for _, public, _ in files}
        destination = self.destination
        if destination.agent is None:
            self.tried.append("publickey: there is no agent (SSH_AUTH_SOCK is not set)")
        else:
            yield from self._agent_offers(
                destination.agent, wanted if destination.only_these_keys else None, wanted
            )
        for name, public, file in files:
            yield _Offer(name, public, _FileSigner(file, name, destination, self.ask))

    def _agent_offers(self, path: str, only: set[bytes] | None, first: set[bytes]) -> Iterator[_Offer]:
        try:
            agent = Agent(path)
        except AgentError as error:
            self.tried.append(f"publickey: {error}")
            return
        with contextlib.closing(agent):
            try:
                keys = agent.keys()
            except AgentError as error:
                self.tried.append(f"publickey: {error}")
                return
            if not keys:
                self.tried.append("publickey: your agent has no keys")
            if only is not None and keys and not any(key.blob in only for key in keys):
                self.tried.append("publickey: your agent has none of the keys that the configuration names")
            for key in sorted(keys, key=lambda key: key.blob not in first):
                if only is None or key.blob in only:
                    name = f"the agent's {key.type} key {key.comment}".rstrip()
                    yield _Offer(name, Public(key.type, key.blob), _AgentSigner(agent, key))

    def _files(self) -> Iterator[tuple[str, Public, KeyFile]]:
        for file in self.credentials.key_files:
            if not file.path.exists():
                if self.destination.key_files_named:
                    self.tried.append(f"publickey: there is no file {file.path}")
                continue
            try:
                public = file.public()
                if public is None:  # an old format that keeps its public part to itself
                    key = file.unlocked(lambda file=file: _passphrase(self.destination, file, self.ask))  # type: ignore[misc]
                    public = Public(key.get_name(), key.asbytes())
            except KeyFileError as error:
                self.tried.append(f"publickey: {file.path}: {error}")
                continue
            except AuthenticationNeededError as error:
                self._nobody(f"publickey: {file.path}: {error}")
                continue
            for path in (*self.destination.certificates, f"{file.path}-cert.pub"):
                certificate = read_public(Path(path))
                if certificate is not None and certificate.type.startswith(f"{public.type}-cert-"):
                    yield f"the certificate {path}", certificate, file
            yield f"the key {file.path}", public, file

    # -- passwords and questions ----------------------------------------------------------------------------

    def _password(self) -> Outcome | None:
        return self._tries(
            "password", lambda: self.dialogue.request("password", False, self._typed("password: "))
        )

    def _interactive(self) -> Outcome | None:
        return self._tries("keyboard-interactive", self._interaction)

    def _tries(self, method: str, once: Callable[[], Outcome | Asked]) -> Outcome | None:
        person = self.credentials.prompts is None and self.credentials.password is None
        for _ in range(_PERSONS_TRIES if person else 1):
            self.asked: list[str] = []
            try:
                turn = once()
            except AuthenticationNeededError as error:
                self._nobody(f"{method}: {error}")
                return None
            if isinstance(turn, Asked):
                self.tried.append(f"{method}: the server wants the password to be changed first")
                self.remedies.append("log in with ssh and change it")
                return None
            if turn.success or turn.partial:
                self.tried.append(f"{method} was accepted")
                return turn
            self.tried.append(f"{method}: the server refused {' and '.join(self.asked) or 'it'}")
            self.password_given = False
            if method not in turn.methods:
                break
        return None

    def _interaction(self) -> Outcome | Asked:
        turn = self.dialogue.request("keyboard-interactive", "", "")
        said: list[str] = []
        while isinstance(turn, Asked):
            said += filter(None, [turn.instructions])
            answers = []
            for text, echo in turn.prompts:
                secret = not echo and _PASSWORD.search(text) and not _SECOND.search(text)
                if secret and self.credentials.password is not None and not self.password_given:
                    answers.append(self._typed(text))
                else:
                    answers.append(
                        self._answer(
                            Question(str(self.destination), text, echo, "challenge", "\n".join(said))
                        )
                    )
            if turn.prompts:
                said = []
            turn = self.dialogue.respond(answers)
        return turn

    def _typed(self, text: str) -> str:
        if self.credentials.password is None:
            return self._answer(Question(str(self.destination), text, False, "password"))
        self.asked.append("what password= gave")
        self.password_given = True
        return _text(self.credentials.password(), "password")

    def _answer(self, question: Question) -> str:
        self.asked.append(f"the answer to {question.text.strip()!r}")
        return _text(self.ask(question), "prompts")

    def _nobody(self, words: str) -> None:
        self.nobody = True
        self.tried.append(words)

    # -- words ----------------------------------------------------------------------------------------------

    def _failure(self, offered: Sequence[str], left: Sequence[str]) -> Exception:
        words = [f"{self.destination}: not let in: the server offers {','.join(offered) or 'nothing'}"]
        if set(left) != set(offered) or any("was accepted" in each for each in self.tried):
            words.append(f"after what it accepted it wants {','.join(left) or 'nothing more'}")
        unknown = [
            method for method in left if method not in ("publickey", "password", "keyboard-interactive")
        ]
        if unknown:
            words.append(f"{','.join(unknown)} is not known here: OpenSSHChannel may know it")
        words += dict.fromkeys(self.tried)
        refused = {each.partition(":")[0] for each in self.tried if ": the server refused" in each}
        if "keyboard-interactive" in refused:
            self.remedies.append(
                "check the password and the second factor (a code counts once, and needs a right clock)"
            )
        elif "password" in refused:
            self.remedies.append("check the password")
        elif "publickey" in refused:
            self.remedies.append(
                "check the user's name, and that the site knows this key and it has not expired"
            )
        if banner := self.dialogue.banners.strip():
            words.append(f"it says: {''.join(c if c.isprintable() else ' ' for c in banner)[-300:]}")
        again = "call channel.authenticate()" + (" where somebody can be asked" if self.nobody else "")
        remedies = ", then ".join(dict.fromkeys([*self.remedies, again]))
        kind = AuthenticationNeededError if self.nobody else AuthenticationError
        return kind("; ".join(words) + f". To go on: {remedies}")


@dataclass(frozen=True, slots=True)
class _FileSigner:
    file: KeyFile
    name: str
    destination: Destination
    ask: Answerer

    def __call__(self, data: bytes, algorithm: str) -> bytes:
        key = self.file.unlocked(lambda: _passphrase(self.destination, self.file, self.ask))
        signature: Any = key.sign_ssh_data(data, algorithm)
        return bytes(signature.asbytes())


@dataclass(frozen=True, slots=True)
class _AgentSigner:
    agent: Agent
    key: AgentKey

    def __call__(self, data: bytes, algorithm: str) -> bytes:
        return self.agent.sign(self.key, data, algorithm)


def _passphrase(destination: Destination, file: KeyFile, ask: Answerer) -> str:
    question = Question(str(destination), f"passphrase of {file.path}: ", False, "passphrase")
    return _text(ask(question), "prompts")


def _text(answer: object, place: str) -> str:
    """An answer; what came instead is not shown, it may be secret."""
    if not isinstance(answer, str):
        raise ConfigError(f"{place}: it has to return a text, not a {type(answer).__name__}", place)
    return answer
