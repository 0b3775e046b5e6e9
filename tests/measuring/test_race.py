"""Races of known effects: what is kept beside what all prompts would keep; effects made to fool bound or gradient."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from nnsight_et.core.named_metrics import Metric
from nnsight_et.manifest.methods.path_patching import Screen
from nnsight_et.measuring.race import ESTIMATED, Race, run_race

SENDERS, PROMPTS, KEEP = 40, 96, 4
MISLEADING = ("none", "good", "saturated", "reversed")


@dataclass
class Effects:
    """A stage whose effects [sender, prompt] are known; estimates come as they do from a model."""

    effects: Tensor
    estimates: Tensor | None = None
    metric: Metric = "logit_difference"

    def ask(self, some: Sequence[int], prompts: Sequence[int], name: str) -> Generator[None, None, dict[str, Tensor]]:
        yield from ()
        here = {"base": torch.ones(len(prompts)).double(), "patched": 1 + self.effects[list(some)][:, list(prompts)]}
        if self.metric != "probability_ratio":
            here |= {"base_value": here["base"] - 1, "patched_value": here["patched"] - 1}
        if self.estimates is not None and name in ESTIMATED:
            here["estimate"] = self.estimates[None, :, list(prompts)]
        return here

    def race(self, seed: int, **screen: object) -> Race:
        how = {"screen": Screen.model_validate(screen), "metric": self.metric, "keep": KEEP, "seed": str(seed)}
        course = run_race(self.ask, tuple(self.effects.shape), **how)  # type: ignore[arg-type]
        while True:
            try:
                next(course)
            except StopIteration as end:
                return end.value

    def kept(self, race: Race) -> list[int]:
        means = self.effects.mean(-1)
        return sorted(race.whole, key=lambda one: means[one].item())[:KEEP]

    @property
    def best(self) -> list[int]:
        return self.effects.mean(-1).argsort()[:KEEP].tolist()


def stage(seed: int, estimated: str = "none") -> Effects:
    """Effects as real stages have them: few that matter, many near 0, noise as large as they, tails, a common part."""
    draw = torch.Generator().manual_seed(seed)
    middle = -0.6 * torch.rand(SENDERS, 1, generator=draw).double() ** (1 + seed % 6)
    noise = torch.randn(SENDERS, PROMPTS, generator=draw).double()
    noise = noise if seed % 3 else noise * torch.rand(SENDERS, PROMPTS, generator=draw).double().pow(-0.25)
    size = (0.02 + middle.abs()) * (0.3 + torch.rand(SENDERS, 1, generator=draw).double())
    effects = middle + size * (noise + 0.5 * torch.randn(1, PROMPTS, generator=draw).double())
    rest = 0.1 * size * torch.randn(SENDERS, PROMPTS, generator=draw).double()
    silent = (torch.rand(SENDERS, 1, generator=draw) < 0.3).double()
    estimates = {
        "none": None,
        "good": effects + rest,
        "saturated": (effects + rest) * (1 - silent),
        "reversed": -effects,
    }
    return Effects(effects, estimates[estimated])


def test_two_hundred_stages_keep_what_all_prompts_keep():
    """The level is 0.05, and most senders that are kept look it on the first prompts already."""
    same, held, ends, measured = 0, 0, 0, 0.0
    for seed in range(200):
        made = stage(seed, MISLEADING[seed % 4])
        race = made.race(seed)
        same += made.kept(race) == made.best
        measured += race.prompts.double().mean().item() / PROMPTS / 200
        if seed >= 2 * len(MISLEADING):
            continue
        bounds, mean = race.bounds(), made.effects.mean(-1)
        left = race.prompts < PROMPTS
        held += int((bounds[left, 0] <= mean[left]).sum() + (mean[left] <= bounds[left, 1]).sum())
        ends += 2 * int(left.sum())
    assert same >= 190
    assert held >= (1 - 0.05 / KEEP) * ends
    assert measured < 0.6


def test_good_estimates_let_heads_leave_earlier_and_bad_ones_cost_little():
    def cost(estimated: str) -> float:
        return sum(stage(seed, estimated).race(seed).prompts.sum().item() for seed in range(16))

    alone = cost("none")
    assert cost("good") < 0.7 * alone
    assert cost("reversed") < 1.25 * alone


def rare(seen: bool = False) -> Effects:
    """Sender 0 does nothing but on one prompt in twenty, where it takes everything, and so is the best but three."""
    made = torch.zeros(SENDERS, PROMPTS).double() + 0.004 * torch.randn(
        SENDERS, PROMPTS, generator=torch.Generator().manual_seed(0)
    )
    made[1:4] -= 0.3
    made[0] = 0
    made[0, ::20] = -0.99
    return Effects(made, made * 0.5 if seen else torch.zeros(SENDERS, PROMPTS), "probability_ratio")


def test_a_head_that_matters_on_one_prompt_in_twenty_is_not_missed_where_nothing_is_assumed():
    made = rare()
    missed = sum(0 not in made.kept(made.race(seed, tail="any")) for seed in range(20))
    assert missed <= 1 + 2  # 0.05 of 20, and what chance adds to it
    assert min(made.race(0, tail="any").prompts.tolist()) > 24


def test_an_estimate_that_sees_it_keeps_it_in_the_race():
    made = rare(seen=True)
    assert all(0 in made.kept(made.race(seed)) for seed in range(20))


def test_with_an_assumption_it_may_leave_and_so_its_bounds_are_said_to_rest_on_one():
    made = rare()
    races = [made.race(seed) for seed in range(20)]
    assert any(0 not in made.kept(race) for race in races)
    assert all(race.screen.tail == 4 for race in races)


def test_two_heads_that_cancel_are_measured_each_by_itself():
    """Their sum is nothing, and a gradient at the base run says so of both; alone each takes half."""
    made = stage(1)
    made.effects[5] = -0.5
    made.effects[6] = 0.5
    made.estimates = made.effects.clone()
    made.estimates[5:7] = 0
    assert made.best == made.kept(made.race(0))
    assert 5 in made.kept(made.race(0))


@pytest.mark.parametrize("first", [PROMPTS, PROMPTS + 10])
def test_where_the_first_prompts_are_all_nobody_leaves(first: int):
    race = stage(2).race(0, first=first)
    assert race.prompts.tolist() == [PROMPTS] * SENDERS
    assert race.bounds().isnan().all()


def test_as_many_as_are_asked_for_are_measured_on_all_prompts():
    race = stage(2, "good").race(0, exact=25)
    assert len(race.whole) >= 25


def test_heads_that_do_as_much_as_the_last_kept_one_do_not_leave():
    made = Effects(torch.full((SENDERS, PROMPTS), -0.1).double())
    assert len(made.race(0).whole) == SENDERS
