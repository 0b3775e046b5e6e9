"""Planted models that are hard on purpose; what methods find in them is measured and told, not demanded.

Noise, a step that an MLP carries, a backup head, heads that only some prompts use, and no head that matters.
"""

from __future__ import annotations

from nnsight_et.zoo.known import BY_CHANCE, BY_POSITION, POSITION, Group, Known, parse_heads
from nnsight_et.zoo.plant import LAYER_0, PlantedHead

STEPS = "L1H0 structure_reader 1; L2H0 position_detector 1;"
NOISY = Known("noisy", POSITION.heads, BY_POSITION, guesses=BY_CHANCE, noise=0.003, demanded=False)
"""Every head without a role, and every MLP, writes a little at random into everything that is read."""
CARRIED = Known(
    "mlp-carried",
    (
        *LAYER_0,
        *parse_heads(
            f"{STEPS} L3H0 position_transmitter_aside 1; L4H0 value_fetcher .5; L4H1 value_fetcher .5"
        ),
    ),
    BY_POSITION | {"position_transmitter": Group(
        "position_transmitter_aside", "last", "value_fetcher", "query", "query_label", "position"
    )},
    guesses=BY_CHANCE,
    carrying=3,
    demanded=False,
)  # fmt: skip
"""B's message is not read as it is written: the MLP of its layer takes it to where A looks."""
BACKUP = Known(
    "backup",
    (*LAYER_0, *parse_heads(f"{STEPS} L3H0 position_transmitter 1; L4H0 value_fetcher_marking 1; L5H0 backup 1")),
    BY_POSITION | {"value_fetcher": Group("value_fetcher_marking", "last", "logits", None, "correct_object", "object")},
    n_layers=6,
    guesses=BY_CHANCE,
    backed_up=frozenset({"value_fetcher"}),
    demanded=False,
)
"""A also marks that it answered; one layer on a head fetches the object where that mark is missing."""
SOME_PROMPTS = Known(
    "some-prompts",
    (*LAYER_0, *parse_heads(f"{STEPS} L3H0 position_transmitter 1; L4H0 fetcher_early 1; L4H1 fetcher_late 1")),
    BY_POSITION | {"value_fetcher": Group("fetcher", "last", "logits", None, "correct_object", "object")},
    guesses=BY_CHANCE,
    demanded=False,
)
"""One head of A answers for the first four segments and rests otherwise, the other for the last three."""
NOTHING = Known(
    "nothing",
    tuple[PlantedHead, ...](),
    {"value_fetcher": Group("nobody", "last", "logits", None, "correct_object", "object")},
    noise=0.003,
    demanded=False,
)
"""No head has a role; all write a little at random."""
HARD = (NOISY, CARRIED, BACKUP, SOME_PROMPTS, NOTHING)
