"""Planted models whose gradients mislead: what estimates miss of them, and what a stage with a screen keeps."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from nnsight_et.core.batch import collate
from nnsight_et.core.circuit import Head
from nnsight_et.core.metrics import patching_effect
from nnsight_et.engine.budget import Chunks
from nnsight_et.engine.paths import Path
from nnsight_et.interventions.screened_paths import screened_probabilities
from nnsight_et.manifest import parse
from nnsight_et.planning.plan import plan
from nnsight_et.report.results import tables
from nnsight_et.results.headers import folder_of
from nnsight_et.results.store import read_result
from nnsight_et.runner.run import run
from nnsight_et.tasks.boxes import Boxes
from nnsight_et.zoo.known import BY_CHANCE, BY_POSITION, Known, make_model, parse_heads, store
from nnsight_et.zoo.layout import LABEL_DIMS, LAYOUT
from nnsight_et.zoo.plant import D_HEAD, LAYER_0, layers_of
from nnsight_et.zoo.tokenizer import word_tokenizer
from tests.helpers.tiny_model import tiny_model

EXAMPLES, SEED = 60, 3
STEPS = "L1H0 structure_reader 1; L2H0 position_detector 1; L3H0 position_transmitter 1;"
SATURATED = "L4H0 value_fetcher .5 6; L4H1 value_fetcher .5 6"  # so sure of where they look that a slope is nothing
CANCELLING = "L4H0 value_fetcher .5 1.5; L4H1 value_fetcher .5 1.5; L4H2 value_fetcher -.25 .7"  # one unsure, against
FETCHERS = {SATURATED: (Head(4, 0), Head(4, 1)), CANCELLING: (Head(4, 0), Head(4, 1), Head(4, 2))}
TRANSMITTER, DETECTOR, RARE = Head(3, 0), Head(2, 0), Head(2, 1)
MANIFEST = """\
name: fooled
seed: {seed}
task: {{kind: boxes}}
models: {{planted: {{path: {folder}}}}}
experiments:
  found:
    method: path_patching
    model: planted
    examples: {examples}
    stages:
      - {{group: a, into: logits, at: last, keep: 2, receivers: 2, screen: {screen}}}
      - {{group: b, into: a, via: query, at: last, keep: 1, receivers: 1, screen: {screen}}}
      - {{group: c, into: b, via: value, at: query_label, keep: 2, screen: {screen}}}
"""


def planted(fetchers: str):
    known = Known("fooling", (*LAYER_0, *parse_heads(STEPS + fetchers)), BY_POSITION, guesses=BY_CHANCE)
    return make_model(known, 0)


def with_a_rare_head():
    """Saturated, and of one label, which few prompts ask for, another head than of all others finds the segment."""
    module, examples = planted(SATURATED), Boxes(7).examples(word_tokenizer(), EXAMPLES, SEED, "discovery")
    asked = Counter(one.base.tokens[one.base.positions["query_label"]] for one in examples)
    label = next(token for token, count in asked.items() if count == EXAMPLES // 20)
    with torch.no_grad():
        code = module.model.embed_tokens.weight[label, LAYOUT.labels]
        only = torch.outer(code, code) / code.square().sum()
        attention, one, other = layers_of(module)[2].self_attn, slice(D_HEAD), slice(D_HEAD, 2 * D_HEAD)
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj):
            projection.weight[other] = projection.weight[one]
        attention.o_proj.weight[:, other] = attention.o_proj.weight[:, one]
        query = attention.q_proj.weight[:, LAYOUT.labels]
        query[one], query[other] = query[one] @ (torch.eye(LABEL_DIMS) - only), query[other] @ only
    return module


def exact_and_estimated(module, path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """[sender, example] each."""
    pair = collate(Boxes(7).examples(word_tokenizer(), EXAMPLES, SEED, "discovery"))
    model = tiny_model(module)
    senders = path.reaching(model.n_layers, model.n_heads)
    found = screened_probabilities(model, pair, path, senders, "default", Chunks())
    return patching_effect(found["patched"], found["base"]), found["estimate"][0]


@pytest.mark.parametrize("fetchers", [SATURATED, CANCELLING], ids=["saturated", "cancelling"])
def test_a_gradient_misses_the_head_that_everything_goes_through(fetchers: str):
    effect, estimate = exact_and_estimated(planted(fetchers), Path("last", "query", FETCHERS[fetchers]))
    number = TRANSMITTER.layer * 8 + TRANSMITTER.index
    assert effect.mean(-1).argmin() == number
    assert effect[number].mean() < -0.9
    assert estimate[number].mean().abs() < 0.03


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    """What the stages keep of the model with a rare head, with an assumption and with none, as results."""
    root = tmp_path_factory.mktemp("fooled")
    store(with_a_rare_head(), root / "model")

    def found(screen: str):
        text = MANIFEST.format(seed=SEED, folder=root / "model", examples=EXAMPLES, screen=screen)
        made = plan(parse(text, "fooled.yaml", ("self_check=off",)).in_folder(root))
        list(run(made, root / "runs"))
        return read_result(folder_of(root / "runs", made) / "found")

    return found("{first: 4}"), found("{first: 4, tail: any}")


def kept(result) -> list[list[str]]:
    return [sorted(one["head"] for one in stage["kept"]) for stage in result.header.summary["stages"]]


def test_what_a_gradient_misses_a_screened_stage_keeps(stages):
    for result in stages:
        assert kept(result)[:2] == [["L4H0", "L4H1"], [str(TRANSMITTER)]]
        assert str(DETECTOR) in kept(result)[2]


def test_a_head_of_one_prompt_in_twenty_is_kept_and_the_result_says_what_it_took_for_granted(stages):
    assumed, safe = stages
    effect, estimate = exact_and_estimated(with_a_rare_head(), Path("query_label", "value", (TRANSMITTER,)))
    rare = RARE.layer * 8 + RARE.index
    assert effect.mean(-1).argsort()[:2].tolist() == [rare - 1, rare]
    assert (effect[rare] < -0.5).sum() == EXAMPLES // 20
    assert estimate[rare].mean() > effect[rare].mean() / 2
    assert kept(safe)[2] == [str(DETECTOR), str(RARE)]
    notes = " ".join(table.note for table in tables(assumed.header))
    assert "4 times the head's largest on the first 4 prompts" in notes
    assert kept(assumed)[2] == [str(DETECTOR), str(RARE)]  # one of the first four prompts asks for its label
