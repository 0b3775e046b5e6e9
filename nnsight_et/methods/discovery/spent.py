"""What a search costs, in tokens times layers, counted by the formulas of plans on the prompts it has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from nnsight_et.core.circuit import Component
from nnsight_et.engine.budget import Chunks
from nnsight_et.engine.paths import Path
from nnsight_et.interventions.probes import Probe, suffixes_of
from nnsight_et.measuring.steps import Step
from nnsight_et.models.catalog import Shape
from nnsight_et.planning.cost.methods import Prompts, Sizes, total
from nnsight_et.planning.cost.paths import ProbePass, edges, probing


def prompts_in(step: Step) -> Iterator[Prompts]:
    """The step's batches as plans count them: base prompts padded to the longest, their positions at their first."""
    for batch in step.batches:
        prompts = [step.examples[index].base for index in batch]
        width = max(prompt.length for prompt in prompts)
        places = {
            name: min(prompt.positions[name] + width - prompt.length for prompt in prompts)
            for name in prompts[0].positions
        }
        yield Prompts(len(batch), width, places)


def of_paths(step: Step, shape: Shape, chunks: Chunks, paths: Sequence[tuple[Path, Sequence[Component]]]) -> int:
    """Patching each sender along its path, all in one measurement."""
    sizes = Sizes(shape, chunks)
    return round(total(edges(sizes, one, paths) for one in prompts_in(step)).token_layers)


def of_probes(step: Step, shape: Shape, chunks: Chunks, probes: Sequence[Probe]) -> int:
    """Probes of one measurement."""
    sizes, passes = Sizes(shape, chunks), passes_of(probes, shape.parallel)
    return round(total(probing(sizes, one, passes) for one in prompts_in(step)).token_layers)


def passes_of(probes: Sequence[Probe], parallel: bool) -> list[ProbePass]:
    """The passes that probes of one measurement take, as plans count them."""
    passes = list[ProbePass]()
    for (at, via, start), some in suffixes_of(probes, parallel).items():
        last = max(receiver.layer for index in some for receiver in probes[index].path.receivers)
        lowest = Counter(probes[index].lowest for index in some)
        sets = {layer: count for layer, count in lowest.items() if layer is not None}
        passes.append(ProbePass(at, via, start, last, len(some), sets))
    return passes
