"""What a run has to say between one piece of work and the next."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import typer

from .progress import LINE_EVERY, View, duration, write_object

if TYPE_CHECKING:
    from nnsight_et.remote.server import Waiting


@dataclass
class Waits:
    """The server's last word or the layer reached, for a live view; in plain lines and JSON each new word is said."""

    view: View
    live: bool
    last: Waiting | None = None
    layer: int | None = None
    """The layer that path patching has come to here."""
    _said: tuple[str, str] = ("", "")
    _at: float = field(default_factory=time.monotonic)

    def heard(self, waiting: Waiting) -> None:
        """Take note of what the server says of a job."""
        self.last = waiting
        word, now = (waiting.status, waiting.description), time.monotonic()
        if self.view == "json" and word != self._said:
            said = {"status": waiting.status, "description": waiting.description, "seconds": round(waiting.seconds, 1)}
            write_object({"event": "waiting", "experiment": waiting.experiment} | said)
        elif self.view == "auto" and not self.live and (word[0] != self._said[0] or now - self._at >= LINE_EVERY):
            typer.echo(f"{waiting.experiment}: {self.text()}", err=True)
            self._at = now
        self._said = word

    def reached(self, layer: int) -> None:
        """Take note of the layer whose senders are patched now."""
        self.layer = layer

    def between(self, steps: Iterable[Any]) -> Iterator[Any]:
        """The steps of a run: with each of them a job, and a piece of work, has ended."""
        for step in steps:
            self.last = self.layer = None
            yield step

    def text(self) -> str:
        """The last word in a line."""
        if self.last is None:
            return "" if self.layer is None else f"senders of layer {self.layer}"
        status, description = self.last.status, self.last.description
        return f"server {status}{f': {description}' if description else ''} ({duration(self.last.seconds)})"
