"""Circuits of one model: put together, evaluated alone, and patched from the source run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations, product
from math import nan
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from nnsight_et.api.arguments import AnyHeads, as_circuit, check_model, check_name, check_setting, whole_number
from nnsight_et.api.context import experimenting
from nnsight_et.api.findings import Finding, Row, accuracy_bars, accuracy_with_interval, unprefixed
from nnsight_et.api.models import LoadedModel
from nnsight_et.api.pairs import Pairs
from nnsight_et.circuits.other_tools import Sizes, to_auto_circuit, to_eap_ig
from nnsight_et.core.batch import Example, right_tokens
from nnsight_et.core.circuit import Circuit, HeadGroup
from nnsight_et.core.errors import TaskError, brief, quantity
from nnsight_et.core.metrics import is_right
from nnsight_et.manifest import ActivationPatching, Faithfulness
from nnsight_et.measuring.predictions import answer_scores
from nnsight_et.methods.dcm.experiment import patching_measurement
from nnsight_et.methods.faithfulness.present import no_better_than_random
from nnsight_et.methods.faithfulness.summary import FaithfulnessRow
from nnsight_et.results.disk import write_file

ABLATIONS = ("mean", "zero")
WRITERS = {"eap-ig": to_eap_ig, "auto-circuit": to_auto_circuit}


def circuit_of(*groups: HeadGroup) -> Circuit:
    """Make a circuit of groups. A head in two groups at the same position stays only in the later one (§4.1).

    Args:
        *groups: HeadGroup objects, each with its own name.

    Returns:
        The Circuit, with its groups in this order.

    Raises:
        TaskError: There are no groups, or two have the same name.

    Examples:
        >>> import nnsight_et as et
        >>> first, later = et.HeadGroup("first", "last", ["L5H0", "L4H1"]), et.HeadGroup("later", "last", ["L4H1"])
        >>> et.circuit_of(first, later).group("first").heads
        (L5H0,)
    """
    if not groups:
        raise TaskError("groups: none given; accepted: one or more, such as scores.group('mine')")
    for group in groups:
        if not isinstance(group, HeadGroup):
            accept = "groups as separate arguments: circuit_of(scores.group('one'), HeadGroup('two', 'last', ['L9H3']))"
            raise TaskError(f"groups: {brief(group)}; accepted: {accept}")
    names = [group.name for group in groups]
    if len(set(names)) < len(names):
        raise TaskError(f"groups: two have the same name ({', '.join(names)}); accepted: a different name for each")
    return Circuit.from_stages(groups)


def export_circuit(
    circuit: AnyHeads, path: str | Path, form: Literal["eap-ig", "auto-circuit"], model: LoadedModel
) -> Path:
    """Write a circuit for another tool: the graph of its heads, all MLPs and all edges between them, as JSON.

    Positions are lost, because these graphs have none. "eap-ig" writes what EAP-IG's `Graph.from_json` reads, with all
    scores 0. "auto-circuit" writes a list of edge names, such as "A9.6->A10.0.Q", because auto-circuit itself only has
    pickles. `et.import_circuit` and `et circuit import` read both.

    Args:
        circuit: A circuit, scores (their kept heads), a group, or a list of heads.
        path: The file to write. An existing file is replaced.
        form: "eap-ig" or "auto-circuit".
        model: What `et.load` returns. Its sizes determine the nodes.

    Returns:
        The path of the file.

    Raises:
        TaskError: An argument has the wrong type or value, or the circuit does not fit the model.

    Examples:
        >>> from tempfile import TemporaryDirectory
        >>> import nnsight_et as et
        >>> model = et.load("llama-tiny", device="cpu")
        >>> with TemporaryDirectory() as folder:
        ...     file = et.export_circuit(["L5H0", "L4H1"], f"{folder}/graph.json", "eap-ig", model)
        ...     et.import_circuit(file, at="last").circuit.groups[0].heads
        (L4H1, L5H0)
    """
    check_model(model, "model")
    check_name(form, "form", tuple(WRITERS))
    circuit, shape, path = as_circuit(circuit), model.shape, Path(path)
    circuit.check_fits(shape.n_layers, shape.n_heads, f"circuit: {model.name}")
    graph = WRITERS[form](circuit, Sizes(shape.n_layers, shape.n_heads, shape.d_model, shape.parallel))
    write_file(path, (json.dumps(graph) + "\n").encode())
    return path


def evaluate(
    model: LoadedModel,
    pairs: Pairs,
    circuit: AnyHeads,
    ablation: Literal["mean", "zero"] = "mean",
    random: int = 10,
) -> Finding:
    """Measure the accuracy of the model, the circuit alone and random circuits of its size; faithfulness (§4.2, §4.3).

    To run a circuit alone, all other heads at its positions, and all heads at other tokens, output their mean over the
    source prompts, or zero. If all prompts have the same length, there is one mean per token; otherwise one per named
    position, and one for all other tokens. Faithfulness is the circuit's accuracy divided by the model's.

    Args:
        model: What `et.load` returns.
        pairs: Their base prompts are scored; `ablation="mean"` takes means over their source prompts.
        circuit: A circuit, scores (their kept heads), a group, or a list of heads at the last token.
        ablation: What ablated heads output: "mean" or "zero".
        random: How many random circuits to compare with, each with as many heads at each position.

    Returns:
        A Finding. `.rows`: the full model, the circuit and the random circuits, with accuracies, their 95% intervals
        and p = (1 + random circuits at least as accurate) / (1 + random circuits). `.scores`: "faithfulness" [3], the
        share and its interval; "model.predicted" [example], "circuit.predicted" [1 + random, example], and so on.

    Raises:
        TaskError: An argument has the wrong type or value, or the circuit does not fit the model or the prompts.
        ExperimentError: A self-check failed.

    Examples:
        >>> import nnsight_et as et
        >>> found = et.evaluate(et.load("llama-tiny", device="cpu"), et.Pairs.boxes(8), ["L5H0", "L5H2"], random=2)
        >>> [row["of"] for row in found.rows]
        ['full model', 'circuit', '2 random circuits']
        >>> found.scores["circuit.predicted"].shape
        torch.Size([3, 8])
    """
    check_setting(model, pairs)
    check_name(ablation, "ablation", ABLATIONS)
    random, circuit = whole_number(random, "random"), as_circuit(circuit)
    examples = encode_pairs(model, pairs, circuit)
    spec = Faithfulness(
        method="faithfulness",
        circuit="circuit",
        models=(model.name,),
        examples=len(examples),
        ablation=ablation,
        ablation_examples=len(examples),
        random_circuits=random,
    )
    with experimenting("evaluate", spec, [model], {"": examples}, circuits={"circuit": circuit}) as run:
        result = run.result(model.collect_notices(examples))
    row = FaithfulnessRow(**result.header.summary["rows"][0])
    rows = tuple(_accuracies(row))
    share = [nan if one is None else one for one in (row.faithfulness, *row.faithfulness_interval)]
    title = f"Circuit of {quantity(circuit.size, 'head')} in {model.name}"
    scores = unprefixed(result.scores, f"{model.name}.") | {"faithfulness": torch.tensor(share)}
    figure = accuracy_bars("evaluation", title, rows, "of")
    checks = result.header.self_check.to_dict()
    return Finding(title, rows, (figure,), " ".join(_notes(row, share)), scores, result.header.notices, checks)


def _notes(row: FaithfulnessRow, share: list[float]) -> Iterator[str]:
    """The share, with its interval, and what p is of; and whether random circuits do as well."""
    bounds = f"{share[0]:.3f} [{share[1]:.3f}, {share[2]:.3f}]"
    yield f"Faithfulness, circuit / full model: {bounds}, on {quantity(row.examples, 'pair')}."
    if row.random_circuits:
        yield "p = (1 + random circuits at least as accurate) / (1 + random circuits)."
        if doubt := no_better_than_random(row):
            yield doubt


def _accuracies(row: FaithfulnessRow) -> Iterator[Row]:
    """Those of the model, the circuit, and the random circuits, if there are any."""
    yield {"of": "full model", "accuracy": row.full, "accuracy_interval": row.full_interval}
    yield {"of": "circuit", "accuracy": row.circuit, "accuracy_interval": row.circuit_interval, "p": row.random_p}
    if count := row.random_circuits:
        drawn = {"accuracy": row.random_mean, "accuracy_interval": row.random_interval}
        yield {"of": quantity(count, "random circuit"), **drawn}


def activation_patch(model: LoadedModel, pairs: Pairs, circuit: AnyHeads) -> Finding:
    """Measure how often the model gives the pairs' answer when heads output what they do in the source run (§5.2).

    Nothing is frozen: everything after a patched head is recomputed. Each run has its own positions.

    Args:
        model: What `et.load` returns.
        pairs: Pairs whose answer is what the patch should give, such as `et.Pairs.desideratum("object", 100)`.
        circuit: A circuit, scores (their kept heads), a group, or a list of heads at the last token.

    Returns:
        A Finding. `.rows`: nothing patched, each group alone and, if there are several, all together, each with its
        "accuracy" (0 to 1), its 95% interval, and the answer's mean "probability". `.scores`: "predicted",
        "probability" and "logit" [row, example], "answer" [example].

    Raises:
        TaskError: An argument has the wrong type or value, or the circuit does not fit the model or the prompts.
        ExperimentError: A self-check failed.

    Examples:
        >>> import nnsight_et as et
        >>> pairs = et.Pairs.desideratum("object", 8)
        >>> found = et.activation_patch(et.load("llama-tiny", device="cpu"), pairs, ["L5H0", "L5H2"])
        >>> [row["patched"] for row in found.rows], found.scores["probability"].shape
        (['nothing', 'heads at last'], torch.Size([2, 8]))
    """
    check_setting(model, pairs)
    circuit = as_circuit(circuit)
    examples = encode_pairs(model, pairs, circuit)
    answers = right_tokens(examples)
    groups = [group for group in circuit.groups if group.heads]
    sets = {group.name: Circuit((group,)) for group in groups}
    if len(groups) > 1:
        sets["all"] = Circuit(tuple(groups))
    spec = ActivationPatching(
        method="activation_patching", roles="circuit", models=(model.name,), examples=len(examples)
    )
    with experimenting("activation_patch", spec, [model], {"": examples}) as run:
        every, drawn = {"": list(sets.values())}, {"": examples}
        found = run.values(patching_measurement(run.context, run.job, run.job.models[0], every, drawn, "patched"))
    first = {name: tensor.roll(1, 0) for name, tensor in found.items()}  # nothing patched, which it has last
    shown = of_sets(f"Activation patching in {model.name}", {"nothing": Circuit(())} | sets, first, answers)
    return replace(shown, notices=model.notices, self_check=run.self_check)


def of_sets(title: str, sets: dict[str, Circuit], found: dict[str, Tensor], answers: Tensor) -> Finding:
    """A row per set of heads: how many there are, how often the answer is given, and its mean probability."""
    rows = tuple(
        {
            "patched": name,
            "heads": heads.size,
            **accuracy_with_interval(right),
            "probability": probability.double().mean().item(),
        }
        for (name, heads), right, probability in zip(
            sets.items(), is_right(found["predicted"], answers), found["probability"], strict=True
        )
    )
    note = f"Accuracy: the share of prompts with the pairs' answer, on {quantity(len(answers), 'pair')}."
    figure = accuracy_bars("patched", title, rows, "patched")
    return Finding(title, rows, (figure,), note, found | answer_scores(answers))


def encode_pairs(model: LoadedModel, pairs: Pairs, circuit: Circuit) -> list[Example]:
    """The pairs for the model's tokenizer; TaskError if the circuit has no heads, or does not fit model or prompts."""
    if not circuit.size:
        raise TaskError("circuit: it has no heads; accepted: a circuit with one or more")
    circuit.check_fits(model.shape.n_layers, model.shape.n_heads, f"circuit: {model.name}")
    for position in circuit.positions:
        pairs.check_position(position, "circuit")
    examples = model.require_pairs_fit(pairs.examples(model.tokenizer))
    for index, (one, other) in product(range(len(examples)), combinations(circuit.positions, 2)):
        if examples[index].base.positions[one] == examples[index].base.positions[other]:
            found = f"pairs[{index}]: {one!r} and {other!r} are the same token of the base prompt"
            raise TaskError(f"{found}; accepted: a circuit whose positions are different tokens")
    return examples
