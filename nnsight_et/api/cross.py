"""Cross-model activation patching (§6): what a donor's head outputs do in a recipient on the same prompts."""

from __future__ import annotations

from nnsight_et.api.arguments import AnyHeads, as_circuit, check_model, check_setting, whole_number
from nnsight_et.api.circuits import encoded, of_sets
from nnsight_et.api.findings import SEED, Finding, accuracy_bars, answers_of, of_right
from nnsight_et.api.models import LoadedModel
from nnsight_et.api.pairs import Pairs
from nnsight_et.core.circuit import Circuit
from nnsight_et.core.errors import TaskError
from nnsight_et.core.metrics import is_right
from nnsight_et.interventions.ablation import model_readouts, random_circuits
from nnsight_et.interventions.cmap import donor_outputs, recipient_readouts, with_heads
from nnsight_et.methods.cmap.experiment import Side, check_alike


def cmap(donor: LoadedModel, recipient: LoadedModel, pairs: Pairs, circuit: AnyHeads, random: int = 3) -> Finding:
    """Accuracy of the recipient when each group's heads, or all, have the donor's outputs; and `random` sets of heads.

    circuit: a circuit, a group, or a list of heads, which are at the last token. Only base prompts run. Dashed lines:
    both models alone (Fig. 4). UnsupportedModel unless the two have one shape and one tokenizer.
    """
    check_model(donor, "donor")
    check_model(recipient, "recipient")
    check_setting(recipient, pairs)
    random, circuit = whole_number(random, "random"), as_circuit(circuit)
    check_alike("cmap", _side(donor), _side(recipient))
    if donor.engine != recipient.engine:
        raise TaskError(f"cmap: engine {donor.engine} in the donor, {recipient.engine} in the recipient; accepted: one")
    examples = donor.fitting(encoded(recipient, pairs, circuit))
    groups = [group for group in circuit.groups if group.heads]
    sets = {group.name: Circuit((group,)) for group in groups} | {"all": Circuit(tuple(groups))}
    drawn = random_circuits(circuit, recipient.shape.n_layers, recipient.shape.n_heads, random, SEED)
    sets |= {f"random heads {index + 1}": heads for index, heads in enumerate(drawn)}
    answers = answers_of(examples)

    def measure(pair, chunks):
        every = list(sets.values())
        given = with_heads(donor_outputs(donor.model, pair.base.to(donor.model.device), every), every)
        return recipient_readouts(recipient.model, pair.question, given, list(sets.values()), recipient.engine, chunks)

    found = recipient.measured(examples, circuit.positions, measure)
    title = f"{donor.name}'s heads in {recipient.name}"
    patched = of_sets(title, sets, found, answers)
    alone, scores = [], dict(patched.scores)
    for role, model in (("recipient", recipient), ("donor", donor)):
        own = _plain(model, examples)
        scores |= {f"{role}.{name}": tensor for name, tensor in own.items()}
        alone.append({"patched": f"{model.name} alone", "heads": 0, **of_right(is_right(own["predicted"], answers))})
        alone[-1]["probability"] = own["probability"].double().mean().item()
    figure = accuracy_bars("cmap", title, patched.rows, "patched", alone)
    known = tuple(dict.fromkeys((*recipient.told(examples), *donor.told(examples))))
    return Finding(title, (*alone, *patched.rows), (figure,), patched.note, scores, known)


def _plain(model: LoadedModel, examples):
    return model.measured(examples, (), lambda pair, _: model_readouts(model.model, pair.question, model.engine))


def _side(model: LoadedModel) -> Side:
    return Side(model.name, model.shape, model.tokenizer)
