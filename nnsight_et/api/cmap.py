"""Cross-model activation patching (§6): what a donor's head outputs do in a recipient on the same prompts."""

from __future__ import annotations

from torch import Tensor

from nnsight_et.api.arguments import AnyHeads, as_circuit, check_model, check_setting, whole_number
from nnsight_et.api.circuits import encode_pairs, of_sets
from nnsight_et.api.context import experimenting
from nnsight_et.api.findings import Finding, Row, accuracy_bars, accuracy_with_interval, unprefixed
from nnsight_et.api.models import LoadedModel
from nnsight_et.api.pairs import Pairs
from nnsight_et.core.batch import right_tokens
from nnsight_et.core.circuit import Circuit
from nnsight_et.core.errors import TaskError
from nnsight_et.core.metrics import is_right
from nnsight_et.manifest import CMAP
from nnsight_et.measuring.predictions import plain_model
from nnsight_et.methods.cmap.experiment import Side, check_alike


def cmap(donor: LoadedModel, recipient: LoadedModel, pairs: Pairs, circuit: AnyHeads, random: int = 3) -> Finding:
    """Measure a model's accuracy with another model's head outputs: cross-model activation patching (§6, Figure 4).

    Both models run the same base prompts. If a group's outputs lift the recipient's accuracy towards the donor's, the
    donor does that group's step better.

    Args:
        donor: The model that outputs are copied from, such as the fine-tuned one.
        recipient: The model that they are patched into.
        pairs: Base prompts and their answers; source prompts are not run.
        circuit: A circuit, scores (their kept heads), a group, or a list of heads at the last token.
        random: How many sets of random heads to patch as a control, each with as many heads per position.

    Returns:
        A Finding. `.rows`: both models alone, each group, all groups, and the random sets, with "accuracy", its 95%
        interval and the answer's mean "probability". `.scores`: "predicted", "probability" and "logit" [set, example];
        "donor.predicted" and "recipient.predicted" [example], and so on.

    Raises:
        TaskError: An argument has the wrong type or value, or the circuit does not fit a model or the prompts.
        UnsupportedModel: The two models differ in shape or tokenizer.
        ExperimentError: A self-check failed.

    Examples:
        >>> import nnsight_et as et
        >>> tuned, plain = et.load("goat-tiny", device="cpu"), et.load("llama-tiny", device="cpu")
        >>> found = et.cmap(tuned, plain, et.Pairs.boxes(4), ["L5H0", "L5H2"], random=1)
        >>> [row["patched"] for row in found.rows]
        ['llama-tiny alone', 'goat-tiny alone', 'heads at last', 'all', 'random heads 1']
    """
    check_model(donor, "donor")
    check_model(recipient, "recipient")
    check_setting(recipient, pairs)
    random, circuit = whole_number(random, "random"), as_circuit(circuit)
    check_alike("cmap", _side(donor), _side(recipient))
    if donor.engine != recipient.engine:
        raise TaskError(
            f"cmap: the donor's engine is {donor.engine}, the recipient's {recipient.engine}; accepted: one for both"
        )
    examples = donor.require_pairs_fit(encode_pairs(recipient, pairs, circuit))
    groups = [group for group in circuit.groups if group.heads]
    every = Circuit(tuple(groups))
    sets = {group.name: Circuit((group,)) for group in groups} | {"all": every}
    sets |= {f"random heads {index + 1}": every for index in range(random)}
    spec = CMAP(
        method="cmap",
        donor=donor.name,
        recipient=recipient.name,
        circuit="circuit",
        examples=len(examples),
        random_sets=random,
        inputs=False,
    )
    known = tuple(dict.fromkeys((*recipient.collect_notices(examples), *donor.collect_notices(examples))))
    with experimenting("cmap", spec, [donor, recipient], {"": examples}, circuits={"circuit": circuit}) as run:
        result = run.result(known)
        own = [run.values(plain_model(run.context, run.job, one, examples, "alone")) for one in run.job.models]
    title, answers = f"{donor.name}'s heads in {recipient.name}", right_tokens(examples)
    patched = of_sets(title, sets, unprefixed(result.scores, "output."), answers)
    scores = dict(patched.scores)
    for role, found in (("recipient", own[1]), ("donor", own[0])):
        scores |= {f"{role}.{name}": tensor for name, tensor in found.items()}
    alone = [_alone(recipient, own[1], answers), _alone(donor, own[0], answers)]
    figure = accuracy_bars("cmap", title, patched.rows, "patched", alone)
    rows = (*alone, *patched.rows)
    return Finding(title, rows, (figure,), patched.note, scores, known, result.header.self_check.to_dict())


def _alone(model: LoadedModel, found: dict[str, Tensor], answers: Tensor) -> Row:
    """A model's row without patches."""
    right = accuracy_with_interval(is_right(found["predicted"], answers))
    probability = found["probability"].double().mean().item()
    return {"patched": f"{model.name} alone", "heads": 0, **right, "probability": probability}


def _side(model: LoadedModel) -> Side:
    return Side(model.name, model.shape, model.tokenizer)
