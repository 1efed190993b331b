"""Who is measured beside the pilot executor: each as its own documentation says that it is used.

All have two workers on this machine. The peers are installed in the environment ``bench-peers`` only.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import weft
from cases import Contender
from kernel import bind_to_kernel
from pipeline import Pipeline
from weft_core import Kernel

__all__ = ["ENCRYPTED", "OWN", "PEERS", "PEERS_ENCRYPTED", "WEFT", "Entrant", "side_by_side"]

WORKERS = 2
HERE = "127.0.0.1"  # what is encrypted goes through TCP
WEFT, ENCRYPTED = "weft", "weft, encrypted"


@dataclass(frozen=True)
class Entrant:
    """One that can be opened in an interpreter of its own.

    ``program``: the shortest that gets one result, says so in a line, and ends.
    """

    open: Callable[[], AbstractContextManager[Contender]]
    program: str


# -- Weft and what comes with Python -------------------------------------------------------------------------


@contextmanager
def pilots(*names: str) -> Iterator[list[Contender]]:
    """``@weft.task`` on pilot executors of these names, each with one block of this machine."""
    executors = [
        weft.HighThroughputExecutor(
            label=name.replace(", ", "-"),
            workers_per_node=WORKERS,
            address=HERE if name == ENCRYPTED else None,
            blocks=weft.Blocks(provider=weft.LocalProvider()),
        )
        for name in names
    ]
    with weft.run(executors=executors, progress=False):
        yield [
            Contender(name, weft.task(executor=executor.label), share=weft.share)
            for name, executor in zip(names, executors, strict=True)
        ]


@contextmanager
def pilot(name: str) -> Iterator[Contender]:
    """One of them."""
    with pilots(name) as (only,):
        yield only


@contextmanager
def process_pool() -> Iterator[Contender]:
    """The standard library's."""
    with ProcessPoolExecutor(WORKERS) as pool:
        pool.submit(abs, 0).result()  # it forks now, while there are no threads
        yield Contender("ProcessPool", lambda function: partial(pool.submit, function), False)


@contextmanager
def bare_pipeline() -> Iterator[Contender]:
    """What there is of it in ``pipeline.py``."""
    with Pipeline(WORKERS) as pipeline:
        yield Contender("pipeline", lambda function: partial(pipeline.submit, function), False)


@contextmanager
def side_by_side() -> Iterator[list[Contender]]:
    """All of these in this process, and the kernel without ``@weft.task``."""
    executor = weft.HighThroughputExecutor(
        workers_per_node=WORKERS, blocks=weft.Blocks(provider=weft.LocalProvider())
    )
    with (
        process_pool() as pool,
        bare_pipeline() as pipeline,
        tempfile.TemporaryDirectory() as directory,
        Kernel([executor], directory=Path(directory)) as kernel,
        pilots(WEFT, ENCRYPTED) as (plain, encrypted),
    ):
        yield [plain, encrypted, Contender("kernel", partial(bind_to_kernel, kernel)), pool, pipeline]


WEFT_PROGRAM = """
import weft
htex = {{"type": "htex", "workers_per_node": 2, {address}"blocks": {{"provider": "local"}}}}
with weft.run(executors=[htex], progress=False):
    assert weft.task(abs)(-1).result() == 1
    print("first", flush=True)
"""
OWN = {
    WEFT: Entrant(partial(pilot, WEFT), WEFT_PROGRAM.format(address="")),
    ENCRYPTED: Entrant(partial(pilot, ENCRYPTED), WEFT_PROGRAM.format(address=f'"address": "{HERE}", ')),
    "ProcessPool": Entrant(
        process_pool,
        """
from concurrent.futures import ProcessPoolExecutor
with ProcessPoolExecutor(2) as pool:
    assert pool.submit(abs, -1).result() == 1
    print("first", flush=True)
""",
    ),
    "pipeline": Entrant(
        bare_pipeline,
        """
from pipeline import Pipeline
with Pipeline(2) as pipeline:
    assert pipeline.submit(abs, -1).result() == 1
    print("first", flush=True)
""",
    ),
}


# -- peers ---------------------------------------------------------------------------------------------------


@contextmanager
def parsl(name: str, encrypted: bool) -> Iterator[Contender]:
    """Parsl's HighThroughputExecutor. It writes no log, and scales nothing: faster than with its defaults."""
    import parsl
    from parsl.config import Config
    from parsl.executors import HighThroughputExecutor
    from parsl.providers import LocalProvider

    executor = HighThroughputExecutor(
        address=HERE,
        max_workers_per_node=WORKERS,
        encrypted=encrypted,
        provider=LocalProvider(init_blocks=1, max_blocks=1),
    )
    with parsl.load(Config(executors=[executor], strategy="none", initialize_logging=False)):
        yield Contender(name, parsl.python_app)


@contextmanager
def dask() -> Iterator[Contender]:
    """Dask distributed, without its dashboard."""
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=WORKERS, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        yield Contender(
            "Dask",
            lambda function: partial(client.submit, function, pure=False),
            gather=client.gather,
            share=client.scatter,
        )


@contextmanager
def ray() -> Iterator[Contender]:
    """Ray, without its dashboard. Its files are in a folder of their own, as a session leaves some behind."""
    import ray

    def bind(function: Callable[..., Any]) -> Any:
        return ray.remote(function).remote

    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as directory:
        ray.init("local", num_cpus=WORKERS, include_dashboard=False, log_to_driver=False, _temp_dir=directory)
        try:
            yield Contender("Ray", bind, gather=ray.get, share=ray.put)
        finally:
            ray.shutdown()


PARSL_PROGRAM = """
import parsl
from parsl.config import Config
from parsl.executors import HighThroughputExecutor
from parsl.providers import LocalProvider

provider = LocalProvider(init_blocks=1, max_blocks=1)
executor = HighThroughputExecutor(
    address="127.0.0.1", max_workers_per_node=2, encrypted={encrypted}, provider=provider
)
with parsl.load(Config(executors=[executor], strategy="none", initialize_logging=False)):
    assert parsl.python_app(abs)(-1).result() == 1
    print("first", flush=True)
"""
DASK_PROGRAM = """
from distributed import Client, LocalCluster

with (
    LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
    Client(cluster) as client,
):
    assert client.submit(abs, -1, pure=False).result() == 1
    print("first", flush=True)
"""
RAY_PROGRAM = """
import tempfile

import ray

@ray.remote
def absolute(value):
    return abs(value)

folder = tempfile.gettempdir()
ray.init(
    "local",
    num_cpus=2,
    include_dashboard=False,
    log_to_driver=False,
    _temp_dir=folder,
    _node_ip_address="127.0.0.1",
)
assert ray.get(absolute.remote(-1)) == 1
print("first", flush=True)
ray.shutdown()
"""
PEERS = {
    "Parsl": Entrant(partial(parsl, "Parsl", False), PARSL_PROGRAM.format(encrypted=False)),
    "Parsl, encrypted": Entrant(
        partial(parsl, "Parsl, encrypted", True), PARSL_PROGRAM.format(encrypted=True)
    ),
    "Dask": Entrant(dask, DASK_PROGRAM),
    "Ray": Entrant(ray, RAY_PROGRAM),
}
PEERS_ENCRYPTED = {"Parsl": "Parsl, encrypted"}
# Ray tells nobody of its use, and leaves no token in the home directory.
os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
