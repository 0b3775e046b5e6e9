"""What single heads do: where they look, and what the gradient says of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from nnsight_et.api.arguments import AnyHeads, as_circuit, check_setting, whole_number
from nnsight_et.api.circuits import encode_pairs
from nnsight_et.api.context import attending, experimenting
from nnsight_et.api.findings import Finding, finding_of
from nnsight_et.api.models import LoadedModel
from nnsight_et.api.pairs import Pairs
from nnsight_et.api.path_patching import PatchingScores
from nnsight_et.core.batch import padded_batch
from nnsight_et.core.circuit import as_head
from nnsight_et.core.errors import TaskError, brief
from nnsight_et.interventions.attention_patterns import whole_patterns
from nnsight_et.manifest import AttentionPatterns, Attribution
from nnsight_et.manifest.pairs import TAKEN
from nnsight_et.results.disk import write_file


def attention(model: LoadedModel, pairs: Pairs, circuit: AnyHeads, scores: PatchingScores | None = None) -> Finding:
    """How much each head of a circuit attends from its position to the named positions, on average (§4.1, §5.2).

    Only base prompts run, with eager attention, however the model was loaded. `et.attention_patterns` is the same
    function under the name that manifests have for it.

    Args:
        model: What `et.load` returns.
        pairs: The prompts, which name the positions.
        circuit: A circuit, scores (their kept heads), a group, or a list of heads at the last token.
        scores: Patching scores to show next to the weights. By default those of `circuit`, if it is scores.

    Returns:
        A Finding. `.rows`: one per head: "head", its "score" if there are scores at its position, its mean weight on
        each named position, and on the "first token" and all "other" tokens. A head's weights sum to 1. `.scores`:
        "<position>.weights" [layer, head, position + 2] of all heads of the model, for each position of the circuit.

    Raises:
        TaskError: An argument has the wrong type or value, or the circuit does not fit the model or the prompts.
        ExperimentError: A self-check failed.

    Examples:
        >>> import nnsight_et as et
        >>> model = et.load("llama-tiny", device="cpu")
        >>> scores = et.path_patch(model, et.Pairs.boxes(4), keep=2)
        >>> found = et.attention(model, et.Pairs.boxes(4), scores)
        >>> list(found.rows[0])[:6]
        ['head', 'group', 'at', 'score', 'score_interval', 'correct_object']
        >>> found.rows[0]["head"], found.rows[0]["correct_object"] > 0.5  # it fetches the object
        ('L5H0', True)
        >>> found.scores["last.weights"].shape
        torch.Size([6, 8, 6])
    """
    check_setting(model, pairs)
    scores = circuit if scores is None and isinstance(circuit, PatchingScores) else scores
    if scores is not None and (not isinstance(scores, PatchingScores) or scores.path.senders == "mlps"):
        raise TaskError(f"scores: {brief(scores)}; accepted: what et.path_patch(...) returns, of heads")
    circuit = as_circuit(circuit)
    for name in {*pairs.positions[:-1]} & {*TAKEN}:
        raise TaskError(f"pairs: the position name {name!r} is also a column of the rows; accepted: another name")
    examples = encode_pairs(model, pairs, circuit)
    spec = AttentionPatterns(method="attention_patterns", circuit="circuit", examples=len(pairs))
    with experimenting("attention_patterns", spec, [model], {"": examples}, circuits={"circuit": circuit}) as run:
        result = run.result(model.collect_notices(examples))
    columns = result.header.summary["columns"]
    rows = [_row(row, columns, scores) for row in result.header.summary["rows"]]
    return Finding(**finding_of(result, rows))


attention_patterns = attention


def _row(row: Mapping[str, Any], columns: Sequence[str], scores: PatchingScores | None) -> dict[str, Any]:
    """The head, its score if it has one, then where it looks: named positions, the first token, all others."""
    told = {key: row[key] for key in ("head", "group", "at")}
    if scores is not None:
        layer, index = as_head(row["head"])
        there = row["at"] == scores.path.at and bool(scores.scores["reach"][layer, index])
        names = ("score", "low", "high")
        score, *interval = (scores.scores[name][layer, index].item() if there else None for name in names)
        told |= {"score": score, "score_interval": interval if there else None}
    return told | {name: row[name] for name in columns}


@dataclass(frozen=True)
class AttentionView:
    """Attention of heads as a view to click through, by CircuitsVis: notebooks show it, a browser shows its file."""

    html: str = field(repr=False)
    """The view with its JavaScript: nothing is fetched when it is shown."""

    def _repr_html_(self) -> str:
        return self.html

    def save(self, path: str | Path) -> Path:
        """Write it as a web page; one that is there is replaced."""
        write_file(Path(path), f'<!doctype html><meta charset="utf-8">{self.html}\n'.encode())
        return Path(path)


def view_attention(model: LoadedModel, pairs: Pairs, circuit: AnyHeads, index: int = 0) -> AttentionView:
    """Show where each head of a circuit looks in one base prompt, token by token, in a notebook.

    Needs CircuitsVis: pip install 'nnsight-et[view]'.

    Args:
        model: What `et.load` returns.
        pairs: Their base prompts.
        circuit: A circuit, scores (their kept heads), a group, or a list of heads.
        index: Which pair, counted from 0.

    Returns:
        An AttentionView, which a notebook displays; `.save("view.html")` writes it.

    Raises:
        TaskError: An argument has the wrong type or value, or the circuit does not fit the model or the prompts.
        UnsupportedModel: The heads of a layer have no attention pattern.

    Examples:
        >>> import nnsight_et as et
        >>> model = et.load("llama-tiny", device="cpu")
        >>> view = et.view_attention(model, et.Pairs.boxes(2), ["L5H0", "L4H1"])  # doctest: +SKIP
        >>> "L4H1" in view.html  # doctest: +SKIP
        True
    """
    try:
        from circuitsvis.attention import attention_heads  # type: ignore[reportMissingImports]
    except ImportError as error:
        error.add_note("this view needs CircuitsVis: pip install 'nnsight-et[view]'")
        raise
    check_setting(model, pairs)
    circuit, index = as_circuit(circuit), whole_number(index, "index")
    examples = encode_pairs(model, pairs, circuit)
    if index >= len(examples):
        raise TaskError(f"index: {index}; accepted: 0 to {len(examples) - 1}, since there are {len(examples)} pairs")
    heads = sorted({head for group in circuit.groups for head in group.heads})
    layers = sorted({head.layer for head in heads})
    model.model.check_has("value", layers)  # linear attention has no patterns
    prompt = examples[index].base
    with attending(model, "eager"):
        patterns = whole_patterns(model.model, padded_batch([prompt], model.pad).to(model.model.device), layers)
    weights = torch.stack([patterns[str(head.layer)][0, head.index] for head in heads])
    tokens = [str(model.tokenizer.decode([token])) for token in prompt.tokens]
    return AttentionView(attention_heads(weights, tokens, [str(head) for head in heads]).local_src)


def attribution(model: LoadedModel, pairs: Pairs, at: str | Iterable[str] = "last") -> Finding:
    """Estimate every head's effect cheaply, as gradient times difference, and compare it with the exact effect.

    A head's effect is (p_patched - p) / p of the answer when its output at the position comes from the source run.

    Args:
        model: What `et.load` returns, with the default engine.
        pairs: Base and source prompts.
        at: The named position, or positions, at which heads are measured.

    Returns:
        A Finding. `.rows`: one per position, with "pearson" and "spearman", the correlations of estimate and effect
        over all heads, and "top_found", the share of the `top` most negative effects that are among the `top` most
        negative estimates. `.scores` [layer, head]: "<position>.exact", its interval "<position>.low" and
        "<position>.high", and the estimate "<position>.attributed".

    Raises:
        TaskError: An argument has the wrong type or value.
        ExperimentError: A self-check failed, or the answer has no probability in a base run.

    Examples:
        >>> import nnsight_et as et
        >>> model = et.load("llama-tiny", device="cpu")
        >>> found = et.attribution(model, et.Pairs.boxes(4))
        >>> found.rows[0]["at"], found.rows[0]["top"]
        ('last', 10)
        >>> found.scores["last.attributed"].shape
        torch.Size([6, 8])
    """
    check_setting(model, pairs)
    if not isinstance(at, (str, Iterable)):
        raise TaskError(f"at: {brief(at)}; accepted: a position's name, or a list of names")
    positions = (at,) if isinstance(at, str) else tuple(dict.fromkeys(at))
    if not positions:
        raise TaskError("at: no positions; accepted: one or more")
    for position in positions:
        pairs.check_position(position, "at")
    examples = model.require_pairs_fit(pairs.examples(model.tokenizer))
    spec = Attribution(method="attribution", model=model.name, at=positions, examples=len(pairs))
    with experimenting("attribution", spec, [model], {"": examples}) as run:
        result = run.result(model.collect_notices(examples))
    return Finding(**finding_of(result, result.header.summary["rows"]))
