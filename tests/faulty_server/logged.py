"""What a job prints, as messages to the client; and its errors where its block runs in a process of its own."""

from __future__ import annotations

import io
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

import worker

Say = Callable[[str], None]


class _Lines(io.TextIOBase):
    """Standard output that becomes LOG messages, one a line."""

    def __init__(self, say: Say) -> None:
        self.say, self.rest = say, ""

    def write(self, text: str) -> int:
        """Pass on the lines that are complete."""
        *lines, self.rest = (self.rest + text).split("\n")
        for line in lines:
            self.say(line)
        return len(text)

    def finish(self) -> None:
        """Pass on a last line without an end."""
        if self.rest:
            self.write("\n")


@contextmanager
def log_prints(say: Say) -> Iterator[None]:
    """What is printed inside goes to the client."""
    lines = _Lines(say)
    with redirect_stdout(lines), redirect_stderr(lines):
        yield
    lines.finish()


def failure_apart(error: BaseException) -> str:
    """The text of an error of a block apart: from where its worker was started, with nnsight's frames."""
    frames = getattr(error, "__intervention_tb__", None)
    if frames is None:
        return worker.failure(error)
    return "".join(traceback.format_exception(type(error), error, frames))
