"""The firewall of a site's outermost host, and what it has counted."""

from __future__ import annotations

import json
import subprocess
from typing import NamedTuple

from .host import Host
from .process import ServerError, program

__all__ = ["Counters", "Firewall"]

# Only ssh comes in, only answers to it go out, and nothing goes through, but between compute nodes: on some
# machines their bridge asks the firewall, too. Links of IPv6 talk by themselves.
_WALL = """
table inet wall {{
  counter connections {{ }}
  counter passed {{ }}
  counter refused {{ }}
  counter called_back {{ }}
  chain input {{
    type filter hook input priority 0; policy accept;
    meta nfproto ipv6 drop
    iifname != "{outside}" accept
    tcp dport 22 tcp flags & (syn | ack) == syn counter name connections
    tcp dport 22 counter name passed accept
    counter name refused drop
  }}
  chain output {{
    type filter hook output priority 0; policy accept;
    meta nfproto ipv6 drop
    oifname != "{outside}" accept
    tcp sport 22 tcp flags & (syn | ack) != syn counter name passed accept
    counter name called_back drop
  }}
  chain forward {{
    type filter hook forward priority 0; policy drop;
    meta nfproto ipv6 drop
    iifname "lan0" oifname "lan0" accept
    iifname "{outside}" counter name refused drop
    oifname "{outside}" counter name called_back drop
  }}
}}
"""

# Frames vanish in both directions, and no end is told.
_CUT = """
table inet cut {{
  chain arrive {{ type filter hook prerouting priority -400; iifname "{outside}" drop; }}
  chain leave {{ type filter hook postrouting priority 400; oifname "{outside}" drop; }}
}}
"""


class Counters(NamedTuple):
    """connections: requests for one to port 22; passed: all its packets, in both directions. refused: other
    packets from outside. called_back: packets to the outside that answer nothing, of whatever host.
    """

    connections: int
    passed: int
    refused: int
    called_back: int


class Firewall:
    """outside: the interface of this host that leads away from the site."""

    def __init__(self, host: Host, outside: str) -> None:
        self._host = host
        self._outside = outside
        self._nft("-f", "-", rules=_WALL.format(outside=outside))

    def counters(self) -> Counters:
        """Since it was set up."""
        found = json.loads(self._nft("-j", "list", "counters"))["nftables"]
        packets = {
            entry["counter"]["name"]: entry["counter"]["packets"] for entry in found if "counter" in entry
        }
        return Counters(**packets)

    def cut(self) -> None:
        """As if the cable were cut far away: nobody is told."""
        self._nft("-f", "-", rules=_CUT.format(outside=self._outside))

    def mend(self) -> None:
        """The end of ``cut``."""
        self._nft("delete", "table", "inet", "cut")

    def _nft(self, *arguments: str, rules: str = "") -> str:
        argv = self._host.enter([program("nft"), *arguments])
        done = subprocess.run(argv, input=rules, capture_output=True, text=True, timeout=20, check=False)
        if done.returncode:
            raise ServerError(f"nft {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout
