"""What is understood of a file of pairs: its rows, their splits, and some pairs with positions, tokens and lengths."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnsight_et.core.batch import Example, Prompt
from nnsight_et.core.errors import ManifestError, quantity
from nnsight_et.manifest import Manifest, PairsFile, PairsTask, load, parse
from nnsight_et.measuring.examples import task_of
from nnsight_et.models.files import describe_files
from nnsight_et.models.load import tokenizer_of
from nnsight_et.planning.plan import model_choice
from nnsight_et.rows.mapping import KEYS, LAYOUTS, MASKED, PairMapping, are_keys
from nnsight_et.rows.read import Data, rows_of
from nnsight_et.tasks.answers import quoted_answer, roles, text_description
from nnsight_et.tasks.encoding import MarkedPair, MarkedText, encode
from nnsight_et.tasks.marked import pairs_in
from nnsight_et.tasks.own_pairs import PARTS, SWAP_PARTS, OwnPairs
from nnsight_et.tasks.turns import as_turns

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHOWN = 5  # pairs
MANIFESTS = (".yaml", ".yml")
USUAL = {
    "base": ("base", "clean", "prompt"),
    "source": ("source", "corrupted", "corrupt", "counterfactual"),
    "answer": ("answer", "answers", "correct", "label", "target"),
    "foil": ("foil", "foils", "wrong_answers", "wrong_answer", "incorrect"),
}
"""What columns are often called, for a file whose manifest is still to be written."""


@dataclass(frozen=True)
class Piece:
    """A token of a prompt as its text, or a part of the text without a tokenizer; and the position it is."""

    text: str
    position: str = ""


@dataclass(frozen=True)
class ShownPair:
    """A pair as it is understood."""

    where: str
    base: tuple[Piece, ...]
    source: tuple[Piece, ...]
    lengths: tuple[int, int] | None
    """Tokens of base and source; None without a tokenizer."""
    answers: tuple[tuple[str, str], ...]
    """What is scored, by what it is: answer, also right, foil."""


@dataclass(frozen=True)
class PairsCheck:
    """What is understood: the task as a manifest writes it, what was counted, and the first pairs."""

    task: str
    guessed: bool
    """Whether its columns are a guess, by what columns are often called."""
    facts: tuple[tuple[str, str], ...]
    pairs: tuple[ShownPair, ...]


def check_pairs_file(path: Path, model: str | None, settings: Sequence[str]) -> PairsCheck:
    """What is understood of a file of pairs, or of a manifest's; the tokens are those of a model, if one is named.

    ManifestError or TaskError with a line for each row that is wrong.
    """
    manifest = _manifest(path, settings)
    task = manifest.task
    if not isinstance(task, PairsTask):
        raise ManifestError(f"{path}: task.kind: found {task.kind}; accepted: pairs, which reads a file")
    file = manifest.task_data()
    assert isinstance(file, PairsFile)
    data = Data(file.name, file.text, file.form)
    changes = _guess(rows_of(data, task.rows)[0].fields, task)
    task = task.model_copy(update=changes)
    mapping, positions = task.mapping, task.positions
    if path.suffix.lower() not in MANIFESTS and not positions:
        positions = _positions(data, file, mapping)
    pairs = task_of(replace(file, positions=positions, mapping=mapping))
    assert isinstance(pairs, OwnPairs)
    named = model or next(iter(_models(manifest, path)), None)
    tokenizer = tokenizer_of(describe_files(named, model_choice(manifest, named).spec)) if named else None
    written = task.model_copy(update={"positions": positions}).model_dump(mode="json", exclude_defaults=True)
    return PairsCheck(
        task=f"task: {_yaml(written)}",
        guessed=bool(changes),
        facts=tuple(_facts(pairs, task, manifest.seed, named, tokenizer)),
        pairs=tuple(_shown(where, pair, pairs, tokenizer) for where, pair in pairs.pairs[:SHOWN]),
    )


def _manifest(path: Path, settings: Sequence[str]) -> Manifest:
    """The manifest, or one made of a file of pairs."""
    if path.suffix.lower() in MANIFESTS:
        return load(path, settings)
    task = {"kind": "pairs", "file": path.name}
    text = f"name: pairs\ntask: {json.dumps(task)}\nexperiments: {{only: {{method: attribution, model: llama-tiny}}}}"
    return parse(text, path.name, settings, lines=False, folder=path.parent)


def _models(manifest: Manifest, path: Path) -> Iterator[str]:
    if path.suffix.lower() in MANIFESTS:
        yield from (name for experiment in manifest.experiments.values() for name in experiment.model_names.values())


def _guess(fields: Mapping[str, Any], task: PairsTask) -> dict[str, Any]:
    """Columns, or a layout, for a row without a pair's keys, of a task that says nothing of them."""
    if task.columns or task.layout or are_keys(fields, [key for key in KEYS if key != "source"]):
        return {}
    if {name for _, names in LAYOUTS[MASKED].named for name in names} <= set(fields):
        return {"layout": MASKED}
    found = {key: next((name for name in names if name in fields), None) for key, names in USUAL.items()}
    said = {key: name for key, name in found.items() if name is not None}
    if not {"base", "answer"} <= set(said):
        return {}  # what is missing is told where rows are read
    spec = {"columns": said} | ({} if "source" in said else {"sources": "next_row"})
    made = PairsTask.model_validate({"kind": "pairs", "file": "any"} | spec)
    return {key: getattr(made, key) for key in spec}


