"""The command line."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from weft_interfaces import ConfigError, format_seconds

from .__about__ import __version__
from ._config import Config, read_config
from ._memo_command import memo_app
from ._settings import default_config, set_defaults

if TYPE_CHECKING:
    from ._reap import Reaping

__all__ = ["app"]

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Run Python functions and shell commands as a graph of futures.",
)
config_app = typer.Typer(no_args_is_help=True, help="Look at configuration files.")
app.add_typer(config_app, name="config")
app.add_typer(memo_app, name="memo")

ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", "-c", metavar="FILE", help="The configuration of runs without one."),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]
Script = Annotated[Path, typer.Argument(metavar="SCRIPT", help="The Python script to run.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Arguments = Annotated[
    list[str] | None,
    typer.Argument(metavar="[-- ARGUMENTS]", help="The arguments of the script."),
]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"weft {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Options of all commands."""


@app.command()
def run(
    script: Script,
    arguments: Arguments = None,
    config: ConfigFile = None,
    quiet: Quiet = False,
    detach: Annotated[
        bool, typer.Option("--detach", help="Tasks go on when this process is gone; see weft attach.")
    ] = False,
) -> None:
    """Run a script that uses weft, with progress shown. Its exit status is that of the script."""
    from ._run import close_default_run
    from ._script import run_script

    settings = _read(config) if config else None
    set_defaults(settings, progress=True, quiet=quiet, detach=detach)
    if not script.is_file():
        _fail(f"{script}: no such script")
    raise SystemExit(run_script(script, arguments or [], close_default_run))


@app.command()
def attach(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="Its id, the beginning of that, its path, or last.")
    ],
    run_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the directories of runs are.")
    ] = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Get what the tasks of a run give whose process is gone, and that was started with detach.

    One line for each task, as it is done. Ctrl-C leaves the run as it is. Exit status 0 if all are done, 1 if
    one failed or was cancelled.
    """
    from weft_interfaces import WeftError

    from ._attach import find_detached
    from ._attach_command import show_run

    set_defaults(_read(config) if config else None, progress=False, quiet=True)
    try:
        directory = find_detached(run, run_dir or Path(default_config().run_dir))
        well = show_run(directory, as_json=as_json, show=_print)
    except (WeftError, OSError) as error:
        _fail(str(error))
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    raise SystemExit(0 if well else 1)


@app.command()
def plan(
    script: Script,
    arguments: Arguments = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Say what of a script is remembered and what would run, and why, without running any task.

    Exit status 1 if the script raises an exception.
    """
    from ._plan import plan_script, show_plan, to_json

    settings = _read(config) if config else None
    set_defaults(settings, progress=False, quiet=True)
    if not script.is_file():
        _fail(f"{script}: no such script")
    planned, status = plan_script(script, arguments or [])
    if as_json:
        _print_json(to_json(planned))
    else:
        _print(show_plan(planned))
    raise SystemExit(status)


