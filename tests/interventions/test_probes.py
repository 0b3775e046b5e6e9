"""Probes: both engines against plain hooks, and against path patching where they have to agree with it."""

from __future__ import annotations

import pytest
import torch

from nnsight_et.core.circuit import Head, Mlp
from nnsight_et.engine.budget import Chunks
from nnsight_et.engine.paths import End, Path
from nnsight_et.interventions.path_patching import edge_probabilities, path_probabilities
from nnsight_et.interventions.probes import Probe, probe_probabilities
from tests.helpers.closeness import assert_near
from tests.helpers.tiny_model import few_pairs, hf_llama, tiny_model

RECEIVERS: dict[End, tuple[Head, ...]] = {
    "query": (Head(1, 3), Head(2, 0), Head(2, 1)),
    "key": (Head(2, 3), Head(1, 0)),
    "value": (Head(2, 2),),
}
PLACES: list[tuple[str, End]] = [
    ("last", "query"),
    ("query_label", "key"),
    ("previous_query_label", "value"),
    ("previous_query_label", "key"),
]


@pytest.fixture(scope="module", params=[4, 2], ids=["MHA", "GQA"])
def module(request):
    return hf_llama(kv_heads=request.param, dtype=torch.float64)


def probes_of_every_kind() -> list[Probe]:
    heads = [Head(layer, index) for layer in range(2) for index in range(4)]
    found = []
    for donors in (None, tuple(heads), tuple(heads[::2]), (Head(0, 1),)):
        for at, via in PLACES:
            found.append(Probe(Path(at, via, RECEIVERS[via]), donors))
            found.append(Probe(Path(at, via, RECEIVERS[via][:1]), donors))
        found.append(Probe(Path("last", "input", (Mlp(1), Mlp(2)), senders="heads"), donors))
    return found


def test_the_engine_agrees_with_the_reference_whatever_is_probed_together(module):
    model, pair, probes = tiny_model(module), few_pairs(), probes_of_every_kind()
    expected = probe_probabilities(model, pair, probes, "reference", Chunks())
    assert (expected["patched"] - expected["base"]).abs().max() > 0.002
    for chunks in (Chunks(), Chunks(tokens=60, branch_tokens=20)):
        found = probe_probabilities(model, pair, probes, "default", chunks)
        assert_near(found["base"], expected["base"])
        assert_near(found["patched"], expected["patched"])


@pytest.mark.parametrize("engine", ["default", "reference"])
def test_a_probe_of_one_head_is_path_patching_of_it(module, engine):
    model, pair = tiny_model(module), few_pairs()
    for at, via in PLACES:
        path = Path(at, via, RECEIVERS[via])
        senders = [Head(0, index) for index in range(4)]
        patched = path_probabilities(model, pair, path, senders, engine, Chunks())["patched"]
        probes = [Probe(path, (head,)) for head in senders]
        assert_near(probe_probabilities(model, pair, probes, engine, Chunks())["patched"], patched)


def projected(module, run, via: str) -> list[torch.Tensor]:
    """Per layer what its projection gives in a plain run."""
    found: list[torch.Tensor] = []
    hooks = [
        getattr(layer.self_attn, f"{via[0]}_proj").register_forward_hook(lambda _, __, output: found.append(output))
        for layer in module.model.layers
    ]
    module(run.tokens, attention_mask=run.mask, position_ids=run.position_ids)
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize(("at", "via"), PLACES)
def test_a_whole_probe_is_what_plain_hooks_give(module, at, via):
    pair, model, row = few_pairs(), tiny_model(module), torch.arange(3)
    source, hooks = projected(module, pair.source, via), []
    for layer in {head.layer for head in RECEIVERS[via]}:
        heads = [model.receiver(head.index, via) for head in RECEIVERS[via] if head.layer == layer]

        def replace(_, __, output, given=source[layer], heads=heads):
            changed, values = (one.unflatten(-1, (-1, model.d_head)) for one in (output.clone(), given))
            changed[row[:, None], pair.base.positions[at][:, None], heads] = values[
                row[:, None], pair.source.positions[at][:, None], heads
            ]
            return changed.flatten(-2)

        hooks.append(getattr(module.model.layers[layer].self_attn, f"{via[0]}_proj").register_forward_hook(replace))
    run = pair.base
    logits = module(run.tokens, attention_mask=run.mask, position_ids=run.position_ids).logits
    for hook in hooks:
        hook.remove()
    expected = logits[row, run.positions["last"]].softmax(-1)[row, pair.answer]
    found = probe_probabilities(model, pair, [Probe(Path(at, via, RECEIVERS[via]))], "default", Chunks())
    assert_near(found["patched"][0], expected)


def test_a_source_that_is_the_base_changes_nothing(module):
    pair = few_pairs()
    same = type(pair)(pair.base, pair.base, pair.answer)
    found = probe_probabilities(tiny_model(module), same, probes_of_every_kind(), "default", Chunks())
    assert_near(found["patched"], found["base"].expand(len(found["patched"]), -1))


@pytest.mark.parametrize("engine", ["default", "reference"])
def test_edges_of_several_paths_are_those_of_each_path_alone(module, engine):
    model, pair = tiny_model(module), few_pairs()
    paths = [Path("last"), *(Path(at, via, RECEIVERS[via]) for at, via in PLACES)]
    paths.append(Path("last", "query", RECEIVERS["query"], senders="mlps"))
    every = [(path, sender) for path in paths for sender in path.reaching(3, 4)[::2]]
    found = edge_probabilities(model, pair, every, engine, Chunks())
    first = 0
    for path in paths:
        senders = path.reaching(3, 4)[::2]
        alone = path_probabilities(model, pair, path, senders, engine, Chunks())
        assert_near(found["patched"][first : first + len(senders)], alone["patched"])
        first += len(senders)
    assert first == len(found["patched"])
