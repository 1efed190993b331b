"""Tasks in a module that can be imported, here and in workers, as pytest's own modules cannot."""

from __future__ import annotations

import weft


@weft.task
def double(value: int) -> int:
    return 2 * value


def twice(value: int) -> object:
    return double.function(double.function(value))


@weft.shell
def echo(text: str) -> str:
    return f"echo {text}"


@weft.shell
def fails(status: int) -> str:
    return f"echo good; echo bad >&2; exit {status}"


@weft.shell
def sh(command: str) -> str:
    return command


@weft.shell
def argv(*arguments: str) -> list[str]:
    return list(arguments)