@app.command()
def why(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="Its id, the beginning of that, its path, or last.")
    ],
    task: Annotated[str, typer.Argument(metavar="TASK", help="A task's id, or the name of tasks.")],
    store: Annotated[
        str | None, typer.Option(metavar="STORE", help="Where the run's memo store is now.")
    ] = None,
    run_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the directories of runs are.")
    ] = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Say why a task of a run was run again, or where the outcome that it got comes from."""
    from weft_interfaces import WeftError

    from ._why import answer, find_record, open_store

    set_defaults(_read(config) if config else None, progress=False, quiet=True)
    try:
        record = find_record(run, run_dir or Path(default_config().run_dir))
        found = answer(record, task, lambda: open_store(store or record.store))
    except (WeftError, OSError) as error:
        _fail(str(error))
    if as_json:
        _print_json(found.to_json())
    else:
        _print(found.lines())


@app.command()
def reap(
    run: Annotated[
        str | None,
        typer.Argument(metavar="[RUN]", help="Only this run: its id, the beginning of it, its path."),
    ] = None,
    config: ConfigFile = None,
    run_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the directories of runs are.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Also if the process of RUN may live, or lives.")
    ] = False,
    timeout: Annotated[str, typer.Option(metavar="TIME", help="How long jobs may take to go.")] = "1 min",
    as_json: Json = False,
) -> None:
    """List what runs left behind when they were killed, and remove it: jobs, agents and files on other hosts.

    Exit status 0 when nothing is left, 1 when something is, or could not be looked for.
    """
    from weft_interfaces import WeftError, parse_seconds

    from ._client import read_clients
    from ._reap import Reaping, providers_of

    set_defaults(_read(config) if config else None, progress=False, quiet=True)
    if force and run is None:
        _fail("reap: --force is for one run: name it")
    try:
        seconds = parse_seconds(timeout, "--timeout")
        settings = default_config()
        sites = providers_of(settings)
        if not sites:
            _fail("reap: no executor of the configuration gets blocks; name one that does with --config")
        clients = read_clients(run_dir or Path(settings.run_dir), run, any_run=force)
    except (WeftError, OSError) as error:
        _fail(str(error))
    reaping = Reaping(clients, sites, force)
    try:
        _reap(reaping, seconds, yes=yes, as_json=as_json)
    finally:
        reaping.close()
    for trouble in reaping.troubles:
        print(f"weft: {trouble}", file=sys.stderr)
    raise SystemExit(0 if reaping.clean else 1)


def _reap(reaping: Reaping, seconds: float, *, yes: bool, as_json: bool) -> None:
    reaping.find()
    jobs, remains = reaping.removable(), reaping.removable_remains()
    what = f"{len(jobs)} jobs" + (f" and what is on other hosts ({len(remains)})" if remains else "")
    if not as_json:
        _print(reaping.lines())
    if (jobs or remains) and (yes or (not as_json and typer.confirm(f"Remove {what}?"))):
        reaping.remove(seconds)
        if not as_json:
            _print([f"removed {sum(job.gone for job in jobs)} of {len(jobs)} jobs"])
            _print(each.line() for each in remains)
    if as_json:
        _print_json(reaping.to_json())


@config_app.command()
def check(file: Annotated[Path, typer.Argument(metavar="FILE", help="A TOML file.")]) -> None:
    """Say what a configuration file means, or all that is wrong in it: exit status 1; 2 if it cannot be
    read.
    """
    settings = _read(file)
    typer.echo(f"{file}: OK")
    for line in _explained(settings):
        typer.echo(f"  {line}")


@config_app.command("show-script")
def show_script(file: Annotated[Path, typer.Argument(metavar="FILE", help="A TOML file.")]) -> None:
    """Print the scripts that the batch systems of a configuration would get for their blocks. Nothing is
    submitted. Exit status 1 if there are none, or the configuration is wrong; 2 if it cannot be read.
    """
    from ._scripts import block_scripts

    settings = _read(file)
    try:
        scripts = block_scripts(settings)
    except ConfigError as error:
        _fail(f"{file}: {error}", status=1)
    if not scripts:
        _fail(f"{file}: no executor gets its blocks from a batch system", status=1)
    for label, script in scripts.items():
        if len(scripts) > 1:
            typer.echo(f"# -- executor {label!r}")
        typer.echo(script.rstrip())


def _read(path: Path) -> Config:
    try:
        return read_config(path)
    except ConfigError as error:
        _fail(str(error), status=1)
    except OSError as error:
        _fail(f"{path}: {error.strerror}")


def _explained(config: Config) -> list[str]:
    lines = []
    for executor in config.make_executors():
        slots = executor.load().max_slots
        size = f", up to {slots} worker slots" if slots else ""
        where = "in this process" if executor.in_process else "in other processes"
        lines.append(f"executor {executor.label!r}: {type(executor).__name__}, {where}{size}")
    lines.append(f"retries: {config.retries}")
    lines.append(f"run directories: {Path(config.run_dir).absolute()}")
    lines.append(f"an interrupted run waits up to {format_seconds(float(config.shutdown_timeout))}")
    return lines


def _print(lines: Iterable[str]) -> None:
    """Plain text: also what looks like markup, or is not of this locale's alphabet."""
    for line in lines:
        typer.echo(
            line.encode(sys.stdout.encoding or "utf-8", "backslashreplace").decode(sys.stdout.encoding)
        )


def _print_json(table: object) -> None:
    import json

    typer.echo(json.dumps(table, indent=2))


def _fail(message: str, status: int = 2) -> NoReturn:
    print(f"weft: {message}", file=sys.stderr)
    raise SystemExit(status)
