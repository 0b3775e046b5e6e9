"""The process with the models of a server with untrusted jobs, prints and results inside messages."""

from __future__ import annotations

from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from dispatch import Process
from worker import Hosted, Order, WorkerLoop


@dataclass
class SentOrder(Order):
    """What the worker needs of a job that may be answered in its session."""

    id: str
    inline_bytes: int  # larger results are staged; -1: all


def run_block(*arguments: Any) -> None:
    """Be the process of an untrusted block."""
    import split_block

    split_block.main(*arguments)


class SplitProcess(Process):
    """The process with the models, and one for each untrusted block."""

    apart: Any = None

    def block(self, order: Order) -> Connection:
        """The other end of a new process, which runs an untrusted job's block."""
        end, its = self.context.Pipe()
        arguments = (its, Hosted(self.folders), self.absent, order)
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
        """Kill both."""
        self.end_block()
        super().end()


class DescribedHosted(Hosted):
    """Models, with what /status says of them."""

    def load(self, key: str) -> dict[str, Any]:
        """Load a model if it is not loaded yet; facts about it."""
        super().load(key)
        module = self.models[key]._module
        n_params = sum(parameter.numel() for parameter in module.parameters())
        size = sum(parameter.nbytes for parameter in module.parameters())
        return {"config": module.config.to_json_string(), "n_params": n_params, "size_bytes": size}


class SplitWorker(WorkerLoop):
    """The loop of the process."""

    def drop(self, key: str) -> tuple:
        """Have a model in memory no more."""
        self.hosted.models.pop(key, None)
        return ("dropped",)

    def run(self, order: SentOrder, block: Connection | None) -> tuple:
        """Run a job; its result as the message of a session if it is small enough."""
        from split_model import BlockFailed

        try:
            kind, found = super().run(order, block)
        except BlockFailed as text:
            return "failed", str(text)
        if kind == "failed":
            return kind, found
        if len(found) > order.inline_bytes:
            return kind, found, len(found)
        from descriptions import STATUS
        from nnsight.schema.response import ResponseModel, Status

        told = STATUS["COMPLETED"]
        message = ResponseModel(id=order.id, status=Status.COMPLETED, description=told, data=found)
        return kind, (message.pickle(),), len(found)

    def run_block(self, order: Order, model: Any, block: Connection | None) -> bytes:
        """The saved values of a block, here or in the process at the other end of `block`."""
        from logged import log_prints
        from split_model import serve

        if block is not None:
            return serve(model, block, self.log)
        with log_prints(self.log):
            return super().run_block(order, model)

    def log(self, line: str) -> None:
        """Tell the client a line."""
        self.pipe.send(("log", line))


def work(pipe: Connection, folders: dict[str, str], absent: str) -> None:
    """Be the process with the models."""
    from worker import prepare

    prepare(absent)
    SplitWorker(pipe, DescribedHosted(folders)).serve()
