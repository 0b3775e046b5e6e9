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
    """The columns of a file that make a pair. Other columns are kept with the pairs."""

    base: ColumnName = "base"
    """The prompt that the model answers."""
    source: ColumnName | None = None
    """The prompt that activations are taken from; by default the column `source`."""
    answer: ColumnName = "answer"
    """The answer to the base prompt. In a list, the first entry is the answer and the others also count as right."""
    foil: ColumnNames | None = None
    """Wrong answers, for metrics that compare: a column of texts or lists of texts, or several columns.

    By default the column `foil`, if there is one.
    """
    also_right: ColumnNames | None = None
    """Further right answers: a column of texts or lists of texts, or several columns.

    By default the column `also_right`, if there is one.
    """
    space: ColumnName | None = None
    """A column that says whether a space goes before the row's answer: yes or no."""
    special_tokens: ColumnName | None = None
    """A column that says where the special tokens of the row's prompts come from: tokenizer or text."""
    answer_tokens: ColumnName | None = None
    """A column that says how many tokens the row's answers may have: one or several."""


class DatasetPlace(SpecModel):
    """A Hugging Face dataset. It needs the package `datasets`."""

    path: Annotated[str, Field(min_length=1)]
    """A folder, relative to the manifest, or a hub id."""
    name: str | None = None
    """The configuration to use, if the dataset has several."""
    split: Annotated[str, Field(min_length=1)] = "train"
    """The split to use; train[:1000] means its first 1000 rows."""
    revision: str | None = None
    """The dataset's revision on the hub."""


class SwapColumns(SpecModel):
    """The columns of a desideratum."""

    base: ColumnName = "base"
    """The prompt that is patched."""
    source: ColumnName = "source"
    """The prompt in which the variable has another value."""
    target: ColumnName = "target"
    """The answer that the base prompt should get once it is patched."""


class Swaps(SpecModel):
    """A desideratum: pairs whose target is the answer that swapping one variable should give."""

    file: Annotated[str, Field(min_length=1)] | None = None
    """A file with base, source and target, and the task's positions; by default the task's own file."""
    columns: SwapColumns = SwapColumns()
    """The columns of base, source and target."""


class PairsTask(SpecModel):
    """Your own pairs of prompts: rows with base, source and answer, and positions marked as {{name|text}} or found."""

    kind: Literal["pairs"]
    file: Annotated[str, Field(min_length=1)] | None = None
    """The file of pairs, relative to the manifest: JSON lines, JSON, CSV, TSV or Parquet."""
    positions: Annotated[tuple[PositionName, ...], Field(max_length=64)] = ()
    """The positions, in the order of a base prompt. `last`, the prompt's last token, is always there and not listed."""
    dataset: DatasetPlace | None = None
    """A Hugging Face dataset instead of a file."""
    columns: PairColumns | None = None
    """The columns that make a pair, if they have other names."""
    layout: Literal["masked_sentences"] | None = None
    """A known file format instead of columns: sentences with a masked word, like the files of the paper's authors."""
    rows: Annotated[str, Field(min_length=1)] | None = None
    """The list of a JSON object that has the rows, if there are several."""
    sources: Literal["column", "next_row"] | None = None
    """`next_row`: a row's source is the base of the next row with another answer. By default each row has its own."""
    answers: Literal["text", "token_ids"] | None = None
    """How answers and foils are written: as text (the default), or as token ids."""
    find: dict[PositionName, str] | None = None
    """Position -> a regular expression that finds it in base and source, or `differing`: the words that differ."""
    group: Annotated[str, Field(min_length=1)] | None = None
    """A column of groups: rows with the same value are never put into different splits."""
    desiderata: Annotated[dict[PositionName, Swaps], Field(min_length=1)] | None = None
    """Variable -> the pairs that swap it, for dcm, activation_patching and cmap with roles."""
    space: Literal["yes", "no"] | None = None
    """Whether a space goes between prompt and answer where none is written; by default the texts decide."""
    special_tokens: Literal["tokenizer", "text"] | None = None
    """Where special tokens come from: the tokenizer adds them (the default), or the text already has them."""
    answer_tokens: Literal["one", "several"] | None = None
    """How many tokens an answer or a foil may have: one (the default), or several."""
    chat: Chat = None
    """Send prompts as a user's messages in the tokenizer's chat template; the answer then begins the reply.

    true, the name of a template, or a file with one in Jinja, relative to the manifest. A model's own `chat` wins.
    """

    @field_validator("positions")
    @classmethod
    def check_unique_names(cls, positions: tuple[str, ...]) -> tuple[str, ...]:
        """Each name is there once, and none means something else."""
        for index, name in enumerate(positions):
            if name in TAKEN or name in positions[:index]:
                found = "appears twice" if name in positions[:index] else "is taken"
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
