"""The interchange on the far side of a channel, over one stream of bytes that may break and be made again.

::

    laptop                                  one stream            login node
    Client ── InterchangeStream ── Line ═══════════════════ relay ── unix socket ── agent ── managers
                                     channel.open(python3 weft-agent-*.pyz)         a daemon

- ``bundle.py`` makes the agent's file of this package's sources, and of what gets blocks (``sources.py``);
  ``lower.py`` and ``standin/`` have it run on Python 3.8 with nothing installed, and ``install.py`` puts it
  on the login node.
- ``main.py`` is what runs there: ``relay.py`` as long as there is a connection, ``daemon.py`` until the run
  is over.
- ``blocks.py`` and ``fleet.py`` are the agent's part in getting blocks, ``plan.py`` the client's;
  ``earlier.py`` is what becomes of those that an agent before it has asked for.
- ``line.py`` is the client's end of the stream, ``link.py`` the agent's. Both count the bytes that they send
(``outbox.py``) and have received, so that what was on its way when a connection broke is sent again, and
comes once. ``wire.py`` says how.
"""
