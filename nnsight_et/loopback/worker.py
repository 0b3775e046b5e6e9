"""The process that holds the models and runs the jobs, one after another.

It is told what to do over a pipe and answers there: ("loaded", facts), ("refused", reason), ("done", result),
("failed", description).
"""

from __future__ import annotations

import importlib.abc
import io
import json
import linecache
import multiprocessing
import os
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import descriptions


class UnknownModel(Exception):
    """Its text is the name of a model without a folder."""


@dataclass
class Hosted:
    """The models of the server, loaded when first asked for."""

    folders: dict[str, str]
    models: dict[str, Any] = field(default_factory=dict)

    def folder(self, name: str) -> str | None:
        """Where a model or an adapter is: the folder it was given, or its name if that is one."""
        found = self.folders.get(name, name)
        return found if Path(found).is_dir() else None

    def load(self, key: str) -> dict[str, Any]:
        """Load a model if it is not loaded yet; facts about it."""
        if key not in self.models:
            self.models[key] = self.load_model(key, dispatch=True, dtype="float32", device="cpu")
            self.models[key]._module.requires_grad_(False)
        return {}

    def load_model(self, key: str, **how: Any) -> Any:
        """The model of a key, from its folder; UnknownModel without one."""
        from nnsight.modeling.mixins.remotable import Remotable
        from transformers import AutoTokenizer

        kind, _, rest = key.partition(":")
        parts = json.loads(rest)
        folder = self.folder(parts["repo_id"])
        if folder is None:
            raise UnknownModel(parts["repo_id"])
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)  # nnsight 0.8.1 may not find it
        return Remotable.from_model_key(f"{kind}:{json.dumps(parts | {'repo_id': folder})}", tokenizer=tokenizer, **how)

    def environment(self, env: dict[str, Any]) -> dict[str, Any]:
        """A request's environment with the adapter's name made a folder."""
        adapter = env.get("peft")
        return env if adapter is None else env | {"peft": self.folder(adapter) or adapter}


@dataclass
class Order:
    """What the worker needs of a job."""

    key: str
    env: dict[str, Any]
    compress: bool
    blob: bytes


class _Absent(importlib.abc.MetaPathFinder):
    """Refuses one package, installed or not."""

    def __init__(self, package: str) -> None:
        self.package = package

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> None:
        """None for every other module, which leaves it to the finders after this one."""
        if fullname.split(".")[0] == self.package:
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)


def prepare(absent: str) -> None:
    """Make this a process of the server: without a package, and ended when the server has ended."""
    sys.meta_path.insert(0, _Absent(absent))
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=lambda: (parent.join(), os._exit(0)), daemon=True).start()


@contextmanager
def own_sources() -> Iterator[None]:
    """nnsight's memory of sources and blocks, as it was before: a job must not run an earlier one's block."""
    from nnsight.tracing.globals import BLOCKS, SOURCES

    caches: list[dict] = [linecache.cache, SOURCES, BLOCKS]
    before = [dict(cache) for cache in caches]
    try:
        yield
    finally:
        for cache, content in zip(caches, before, strict=True):
            cache.clear()
            cache.update(content)


def failure(error: BaseException) -> str:
    """A job's own error as text, cut as NDIF cuts it: without nnsight's frames, but with the forward's."""
    from nnsight.tracing.util import clean_traceback, filter_traceback

    loop = str(Path(__file__).with_name("worker.py"))
    frames = clean_traceback(error.__traceback__)
    frames = filter_traceback(frames, lambda frame: frame.f_code.co_filename != loop)
    return "".join(traceback.format_exception(type(error), error, frames))


class Unreadable(Exception):
    """A request that cannot be made into a block; its text is a sentence for the client, not a traceback."""


def rebuilt(blob: bytes, objects: dict, compress: bool, unpickler: type | None = None) -> Any:
    """The tracer that was sent, on this process's model."""
    from nnsight.intervention.serialization import UnknownPersistentIdError
    from nnsight.schema.request import RequestModel

    how = {} if unpickler is None else {"unpickler": unpickler}
    try:
        return RequestModel.deserialize(blob, objects, compress, **how)
    except UnknownPersistentIdError as error:
        raise Unreadable(descriptions.JOB_ERROR["architecture"].format(path=error)) from error
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        raise Unreadable(descriptions.JOB_ERROR["payload"].format(error=text)) from error


def execute_block(tracer: Any) -> bytes:
    """The values a block marked as saved, as torch.save writes them."""
    import torch
    from nnsight.tracing.tracer import _saves, dec, inc

    inc()  # as Tracer.__exit__ does around a local run; only the outermost level keeps just the saved values
    try:
        tracer.execute(tracer.info.code)
        marked = _saves()
        saved = {name: value for name, value in tracer.info.frame.f_locals.items() if id(value) in marked}
    finally:
        dec()
    with io.BytesIO() as file:
        torch.save(saved, file)
        return file.getvalue()


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
