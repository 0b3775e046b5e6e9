"""The process that jobs run in: forked from one that has imported what it needs, so a new one starts at once."""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Callable, Mapping
from typing import Any

PRELOADED = ["nnsight", "peft", "transformers.models.llama.modeling_llama", "zstandard"]


def work(*arguments: Any) -> None:
    """Be the process with the models."""
    import worker  # here: the server itself imports neither torch nor nnsight

    worker.main(*arguments)


class Process:
    """The process with the models, started again after it was killed."""

    def __init__(self, folders: Mapping[str, str], absent: str, target: Callable[..., None] = work) -> None:
        self.folders, self.absent, self.target = dict(folders), absent, target
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(PRELOADED)
        self.process = None

    def start(self) -> None:
        """Start it, with no model loaded."""
        self.loaded: dict[str, dict[str, Any]] = {}
        self.pipe, its = self.context.Pipe()
        self.process = self.context.Process(target=self.target, args=(its, self.folders, self.absent), daemon=True)
        self.process.start()
        its.close()

    def end(self) -> None:
        """Kill it, if it runs."""
        if self.process is None:
            return
        self.process.kill()
        self.process.join()
        self.pipe.close()

    async def ask(self, *order: Any) -> tuple:
        """Its next message, after an order if one is given; EOFError when it died."""
        if order:
            self.pipe.send(order)
        return await asyncio.to_thread(self.pipe.recv)
