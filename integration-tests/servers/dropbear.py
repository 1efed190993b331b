"""A small SSH server, as routers and other small machines have it: no sftp, no locked configuration. Needs
root.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

from .openssh import SshServers
from .process import Servers, free_ports, program, wait_until

__all__ = ["dropbear"]


@contextlib.contextmanager
def dropbear(client: SshServers) -> Iterator[str]:
    """Start one for the user and the keys of these servers. Yields its name in the client's files."""
    name, folder = "dropbear", client.folder / "dropbear"
    folder.mkdir()
    key = folder / "key"
    make = [program("dropbearkey"), "-t", "ed25519", "-f", str(key)]
    said = subprocess.run(make, check=True, capture_output=True, text=True, timeout=30).stdout
    public = next(line for line in said.splitlines() if line.startswith("ssh-ed25519"))
    authorized = client.home / ".ssh" / "authorized_keys"
    authorized.parent.mkdir(mode=0o700)
    authorized.write_text(client.authorized.splitlines()[0] + "\n")
    authorized.chmod(0o600)
    client.home.chmod(0o700)
    [port] = free_ports(1)
    servers = Servers(folder, {"WEFT_TEST_DROPBEAR": str(folder)}, f"WEFT_TEST_DROPBEAR={folder}")
    argv = [
        program("dropbear"),
        "-F",
        "-E",
        "-p",
        f"127.0.0.1:{port}",
        "-r",
        str(key),
        "-P",
        str(folder / "pid"),
    ]
    try:
        servers.start(name, client.private(argv))
        wait_until("dropbear listens", Path(folder / "pid").exists)
        client.add_host(name, "127.0.0.1", port)
        with open(client.known_hosts, "a") as file:
            file.write(f"[127.0.0.1]:{port} {' '.join(public.split()[:2])}\n")
        yield name
    finally:
        servers.stop_all()
