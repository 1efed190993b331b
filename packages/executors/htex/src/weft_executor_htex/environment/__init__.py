"""Where managers get Python and their modules from: the client's, the nodes' own, or one that is sent there.

::

    client: archive of Python and packages ─┐          ┌─ unpacked once on each node's disk ── manager
            archive of the user's modules  ─┴─ depot ──┴─ node.sh, which starts it
"""

from __future__ import annotations

from .choice import find_environment
from .contract import Prepared, WorkerEnvironment

__all__ = ["Prepared", "WorkerEnvironment", "find_environment"]
