"""What a circuit must be beside faithful: minimal (App. B) and complete (App. C)."""

from __future__ import annotations

from typing import Literal

from nnsight_et.api.arguments import AnyHeads, as_circuit, check_name, check_setting, number, whole_number
from nnsight_et.api.circuits import ABLATIONS, encode_pairs
from nnsight_et.api.context import experimenting
from nnsight_et.api.dcm import Selection
from nnsight_et.api.findings import Finding, finding_of
from nnsight_et.api.models import LoadedModel
from nnsight_et.api.pairs import Pairs
from nnsight_et.core.circuit import Circuit
from nnsight_et.manifest import Completeness, Minimality


def minimality(
    model: LoadedModel,
    pairs: Pairs,
    circuit: AnyHeads,
    threshold: float = 0.01,
    fraction: float = 0.3,
    ablation: Literal["mean", "zero"] = "mean",
) -> Selection:
    """Measure what each head adds to a circuit's accuracy, and keep the heads that add enough: minimality (App. B).

    Each head v is tested without the heads that compensate for it: K, at most `fraction` of its group, is the set whose
    removal costs the circuit C least. The head adds F(C \\ K) / F(C \\ (K + v)) - 1, where F is the share of prompts
    answered correctly, and is kept if that is at least `threshold`. Heads outside the circuit are ablated as in
    `evaluate`.

    Args:
        model: What `et.load` returns.
        pairs: Their base prompts are scored; `ablation="mean"` takes means over their source prompts.
        circuit: A circuit, scores (their kept heads), a group, or a list of heads at the last token.
        threshold: The relative gain in accuracy that a head must add, from -1 to 1e6: 0.01 is one percent.
        fraction: The largest share of a group that K may be, from 0 to 1.
        ablation: What ablated heads output: "mean" or "zero".

    Returns:
        A Selection. `.circuit`: the kept heads. `.rows`: one per head, with "without" (K), the accuracies "before" and
        "after" v is removed too, and "contribution", which is "infinite" where "after" is 0. `.scores`:
        "<group>.pair_accuracy" [head, head], F without two heads of the group, and "<group>.before_after" [head, 2].

    Raises:
        TaskError: An argument has the wrong type or value, or the circuit does not fit the model or the prompts.
        ExperimentError: A self-check failed.

    Examples:
        >>> import nnsight_et as et
        >>> model = et.load("llama-tiny", device="cpu")
        >>> found = et.minimality(model, et.Pairs.boxes(8), ["L5H0", "L0H1"])
        >>> [row["head"] for row in found.rows]
        ['L5H0', 'L0H1']
        >>> found.scores["heads at last.pair_accuracy"].shape
        torch.Size([2, 2])
    """
    check_setting(model, pairs)
    check_name(ablation, "ablation", ABLATIONS)
    circuit = as_circuit(circuit)
    examples = encode_pairs(model, pairs, circuit)
    spec = Minimality(
        method="minimality",
        circuit="circuit",
        examples=len(pairs),
        ablation=ablation,
        ablation_examples=len(pairs),
        threshold=number(threshold, "threshold", -1, 1e6),
        fraction=number(fraction, "fraction", 0, 1),
    )
    with experimenting("minimality", spec, [model], {"": examples}, circuits={"circuit": circuit}) as run:
        result = run.result(model.collect_notices(examples))
    summary = result.header.summary
    return Selection(**finding_of(result, summary["heads"]), circuit=Circuit.from_dict(summary["circuit"]))


def completeness(
    model: LoadedModel,
    pairs: Pairs,
    circuit: AnyHeads,
    draws: int = 20,
    ablation: Literal["mean", "zero"] = "mean",
) -> Finding:
    """Measure the accuracy of circuit and model without the same heads K: completeness (App. C).

    If the circuit is complete, both lose the same accuracy. K is each of `draws` random halves of the circuit, and each
    of its groups. Heads are ablated as in `evaluate`.

    Args:
        model: What `et.load` returns.
        pairs: Their base prompts are scored; `ablation="mean"` takes means over their source prompts.
        circuit: A circuit, scores (their kept heads), a group, or a list of heads at the last token.
        draws: How many random halves to remove, one after another: 0 or more.
        ablation: What ablated heads output: "mean" or "zero".

    Returns:
        A Finding. `.rows`: one per set K, with "removed" (its name), "heads" (its size), the accuracies of "circuit"
        and "model" without it (0 to 1), and "completeness" (the difference between the two). `.scores`:
        "circuit.predicted", "circuit.probability", "model.predicted", "model.probability" [K, example].

    Raises:
        TaskError: An argument has the wrong type or value, or the circuit does not fit the model or the prompts.
        ExperimentError: A self-check failed.

    Examples:
        >>> import nnsight_et as et
        >>> model = et.load("llama-tiny", device="cpu")
        >>> found = et.completeness(model, et.Pairs.boxes(8), ["L5H0", "L4H1"], draws=2)
        >>> [row["removed"] for row in found.rows]
        ['random 1', 'random 2', 'heads at last']
        >>> found.scores["model.probability"].shape
        torch.Size([3, 8])
    """
    check_setting(model, pairs)
    check_name(ablation, "ablation", ABLATIONS)
    circuit, draws = as_circuit(circuit), whole_number(draws, "draws")
    examples = encode_pairs(model, pairs, circuit)
    spec = Completeness(
        method="completeness",
        circuit="circuit",
        examples=len(pairs),
        ablation=ablation,
        ablation_examples=len(pairs),
        draws=draws,
    )
    with experimenting("completeness", spec, [model], {"": examples}, circuits={"circuit": circuit}) as run:
        result = run.result(model.collect_notices(examples))
    return Finding(**finding_of(result, result.header.summary["rows"]))
