"""Tasks as a manifest writes them: the built-in ones, and pairs of your own, with their file as it was when planned."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from string import ascii_uppercase
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from nnsight_et.core.errors import ManifestError
from nnsight_et.manifest.written import Chat, Count, SpecModel


class BoxesTask(SpecModel):
    """The paper's entity tracking task: which object is in the box that is asked for (§3)."""

    all_positions: ClassVar[tuple[str, ...]] = ("correct_object", "previous_query_label", "query_label", "last")

    kind: Literal["boxes"] = "boxes"
    boxes: Count = 7
    """How many boxes a prompt has: 2 to 12."""
    objects: tuple[str, ...] | None = None
    """Your own objects, each a single token of the model's tokenizer; the paper's when absent."""

    @field_validator("boxes")
    @classmethod
    def enough_letters(cls, boxes: int) -> int:
        """A base and a source need a letter per box each, and one more is asked for."""
        if not 2 <= boxes <= 12:
            need = {"need": 2 * boxes + 1, "boxes": boxes, "letters": len(ascii_uppercase)}
            text = "{boxes} boxes need {need} letters and there are {letters}; accepted: 2 to 12"
            if boxes < 2:
                text = "{boxes} box leaves nothing to track; accepted: 2 to 12"
            raise PydanticCustomError("boxes", text, need)
        return boxes

    @property
    def identity(self) -> dict[str, Any]:
        """What is computed on, as plain data."""
        return self.model_dump(mode="json")


FEWEST_NAMES = 5
S1_POSITIONS = ("s1", "s1_plus_1")


class IOITask(SpecModel):
    """Indirect object identification: "Then, Mary and John went to the store. John gave a drink to" -> "Mary".

    Wang et al. 2022. Positions: io (the answer), s1 and s2 (the subject), s1_plus_1 (the token after s1), last.
    """

    version: ClassVar[int] = 1  # of the generator: raised when the same words start to mean other prompts

    kind: Literal["ioi"]
    order: Literal["mixed", "ABBA", "BABA"] = "mixed"
    """Who is named first: the indirect object (ABBA), the subject (BABA), or now the one and now the other."""
    templates: Annotated[int, Field(ge=1, le=8, strict=True)] = 8
    """How many of the 8 sentences are used. With 1 all prompts have one length, and means are taken token by token."""
    names: Annotated[tuple[str, ...], Field(min_length=FEWEST_NAMES)] | None = None
    """Your own names, each a single token of the model's tokenizer; when absent those of 152 that are."""

    @property
    def all_positions(self) -> tuple[str, ...]:
        """The named positions of a prompt, in its order; of mixed orders as in ABBA."""
        first = (*S1_POSITIONS, "io") if self.order == "BABA" else ("io", *S1_POSITIONS)
        return (*first, "s2", "last")

    @property
    def identity(self) -> dict[str, Any]:
        """What is computed on, as plain data."""
        return self.model_dump(mode="json") | {"version": self.version}

    def is_unordered(self, one: str, other: str) -> bool:
        """Whether now one and now the other of two positions comes first."""
        pair = {one, other}
        return self.order == "mixed" and "io" in pair and not pair.isdisjoint(S1_POSITIONS)


class GreaterThanTask(SpecModel):
    """Greater-than: "The war lasted from the year 1732 to the year 17" -> any two digits above 32 (Hanna et al. 2023).

    Positions: start_year (its last two digits), last.
    """

    version: ClassVar[int] = 1  # of the generator: raised when the same words start to mean other prompts
    all_positions: ClassVar[tuple[str, ...]] = ("start_year", "last")

    kind: Literal["greater_than"]

    @property
    def identity(self) -> dict[str, Any]:
        """What is computed on, as plain data."""
        return self.model_dump(mode="json") | {"version": self.version}


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
    answer_tokens: Literal["one", "several"] | None = None
    """How many tokens an answer, what is right as well, and a foil may have: one (when absent), or several."""
    chat: Chat = None
    """Whether prompts are messages of a user, in the tokenizer's chat template, and the answer begins the reply.

    true; or a template's name, or a file with one in Jinja, relative to the manifest. A model's own goes first.
    """

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
    answer_tokens: str | None = None
    chat: bool | str | None = None
    """As it is written; of a file the template in it."""
    version: ClassVar[int] = (
        2  # raised when the same file starts to mean other prompts; without one, bases were ablated
    )

    @property
    def all_positions(self) -> tuple[str, ...]:
        """The named positions of a prompt, in its order."""
        return (*self.positions, "last")

    @property
    def tokens_as(self) -> dict[str, str]:
        """What the manifest says of all lines: space, special_tokens and answer_tokens, where it does."""
        said = {"space": self.space, "special_tokens": self.special_tokens, "answer_tokens": self.answer_tokens}
        return {key: value for key, value in said.items() if value is not None}

    @property
    def identity(self) -> dict[str, Any]:
        """What is computed on, as plain data: the positions and a digest of the file's text, not its name."""
        known = {"kind": "pairs", "positions": list(self.positions), "pairs": self._digest, "version": self.version}
        return known | self.tokens_as | chat_identity(self.chat)

    @cached_property
    def _digest(self) -> str:
        return blake2b(self.text.encode(), digest_size=10).hexdigest()


def chat_identity(chat: bool | str | None) -> dict[str, Any]:
    """What is digested of `chat`, if it is there: of a template that is given the digest of its text."""
    if not chat:
        return {}
    given = isinstance(chat, str) and "{" in chat
    return {"chat": blake2b(str(chat).encode(), digest_size=10).hexdigest() if given else chat}


def read_chat(chat: bool | str | None, folder: Path) -> bool | str | None:
    """What `chat` says, beside a manifest in `folder`: of a file the template in it; ManifestError if it has none."""
    path = folder / Path(chat).expanduser() if isinstance(chat, str) else folder
    if not isinstance(chat, str) or not path.is_file():
        return chat or None
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"chat: {path} cannot be read ({error}); accepted: a template in Jinja, in UTF-8") from None
    if "{" not in text:
        raise ManifestError(f"chat: {path} has no template; accepted: one in Jinja, such as a chat_template.jinja")
    return text


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
        return PairsFile(
            path.name,
            text,
            task.positions,
            task.space,
            task.special_tokens,
            task.answer_tokens,
            read_chat(task.chat, folder),
        )
    except UnicodeDecodeError as error:
        raise ManifestError(f"{where}: {path} is not text in UTF-8 (byte {error.start}); {accept}") from None
    except (OSError, ValueError, RuntimeError) as error:  # ValueError: a name no file can have; RuntimeError: no home
        reason = getattr(error, "strerror", None) or str(error)
        raise ManifestError(f"{where}: no file {ascii(str(path))[1:-1]} ({reason}); {accept}") from None
