"""How this host may be reached from others of its site."""

from __future__ import annotations

import fcntl
import socket
import struct

__all__ = ["own_addresses"]

_SIOCGIFADDR = 0x8915
_NAME = struct.Struct("256s")


def own_addresses() -> list[str]:
    """Its name, and the IPv4 addresses of its interfaces: on a login node some lead inside, some do not."""
    found = [socket.gethostname()]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, _NAME.pack(name.encode()))
            except OSError:  # it has none
                continue
            address = socket.inet_ntoa(answer[20:24])
            if not address.startswith("127."):
                found.append(address)
    return found
