"""The processes that jobs run in: one with the models, and one for each untrusted block.

They are forked from one that has imported what they need, so a new one starts at once.
"""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from hosted import Hosted, Order

PRELOADED = ["nnsight", "peft", "transformers.models.llama.modeling_llama", "zstandard"]


def work(*arguments: Any) -> None:
    """Be the process with the models."""
    import worker  # here: the server itself imports neither torch nor nnsight

    worker.main(*arguments)


def run_block(*arguments: Any) -> None:
    """Be the process of an untrusted block."""
    import split_block

    split_block.main(*arguments)


@dataclass(frozen=True)
class Hosting:
    """How models are hosted and results returned."""

    folders: Mapping[str, str]
    dtype: str
    absent: str
    time_limit: float
    inline_bytes: int


class Process:
    """The process with the models, started again after it was killed."""

    def __init__(self, hosting: Hosting) -> None:
        self.hosting = hosting
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(PRELOADED)
        self.process = self.apart = None

    def start(self) -> None:
        """Start it, with no model loaded."""
        self.loaded: dict[str, dict[str, Any]] = {}
        self.pipe, its = self.context.Pipe()
        arguments = (its, dict(self.hosting.folders), self.hosting.dtype, self.hosting.absent)
        self.process = self.context.Process(target=work, args=arguments, daemon=True)
        self.process.start()
        its.close()

    def block(self, order: Order) -> Connection:
        """The other end of a new process, which runs an untrusted job's block."""
        end, its = self.context.Pipe()
        hosted = Hosted(dict(self.hosting.folders), self.hosting.dtype)
        arguments = (its, hosted, self.hosting.absent, order)
        self.apart = self.context.Process(target=run_block, args=arguments, daemon=True)
        self.apart.start()
        its.close()
        return end

    def end_block(self) -> None:
        """Kill an untrusted job's process, if there is one."""
        if self.apart is not None:
            self.apart.kill()
            self.apart.join()
            self.apart = None

    def end(self) -> None:
        """Kill it, if it runs."""
        if self.process is None:
            return
        self.end_block()
        self.process.kill()
        self.process.join()
        self.pipe.close()

    async def ask(self, *order: Any) -> tuple:
        """Its next message, after an order if one is given; TimeUp when it takes too long, EOFError when it died."""
        if order:
            self.pipe.send(order)
        return await asyncio.to_thread(self.pipe.recv)
