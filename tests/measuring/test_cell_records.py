"""What is noted beside a stored cell: the same for the same work, whichever version of the package asks for it."""

from __future__ import annotations

import torch

from nnsight_et.core.batch import Example, Prompt, collate
from nnsight_et.core.circuit import Circuit, Head, HeadGroup
from nnsight_et.engine.budget import Chunks
from nnsight_et.engine.paths import Path
from nnsight_et.interventions.calls import Call
from nnsight_et.interventions.path_patching import path_probabilities
from nnsight_et.measuring.cell_records import VERSION, digest_of


def prompt(row: int, name: int) -> Prompt:
    return Prompt((*[3] * (1 + row), name, 7), {"last": 2 + row, "name": 1 + row})


EXAMPLES = [Example(prompt(row, 5), prompt(row, 8), answer=4, foils=(9,)) for row in range(2)]
PATH = Path("last", "query", (Head(2, 1), Head(1, 0)))


def noted(*arguments) -> str:
    return digest_of(Call(path_probabilities, arguments))


def test_notes_of_work_stay_what_they_were():
    """A new field would stop runs that continue stored work: it goes into LATER, or VERSION rises."""
    pair, circuit = collate(EXAMPLES, metric="logit_difference"), Circuit((HeadGroup("a", "last", (Head(1, 0),)),))
    found = (
        noted(pair, PATH, [Head(0, 0)], "default", Chunks()),
        noted(collate(EXAMPLES), [circuit], {"z": torch.ones(2)}),
    )
    assert (VERSION, *found) == (2, "1b1b6bc1e963f8eb952f", "725af076faf1a84eb5f2")


def test_notes_tell_work_apart_and_ignore_padding_and_the_size_of_passes():
    work = noted(collate(EXAMPLES), PATH, [Head(0, 0)], "default", Chunks())
    assert work == noted(collate(EXAMPLES, pad=1), PATH, [Head(0, 0)], "default", Chunks(tokens=64))
    assert work != noted(collate(EXAMPLES), PATH, [Head(0, 1)], "default", Chunks())
    assert work != noted(collate(EXAMPLES, metric="logit_difference"), PATH, [Head(0, 0)], "default", Chunks())
    assert work != noted(collate(EXAMPLES[::-1]), PATH, [Head(0, 0)], "default", Chunks())
