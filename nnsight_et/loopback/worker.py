"""The process that holds the models and runs the jobs, one after another.

It is told what to do over a pipe and answers there: ("loaded", facts), ("refused", reason), ("done", result),
("failed", description).
"""

from __future__ import annotations

from multiprocessing.connection import Connection
from typing import Any

import descriptions
from blocks import Unreadable, execute_block, failure, own_sources, prepare, rebuilt
from hosted import Hosted, Order, UnknownModel


class WorkerLoop:
    """The loop of the process."""

    def __init__(self, pipe: Connection, hosted: Hosted) -> None:
        self.pipe, self.hosted = pipe, hosted

    def serve(self) -> None:
        """Do what comes until the server hangs up."""
        while True:
            try:
                kind, *rest = self.pipe.recv()
            except EOFError:
                return
            self.pipe.send(getattr(self, kind)(*rest))

    def load(self, key: str) -> tuple:
        """Have a model in memory."""
        try:
            return "loaded", self.hosted.load(key)
        except UnknownModel as unknown:
            return "refused", descriptions.UNKNOWN_REPOSITORY.format(name=unknown)
        except Exception as error:  # noqa: BLE001 - a folder can be damaged in many ways
            return "refused", f"{type(error).__name__}: {error}"

    def run(self, order: Order, *more: Any) -> tuple:
        """Run a job on its model."""
        model = self.hosted.models[order.key]
        try:
            model._remoteable_set_env(self.hosted.environment(order.env))
            return "done", compressed_result(order, self.run_block(order, model, *more))
        except Unreadable as text:
            return "failed", str(text)
        except Exception as error:  # noqa: BLE001 - the block is the client's
            return "failed", failure(error)
        finally:
            model.interleaver.cancel()

    def run_block(self, order: Order, model: Any) -> bytes:
        """The saved values of a block."""
        with own_sources():
            return execute_block(rebuilt(order.blob, model._remoteable_persistent_objects(), order.compress))


def compressed_result(order: Order, result: bytes) -> bytes:
    """A result as the request wants it."""
    if not order.compress:
        return result
    import zstandard

    return zstandard.ZstdCompressor(level=3).compress(result)


def main(pipe: Connection, folders: dict[str, str], absent: str) -> None:
    """Start the process."""
    prepare(absent)
    WorkerLoop(pipe, Hosted(folders)).serve()
