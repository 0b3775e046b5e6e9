"""What a plan says it will cost, against what the engine runs: tokens through every layer, counted where they pass."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace

import pytest

from nnsight_et.core.batch import Question, collate
from nnsight_et.core.circuit import Circuit, Component, Head, HeadGroup, Mlp
from nnsight_et.engine.budget import Chunks
from nnsight_et.engine.paths import End, Kind, KvHeads
from nnsight_et.interventions.ablation import (
    AblationValues,
    circuit_readouts,
    mean_outputs,
    model_readouts,
    remainder_readouts,
)
from nnsight_et.interventions.activation_patching import patched_readouts_by_source
from nnsight_et.interventions.attribution import head_effects
from nnsight_et.interventions.cmap import by_place, donor_inputs, recipient_input_readouts
from nnsight_et.interventions.dcm import Training, trained_masks
from nnsight_et.interventions.knockout import knockout_readouts
from nnsight_et.interventions.path_patching import Path, edge_probabilities, path_probabilities
from nnsight_et.interventions.probes import Probe, probe_probabilities
from nnsight_et.interventions.screened_paths import screened_probabilities
from nnsight_et.manifest import DCM
from nnsight_et.methods.discovery.spent import passes_of
from nnsight_et.models.catalog import Shape
from nnsight_et.models.load import shape_from
from nnsight_et.planning.cost import methods, paths
from nnsight_et.planning.cost.methods import Count, Prompts, Rows, Sizes
from nnsight_et.tasks.boxes import Boxes
from tests.helpers.architecture_table import made
from tests.helpers.tiny_model import hf_llama, tiny_model, tokenizer

SHAPE = Shape(n_layers=4, n_heads=4, n_kv_heads=2, d_head=8, d_model=32, d_mlp=48, vocabulary=122)
CHUNKS = Chunks(tokens=100, branch_tokens=16)  # several passes, and rows of several branches with some to spare
GROUPS = (
    HeadGroup("a", "last", (Head(3, 0), Head(2, 1))),
    HeadGroup("c", "query_label", (Head(1, 2),)),
    HeadGroup("d", "previous_query_label", (Head(1, 0), Head(0, 3))),
)
CIRCUIT = Circuit(GROUPS)
ALONE = [Circuit((group,)) for group in GROUPS]
EMPTY = Circuit(())


@pytest.fixture(scope="module")
def model():
    return tiny_model(hf_llama(SHAPE.n_layers, 4, 2, hidden_size=32, intermediate_size=48, head_dim=8))


@pytest.fixture(scope="module")
def pair():
    examples = Boxes(3).examples(tokenizer(), 20, 0, "discovery")
    first = examples[0].base.positions
    alike = [one for one in examples if one.base.positions == first][:3]
    made = collate(alike)
    assert made.base.tokens.shape == (3, 26)
    return made


@pytest.fixture
def rows(pair):
    places = {name: int(index[0]) for name, index in pair.base.positions.items()}
    return Rows(Sizes(SHAPE, CHUNKS), (Prompts(3, pair.base.tokens.shape[1], places),))


@contextmanager
def counted(model):
    """Tokens times layers, through the layers' MLPs; tokens that get logits; calls of the model."""
    found, module = {"layers": 0, "answers": 0, "passes": 0}, model.nn._module

    def layers(_module, _inputs, output):
        found["layers"] += output.shape[:-1].numel()

    def answers(_module, _inputs, output):
        found["answers"] += output.shape[:-1].numel() if output.shape[-1] == SHAPE.vocabulary else 0

    def calls(_module, _inputs, _output):
        found["passes"] += 1

    hooks = [layer.mlp.down_proj.register_forward_hook(layers) for layer in module.model.layers]
    hooks += [module.lm_head.register_forward_hook(answers), module.register_forward_hook(calls)]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def same(count: Count, found: dict[str, int]) -> None:
    assert (count.token_layers, count.answers, count.passes) == (found["layers"], found["answers"], found["passes"])