def _positions(data: Data, file: PairsFile, mapping: PairMapping) -> tuple[str, ...]:
    """Those of the first pair, in its order."""
    (_, first), *_ = pairs_in(data, file.tokens_as, mapping)
    return tuple(sorted(first.base.spans, key=lambda name: first.base.spans[name]))


def _yaml(value: Any) -> str:
    """A value in YAML's flow style, quoted as JSON where it is not a plain word."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {_yaml(one)}' for key, one in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_yaml, value))}]"
    plain = isinstance(value, str) and value.replace("_", "").replace(".", "").replace("-", "").isalnum()
    return value if plain and not value[0].isdecimal() else json.dumps(value, ensure_ascii=False)


def _facts(
    pairs: OwnPairs, task: PairsTask, seed: int, model: str | None, tokenizer: PreTrainedTokenizerBase | None
) -> Iterator[tuple[str, str]]:
    every = [pair for _, pair in pairs.pairs]
    bases = quantity(len({pair.base.text for pair in every}), "different base prompt")
    yield "pairs", f"{len(every)}, {bases}"
    parts = {split: pairs.available(seed, split) for split in PARTS if split != "pruning"}
    yield f"splits with seed {seed}", ", ".join(f"{split} {count}" for split, count in parts.items())
    yield "positions", ", ".join((*pairs.positions, "last"))
    if pairs.swaps:
        counts = {split: pairs.available_swaps(seed, split) for split in SWAP_PARTS if split != "evaluation"}
        found = ", ".join(f"{split} {count}" for split, count in counts.items())
        yield f"desiderata {', '.join(pairs.swaps)}", found
    groups = Counter(pair.group for pair in every if pair.group is not None)
    if groups:
        some = [f"{name} ({count})" for name, count in groups.most_common(5)]
        yield f"groups by {task.group}", f"{len(groups)}: {', '.join(some)}{', ...' if len(groups) > 5 else ''}"
    if kept := dict.fromkeys(name for pair in every for name in pair.metadata):
        yield "kept with the pairs", ", ".join(kept)
    if tokenizer is None:
        yield "tokens", "not shown; --model NAME shows those of a model"
        return
    for swaps in pairs.swaps.values():
        swaps.all_examples(tokenizer)
    lengths = [(len(one.base.tokens), len(one.source.tokens)) for one in pairs.all_examples(tokenizer)]
    for side, some in zip(("base", "source"), zip(*lengths, strict=True), strict=True):
        yield f"length of {side}, {model}", f"{min(some)} to {max(some)} tokens"
    alike = sum(base == source for base, source in lengths)
    yield "base and source of one length", f"{alike} of {len(lengths)}"


def _shown(where: str, pair: MarkedPair, pairs: OwnPairs, tokenizer: PreTrainedTokenizerBase | None) -> ShownPair:
    if tokenizer is None:
        answers = (("answer", quoted_answer(pair.answer, pair)), *(("foil", repr(foil)) for foil in pair.foils))
        return ShownPair(where, _spans(pair.base), _spans(pair.source), None, answers)
    pair = as_turns(pair, tokenizer)
    example = pairs.example(where, pair, tokenizer)
    base, source = (
        _tokens(text, prompt, pair, tokenizer)
        for text, prompt in ((pair.base, example.base), (pair.source, example.source))
    )
    return ShownPair(where, base, source, (len(base), len(source)), tuple(_scored(example, tokenizer)))


def _scored(example: Example, tokenizer: PreTrainedTokenizerBase) -> Iterator[tuple[str, str]]:
    for role, texts in roles(example):
        for tokens in texts:
            told = text_description(tokens, tokenizer)
            yield role, f"{told['text']} (token{'s' * (len(tokens) > 1)} {told['id']})"


def _spans(text: MarkedText) -> tuple[Piece, ...]:
    """The text in pieces, those at a position with its name."""
    pieces, at = list[Piece](), 0
    for name, (start, end) in sorted(text.spans.items(), key=lambda one: one[1]):
        pieces += [Piece(text.text[at:start]), Piece(text.text[start:end], name)]
        at = end
    return tuple(piece for piece in (*pieces, Piece(text.text[at:])) if piece.text)


def _tokens(
    text: MarkedText, prompt: Prompt, pair: MarkedPair, tokenizer: PreTrainedTokenizerBase
) -> tuple[Piece, ...]:
    """The prompt's tokens, those at a position with its name."""
    made = encode(text.text, tokenizer, pair.special_tokens)
    names = {index: name for name, index in prompt.positions.items()}
    return tuple(
        Piece(
            text.text[start:end] if end > start else str(tokenizer.convert_ids_to_tokens(token)), names.get(index, "")
        )
        for index, (token, (start, end)) in enumerate(zip(made.ids, made.offsets, strict=True))
    )
