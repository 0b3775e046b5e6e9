"""Which columns of a file's rows make a pair of prompts, and how places in its texts are found."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from nnsight_et.core.errors import TaskError, accepted_names, brief
from nnsight_et.rows.read import Row, each_of

KEYS = ("base", "source", "answer")
FOIL, ALSO_RIGHT = "foil", "also_right"  # the keys that a pair need not have
SPACE, SPECIAL, ANSWER_TOKENS = "space", "special_tokens", "answer_tokens"
MORE = (FOIL, ALSO_RIGHT, SPACE, SPECIAL, ANSWER_TOKENS)
SEVERAL = (FOIL, ALSO_RIGHT)  # may come from several columns
FORM = '{"base": "...", "source": "...", "answer": "..."}'
ACCEPTED = (
    "columns that say which of them are a pair's; or texts "
    f"under {', '.join(KEYS)}, as in {FORM}, and optionally {', '.join(MORE)}"
)
DIFFERING = "differing"
"""In place of an expression: where base and source differ."""
NEXT_ROW, TOKEN_IDS = "next_row", "token_ids"
SOURCES, ANSWERS = ("column", NEXT_ROW), ("text", TOKEN_IDS)
MASK = re.compile(r"<extra_id_\d+>")


@dataclass(frozen=True)
class Columns:
    """By a pair's key the columns it comes from; those that are not named are not there."""

    named: tuple[tuple[str, tuple[str, ...]], ...]
    masked: bool = False
    """Whether base ends before the mask <extra_id_0>, and answer is what stands for it."""

    @classmethod
    def of(cls, given: Mapping[str, str | Sequence[str]]) -> Columns:
        """As written: a name by key, of foil and also_right also several; TaskError naming a key that is none."""
        if not isinstance(given, Mapping):
            raise TaskError(f"columns: {brief(given)}; accepted: a mapping from {', '.join((*KEYS, *MORE))} to columns")
        named = dict[str, tuple[str, ...]]()
        for key, names in given.items():
            if key not in (*KEYS, *MORE):
                raise TaskError(f"columns: no key {key!a}; {accepted_names(str(key), (*KEYS, *MORE))}")
            several = (names,) if isinstance(names, str) else tuple(names)
            names_only = all(isinstance(name, str) and name for name in several)
            if not names_only or (len(several) != 1 and key not in SEVERAL):
                raise TaskError(f"columns: {key}: {brief(names)}; accepted: the name of a column")
            named[key] = several
        return cls(tuple(named.items()))


MASKED = "masked_sentences"
LAYOUTS = {MASKED: Columns((("base", ("sentence_masked",)), ("answer", ("masked_content",))), masked=True)}
"""Files known by name: of Prakash et al. 2024 and Kim and Schuster 2023, sentences whose last word is masked."""


@dataclass(frozen=True)
class PairMapping:
    """How rows are read as pairs. Without any of it, rows have the keys of a pair, and no others."""

    columns: Columns | None = None
    """Where a pair's keys come from; further columns are then kept as they are."""
    rows: str | None = None
    """Which list of a JSON object has the rows, where there are several."""
    next_row: bool = False
    """Whether a row's source is the base of the next row with another answer (the first follows the last)."""
    token_ids: bool = False
    """Whether answers are ids of tokens."""
    find: tuple[tuple[str, str], ...] = ()
    """By position the expression that finds it in both texts, or DIFFERING."""
    group: str | None = None
    """The column whose values keep rows together when they are dealt to splits."""

    @property
    def identity(self) -> dict[str, Any]:
        """What of it is said, as plain data."""
        return {key: value for key, value in asdict(self).items() if value}


def mapping_of(
    *,
    columns: Mapping[str, str | Sequence[str]] | None = None,
    layout: str | None = None,
    rows: str | None = None,
    sources: str | None = None,
    answers: str | None = None,
    find: Mapping[str, str] | None = None,
    group: str | None = None,
) -> PairMapping:
    """The mapping that these keys of a task say; TaskError naming one that is wrong."""
    choices = (("layout", layout, LAYOUTS), ("sources", sources, SOURCES), ("answers", answers, ANSWERS))
    for key, found, accepts in choices:
        if found is not None and found not in accepts:
            raise TaskError(f"{key}: {brief(found)}; {accepted_names(str(found), accepts)}")
    named = LAYOUTS[layout] if layout else None
    if columns is not None:
        named = Columns.of(columns)
    next_row = sources == NEXT_ROW or (layout is not None and sources is None)
    return PairMapping(named, rows, next_row, answers == TOKEN_IDS, find_of(find or {}), group)


