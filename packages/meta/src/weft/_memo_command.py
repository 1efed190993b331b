"""``weft memo``: looks at memo stores, and keeps them small and sound."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from weft_interfaces import WeftError, format_bytes, parse_bytes, parse_seconds

if TYPE_CHECKING:
    from weft_memo import FileStore, RemoteStore
    from weft_memo.record import Record

    Store = FileStore | RemoteStore

__all__ = ["memo_app"]

memo_app = typer.Typer(no_args_is_help=True, help="Look at memo stores, and keep them small and sound.")

_DEFAULT = "weft-memo.db"
_LINES = 30  # of a description that are shown
_DIGITS = 12  # of a key that are shown

Place = Annotated[str, typer.Option("--store", "-s", metavar="PATH|URL", help="The store.")]
Task = Annotated[str, typer.Option("--task", "-t", metavar="PATTERN", help="Entries of these tasks: app.*")]
Run = Annotated[str, typer.Option("--run", "-r", metavar="PATTERN", help="Entries that these runs have put.")]
Since = Annotated[
    str | None, typer.Option("--since", metavar="AGE", help='Entries not older than this, such as "2d".')
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object per line.")]


@contextmanager
def _opened(place: str) -> Iterator[Store]:
    """The store, closed in the end; errors of ours end the command, with exit status 2."""
    from weft_memo import open_store

    if "://" not in place and not Path(place).is_dir():
        _fail(f"there is no memo store {place}: name one with --store")
    try:
        store = open_store(place)
        try:
            yield store
        finally:
            store.close()
    except WeftError as error:
        _fail(str(error))


@memo_app.command("ls")
def list_entries(
    store: Place = _DEFAULT, task: Task = "*", run: Run = "*", since: Since = None, as_json: AsJson = False
) -> None:
    """List entries, the oldest first."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    with _opened(store) as opened:
        records = opened.records(task, run, _moment(since))
        if as_json:
            for record in records:
                print(json.dumps(_as_json(record)))
            return
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for column in ("key", "task", "when", "size", "Python", "run"):
            table.add_column(column, justify="right" if column == "size" else "left", overflow="fold")
        for record in records:
            row = (_short(record), record.task, _when(record), format_bytes(record.size), record.python)
            table.add_row(*row, record.run)
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = 200
    console.print(table)
    print(f"{table.row_count} entries")


