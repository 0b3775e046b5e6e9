"""The task of your own pairs as a manifest writes it: a file or a dataset, and how its rows are read as pairs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BeforeValidator, Field, WithJsonSchema, field_validator
from pydantic_core import PydanticCustomError

from nnsight_et.core.errors import ManifestError, TaskError
from nnsight_et.manifest.chat import Chat, chat_identity, read_chat
from nnsight_et.manifest.written import SpecModel
from nnsight_et.rows.mapping import PairMapping, find_of, mapping_of
from nnsight_et.rows.read import Data, Form, read_dataset, read_file

T = TypeVar("T")
AS_NAMED = PairMapping()
TAKEN = ("last", "random", "group", "at", "head", "other")  # what manifests and results call something else

PositionName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")]
ColumnName = Annotated[str, Field(min_length=1)]
ColumnNames = Annotated[
    tuple[ColumnName, ...],
    BeforeValidator(lambda found: (found,) if isinstance(found, str) else found),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
    Field(min_length=1),
]


class PairColumns(SpecModel):
    """Which columns of a file are a pair's; columns that are not named are kept beside the pairs."""

    base: ColumnName = "base"
    """The prompt that the model is to answer."""
    source: ColumnName | None = None
    """The prompt that activations are taken from; `source` when absent."""
    answer: ColumnName = "answer"
    """What answers base. Of a list the first; the others are right as well."""
    foil: ColumnNames | None = None
    """What is wrong, for metrics that compare: a column of texts or of lists of them, or several columns.

    The column `foil` when absent, if there is one.
    """
    also_right: ColumnNames | None = None
    """What is right as well: a column of texts or of lists of them, or several columns.

    The column `also_right` when absent, if there is one.
    """
    space: ColumnName | None = None
    """Whether a space goes before the row's answer: yes or no."""
    special_tokens: ColumnName | None = None
    """Who puts special tokens in front of the row's prompts: tokenizer or text."""
    answer_tokens: ColumnName | None = None
    """How many tokens the row's answers may have: one or several."""


class DatasetPlace(SpecModel):
    """A dataset of Hugging Face; it needs the package `datasets`."""

    path: Annotated[str, Field(min_length=1)]
    """A folder, relative to the manifest, or a hub id."""
    name: str | None = None
    """Which of its configurations, where it has several."""
    split: Annotated[str, Field(min_length=1)] = "train"
    """Which of its splits; train[:1000] are the first rows of one."""
    revision: str | None = None
    """The hub's revision of it."""


class SwapColumns(SpecModel):
    """Which columns are those of a desideratum."""

    base: ColumnName = "base"
    """The prompt that is patched."""
    source: ColumnName = "source"
    """The prompt that has another value of the variable."""
    target: ColumnName = "target"
    """What the patched base should be answered with."""


class Swaps(SpecModel):
    """A desideratum: pairs whose target is the answer that swapping one variable should give."""

    file: Annotated[str, Field(min_length=1)] | None = None
    """A file of base, source and target, with the task's positions; the task's own file when absent."""
    columns: SwapColumns = SwapColumns()
    """Where the three are in it."""


class PairsTask(SpecModel):
    """Pairs of prompts of your own: rows with base, source and answer, positions marked as {{name|text}} or found."""

    kind: Literal["pairs"]
    file: Annotated[str, Field(min_length=1)] | None = None
    """The file of pairs, relative to the manifest: JSON lines, JSON, CSV, TSV or Parquet."""
    positions: Annotated[tuple[PositionName, ...], Field(max_length=64)] = ()
    """The positions, in the order of a base prompt; `last`, the prompt's last token, is always there."""
    dataset: DatasetPlace | None = None
    """In place of a file, a dataset of Hugging Face."""
    columns: PairColumns | None = None
    """Which columns are a pair's, where they have names of their own."""
    layout: Literal["masked_sentences"] | None = None
    """In place of columns, a file known by name: sentences with a masked word, as those of the paper's authors."""
    rows: Annotated[str, Field(min_length=1)] | None = None
    """Which list of a JSON object has the rows, where there are several."""
    sources: Literal["column", "next_row"] | None = None
    """`next_row`: a row's source is the base of the next row with another answer; when absent, each row has its own."""
    answers: Literal["text", "token_ids"] | None = None
    """What stands for answers, foils and what is right as well: texts (when absent), or ids of tokens."""
    find: dict[PositionName, str] | None = None
    """By position a regular expression that finds it in base and source, or `differing`: where the two differ."""
    group: Annotated[str, Field(min_length=1)] | None = None
    """A column whose values keep rows together: no group is in two splits."""
    desiderata: Annotated[dict[PositionName, Swaps], Field(min_length=1)] | None = None
    """By variable the pairs that swap it, for dcm, activation_patching and cmap with roles."""
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

    @field_validator("find")
    @classmethod
    def check_expressions(cls, find: dict[str, str] | None) -> dict[str, str] | None:
        """Each is a regular expression."""
        try:
            find_of(find or {})
        except TaskError as error:
            raise PydanticCustomError("positions", "{found}", {"found": str(error).removeprefix("find: ")}) from None
        return find

    @property
    def all_positions(self) -> tuple[str, ...]:
        """The named positions of a prompt, in its order."""
        return (*self.positions, "last")

    @property
    def mapping(self) -> PairMapping:
        """How its rows are read."""
        said = {key: getattr(self, key) for key in ("layout", "rows", "sources", "answers", "find", "group")}
        return mapping_of(columns=self.columns and self.columns.model_dump(exclude_none=True), **said)

    def swap_mapping(self, swaps: Swaps) -> PairMapping:
        """How rows of a desideratum are read."""
        columns = {"base": swaps.columns.base, "source": swaps.columns.source, "answer": swaps.columns.target}
        rows, group = (self.rows, self.group) if swaps.file is None else (None, None)
        return mapping_of(columns=columns, rows=rows, answers=self.answers, find=self.find, group=group)


