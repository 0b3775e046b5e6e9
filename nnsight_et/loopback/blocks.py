"""What a job is made of: the block as it was sent, run on a model, its values, its errors."""

from __future__ import annotations

import importlib.abc
import io
import linecache
import multiprocessing
import os
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import descriptions


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
