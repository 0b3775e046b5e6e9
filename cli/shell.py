"""The group of all commands: help with examples, and one message and an exit code for an error or an interruption."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

from nnsight_et.core.errors import NnsightEtError, quantity

EXAMPLES = {
    "demo": "et demo",
    "run": "et run experiments.yaml --only circuit --limit 20",
    "plan": "et plan paper",
    "report": "et report experiments.yaml --figures figures",
    "validate": "et validate experiments.yaml --set experiments.circuit.examples=30",
    "models": "et models inspect llama-tiny",
    "path-patch": "et path-patch --model llama-tiny --examples 50",
    "discover": "et discover --model llama-tiny --task boxes",
    "evaluate": "et evaluate embedded/llama-tiny --models llama-tiny,goat-tiny --minimality",
    "dcm": "et dcm --model llama-tiny --desiderata object,position",
    "cmap": "et cmap --src goat-tiny --dst llama-tiny",
    "knockout": "et knockout --model llama-tiny --examples 50",
    "circuit": "et circuit import value_fetcher.pt pos_transmitter.pt --keep 50 --keep 10 --to circuit.json",
    "pairs": "et pairs check pairs.jsonl --model llama-tiny",
    "compare": "et compare published/llama published/goat",
    "selfcheck": "et selfcheck",
    "benchmark-truth": "et benchmark-truth --seeds 3 --out truth.json",
    "diff": "et diff runs/my-study/0a1b2c runs/my-study/3d4e5f --top 50",
    "export": "et export runs/my-study/0a1b2c --format parquet --examples",
    "init": "et init my-study.yaml --model llama-tiny --finetuned goat-tiny --methods faithfulness,cmap",
    "schema": "et schema --write manifest.schema.json",
    "doctor": "et doctor",
}
"""Of each command, shown below its help."""
INTERRUPTED, TERMINATED = 130, 143
AGAIN = 0.05  # seconds until an interruption that got lost comes again


class Shell(TyperGroup):
    """A group of commands whose errors are messages; any other exception is a bug and keeps its traceback.

    The help of each ends with an example, and names no type for what is only switched on.
    """

    def get_params(self, ctx: Any) -> Any:
        """The options of `et` itself."""
        return _plain(super().get_params(ctx))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of that name, its example below its help."""
        command = super().get_command(ctx, cmd_name)
        if command is not None and cmd_name in EXAMPLES:
            command.epilog = f"Example: {EXAMPLES[cmd_name]}"
        for one in (command, *getattr(command, "commands", {}).values()):
            if one is not None:
                _plain([*one.params, *([one.get_help_option(ctx)] if ctx else ())])
        return command

    def invoke(self, ctx: Any) -> Any:
        """Run the chosen command."""
        try:
            return super().invoke(ctx)
        except NnsightEtError as error:
            lines = [_placed(line) for line in (*str(error).split("\n"), *getattr(error, "__notes__", ()))]
            typer.echo("\n".join(lines), err=True, color=False if os.environ.get("NO_COLOR") else None)
            raise typer.Exit(error.exit_code) from None


def _placed(line: str) -> str:
    """A line of an error, the place it is about in red; typer leaves colours out where there is no terminal."""
    place, colon, rest = line.partition(": ")
    return typer.style(place + colon, fg="red") + rest if colon else line


def _plain(options: Any) -> Any:
    """The same options; those that take no value have no type in their help."""
    for option in options:
        if getattr(option, "is_flag", False):
            option.metavar = ""
    return options


class Terminated(KeyboardInterrupt):
    """SIGTERM, as an exception that unwinds like Ctrl-C."""


@contextmanager
def interruptible(folder: Path) -> Iterator[None]:
    """Say what is saved in `folder` when the user or the system stops the command."""

    def stop(number: int, _: object) -> None:
        raise Terminated if number == signal.SIGTERM else KeyboardInterrupt

    earlier = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with _reraising_interrupts():
            yield
    except KeyboardInterrupt as stopped:
        word, code = ("Terminated", TERMINATED) if isinstance(stopped, Terminated) else ("Interrupted", INTERRUPTED)
        count = len(list(folder.glob("*/result.json")))
        saved = f"{quantity(count, 'experiment')}, and what was measured of others, in {folder}"
        typer.echo(f"\n{word}. Finished work is saved: {saved}. The same command continues from there.", err=True)
        raise typer.Exit(code) from None
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


@contextmanager
def _reraising_interrupts() -> Iterator[None]:
    """An interruption that came inside a finaliser, where Python prints what is raised and goes on, comes once more."""
    printed, timers = sys.unraisablehook, []

    def raise_later(what: sys.UnraisableHookArgs) -> None:
        if not isinstance(what.exc_value, KeyboardInterrupt):
            printed(what)
            return
        number = signal.SIGTERM if isinstance(what.exc_value, Terminated) else signal.SIGINT
        timers.append(threading.Timer(AGAIN, signal.pthread_kill, (threading.main_thread().ident, number)))
        timers[-1].start()

    sys.unraisablehook = raise_later
    try:
        yield
    finally:
        sys.unraisablehook = printed
        for timer in timers:
            timer.cancel()
