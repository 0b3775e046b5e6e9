"""What must hold of results of knockout: of what was asked and found, and on models whose circuit is known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

from torch import Tensor

from nnsight_et.core.batch import Example
from nnsight_et.core.lists import to_list
from nnsight_et.manifest import BoxesTask, Edge, Knockout
from nnsight_et.measuring.audit import Finding, differences, finding
from nnsight_et.measuring.evidence import Evidence
from nnsight_et.measuring.reading import BoxesReader
from nnsight_et.measuring.recount import interval
from nnsight_et.methods.knockout.summary import KnockoutSummary
from nnsight_et.results.store import MethodResult
from nnsight_et.zoo.known import Known
from nnsight_et.zoo.statements import CLOSE, LOST, Statement


def audit_output(evidence: Evidence[Knockout, KnockoutSummary]) -> Iterator[Finding]:
    """Edge by edge: which tokens were hidden from which, from which layers on, and the answers."""
    spec, choice, rows, scores = evidence.job.spec, evidence.choice, list[dict[str, Any]](), dict[str, Tensor]()
    last = evidence.context.models.shape(choice).n_layers
    layers = [*(range(last) if spec.layers is None else spec.layers), last]
    examples = evidence.step(f"{spec.edges[0].blind} to {spec.edges[0].to}").measurement.step.examples
    yield from evidence.selected(examples, "evaluation", spec.examples, choice, spec.only_correct)
    for edge in spec.edges:
        name = f"{edge.blind} to {edge.to}"
        one = evidence.step(name)
        yield from evidence.same_base(examples, one)
        yield from evidence.calls(one, "knockout_readouts", lambda arguments: list(arguments[2]), layers)
        for batch in one.measurement.step.batches:
            arguments = evidence.call(one, batch).arguments
            yield from _ends(evidence, edge, arguments, [examples[index] for index in batch])
        right = evidence.right(one)
        said = {"accuracy": to_list(right.mean(-1)), "accuracy_interval": interval(right)}
        rows.append({"blind": edge.blind, "to": edge.to} | said)
        scores |= {f"{name}.{key}": tensor for key, tensor in evidence.values(one).items()}
    said = {"rows": rows, "model": choice.name, "layers": None if spec.layers is None else list(spec.layers)}
    yield from differences(evidence.summary.to_dict(), said)
    yield from differences(dict(evidence.scores), scores | evidence.answers(examples), "scores")


def _ends(
    evidence: Evidence[Knockout, KnockoutSummary], edge: Edge, arguments: Sequence[Any], examples: Sequence[Example]
) -> Iterator[Finding]:
    """That the token at `blind` may not see the one at `to`; a random one is earlier, no label, nor named or first."""
    question, (blind, hidden) = arguments[:2]
    tokenizer, task = evidence.context.models.tokenizer(evidence.choice), evidence.job.task
    reader = BoxesReader(cast(BoxesTask, task), tokenizer) if edge.to == "random" else None
    for row, example in enumerate(examples):
        start, named = int(question.run.mask[row].argmax()), example.base.positions
        at, to = int(blind[row]) - start, int(hidden[row]) - start
        right = at == named[edge.blind] and (reader is not None or to == named[edge.to])
        if reader is not None:
            hidden_token: int = example.base.tokens[max(to, 0)]
            word = reader.word(hidden_token)
            label = len(word) == 1 and word.isupper()
            right = right and 0 < to < at and to not in named.values() and not label
        yield finding("asked", right, f"step {edge.blind} to {edge.to}: which token is hidden")


def statements(known: Known, _: str, result: MethodResult[KnockoutSummary]) -> Iterator[Statement]:
    """Blocking a planted head's attention costs the answer up to its layer, and nothing from the next one on."""
    for row in result.summary.rows:
        expected = known.harmless_from(row.blind, row.to)
        costs = [layer for layer, accuracy in enumerate(row.accuracy) if accuracy < 1 - CLOSE]
        harmless = max(costs, default=-1) + 1
        lost = all(accuracy < LOST for accuracy in row.accuracy[:expected])
        found = f"L{harmless}" if lost else f"L{harmless}, with answers before"
        yield Statement(f"{row.blind} to {row.to}: harmless from", f"L{expected}", found, found == f"L{expected}", {})