def find_of(given: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Expressions by position; TaskError naming one that is none."""
    for name, expression in given.items():
        try:
            re.compile(expression)
        except (re.error, TypeError) as error:
            accept = f"a regular expression, or {DIFFERING}"
            raise TaskError(
                f"find: {name}: {expression!a} is not a regular expression ({error}); accepted: {accept}"
            ) from None
    return tuple(given.items())


@dataclass(frozen=True)
class Entry:
    """A row as a pair is written."""

    where: str
    values: dict[str, Any]
    """Texts, or ids of tokens, by the keys of a pair."""
    columns: dict[str, str] = field(default_factory=dict[str, str])
    """By those keys the column each comes from, where it has another name."""
    more: dict[str, Any] = field(default_factory=dict[str, Any])
    """What else the row has, by column."""
    group: str | None = None
    """What keeps it together with others."""

    def name(self, key: str) -> str:
        """What its file calls a key."""
        return self.columns.get(key, key)


def entries_of(rows: Sequence[Row], mapping: PairMapping) -> list[Entry]:
    """The rows as pairs are written; TaskError with a line for each that lacks something."""
    if mapping.columns is not None:
        columns = mapping.columns
        entries = each_of(rows, lambda row: _mapped(row, columns, mapping))
    else:
        entries = each_of(rows, lambda row: _plain_entry(row, mapping))
    return _with_sources(entries) if mapping.next_row else entries


def are_keys(keys: Iterable[object], wanted: Sequence[str] = KEYS) -> bool:
    """Whether a pair can have just these keys."""
    return set(wanted) <= set(keys) <= {*KEYS, *MORE}


def _plain_entry(row: Row, mapping: PairMapping) -> Entry:
    """A row whose columns are a pair's keys, and the one it is grouped by."""
    values = {key: value for key, value in row.fields.items() if key != mapping.group or key in (*KEYS, *MORE)}
    wanted = [key for key in KEYS if key != "source" or not mapping.next_row]
    if not are_keys(values, wanted):
        found = f"the keys {', '.join(map(repr, row.fields))}"
        raise TaskError(f"{row.where}: {found}; accepted: {ACCEPTED}")
    return _checked(Entry(row.where, values, group=_group(row, mapping)), mapping)


def _mapped(row: Row, columns: Columns, mapping: PairMapping) -> Entry:
    """The row's pair, from the columns that are named."""
    named = dict(columns.named)
    for key in KEYS:
        if key not in named and not (key == "source" and mapping.next_row):
            named[key] = (key,)
    named |= {key: (key,) for key in SEVERAL if key not in named and key in row.fields}
    values, names = dict[str, Any](), dict[str, str]()
    for key, several in named.items():
        for name in several:
            if name not in row.fields:
                more = ", or sources: next_row" if key == "source" else ""
                tail = accepted_names(name, row.fields)
                raise TaskError(f"{row.where}: no column {name!r}, which {key} should come from; {tail}{more}")
        found = [row.fields[name] for name in several]
        if key in SEVERAL:
            values[key] = [one for value in found for one in (value if isinstance(value, list) else [value])]
            values[key] = [one for one in values[key] if one not in ("", None)]
        elif key in KEYS or found[0] not in ("", None):
            values[key] = found[0]
        names[key] = " and ".join(several)
    if isinstance(values["answer"], list) and values["answer"]:
        first, *others = values["answer"]
        values |= {"answer": first, ALSO_RIGHT: [*others, *values.get(ALSO_RIGHT, [])]}
        names.setdefault(ALSO_RIGHT, names["answer"])
    used = {name for several in named.values() for name in several}
    more = {name: value for name, value in row.fields.items() if name not in used}
    entry = Entry(
        row.where, values, {key: name for key, name in names.items() if name != key}, more, _group(row, mapping)
    )
    return _checked(_unmasked(entry) if columns.masked else entry, mapping)


def _unmasked(entry: Entry) -> Entry:
    """The entry whose base ends before the mask, and whose answer is what stands for it."""
    base, answer = entry.values["base"], entry.values["answer"]
    mask = MASK.search(base) if isinstance(base, str) else None
    if mask is None or not isinstance(answer, str):
        found = brief(answer if mask else base)
        raise TaskError(
            f"{entry.where}: {entry.name('answer' if mask else 'base')}: {found}; accepted: a text with <extra_id_0>"
        )
    entry.values.update(base=base[: mask.start()].rstrip(), answer=MASK.sub("", answer).rstrip())
    return entry


def _group(row: Row, mapping: PairMapping) -> str | None:
    if mapping.group is None:
        return None
    if mapping.group not in row.fields:
        tail = accepted_names(mapping.group, row.fields)
        raise TaskError(f"{row.where}: no column {mapping.group!r}, which group names; {tail}")
    return str(row.fields[mapping.group])


def _checked(entry: Entry, mapping: PairMapping) -> Entry:
    """The entry, its ids as numbers; TaskError naming a column that has something else than texts, or ids."""
    for key in KEYS:
        if key not in entry.values:
            continue
        ids, value = mapping.token_ids and key == "answer", entry.values[key]
        if ids:
            entry.values[key] = _token_id(value, f"{entry.where}: {entry.name(key)}")
        elif not isinstance(value, str):
            accept = "a text" + (
                ", or answers: token_ids in the task" if key == "answer" and type(value) is int else ""
            )
            raise TaskError(f"{entry.where}: {entry.name(key)}: {brief(value)}; accepted: {accept}")
    for key in SEVERAL if mapping.token_ids else ():
        some = entry.values.get(key, [])
        some = some if isinstance(some, list) else [some]
        entry.values[key] = [_token_id(one, f"{entry.where}: {entry.name(key)}") for one in some]
    return entry


def _token_id(value: Any, where: str) -> int:
    number = int(value) if isinstance(value, str) and value.strip().isdecimal() and len(value) < 12 else value
    if type(number) is not int or number < 0:
        raise TaskError(f"{where}: {brief(value)}; accepted: a token id, a whole number from 0")
    return number


def _with_sources(entries: list[Entry]) -> list[Entry]:
    """The entries, each with the base of the next one that has another answer as its source."""
    bases = [(entry.values["base"], entry.values["answer"], entry.name("base")) for entry in entries]
    for index, entry in enumerate(entries):
        following = (bases[(index + step) % len(bases)] for step in range(1, len(bases)))
        other = next((one for one in following if one[1] != entry.values["answer"]), None)
        if other is None:
            raise TaskError(f"{entry.where}: sources: no row has another answer; accepted: rows with different answers")
        entry.values["source"] = other[0]
        entry.columns["source"] = f"{other[2]} of another row"
    return entries
