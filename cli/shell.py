"""What the shell sees of an error or an interruption: one message, and an exit code."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

from nnsight_et.errors import NnsightEtError

INTERRUPTED, TERMINATED = 130, 143


class Shell(TyperGroup):
    """A group of commands whose errors are messages; any other exception is a bug and keeps its traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the chosen command."""
        try:
            return super().invoke(ctx)
        except NnsightEtError as error:
            typer.echo("\n".join((str(error), *getattr(error, "__notes__", ()))), err=True)
            raise typer.Exit(error.exit_code) from None


class Terminated(KeyboardInterrupt):
    """SIGTERM, as an exception that unwinds like Ctrl-C."""


@contextmanager
def interruptible(folder: Path) -> Iterator[None]:
    """Say what is saved in `folder` when the user or the system stops the command."""

    def terminate(*_: object) -> None:
        raise Terminated

    earlier = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    except KeyboardInterrupt as stop:
        word, code = ("Terminated", TERMINATED) if isinstance(stop, Terminated) else ("Interrupted", INTERRUPTED)
        typer.echo(f"\n{word}. Finished work is saved; the same command continues from there ({folder}).", err=True)
        raise typer.Exit(code) from None
    finally:
        signal.signal(signal.SIGTERM, earlier)
