"""A task of pairs of your own: what its manifest says, and its file as it was when the jobs were planned."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from nnsight_et.core.errors import ManifestError
from nnsight_et.manifest.written import SpecModel

FILE_LIMIT = 1 << 26  # bytes
TAKEN = ("last", "random", "group", "at", "head", "other")  # what manifests and results call something else

PositionName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")]


class PairsTask(SpecModel):
    """Pairs of prompts of your own: lines of JSON with base, source and answer, positions marked as {{name|text}}."""

    kind: Literal["pairs"]
    file: Annotated[str, Field(min_length=1)]
    """The file of pairs, relative to the manifest."""
    positions: Annotated[tuple[PositionName, ...], Field(max_length=64)] = ()
    """The marked positions, in the order of a base prompt; `last`, the prompt's last token, is always there."""
    space: Literal["yes", "no"] | None = None
    """Whether a space goes between a prompt and its answer, where it is not written; when absent the texts decide."""
    special_tokens: Literal["tokenizer", "text"] | None = None
    """Who puts the special tokens in front of a prompt: the tokenizer (when absent), or the text, which has its own."""

    @field_validator("positions")
    @classmethod
    def check_unique_names(cls, positions: tuple[str, ...]) -> tuple[str, ...]:
        """Each name is there once, and none means something else."""
        for index, name in enumerate(positions):
            if name in TAKEN or name in positions[:index]:
                found = "is there twice" if name in positions[:index] else "is taken"
                text = "{name} {found}; accepted: each name once, none of {taken}"
                given = {"name": repr(name), "found": found, "taken": ", ".join(TAKEN)}
                raise PydanticCustomError("positions", text, given)
        return positions

    @property
    def all_positions(self) -> tuple[str, ...]:
        """The named positions of a prompt, in its order."""
        return (*self.positions, "last")


@dataclass(frozen=True)
class PairsFile:
    """A task's file of pairs as it was read: later changes of the file do not reach the jobs planned from it."""

    name: str
    text: str = field(repr=False)
    positions: tuple[str, ...]
    space: str | None = None
    special_tokens: str | None = None
    version: ClassVar[int] = 2  # raised when the same file starts to mean other prompts; absent in 1: bases were ablated

    @property
    def all_positions(self) -> tuple[str, ...]:
        """The named positions of a prompt, in its order."""
        return (*self.positions, "last")

    @property
    def tokens_as(self) -> dict[str, str]:
        """What the manifest says of all lines: space and special_tokens, where it does."""
        said = {"space": self.space, "special_tokens": self.special_tokens}
        return {key: value for key, value in said.items() if value is not None}

    @property
    def identity(self) -> dict[str, Any]:
        """What is computed on, as plain data: the positions and a digest of the file's text, not its name."""
        known = {"kind": "pairs", "positions": list(self.positions), "pairs": self._digest, "version": self.version}
        return known | self.tokens_as

    @cached_property
    def _digest(self) -> str:
        return blake2b(self.text.encode(), digest_size=10).hexdigest()


def read_pairs_file(task: PairsTask, folder: Path, where: str) -> PairsFile:
    """The file of the task, beside a manifest in `folder`; ManifestError naming `where` if it cannot be read."""
    path = folder / Path(task.file).expanduser()
    accept = "accepted: a file of JSON lines with base, source and answer"
    try:
        if path.exists() and not path.is_file():
            raise ManifestError(f"{where}: {path} is no file; {accept}")
        if path.is_file() and path.stat().st_size > FILE_LIMIT:
            raise ManifestError(f"{where}: {path} has {path.stat().st_size} bytes; accepted: at most {FILE_LIMIT}")
        text = path.read_text(encoding="utf-8-sig")
        return PairsFile(path.name, text, task.positions, task.space, task.special_tokens)
    except UnicodeDecodeError as error:
        raise ManifestError(f"{where}: {path} is not text in UTF-8 (byte {error.start}); {accept}") from None
    except (OSError, ValueError, RuntimeError) as error:  # ValueError: a name no file can have; RuntimeError: no home
        reason = getattr(error, "strerror", None) or str(error)
        raise ManifestError(f"{where}: no file {ascii(str(path))[1:-1]} ({reason}); {accept}") from None