@dataclass(frozen=True)
class PairsFile:
    """A task's file of pairs as it was read: later changes of the file do not reach the jobs planned from it."""

    name: str
    text: str = field(repr=False)
    positions: tuple[str, ...]
    space: str | None = None
    special_tokens: str | None = None
    form: Form = "json"
    mapping: PairMapping = AS_NAMED
    digest: str | None = None
    """Of the file's bytes, where it is no text."""
    desiderata: tuple[tuple[str, PairsFile], ...] = ()
    """By variable the pairs that swap it."""
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
        """What the manifest says of all rows: space, special_tokens and answer_tokens, where it does."""
        said = {"space": self.space, "special_tokens": self.special_tokens, "answer_tokens": self.answer_tokens}
        return {key: value for key, value in said.items() if value is not None}

    @property
    def identity(self) -> dict[str, Any]:
        """What is computed on, as plain data: the positions, a digest of the file's text, not its name, and what
        is said of how it is read.
        """
        known = {"kind": "pairs", "positions": list(self.positions), "pairs": self._digest, "version": self.version}
        read = {"form": self.form if self.form != "json" else None, "mapping": self.mapping.identity}
        read |= {"desiderata": {name: file.identity for name, file in self.desiderata}}
        return known | self.tokens_as | chat_identity(self.chat) | {key: one for key, one in read.items() if one}

    @cached_property
    def _digest(self) -> str:
        return self.digest or blake2b(self.text.encode(), digest_size=10).hexdigest()


def read_pairs_file(task: PairsTask, folder: Path, place: Callable[..., str]) -> PairsFile:
    """The file or dataset of the task, beside a manifest in `folder`; ManifestError if it cannot be read.

    place: where a key is written, for messages.
    """
    data = _read(lambda: _data(task, folder), place("task", "file" if task.dataset is None else "dataset"))
    swaps = []
    for name, one in (task.desiderata or {}).items():
        read = data
        if one.file is not None:
            path = folder / Path(one.file)
            read = _read(lambda path=path: read_file(path), place("task", "desiderata", name, "file"))
        swaps.append((name, _pairs_file(task, read, task.swap_mapping(one))))
    chat = _read(lambda: read_chat(task.chat, folder), place("task"))
    return replace(_pairs_file(task, data, task.mapping, tuple(swaps)), chat=chat)


def _read(reads: Callable[[], T], where: str) -> T:
    try:
        return reads()
    except ManifestError as error:
        raise ManifestError(f"{where}: {error}") from None


def _pairs_file(
    task: PairsTask, data: Data, mapping: PairMapping, swaps: tuple[tuple[str, PairsFile], ...] = ()
) -> PairsFile:
    said = task.positions, task.space, task.special_tokens
    return PairsFile(data.name, data.text, *said, data.form, mapping, data.digest, swaps, task.answer_tokens)


def _data(task: PairsTask, folder: Path) -> Data:
    if (place := task.dataset) is not None:
        return read_dataset(place.path, folder, place.name, place.split, place.revision)
    try:
        return read_file(folder / Path(task.file or "").expanduser())
    except RuntimeError as error:  # no home
        raise ManifestError(f"no file {task.file} ({error}); accepted: a file's name") from None
