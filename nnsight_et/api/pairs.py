"""Pairs of prompts: your own, or those of the boxes task."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any, Literal

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from nnsight_et.api.findings import Finding
from nnsight_et.api.models import LoadedModel
from nnsight_et.core.batch import Example, right_tokens
from nnsight_et.core.errors import TaskError, accepted_names, brief, quantity
from nnsight_et.core.metrics import is_right
from nnsight_et.core.named_metrics import DEFAULT_METRIC, METRICS, WRITTEN, Metric, WrittenMetric
from nnsight_et.interventions.ablation import model_readouts
from nnsight_et.rows.mapping import ANSWER_TOKENS, FOIL, KEYS, SPACE, SPECIAL, entries_of, mapping_of
from nnsight_et.rows.read import Row
from nnsight_et.tasks.answers import quoted_answer, roles, text_description, text_of
from nnsight_et.tasks.boxes import Boxes
from nnsight_et.tasks.desiderata import desideratum_pairs
from nnsight_et.tasks.encoding import AnswerTokens, MarkedPair, MarkedText, SpecialTokens
from nnsight_et.tasks.marked import check_alike, encoded_pair, pair_of, read_pairs

SHOWN = 3
LEFT = 'style="text-align:left"'


@dataclass(frozen=True)
class Pairs:
    """Base prompts, each with a source prompt and the answer to score, for any model's tokenizer.

    The answer is that of the base prompt if you ask what a patch breaks. For activation patching and DCM it is the
    answer that the patch should give.

    Examples:
        >>> import nnsight_et as et
        >>> pairs = et.Pairs.boxes(3)
        >>> len(pairs), len(pairs[:2]), pairs.positions
        (3, 2, ('correct_object', 'previous_query_label', 'query_label', 'last'))
    """

    texts: tuple[MarkedPair, ...]
    metric: Metric = DEFAULT_METRIC
    """What path patching scores them by; `scored_by` gives them another."""
    function: Callable[[Tensor, Any], Tensor] | None = None
    """The one that computes the metric "function"."""

    def __post_init__(self) -> None:
        texts: Any = self.texts
        if not isinstance(texts, tuple) or not texts or not all(isinstance(one, MarkedPair) for one in texts):
            raise TaskError("pairs: empty, or not made by Pairs; accepted: et.Pairs.of([(base, source, answer), ...])")

    @classmethod
    def of(
        cls,
        pairs: Iterable[Mapping[str, Any] | Sequence[str]],
        *,
        columns: Mapping[str, str | Sequence[str]] | None = None,
        sources: Literal["column", "next_row"] | None = None,
        answers: Literal["text", "token_ids"] | None = None,
        find: Mapping[str, str] | None = None,
        group: str | None = None,
        space: Literal["yes", "no"] | None = None,
        special_tokens: SpecialTokens = "tokenizer",
        answer_tokens: AnswerTokens = "one",
    ) -> Pairs:
        """Make pairs of your own prompts.

        Args:
            pairs: Each {"base": ..., "source": ..., "answer": ...} or (base, source, answer). {{name|text}} in base and
                source marks a position, the last token of the text. A mapping may also have "foil" (wrong answers) and
                "also_right" (further right ones): a text or a list of texts, each a single token like the answer.
            columns: Which keys the mappings have instead of these: {"base": "clean", "source": "corrupted"}.
                Other keys are kept in `metadata`.
            sources: "next_row" for mappings without a source: it is the base of the next one with another answer.
            answers: "token_ids" if answers and foils are numbers.
            find: Position -> a regular expression that finds it in both texts, or "differing": the words that differ.
            group: The key that `by_group` groups by.
            space: Whether a space goes between prompt and answer where none is written. By default the texts decide.
            special_tokens: "text" for prompts that already have their special tokens.
            answer_tokens: "several" if answers and foils may have more than one token; a probability is then that of
                the whole text. A pair may give the last three itself.

        Raises:
            TaskError: A pair is not written like this, or has other positions than the first. The error names the pair.

        Examples:
            >>> base = "The {{object|apple}} is in Box F. Box F contains the"
            >>> source = "The {{object|fish}} is in Box C. Box Y contains the"
            >>> Pairs.of([(base, source, "apple")])
            <1 pair at object, last: 'The apple is in Box F. Box F contains the' -> ' apple'>
            >>> row = {"clean": "The apple is in Box F. Box F contains the", "of": "apple"}
            >>> row["corrupt"] = row["clean"].replace("apple", "fish")
            >>> Pairs.of(
            ...     [row],
            ...     columns={"base": "clean", "source": "corrupt", "answer": "of"},
            ...     find={"object": "differing"},
            ... )
            <1 pair at object, last: 'The apple is in Box F. Box F contains the' -> ' apple'>
        """
        if isinstance(pairs, Pairs):
            return pairs
        if isinstance(pairs, (str, Mapping)) or not isinstance(pairs, Iterable):
            accept = "a list of (base, source, answer), or of mappings with these keys"
            raise TaskError(f"pairs: {brief(pairs)}; accepted: {accept}")
        mapping = mapping_of(columns=columns, sources=sources, answers=answers, find=find, group=group)
        rows = [
            Row(f"pairs[{index}]", dict(one) if isinstance(one, Mapping) else _three(one, index))
            for index, one in enumerate(pairs)
        ]
        entries, said = entries_of(rows, mapping), _tokens_as(space, special_tokens, answer_tokens)
        for entry in entries:
            entry.values.update({**said, **entry.values})
        return cls._alike([pair_of(entry, mapping.find) for entry in entries])

    @classmethod
    def read(
        cls,
        path: str | Path,
        *,
        columns: Mapping[str, str | Sequence[str]] | None = None,
        layout: Literal["masked_sentences"] | None = None,
        rows: str | None = None,
        sources: Literal["column", "next_row"] | None = None,
        answers: Literal["text", "token_ids"] | None = None,
        find: Mapping[str, str] | None = None,
        group: str | None = None,
        space: Literal["yes", "no"] | None = None,
        special_tokens: SpecialTokens = "tokenizer",
        answer_tokens: AnswerTokens = "one",
    ) -> Pairs:
        """Read pairs from a file: JSON lines, JSON, CSV, TSV or Parquet; TaskError naming each wrong row.

        layout: a known file format, instead of columns. rows: the list of a JSON object that has the rows. The other
        keywords are those of `of`.
        """
        if not isinstance(path, (str, Path)):
            raise TaskError(f"path: {brief(path)}; accepted: the name of a file of JSON lines")
        mapping = mapping_of(
            columns=columns, layout=layout, rows=rows, sources=sources, answers=answers, find=find, group=group
        )
        return cls(tuple(read_pairs(Path(path), _tokens_as(space, special_tokens, answer_tokens), mapping)))

    @classmethod
    def boxes(cls, count: int, boxes: int = 7, seed: int = 0, split: str = "discovery") -> Pairs:
        """Make pairs of the boxes task (§3): the source asks about a box that neither prompt has, so it has no answer.

        Positions: correct_object, previous_query_label, query_label, last. Splits share no context.
        """
        _check_drawn(count, boxes)
        return cls(tuple(Boxes(boxes).pairs(count, seed, split)))

    @classmethod
    def desideratum(cls, name: str, count: int, boxes: int = 7, seed: int = 0, split: str = "evaluation") -> Pairs:
        """Make pairs of the boxes task whose answer is that of swapping a variable: object, label, position, ..."""
        _check_drawn(count, boxes)
        return cls(tuple(desideratum_pairs(Boxes(boxes), str(name), count, seed, split)))

    @classmethod
    def _alike(cls, texts: Sequence[MarkedPair]) -> Pairs:
        if not texts:
            raise TaskError("pairs: the list is empty; accepted: one or more")
        check_alike(texts, [f"pairs[{index}]" for index in range(len(texts))])
        return cls(tuple(texts))

    @property
    def positions(self) -> tuple[str, ...]:
        """The named positions of all prompts; `last` is the last token."""
        return (*self.texts[0].base.spans, "last")

    def examples(self, tokenizer: PreTrainedTokenizerBase) -> list[Example]:
        """The pairs as tokens; TaskError naming a pair with a word or mark that does not fit the tokenizer."""
        if not isinstance(tokenizer, PreTrainedTokenizerBase):
            raise TaskError(
                f"tokenizer: {brief(tokenizer)}; accepted: a transformers tokenizer, such as model.tokenizer"
            )
        return [encoded_pair(pair, tokenizer, f"pairs[{index}]") for index, pair in enumerate(self.texts)]

    def tokens(self, model: LoadedModel) -> Finding:
        """The tokens that are scored: for each pair its answer, further right answers, and foils."""
        if not isinstance(model, LoadedModel):
            raise TaskError(f"model: {brief(model)}; accepted: what et.load(...) returns")
        rows = []
        for index, example in enumerate(self.examples(model.tokenizer)):
            for role, texts in roles(example):
                rows += [{"pair": index, "as": role, **text_description(text, model.tokenizer)} for text in texts]
        return Finding(f"Tokens that are scored in {model.name}", tuple(rows), notices=model.notices)

    def sent(self, model: LoadedModel) -> Finding:
        """What the model receives for each pair: the text of base and source, with all special tokens."""
        if not isinstance(model, LoadedModel):
            raise TaskError(f"model: {brief(model)}; accepted: what et.load(...) returns")
        rows = tuple(
            {"pair": index, "as": side, "text": text_of(prompt, model.tokenizer)}
            for index, example in enumerate(self.examples(model.tokenizer))
            for side, prompt in (("base", example.base), ("source", example.source))
        )
        return Finding(f"What is sent to {model.name}", rows, notices=model.notices)

    def answered_by(self, model: LoadedModel) -> Pairs:
        """The pairs that the model answers correctly; TaskError if there are none."""
        if not isinstance(model, LoadedModel):
            raise TaskError(f"model: {brief(model)}; accepted: what et.load(...) returns")
        found = predict_answers(model, model.require_pairs_fit(self.examples(model.tokenizer)))
        kept = [pair for pair, right in zip(self.texts, found, strict=True) if right]
        if not kept:
            raise TaskError(
                f"pairs: {model.name} answers none of {len(self)} correctly; accepted: prompts that it answers"
            )
        return replace(self, texts=tuple(kept))

    def scored_by(self, metric: WrittenMetric | Callable[[Tensor, Any], Tensor]) -> Pairs:
        """The same pairs, but with another metric for path patching; docs/methods.md lists them.

        metric: a name, or your own function f(logits, batch); the score is then the mean of f(patched) - f(base).
        logits [batch, vocabulary] are those at the last token, in fp32 or better. f returns one number per prompt,
        [batch]. `batch.answer` [batch], `batch.right` and `batch.foils` [batch, n] hold tokens, -1 where a prompt has
        fewer (foils is None if no prompt has any). `batch.base` [batch, vocabulary] holds the logits of the base run.

        TaskError naming a pair without a foil, if the metric needs foils.

        >>> pairs = Pairs.boxes(2).scored_by(lambda logits, batch: logits.gather(-1, batch.answer[:, None])[:, 0])
        >>> pairs.metric
        'function'
        """
        if callable(metric):
            return replace(self, metric="function", function=metric)
        if not isinstance(metric, str) or metric not in WRITTEN:
            names = accepted_names(str(metric), WRITTEN)
            raise TaskError(f"metric: {metric!r}; {names}, or a function of logits [batch, vocabulary] and the batch")
        for index, pair in enumerate(self.texts):
            if METRICS[metric].needs_foils and not pair.foils:
                raise TaskError(f"pairs[{index}]: no {FOIL}, which {metric} needs; accepted: one in every pair")
        return replace(self, metric=metric, function=None)

    def by_group(self) -> dict[str, Pairs]:
        """The pairs by group, if they were made with `group`; TaskError if not."""
        groups = dict[str, list[MarkedPair]]()
        for index, pair in enumerate(self.texts):
            if pair.group is None:
                raise TaskError(f"pairs[{index}]: no group; accepted: pairs made with group=, the name of a column")
            groups.setdefault(pair.group, []).append(pair)
        return {name: replace(self, texts=tuple(some)) for name, some in groups.items()}

    def check_position(self, name: str, where: str) -> None:
        """Raise TaskError naming `where` if the prompts have no such position."""
        if not isinstance(name, str):
            accept = (
                f"the name of a position: {', '.join(self.positions)}; {{{{name|text}}}} in the prompts marks another"
            )
            raise TaskError(f"{where}: {name!r}; accepted: {accept}")
        if name not in self.positions:
            raise TaskError(f"{where}: no position {name!r}; {accepted_names(name, self.positions)}")

    def __len__(self) -> int:
        return len(self.texts)

    def __iter__(self) -> Iterator[MarkedPair]:
        return iter(self.texts)

    def __getitem__(self, some: slice) -> Pairs:
        if not isinstance(some, slice):
            accept = "a slice, such as pairs[:10]; `for pair in pairs` gives one at a time"
            raise TaskError(f"pairs[{some!r}]: not a slice; accepted: {accept}")
        return replace(Pairs._alike(self.texts[some]), metric=self.metric, function=self.function)

    def __repr__(self) -> str:
        count, more = quantity(len(self), "pair"), ", ..." if len(self) > 1 else ""
        first, places = self.texts[0], ", ".join(self.positions)
        return f"<{count} at {places}: {first.base.text!r} -> {quoted_answer(first.answer, first)}{more}>"

    def _repr_html_(self) -> str:
        named = (
            ("base", "source", "answer"),
            *((_html(p.base), _html(p.source), escape(quoted_answer(p.answer, p))) for p in self.texts),
        )
        rows = "".join(f"<tr>{''.join(f'<td {LEFT}>{cell}</td>' for cell in row)}</tr>" for row in named[: SHOWN + 1])
        more = f"<p>and {len(self) - SHOWN} more</p>" if len(self) > SHOWN else ""
        return f"<table>{rows}</table>{more}"


def _check_drawn(count: Any, boxes: Any) -> None:
    """Raise TaskError unless so many pairs of so many boxes can be drawn."""
    for name, found, least, most in (("count", count, 1, None), ("boxes", boxes, 2, 12)):
        whole = hasattr(found, "__index__") and not isinstance(found, bool)
        if not whole or found < least or (most and found > most):
            accept = f"{least} to {most}" if most else f"{least} or more"
            raise TaskError(f"{name}: {brief(found)}; accepted: a whole number, {accept}")


def _three(entry: Any, index: int) -> dict[str, Any]:
    """A pair written without keys; TaskError unless it has just the three."""
    wanted = f"three texts, {', '.join(KEYS)}"
    if isinstance(entry, str) or not isinstance(entry, Sequence):
        raise TaskError(f"pairs[{index}]: {brief(entry)}; accepted: {wanted}")
    if len(entry) != len(KEYS):
        named = ", ".join(f'"{key}": ...' for key in (*KEYS, FOIL))
        more = f"; for more a mapping, such as {{{named}}}" if len(entry) > len(KEYS) else ""
        raise TaskError(f"pairs[{index}]: found {quantity(len(entry), 'entry', 'entries')}; accepted: {wanted}{more}")
    return dict(zip(KEYS, entry, strict=True))


def predict_answers(model: LoadedModel, examples: Sequence[Example]) -> list[bool]:
    """Whether the model answers each base prompt with its answer, or a token that is right as well."""
    found = model.measure_batches(
        examples, (), lambda pair, _: model_readouts(model.model, pair.question, model.engine)
    )
    return is_right(found["predicted"], right_tokens(examples)).tolist()


def _tokens_as(space: str | None, special_tokens: str, answer_tokens: str) -> dict[str, str]:
    return {SPECIAL: special_tokens, ANSWER_TOKENS: answer_tokens} | ({} if space is None else {SPACE: space})


def _html(marked: MarkedText) -> str:
    """The text, its marks underlined with their names beside them."""
    shown, at = "", 0
    for name, (start, end) in sorted(marked.spans.items(), key=lambda item: item[1]):
        word = f"<u>{escape(marked.text[start:end])}</u><sub>{escape(name)}</sub>"
        shown, at = shown + escape(marked.text[at:start]) + word, end
    return shown + escape(marked.text[at:])
