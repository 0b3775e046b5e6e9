"""Runs that calls share: the numbers of runs of their own, prompts of several lengths, and no prompt run twice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace

import pytest
import torch

from nnsight_et.core.batch import collate
from nnsight_et.core.circuit import Head
from nnsight_et.engine.budget import Chunks
from nnsight_et.engine.paths import Kind, Path, StageReads
from nnsight_et.engine.shared_runs import SharedRuns
from nnsight_et.interventions.path_patching import path_probabilities
from nnsight_et.interventions.screened_paths import screened_probabilities
from nnsight_et.models.load import shape_from
from nnsight_et.planning.cost.methods import Prompts, Sizes
from nnsight_et.planning.cost.paths import kept_runs
from tests.engine.test_work_counts import counted
from tests.helpers.tiny_model import PAD, few_examples, hf_llama, tiny_model

PATHS = (
    Path("last"),
    Path("last", "query", (Head(1, 0), Head(2, 1))),
    Path("query_label", "value", (Head(2, 0),)),
    Path("query_label", "key", (Head(1, 2), Head(2, 3)), "expanded"),
    Path("last", "query", (Head(2, 1),), senders="mlps"),
)
ENDS: tuple[tuple[str, Kind], ...] = (("last", "heads"), ("last", "mlps"), ("query_label", "heads"))
ANY = tuple(StageReads(at, senders, frozenset(range(3)), 2) for at, senders in ENDS)  # receivers in any layer
EXAMPLES = few_examples((2, 4, 3, 2, 4), 0)


@pytest.fixture(scope="module")
def model():
    return replace(tiny_model(hf_llama(dtype=torch.float64)), runs={})


def of(rows: list[int], shared: bool = True):
    pair = collate([EXAMPLES[row] for row in rows], PAD)
    return replace(pair, shared=SharedRuns(collate(EXAMPLES, PAD), torch.tensor(rows), ANY)) if shared else pair


@pytest.mark.parametrize("rows", [[0, 1, 2, 3, 4], [3, 0], [1]], ids=str)
@pytest.mark.parametrize("path", PATHS, ids=lambda path: f"{path.via} {path.senders}")
def test_shared_runs_give_the_numbers_of_runs_of_their_own(model, path: Path, rows: list[int]):
    senders = path.reaching(model.n_layers, model.n_heads)
    ways = [path_probabilities] + [screened_probabilities] * (path.senders == "heads")
    for measure in ways:
        alone, together = (measure(model, of(rows, one), path, senders, "default", Chunks()) for one in (False, True))
        assert set(alone) == set(together)
        for name in alone:
            torch.testing.assert_close(together[name], alone[name], rtol=1e-10, atol=1e-14)


def test_what_a_call_finds_does_not_depend_on_what_was_asked_before(model):
    senders, found = PATHS[2].reaching(model.n_layers, model.n_heads), list[torch.Tensor]()
    for before in ([], [[0, 1, 2, 3, 4]], [[0, 4], [2]]):
        fresh = replace(model, runs={})
        for rows in before:
            path_probabilities(fresh, of(rows), PATHS[0], [Head(0, 0)], "default", Chunks())
        found.append(path_probabilities(fresh, of([1, 2]), PATHS[2], senders, "default", Chunks())["patched"])
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_both_runs_are_made_once_and_all_that_follows_is_the_senders_own(model):
    fresh = replace(model, runs={})
    layer = collate(EXAMPLES, PAD).base.tokens.numel()  # tokens
    for number, path in enumerate(PATHS[:4]):
        senders = path.reaching(model.n_layers, model.n_heads)
        with counted(model) as alone:
            path_probabilities(replace(model, runs=None), of([0, 1]), path, senders, "default", Chunks())
        with counted(model) as together:
            path_probabilities(fresh, of([0, 1]), path, senders, "default", Chunks())
        source = max(sender.layer for sender in senders)  # the MLP of the last layer that is read is not run
        own = alone["layers"] - of([0, 1]).base.tokens.numel() * (model.n_layers - 1 + source) - 2
        # base, and source with its last MLP, which a later path reads
        runs = 0 if number else layer * (model.n_layers - 1 + model.n_layers) + len(EXAMPLES)
        assert together["layers"] == own + runs
    assert len(fresh.runs or {}) == 1


def test_other_prompts_are_other_runs(model):
    fresh, path = replace(model, runs={}), PATHS[2]
    pair = of([0, 1])
    swapped = replace(pair.shared, pair=replace(pair.shared.pair, source=pair.shared.pair.base))
    found = path_probabilities(fresh, pair, path, [Head(0, 0)], "default", Chunks())
    same = path_probabilities(fresh, replace(pair, shared=swapped), path, [Head(0, 0)], "default", Chunks())
    assert len(fresh.runs or {}) == 2
    torch.testing.assert_close(same["patched"][0], same["base"])
    assert not torch.allclose(found["patched"][0], found["base"])


def storages_in(value) -> Iterator[torch.UntypedStorage]:
    """Those of all tensors of numbers in plain data and dataclasses."""
    if isinstance(value, torch.Tensor):
        yield from [value.untyped_storage()] if value.is_floating_point() else ()
    elif is_dataclass(value):
        yield from storages_in([getattr(value, one.name) for one in fields(value)])
    elif isinstance(value, dict | list | tuple):
        for one in value.values() if isinstance(value, dict) else value:
            yield from storages_in(one)


def test_what_no_stage_to_come_reads_is_forgotten_without_a_run_or_another_number(model):
    """The runs that all stages share, then the same when the first two are over and their receivers are known."""
    fresh, (_, _, value, key, _) = replace(model, runs={}), PATHS
    known = [StageReads(path.at, "heads", frozenset({one.layer for one in path.receivers}), 2) for path in (value, key)]
    held = list[int]()
    for path, stages in ((PATHS[0], ANY), (value, (known[0], ANY[2])), (key, (known[1],))):
        whole, pair = replace(model, runs={}), of([3, 1])
        senders = path.reaching(model.n_layers, model.n_heads)
        with counted(model) as count:
            less = replace(pair, shared=replace(pair.shared, stages=stages))
            found = screened_probabilities(fresh, less, path, senders, "default", Chunks())
        with counted(model) as again:
            same = screened_probabilities(whole, pair, path, senders, "default", Chunks())
        assert all(torch.equal(found[name], same[name]) for name in same)
        assert (count["layers"] < again["layers"]) == (path != PATHS[0])  # whose runs are the first
        held.append(bytes_in(fresh))
    assert held[2] < held[1] < held[0] == bytes_in(whole)
    (kept,) = (fresh.runs or {}).values()
    assert set(kept.tokens) == {"query_label"}
    assert set(kept.base.entering) == {1, 2}
    assert kept.base.cache[0][0].numel() == 0 < kept.base.cache[1][0].numel()


@pytest.mark.parametrize("metric", ["probability_ratio", "kl"])
def test_logits_are_kept_where_patched_runs_are_compared_with_them(model, metric):
    fresh, path = replace(model, runs={}), PATHS[1]
    pair = replace(of([3, 1]), metric=metric)
    pair = replace(pair, shared=replace(pair.shared, pair=replace(pair.shared.pair, metric=metric)))
    senders = path.reaching(model.n_layers, model.n_heads)
    found, alone = (
        path_probabilities(model, one, path, senders, "default", Chunks())
        for model, one in ((fresh, pair), (replace(model, runs=None), pair))
    )
    for name in alone:
        torch.testing.assert_close(found[name], alone[name], rtol=1e-10, atol=1e-14)
    (kept,) = (fresh.runs or {}).values()
    assert (kept.base.logits.numel() > 0) == (metric == "kl")


def bytes_in(model) -> int:
    """Of all tensors of numbers that its runs hold."""
    return sum({one.data_ptr(): one.nbytes() for one in storages_in(list(model.runs.values()))}.values())


def test_a_plan_counts_what_is_kept(model):
    """Of prompts of one length; the bytes of all tensors that a model's runs hold."""
    alike = [one for one in few_examples((3, 3, 3, 3), 1) if one.base.length == EXAMPLES[2].base.length]
    fresh, pair = replace(model, runs={}), collate(alike, PAD)
    stages = (ANY[0], StageReads("query_label", "heads", frozenset({1}), 1))
    shared = SharedRuns(pair, torch.tensor([1]), stages)
    asked = replace(collate(alike[1:2], PAD), shared=shared)
    path_probabilities(fresh, asked, PATHS[0], [Head(0, 0)], "default", Chunks())
    assert fresh.runs
    places = {name: int(index[0]) for name, index in pair.base.positions.items()}
    prompts = Prompts(len(alike), pair.base.tokens.shape[1], places)
    shape = shape_from(model.nn._module.config, "tiny")
    kept = kept_runs(Sizes(shape, Chunks()), prompts, stages, len(alike), logits=False)
    assert kept * 2 * shape.n_kv_heads * shape.d_head * 8 == pytest.approx(bytes_in(fresh), rel=0.02)
