"""An untrusted job, seen from its block: a process for it alone, with a model without weights.

What holds here holds on NDIF: raw weights are meta tensors; a gradient ends where a value crosses to the model, without
a word; after `tracer.stop()` the next trace is out of step and fails. Not here, and refused: `tracer.iter`,
`tracer.cache`, `tracer.barrier` and `.source`. The process is apart, but not confined.
"""

from __future__ import annotations

import warnings
from multiprocessing.connection import Connection
from typing import Any

from blocks import Unreadable, executed, failure, own_sources, prepare, printed_as_log, rebuilt
from greenlet import getcurrent
from hosted import Hosted
from nnsight.intervention.barrier import Barrier
from nnsight.intervention.envoy import Envoy
from nnsight.intervention.interleaver import EarlyStopException, Event, Interleaver, Mediator, OutOfOrderError, Pending
from nnsight.intervention.serialization import CustomCloudUnpickler, dumps, loads
from nnsight.intervention.tracer import InterleavingTracer


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


def _redirect(wire: _Wire) -> type:
    """Make nnsight in this process ask the model at the other end; the class of interleaver to use from now on."""

    class Workers(Interleaver):
        """The workers, without modules."""

        def instrument(self, envoy: Any) -> None:
            """Nothing: no forward runs here."""

    def park(_: type, event: Any, location: str, *value: Any) -> Any:
        worker = getcurrent()
        assert worker.parent is not None
        return worker.parent.switch(Pending(event, location, 0, *value))

    def interleave(self: Any, method: Any, *_: Any, batcher: Any = None, **options: Any) -> Any:
        name = method if isinstance(method, str) else method.__name__
        self.interleaver.mediators = self._edits + self.interleaver.mediators
        try:
            with self.interleaver:
                mediators = self.interleaver.mediators
                parks, rows = [one.pending for one in mediators], [one.batch_group for one in mediators]
                wire.send("forward", name, parks, rows, batcher.invokes, options)
                return _pump(wire, mediators)
        except EarlyStopException:
            return None
        finally:
            self.interleaver.cancel()

    def call(self: Any, *arguments: Any, hook: bool = False, **keywords: Any) -> Any:
        return park(Mediator, "call", self.path, (arguments, keywords | {"hook": hook}))

    def refuse(name: str) -> Any:
        def refused(*_: Any, **__: Any) -> None:
            raise RuntimeError(f"this loopback server's untrusted mode has no {name}")

        return refused

    setattr(Mediator, "event", classmethod(park))  # noqa: B010 - of a class whose type says otherwise
    for name, function in (("interleave", interleave), ("__call__", call), ("source", property(refuse(".source")))):
        setattr(Envoy, name, function)
    for name, place in (("iter", property), ("cache", lambda function: function)):
        setattr(InterleavingTracer, name, place(refuse(f"tracer.{name}")))
    Barrier.__call__ = refuse("tracer.barrier")
    return Workers


def _unpickler(workers: Any) -> type:
    """nnsight's unpickler on this process's interleaver; ids that it does not know are None, as on NDIF."""

    class Unpickler(CustomCloudUnpickler):
        """Knows the model without weights."""

        def persistent_load(self, pid: Any) -> Any:
            """The object of an id."""
            return workers if pid == "Interleaver" else self.persistent_objects.get(pid)

    return Unpickler


def _block(wire: _Wire, hosted: Hosted, order: Any) -> tuple:
    """("end", its saved values) or ("failed", a description)."""
    model = hosted.made(order.key)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an adapter's weights have no place in a model without
        model._remoteable_set_env(hosted.environment(order.env))
    unpickler = _unpickler(_redirect(wire)())
    try:
        with own_sources(), printed_as_log(lambda line: wire.send("log", line)):
            tracer = rebuilt(order.blob, model._remoteable_persistent_objects(), order.compress, unpickler)
            return "end", executed(tracer)
    except Unreadable as sentence:
        return "failed", str(sentence)
    except Exception as error:  # noqa: BLE001 - the block is the client's
        return "failed", failure(error)


def main(connection: Connection, hosted: Hosted, absent: str, order: Any) -> None:
    """Run one block."""
    prepare(absent)
    wire = _Wire(connection)
    wire.send(*_block(wire, hosted, order))