@memo_app.command()
def show(
    key: Annotated[str, typer.Argument(metavar="KEY", help="A key, or its first digits.")],
    store: Place = _DEFAULT,
    value: Annotated[
        bool, typer.Option("--value", help="Read the result too: that runs code in it.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show one entry: what it depends on, and where it comes from."""
    with _opened(store) as opened:
        found = _resolved(opened, [key])[0]
        record = opened.record(found)
        if record is None:
            _fail(str(opened.problem(found)), status=1)
        if as_json:
            print(json.dumps(_as_json(record)))
            return
        lines = {
            "key": record.key.hex(),
            "task": record.task,
            "when": _when(record),
            "run": record.run,
            "size": format_bytes(record.size)
            + ("" if record.digest is None else f" in {record.digest.hex()}"),
            "made by": f"Python {record.origin}",
        }
        for name, text in lines.items():
            print(f"{name:8} {text}")
        _show_components(opened, record)
        if value:
            _show_value(opened, found)


def _show_components(store: Store, record: Record) -> None:
    from weft_memo.record import unpack_components

    for name, digest in unpack_components(record.components):
        print(f"\n{name}  {digest.hex()[:_DIGITS]}")
        lines = _described(store.description(digest) or "")
        for line in lines[:_LINES]:
            print(f"    {line}")
        if len(lines) > _LINES:
            print(f"    ... and {len(lines) - _LINES} more lines")


def _described(text: str) -> list[str]:
    """A description in lines; what a function reaches is listed."""
    try:
        found = json.loads(text)
        parts, policy = sorted(found["parts"]), f"policy {found['policy']}"
    except (ValueError, KeyError, TypeError):
        return text.splitlines()
    return [policy if found.get("version") is None else f"{policy}, version {found['version']}", *parts]


def _show_value(store: Store, key: bytes) -> None:
    entry = store.get(key)
    if entry is None:
        _fail(f"the result cannot be read: {store.problem(key)}", status=1)
    if entry.error is not None:
        print(f"\nraised {entry.error!r}")
    else:
        print(f"\n{entry.value!r}")


@memo_app.command("rm")
def remove(
    keys: Annotated[list[str] | None, typer.Argument(metavar="[KEYS]", help="Keys, or first digits.")] = None,
    store: Place = _DEFAULT,
    task: Annotated[str | None, typer.Option("--task", "-t", metavar="PATTERN", help="All of these.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove entries, by key or by task."""
    if bool(keys) == (task is not None):
        _fail("rm: name keys, or a --task")
    with _opened(store) as opened:
        found = _resolved(opened, keys) if keys else [record.key for record in opened.records(task or "*")]
        names = sorted({record.task for record in map(opened.record, found) if record is not None})
        what = f"{len(found)} entries of {', '.join(names) or 'no task'}"
        if not found:
            print("there is nothing to remove")
            return
        if not yes and not typer.confirm(f"Remove {what}?"):
            raise SystemExit(1)
        print(f"removed {opened.remove(found)} entries of {', '.join(names) or 'unreadable tasks'}")


@memo_app.command()
def gc(
    store: Place = _DEFAULT,
    max_size: Annotated[str | None, typer.Option(metavar="SIZE", help='Such as "10GB".')] = None,
    max_age: Annotated[str | None, typer.Option(metavar="AGE", help='Such as "30d".')] = None,
) -> None:
    """Remove the oldest entries beyond a size or an age, and all that nothing refers to any more."""
    with _opened(store) as opened:
        size = None if max_size is None else parse_bytes(max_size, "--max-size")
        age = None if max_age is None else parse_seconds(max_age, "--max-age")
        removed = opened.gc(size, age)
        entries, left = opened.size()
    print(
        f"removed {removed.entries} entries, {removed.files} values and {removed.descriptions} descriptions: "
        f"{format_bytes(removed.bytes)} freed; {entries} entries and {format_bytes(left)} are left"
    )


@memo_app.command()
def verify(store: Place = _DEFAULT) -> None:
    """Compare everything with its checksums. Exit status 1 if something is damaged: it is listed, and
    computed again when needed.
    """
    with _opened(store) as opened:
        broken = opened.verify()
        entries, size = opened.size()
    for key, problem in broken:
        print(f"{key.hex()[:_DIGITS]}  {problem}" if key else problem)
    print(f"{len(broken)} of {entries} entries are broken" if broken else f"{entries} entries are sound")
    print(f"{format_bytes(size)} on the disk")
    if broken:
        raise SystemExit(1)


@memo_app.command()
def export(
    target: Annotated[str, typer.Argument(metavar="TARGET", help="The path or URL of another store.")],
    store: Place = _DEFAULT,
    task: Task = "*",
    run: Run = "*",
    since: Since = None,
) -> None:
    """Copy entries to another store, which is made if it is not there."""
    with _opened(store) as opened:
        from weft_memo import open_store

        other = open_store(target)
        try:
            copied, broken = opened.export(other, opened.records(task, run, _moment(since)))
        finally:
            other.close()
    print(f"copied {copied} entries to {target}")
    if broken:
        _fail(f"{broken} entries are broken, and were left out: see weft memo verify", status=1)


def _resolved(store: Store, prefixes: list[str]) -> list[bytes]:
    """The keys that begin so, each exactly one."""
    found = []
    for prefix in prefixes:
        matching = store.matching(prefix)
        if len(matching) != 1:
            several = ", ".join(key.hex()[: len(prefix) + 4] for key in matching[:5])
            _fail(
                f"{len(matching)} keys begin with {prefix}: {several}"
                if matching
                else f"no key begins with {prefix}"
            )
        found += matching
    return found


def _moment(since: str | None) -> float:
    return 0.0 if since is None else time.time() - parse_seconds(since, "--since")


def _short(record: Record) -> str:
    return record.key.hex()[:_DIGITS]


def _when(record: Record) -> str:
    return datetime.fromtimestamp(record.time).astimezone().isoformat(" ", "seconds")


def _as_json(record: Record) -> dict[str, object]:
    from weft_memo.record import unpack_components

    return {
        "key": record.key.hex(),
        "task": record.task,
        "time": record.time,
        "run": record.run,
        "size": record.size,
        "python": record.python,
        "components": {name: digest.hex() for name, digest in unpack_components(record.components)},
    }


def _fail(message: str, status: int = 2) -> NoReturn:
    print(f"weft: {message}", file=sys.stderr)
    raise SystemExit(status)
