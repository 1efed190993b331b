"""The configuration of a run on the Slurm of a remote site."""

from __future__ import annotations

import sys

__all__ = ["TWO_BLOCKS", "site_config"]

_TEXT = """\
{run}

[[executors]]
type = "htex"
workers_per_node = 1
environment = "{environment}"
{executor}

[executors.blocks]
walltime = "00:20:00"
{blocks}

[executors.blocks.provider]
type = "slurm"
poll_interval = 1
cores_per_node = 1
channel = {channel}
{provider}
"""

TWO_BLOCKS = 'init = 2\nmax = 2\nlauncher = "srun"'


def site_config(
    channel: str,
    *,
    environment: str = sys.executable,
    run: str = "",
    executor: str = "",
    blocks: str = TWO_BLOCKS,
    provider: str = "",
) -> str:
    """A configuration file's text. run, executor, blocks, provider: further settings of these, in TOML."""
    return _TEXT.format(
        channel=channel,
        environment=environment,
        run=run,
        executor=executor,
        blocks=blocks,
        provider=provider,
    )