HEADS, MLPS = (Head(3, 1), Head(2, 0)), (Mlp(3), Mlp(1))
ENDS: dict[str, tuple[End | None, tuple[Component, ...], KvHeads]] = {
    "logits": (None, (), "shared"),
    "query": ("query", HEADS, "shared"),
    "key": ("key", HEADS, "shared"),
    "key, expanded": ("key", HEADS, "expanded"),
    "value": ("value", HEADS, "shared"),
    "value, expanded": ("value", HEADS, "expanded"),
    "MLPs": ("input", MLPS, "shared"),
}
KINDS: tuple[Kind, ...] = ("heads", "mlps")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("end", ENDS)
def test_path_patching(model, pair, rows, end, kind):
    via, receivers, kv_heads = ENDS[end]
    path = Path("query_label", via, receivers, kv_heads, kind)
    senders = path.reaching(4, 4)
    with counted(model) as found:
        path_probabilities(model, pair, path, senders, "default", CHUNKS)
    (prompts,) = rows.of(3, ["query_label"])
    same(paths.path_patching(rows.sizes, prompts, path, senders), found)


@pytest.mark.parametrize("end", ENDS)
def test_estimates_of_every_head(model, pair, rows, end):
    """Forward passes are counted; as many go back."""
    via, receivers, kv_heads = ENDS[end]
    path = Path("query_label", via, receivers, kv_heads)
    senders = path.reaching(4, 4)
    with counted(model) as found:
        screened_probabilities(model, pair, path, senders, "default", CHUNKS)
    (prompts,) = rows.of(3, ["query_label"])
    count = paths.path_patching(rows.sizes, prompts, path, senders) + paths.estimates(rows.sizes, prompts, path)
    assert count.token_layers == found["layers"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("end", ["logits", "value, expanded", "MLPs"])
@pytest.mark.parametrize("name", ["Command R7B", "Llama 1, 2 (MHA)"])  # parallel blocks; each head has its own keys
def test_path_patching_of_other_blocks(pair, rows, name, end, kind):
    module, model = made(name)
    shape = shape_from(module.config, name)
    via, receivers, kv_heads = ENDS[end]
    receivers = tuple(type(one)(one.layer - 1, one.index) for one in receivers)  # of three layers, not four
    path = Path("query_label", via, receivers, kv_heads, kind)
    senders = path.reaching(3, 4, shape.parallel)
    with counted(model) as found:
        path_probabilities(model, pair, path, senders, "default", CHUNKS)
    (prompts,) = rows.of(3, ["query_label"])
    same(paths.path_patching(Sizes(shape, CHUNKS), prompts, path, senders), found)


def test_circuits_alone_and_their_means(model, pair, rows):
    with counted(model) as found:
        fill = AblationValues(mean_outputs(model, [pair.source], None)["z"])
        circuit_readouts(model, pair.question, fill, [CIRCUIT] * 23, "default", CHUNKS)
    same(methods.whole(rows, 3, 4) + methods.circuit_work(rows, 3, 23, CIRCUIT.positions), found)


def test_the_model_without_heads_and_as_it_is(model, pair, rows):
    with counted(model) as found:
        remainder_readouts(model, pair.question, AblationValues(), [CIRCUIT, *ALONE], "default", CHUNKS)
        model_readouts(model, pair.question, "default")
    same(methods.without(rows, 3, 4, CIRCUIT.positions) + methods.plain(rows, 3), found)


def test_several_sources_of_one_base_run(model, pair, rows):
    sources = [Question(pair.source, pair.answer), Question(pair.base, pair.answer)]
    sets = [*ALONE, CIRCUIT, EMPTY]
    every = [(number, heads) for number in range(2) for heads in sets]
    with counted(model) as found:
        patched_readouts_by_source(model, pair.base, sources, every, "default", CHUNKS)
    same(methods.patching_work(rows, 3, [sets, sets]), found)


def test_blocked_attention(model, pair, rows):
    edge = pair.base.positions["query_label"], pair.base.positions["previous_query_label"]
    with counted(model) as found:
        knockout_readouts(model, pair.question, edge, range(5), "default", CHUNKS)
    same(methods.knockout(rows, 3, "query_label", range(4)), found)


def test_a_donors_inputs(model, pair, rows):
    group = GROUPS[1]
    with counted(model) as found:
        given = group, by_place(donor_inputs(model, pair.base, group))
        ways = [("query",), ("key",), ("query", "key", "value")]
        recipient_input_readouts(model, pair.question, given, ways, "default", CHUNKS)
    same(methods.donor_input_work(rows, 3, group) + methods.recipient_input_work(rows, 3, group, 3), found)


def test_trained_masks(model, pair, rows):
    """Forward passes are counted; as many again go back. Steps are so short that all masks round to one."""
    spec = DCM(method="dcm", circuit="c", training_examples=3, validation_examples=3, batch=3, validate_every=1)
    training = Training(validate_every=1, learning_rate=1e-6)
    with counted(model) as found:
        trained_masks(replace(model, reads_words=True), GROUPS, training, [pair], [pair], CHUNKS)
    count = methods.masks(rows, spec, GROUPS)
    forward = count.trained + count.whole + count.again
    assert (forward, count.answers) == (found["layers"], found["answers"])


def test_attribution_of_every_head(model, pair, rows):
    heads = [Head(layer, index) for layer in range(4) for index in range(4)]
    with counted(model) as found:
        head_effects(model, pair, "query_label", heads, "default", CHUNKS)
    once = methods.every_head(rows, 3, "query_label")
    (prompts,) = rows.of(3, ["query_label"])
    assert once.trained == methods.suffix_run(rows.sizes, prompts, 3, 0, 1).again  # forward once, and back once
    assert once.whole + once.again + once.trained == found["layers"]


@pytest.mark.parametrize("top", [Mlp(2), Mlp(3)])  # below the last head, and beside it
def test_edges_of_several_paths(model, pair, rows, top):
    (prompts,) = rows.prompts
    some: list[tuple[Path, list[Component]]] = [
        (Path("last"), [Head(0, 1), Head(3, 3)]),
        (Path("query_label", "value", HEADS), [Head(0, 2), Head(1, 1), Head(2, 0)]),
        (Path("previous_query_label", "key", HEADS[:1]), [Head(2, 1)]),
        (Path("last", senders="mlps"), [Mlp(0), top]),
    ]
    edges = [(path, sender) for path, senders in some for sender in senders]
    with counted(model) as found:
        edge_probabilities(model, pair, edges, "default", CHUNKS)
    same(paths.edges(rows.sizes, prompts, some), found)


def test_probes_of_several_places(model, pair, rows):
    (prompts,) = rows.prompts
    ends: list[tuple[str, End, tuple[Component, ...]]] = [
        ("last", "query", HEADS),
        ("query_label", "value", HEADS[:1]),
        ("last", "input", MLPS),
    ]
    sets = None, (Head(0, 1), Head(1, 3)), (Head(0, 2),), (Head(1, 0),), (Head(2, 1), Head(2, 3))
    every = [Probe(Path(at, via, parts), given) for at, via, parts in ends for given in (None, *sets)]
    passes = [
        paths.ProbePass("last", "query", 2, 3, 5, {0: 2, 1: 1}),
        paths.ProbePass("last", "query", 3, 3, 1, {2: 1}),  # out of reach of the lower receiver
        paths.ProbePass("query_label", "value", 3, 3, 6, {0: 2, 1: 1, 2: 1}),
        paths.ProbePass("last", "input", 1, 3, 5, {0: 2, 1: 1}),  # a head reaches the MLP of its layer
        paths.ProbePass("last", "input", 3, 3, 1, {2: 1}),
    ]
    with counted(model) as found:
        probe_probabilities(model, pair, every, "default", CHUNKS)
    same(paths.probing(rows.sizes, prompts, passes), found)
    assert passes_of(every, SHAPE.parallel) == passes
