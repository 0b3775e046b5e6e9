"""An untrusted job, seen from its block: a process for it alone, with a model without weights.

What holds here holds on NDIF: raw weights are meta tensors; a gradient ends where a value crosses to the model, without
a word; after `tracer.stop()` the next trace is out of step and fails. Not here, and refused: `tracer.iter`,
`tracer.cache`, `tracer.barrier` and `.source`. The process is apart, but not confined.
"""

from __future__ import annotations

import warnings
from multiprocessing.connection import Connection
from typing import Any

from greenlet import getcurrent
from logged import failure_apart, log_prints
from nnsight.intervention.barrier import Barrier
from nnsight.intervention.envoy import Envoy
from nnsight.intervention.interleaver import EarlyStopException, Event, Interleaver, Mediator, OutOfOrderError, Pending
from nnsight.intervention.serialization import CustomCloudUnpickler, dumps, loads
from nnsight.intervention.tracer import InterleavingTracer
from worker import Hosted, Unreadable, execute_block, own_sources, prepare, rebuilt


class _Wire:
    """The block's end of the socket (see split_model)."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def send(self, *message: Any) -> None:
        self.connection.send_bytes(dumps(message))

    def receive(self) -> tuple:
        return loads(self.connection.recv_bytes(), {})


def _pump(wire: _Wire, mediators: list) -> Any:
    """Run the workers as the model asks for it, until its forward is over; what the forward returned."""
    reading = {number: mediator.pending for number, mediator in enumerate(mediators)}
    while True:
        kind, *rest = wire.receive()
        if kind == "done":
            return rest[0]
        number, what = rest
        if kind == "throw":
            error = OutOfOrderError(f"'{what}' was requested but the model already ran past it")
            mediators[number].worker.throw(error)
            continue
        before = reading[number]
        try:
            park = mediators[number].switch(*what)
        except EarlyStopException:
            wire.send("stop")
            raise
        reading[number] = park
        read = before is not None and before.event is Event.VALUE
        wire.send("park", number, park, (what[0],) if read else None)


class _Workers(Interleaver):
    """The workers of a trace; no forward runs here, so there are no modules to watch."""

    def __init__(self, wire: _Wire) -> None:
        super().__init__()
        self.wire = wire

    def instrument(self, envoy: Envoy) -> None:
        pass


def _park(_: type, event: Any, location: str, *value: Any) -> Any:
    worker = getcurrent()
    assert worker.parent is not None
    return worker.parent.switch(Pending(event, location, 0, *value))


def _call(envoy: Any, *arguments: Any, hook: bool = False, **keywords: Any) -> Any:
    return _park(Mediator, "call", envoy.path, (arguments, keywords | {"hook": hook}))


def _interleave(envoy: Any, method: Any, *_: Any, batcher: Any = None, **options: Any) -> Any:
    name = method if isinstance(method, str) else method.__name__
    workers = envoy.interleaver
    workers.mediators = envoy._edits + workers.mediators
    try:
        with workers:
            mediators = workers.mediators
            parks, rows = [one.pending for one in mediators], [one.batch_group for one in mediators]
            workers.wire.send("forward", name, parks, rows, batcher.invokes, options)
            return _pump(workers.wire, mediators)
    except EarlyStopException:
        return None
    finally:
        workers.cancel()


def _refuse(name: str) -> Any:
    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError(f"this loopback server's untrusted mode has no {name}")

    return refuse


def _redirect() -> None:
    """Make nnsight in this process ask the model at the other end."""
    changes = {
        Mediator: {"event": classmethod(_park)},
        Envoy: {"interleave": _interleave, "__call__": _call, "source": property(_refuse(".source"))},
        InterleavingTracer: {"iter": property(_refuse("tracer.iter")), "cache": _refuse("tracer.cache")},
        Barrier: {"__call__": _refuse("tracer.barrier")},
    }
    for kind, members in changes.items():
        for name, member in members.items():
            setattr(kind, name, member)


def _unpickler(workers: _Workers) -> type:
    """nnsight's unpickler on this process's interleaver; ids that it does not know are None, as on NDIF."""

    class Unpickler(CustomCloudUnpickler):
        """Knows the model without weights."""

        def persistent_load(self, pid: Any) -> Any:
            """The object of an id."""
            return workers if pid == "Interleaver" else self.persistent_objects.get(pid)

    return Unpickler


def _block(wire: _Wire, hosted: Hosted, order: Any) -> tuple:
    """("end", its saved values) or ("failed", a description)."""
    model = hosted.load_model(order.key)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an adapter's weights have no place in a model without
        model._remoteable_set_env(hosted.environment(order.env))
    _redirect()
    unpickler = _unpickler(_Workers(wire))
    try:
        with own_sources(), log_prints(lambda line: wire.send("log", line)):
            tracer = rebuilt(order.blob, model._remoteable_persistent_objects(), order.compress, unpickler)
            return "end", execute_block(tracer)
    except Unreadable as sentence:
        return "failed", str(sentence)
    except Exception as error:  # noqa: BLE001 - the block is the client's
        return "failed", failure_apart(error)


def main(connection: Connection, hosted: Hosted, absent: str, order: Any) -> None:
    """Run one block."""
    prepare(absent)
    wire = _Wire(connection)
    wire.send(*_block(wire, hosted, order))
