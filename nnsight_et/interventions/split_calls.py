"""One call in parts, where it is too long for one job: its variants in halves, or a training step by step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from nnsight_et.core.batch import Pair
from nnsight_et.core.circuit import HeadGroup
from nnsight_et.interventions.ablation import circuit_readouts, remainder_readouts
from nnsight_et.interventions.activation_patching import patched_readouts_by_source
from nnsight_et.interventions.attribution import head_effects
from nnsight_et.interventions.calls import Call
from nnsight_et.interventions.cmap import recipient_input_readouts, recipient_readouts
from nnsight_et.interventions.dcm import (
    State,
    Training,
    initial_state,
    resume_training,
    select_masks,
    steps_of,
    trained_masks,
)
from nnsight_et.interventions.knockout import knockout_readouts
from nnsight_et.interventions.path_patching import edge_probabilities, path_probabilities
from nnsight_et.interventions.probes import probe_probabilities
from nnsight_et.interventions.screened_paths import screened_probabilities

RunCall = Callable[[Call], Any]
"""Does a call, wherever the model is."""
VARIANT_ARGUMENT: dict[Callable[..., Any], int] = {
    path_probabilities: 2,
    circuit_readouts: 2,
    remainder_readouts: 2,
    patched_readouts_by_source: 2,
    knockout_readouts: 2,
    recipient_readouts: 2,
    recipient_input_readouts: 2,
    head_effects: 2,
    probe_probabilities: 1,
    edge_probabilities: 1,
    screened_probabilities: 2,
}
"""Which argument of an intervention lists its variants: they need nothing of each other."""


def split_call(call: Call, run: RunCall) -> Any:
    """What the call finds, from shorter ones; None if it cannot be made shorter."""
    if call.function is trained_masks:
        return _train_in_parts(call, run, *call.arguments)
    if call.function is resume_training:
        return _resume_in_parts(call, run, *call.arguments)
    number = VARIANT_ARGUMENT.get(call.function)
    if number is None or len(call.arguments[number]) < 2:
        return None
    variants = call.arguments[number]
    middle = len(variants) // 2
    halves = []
    for part, some in enumerate((variants[:middle], variants[middle:])):
        arguments = (*call.arguments[:number], some, *call.arguments[number + 1 :])
        halves.append(run(replace(call, arguments=arguments, name=f"{call.name} half {part + 1}")))
    one, other = halves
    return {name: torch.cat([one[name], other[name]]) if one[name].ndim == 2 else one[name] for name in one}


def _train_in_parts(
    call: Call,
    run: RunCall,
    groups: Sequence[HeadGroup],
    training: Training,
    train: Sequence[Pair],
    *rest: Any,
) -> list[dict[str, Tensor]] | None:
    validation, chunks = rest
    course = ([initial_state(group) for group in groups], steps_of(training, train))
    whole = Call(resume_training, (groups, training, train, course, chunks), f"{call.name} steps")
    states = _resume_in_parts(whole, run, *whole.arguments)
    return states and run(Call(select_masks, (groups, states, validation, chunks), f"{call.name} choice"))


def _resume_in_parts(call: Call, run: RunCall, groups: Sequence[HeadGroup], *rest: Any) -> list[State] | None:
    training, train, (states, until), chunks = rest
    made = int(states[0]["step"])
    if until - made < 2:
        return None
    for goal in ((made + until) // 2, until):
        arguments = (groups, training, train, (states, goal), chunks)
        states = run(Call(resume_training, arguments, f"{call.name} to {goal}"))
    return states
