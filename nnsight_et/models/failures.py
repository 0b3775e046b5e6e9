"""What the libraries raise where a model's files cannot be read, and the one message that each becomes."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pickle import PickleError
from re import error as RegexError

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from nnsight_et.core.errors import UnsupportedModel

LOADING_ERRORS: tuple[type[Exception], ...] = (
    ArithmeticError,  # a size of 0, or beyond what a tensor can have
    AssertionError,
    AttributeError,  # a value of another type than the libraries take for granted, as are the next ones
    LookupError,
    TypeError,
    ValueError,  # also JSON and UTF-8 that are none
    EOFError,  # a .bin file that ends too early
    ImportError,  # a package that only this kind of file needs
    OSError,
    RuntimeError,  # also torch's own, and recursion without end
    RegexError,  # a pattern of tokenizer_config.json
    SafetensorError,
    StrictDataclassError,  # a value of config.json
    PickleError,  # a .bin file with more in it than tensors
    struct.error,  # a .bin or .gguf file cut short
    zipfile.BadZipFile,
)
LONGEST = 300
FOREIGN = "a .bin file holds more than tensors, or is damaged; such objects are never loaded"


@contextmanager
def reading_files(message: Callable[[str], str], first: Callable[[], None] | None = None) -> Iterator[None]:
    """A block in which only libraries read a model's files: what they raise becomes UnsupportedModel.

    `message` is given the reason in one line. `first` is called before: it may raise one that says more.
    """
    try:
        yield
    except BaseException as error:
        if not is_loading_error(error):
            raise
        if first:
            first()
        raise UnsupportedModel(message(first_line(error))) from error


def is_loading_error(error: BaseException) -> bool:
    """Whether it is one of LOADING_ERRORS, or from the inside of tokenizers.

    tokenizers 0.23 raises Exception itself for every file it cannot read, and its Rust code panics with a BaseException
    that cannot be imported: exactly these two are meant, none of Exception's subclasses.
    """
    panic = type(error).__module__ == "pyo3_runtime" and type(error).__name__ == "PanicException"
    return isinstance(error, LOADING_ERRORS) or type(error) is Exception or panic


def first_line(error: BaseException) -> str:
    """The first line of what an error says; with its type where that alone says too little."""
    if isinstance(error, PickleError):
        return FOREIGN
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    kind = type(error).__name__
    if not lines:
        return kind
    if lines[0].endswith(":") and len(lines) > 1:
        lines[0] += f" {lines[1]}"
    bare = isinstance(error, (LookupError, AttributeError, AssertionError, TypeError)) or " " not in lines[0]
    return f"{kind}: {lines[0]}"[:LONGEST] if bare else lines[0][:LONGEST]
