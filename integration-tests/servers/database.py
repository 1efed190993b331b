"""A MariaDB of our own, for the accounting of Slurm."""

from __future__ import annotations

import contextlib
import getpass
import subprocess
from collections.abc import Iterator
from pathlib import Path

from .process import ServerError, Servers, free_ports, program, wait_until

__all__ = ["database"]

_GRANT = "; ".join(
    f"create user slurm@'{host}' identified by 'slurm'; grant all on slurm_acct.* to slurm@'{host}'"
    for host in ("127.0.0.1", "localhost")
)
_QUICK = ["--innodb-flush-log-at-trx-commit=0", "--skip-log-bin", "--innodb-buffer-pool-size=64M"]


@contextlib.contextmanager
def database(folder: Path) -> Iterator[int]:
    """Start it, with a user and a database for slurmdbd; the port that it listens on."""
    data, sock = folder / "data", folder / "sock"
    folder.mkdir()
    (port,) = free_ports(1)
    user = getpass.getuser()
    install = ["mariadb-install-db", "--no-defaults", f"--datadir={data}", f"--user={user}"]
    install += ["--auth-root-authentication-method=normal", "--skip-test-db"]
    _run(*install)
    servers = Servers(folder, {"WEFT_TEST_DATABASE": str(folder)}, f"WEFT_TEST_DATABASE={folder}")
    try:
        daemon = ["mariadbd", "--no-defaults", f"--datadir={data}", f"--user={user}", f"--socket={sock}"]
        place = ["--bind-address=127.0.0.1", f"--port={port}", f"--pid-file={folder / 'pid'}"]
        servers.start("mariadbd", [*daemon, *place, *_QUICK, "--innodb-lock-wait-timeout=900"])
        client = ["mariadb", "--no-defaults", f"--socket={sock}", "-u", "root"]

        def answers() -> bool:
            command = [program(client[0]), *client[1:], "-e", "select 1"]
            return not subprocess.run(command, capture_output=True, timeout=10, check=False).returncode

        wait_until("the database answers", answers)
        _run(*client, "-e", _GRANT)
        yield port
    finally:
        servers.stop_all()


def _run(*argv: str) -> None:
    done = subprocess.run(
        [program(argv[0]), *argv[1:]], capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode:
        raise ServerError(f"{argv[0]}: {done.stderr.strip() or done.stdout.strip()}")
