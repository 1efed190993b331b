"""What batch systems would get for the blocks of a run."""

from __future__ import annotations

import tempfile
from pathlib import Path

from weft_interfaces import (
    BlockCommand,
    BlockExecutor,
    DirectLauncher,
    JobSpec,
    OutlineExecutor,
    ScriptProvider,
)
from weft_interfaces.memory import RecordingContext

from ._config import Config

__all__ = ["block_scripts"]


def block_scripts(config: Config) -> dict[str, str]:
    """The script of one block of each executor that has such, by the executor's label.

    Executors say what they would start, and are started for that and shut down only if they cannot say so
    before; no provider is asked for anything. Raises :class:`ConfigError` for what a provider cannot be asked
    for.
    """
    found = {}
    for executor in config.make_executors():
        if isinstance(executor, BlockExecutor) and isinstance(executor.blocks.provider, ScriptProvider):
            found[executor.label] = _script(
                executor, executor.blocks.provider, Path(config.run_dir).absolute()
            )
    return found


def _script(executor: BlockExecutor, provider: ScriptProvider, runs: Path) -> str:
    blocks, block = executor.blocks, f"RUN-{executor.label}-1"
    launcher = blocks.launcher or DirectLauncher()
    command = executor.outline(block) if isinstance(executor, OutlineExecutor) else _started(executor, block)
    return provider.script(
        JobSpec(
            id=block,
            name=f"weft-{executor.label}-1",
            command=launcher.wrap(command.argv, blocks.shape),
            shape=blocks.shape,
            directory=str(runs / "RUN"),
            tag="RUN",
            environment={"WEFT_BLOCK_ID": block, "WEFT_RUN_ID": "RUN"},
            input=command.input,
        )
    )


def _started(executor: BlockExecutor, block: str) -> BlockCommand:
    with tempfile.TemporaryDirectory(prefix="weft-") as folder:
        executor.start(RecordingContext(Path(folder), run_id="RUN"))
        try:
            return executor.command(block)
        finally:
            executor.shutdown()
