"""The process that holds the models and runs the jobs, one after another; the server starts it, and kills it over time.

It is told what to do over a pipe and answers there: ("log", line) any number of times, then one of ("loaded", facts),
("refused", reason), ("done", result, frame, cost), ("failed", description, cost), ("dropped",).
"""

from __future__ import annotations

import time
from multiprocessing.connection import Connection
from typing import Any

import descriptions
import split_model
from blocks import Unreadable, executed, failure, own_sources, prepare, printed_as_log, rebuilt
from hosted import Hosted, Order, UnknownModel


class Worker:
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

    def drop(self, key: str) -> tuple:
        """Have it in memory no more."""
        self.hosted.models.pop(key, None)
        return ("dropped",)

    def run(self, order: Order, block: Connection | None) -> tuple:
        """Run a job on its model: its block too in this process, or in the one at the other end of `block`."""
        started, model = time.monotonic(), self.hosted.models[order.key]
        try:
            model._remoteable_set_env(self.hosted.environment(order.env))
            result = self.trusted(order, model) if block is None else split_model.serve(model, block, self.log)
        except (Unreadable, split_model.BlockFailed) as text:
            return "failed", str(text), cost(started)
        except Exception as error:  # noqa: BLE001 - the block is the client's
            return "failed", failure(error), cost(started)
        finally:
            model.interleaver.cancel()
        return finished(order, result, cost(started))

    def trusted(self, order: Order, model: Any) -> bytes:
        """The saved values of a block that runs here."""
        with own_sources(), printed_as_log(self.log):
            return executed(rebuilt(order.blob, model._remoteable_persistent_objects(), order.compress))

    def log(self, line: str) -> None:
        """Tell the client a line."""
        self.pipe.send(("log", line))


def cost(started: float) -> dict[str, Any]:
    """What a job took, as NDIF reports it; no GPU, so no memory."""
    runtime = round(time.monotonic() - started, 4)
    return {"runtime": runtime, "max_memory_usage": 0, "max_mem_by_gpu": {}, "max_mem_pct_by_gpu": {}}


def finished(order: Order, result: bytes, meta: dict[str, Any]) -> tuple:
    """("done", result, COMPLETED message as nnsight pickles it if the result may travel inside one, cost)."""
    if order.compress:
        import zstandard

        result = zstandard.ZstdCompressor(level=3).compress(result)
    if len(result) > order.inline_bytes:
        return "done", result, None, meta
    from nnsight.schema.response import ResponseModel, Status

    told = descriptions.STATUS["COMPLETED"]
    message = ResponseModel(id=order.id, status=Status.COMPLETED, description=told, data=result, meta=meta)
    return "done", result, message.pickle(), meta


def main(pipe: Connection, folders: dict[str, str], dtype: str, absent: str) -> None:
    """Start the process."""
    prepare(absent)
    Worker(pipe, Hosted(folders, dtype)).serve()
