"""An untrusted job, seen from the model: the forward runs here, the block in a process of its own (split_block).

As on NDIF, the two take turns over a socket. Every value that is read crosses it as a copy, and comes back as the new
value once the block has moved on, so that an edit in place arrives. Messages, to the block: ("resume", worker, values),
("throw", worker, location), ("done", result); from it: ("forward", method, parks, rows, invokes, options),
("park", worker, park, (location, value) of the read before it, or None), ("stop",), ("log", line), ("end", result),
("failed", description).
"""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from nnsight.intervention.interleaver import EarlyStopException, Event, Mediator, Pending
from nnsight.intervention.serialization import dumps, loads


class BlockFailed(Exception):
    """The block's own error, as text."""


class Wire:
    """One end of the socket; messages are pickled as nnsight pickles requests, so that tensors cross as copies."""

    def __init__(self, connection: Connection, objects: dict[str, Any], say: Callable[[str], None]) -> None:
        self.connection, self.objects, self.say = connection, objects, say

    def send(self, *message: Any) -> None:
        """Send a message."""
        self.connection.send_bytes(dumps(message))

    def receive(self) -> list[Any]:
        """The next message that is not a log line. BlockFailed: the block ended with an error."""
        while True:
            kind, *values = loads(self.connection.recv_bytes(), self.objects)
            if kind == "failed":
                raise BlockFailed(values[0])
            if kind != "log":
                return [kind, *values]
            self.say(values[0])


class Proxy(Mediator):
    """The model's side of one worker of the block: nnsight's Mediator, whose worker is at the other end of the wire."""

    def __init__(self, number: int, wire: Wire, model: Any, rows: list | None) -> None:
        super().__init__(None, {}, {})
        self.number, self.wire, self.model = number, wire, model
        self.batch_group = rows
        self.later: tuple[Any] | None = None  # where the worker is, while what it read before is written back

    def start(self, interleaver: Any = None) -> None:
        """Join a forward; the worker has started already."""
        self.interleaver = interleaver
        self.counts_at_start = dict(interleaver.counts)

    @property
    def alive(self) -> bool:
        """Whether the worker waits for something."""
        return self.pending is not None

    def switch(self, *values: Any) -> Pending | None:
        """Let the worker go on with `values`; where it waits next, None when it has finished."""
        if self.later is not None:
            (park,), self.later = self.later, None
            return self.run_called_modules(park)
        read = self.pending
        self.wire.send("resume", self.number, values)
        park, returned = self.answer()
        if returned is None or read is None:
            return self.run_called_modules(park)
        self.later = (park,)
        return Pending(Event.SWAP, read.provider, read.iteration, returned[0])

    def answer(self) -> tuple[Pending | None, tuple[Any] | None]:
        """Where the worker waits now, and the value it had read; EarlyStopException: it has stopped the forward."""
        kind, *rest = self.wire.receive()
        if kind == "stop":
            raise EarlyStopException()
        if kind != "park":
            raise RuntimeError(f"the block's process is out of step with the model: it sent '{kind}'")
        return rest[1], rest[2]

    def run_called_modules(self, park: Pending | None) -> Pending | None:
        """The first place in the forward that the worker waits for, once the modules it calls itself have run."""
        while park is not None and park.event == "call":
            arguments, keywords = park.value
            result = modules(self.model)[park.provider](*arguments, **keywords)
            self.wire.send("resume", self.number, (result,))
            park, _ = self.answer()
        return park


def modules(model: Any) -> dict[str | None, Any]:
    """Envoys of the model by their paths."""
    return {envoy.path: envoy for envoy in model.modules()}


def forward(wire: Wire, model: Any, message: list[Any]) -> None:
    """One forward of the model, with the workers of the block."""
    name, parks, rows, invokes, options = message
    proxies = [Proxy(number, wire, model, group) for number, group in enumerate(rows)]
    for proxy, park in zip(proxies, parks, strict=True):
        proxy.pending = proxy.run_called_modules(park)
    interleaver, result = model.interleaver, None
    batcher = model._batcher_class(model, options)
    for arguments, keywords in invokes:
        batcher.add(*arguments, **keywords)
    interleaver.mediators, interleaver.batcher = proxies, batcher
    try:
        with interleaver:
            method = getattr(model._module if name.startswith("__") else model, name)
            arguments, keywords = batcher.assemble(method)
            result = method(*arguments, **(keywords | options))
            interleaver.handle("result", result)
        for proxy in proxies:
            if proxy.alive:
                wire.send("throw", proxy.number, str(proxy.pending))
    finally:
        interleaver.mediators, interleaver.batcher = [], None
    wire.send("done", result)


def serve(model: Any, connection: Connection, say: Callable[[str], None]) -> bytes:
    """The saved values of a block, torch.save'd, once it has had all the forwards it wants. BlockFailed: its error."""
    wire = Wire(connection, model._remoteable_persistent_objects(), say)
    while True:
        kind, *rest = wire.receive()
        if kind == "end":
            return rest[0]
        forward(wire, model, rest)
