"""How much of the model each engine runs: tokens through every layer, counted where they come out."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace

import pytest

from nnsight_et.core.batch import collate
from nnsight_et.core.circuit import Head, Mlp
from nnsight_et.engine.budget import Chunks
from nnsight_et.interventions.path_patching import Path, path_probabilities
from nnsight_et.tasks.boxes import Boxes
from tests.helpers.tiny_model import hf_llama, tiny_model, tokenizer

LAYERS, HEADS, EXAMPLES, TOKENS = 8, 8, 2, 54


@contextmanager
def counted(model):
    """Token-layers, and tokens that get logits, while this is open; skipped modules do not count."""
    counts, module = {"layers": 0, "logits": 0, "passes": 0}, model.nn._module

    def token_layers(_module, _inputs, output):
        counts["layers"] += output.shape[:-1].numel()

    def logits(_module, _inputs, output):
        counts["logits"] += output.shape[:-1].numel() if output.shape[-1] == module.config.vocab_size else 0

    def one_more(_module, _inputs, _output):
        counts["passes"] += 1

    hooks = [layer.mlp.down_proj.register_forward_hook(token_layers) for layer in module.model.layers]
    hooks.append(module.model.embed_tokens.register_forward_hook(one_more))
    hooks.append(module.lm_head.register_forward_hook(logits))
    try:
        yield counts
    finally:
        for hook in hooks:
            hook.remove()


@pytest.fixture(scope="module")
def model():
    return tiny_model(
        hf_llama(layers=LAYERS, heads=HEADS, kv_heads=HEADS, hidden_size=32, intermediate_size=48, head_dim=8)
    )


@pytest.fixture(scope="module")
def pair():
    made = collate(Boxes(7).examples(tokenizer(), EXAMPLES, 0, "discovery"))
    assert made.base.tokens.shape == (EXAMPLES, TOKENS)
    return made


def work(model, pair, path: Path, engine: str) -> dict[str, int]:
    senders = path.reaching(LAYERS, HEADS)
    with counted(model) as counts:
        path_probabilities(model, pair, path, senders, engine, Chunks())
    return counts


def of_the_definition(senders: int, passes: int) -> int:
    """Token-layers of the literal method: clean runs of base and source, their answer, and `passes` runs per sender."""
    return (3 + passes * senders) * EXAMPLES * TOKENS * LAYERS


LAST = Path("last", "query", tuple(Head(layer, 3) for layer in (4, 5, 6, 7)))


def test_query_receivers_at_last_cost_a_twentieth_of_the_reference(model, pair):
    """All 64 heads are asked about; those of the last layer cannot reach the receivers: neither engine runs them."""
    fast, slow = work(model, pair, LAST, "default"), work(model, pair, LAST, "reference")
    assert slow["layers"] == of_the_definition(senders=56, passes=2)
    assert fast["layers"] <= slow["layers"] / 20, slow["layers"] / fast["layers"]


def test_direct_paths_cost_a_twentieth_of_the_reference(model, pair):
    fast, slow = work(model, pair, Path("last"), "default"), work(model, pair, Path("last"), "reference")
    assert slow["layers"] == of_the_definition(senders=64, passes=1)
    assert fast["layers"] <= slow["layers"] / 20, slow["layers"] / fast["layers"]


@pytest.mark.parametrize(("at", "share"), [("query_label", 25), ("previous_query_label", 10)])
def test_value_receivers_further_back_cost_their_suffix(model, pair, at, share):
    """The saving is the prefix and the layers below the receivers: less the further back the position is."""
    path = Path(at, "value", LAST.receivers)
    fast, slow = work(model, pair, path, "default"), work(model, pair, path, "reference")
    assert slow["layers"] == of_the_definition(senders=56, passes=2)
    assert fast["layers"] <= slow["layers"] / share, slow["layers"] / fast["layers"]


def test_the_default_engine_runs_what_the_design_says_and_no_more(model, pair):
    """Two whole runs; per sender one token up to the last receiver, and one from the first receiver above it up."""
    one_token = sum(HEADS * (7 - layer) for layer in range(7))
    suffix = sum(HEADS * (LAYERS - max(4, layer + 1)) for layer in range(7))
    base = TOKENS * (LAYERS - 1) + 1  # the last token alone goes through the last MLP
    source = TOKENS * 6  # the heads of seven layers are read, six of their MLPs are run
    counts = work(model, pair, LAST, "default")
    assert counts["layers"] == EXAMPLES * (base + source + one_token + suffix)


def test_logits_are_computed_for_answers_only(model, pair):
    base, senders = EXAMPLES, 56 * EXAMPLES
    assert work(model, pair, LAST, "default")["logits"] == base + senders
    assert work(model, pair, Path("last"), "default")["logits"] == base + 64 * EXAMPLES


def test_mlps_ride_together_where_their_paths_meet_the_same_receivers_first(model, pair):
    """Of 7 senders those of layers 0 to 3 meet layer 4 first: one pass of a token, from layer 0, and one suffix."""
    counts = work(model, pair, replace(LAST, senders="mlps"), "default")
    one_token = 4 * 7 + sum(7 - layer for layer in (4, 5, 6))
    suffix = 4 * (LAYERS - 4) + sum(LAYERS - (layer + 1) for layer in (4, 5, 6))
    assert counts["layers"] == EXAMPLES * (TOKENS * (LAYERS - 1 + 7) + 1 + one_token + suffix)
    assert counts["passes"] == 2 + 2 * 4
    assert counts["logits"] == EXAMPLES * (1 + 7)


def test_mlps_into_logits_are_one_pass(model, pair):
    counts, slow = (work(model, pair, Path("last", senders="mlps"), engine) for engine in ("default", "reference"))
    assert counts["passes"] == 3
    assert counts["layers"] == EXAMPLES * (TOKENS * (2 * LAYERS - 1) + 1 + LAYERS * LAYERS)
    assert (
        slow["layers"] == (4 + LAYERS) * EXAMPLES * TOKENS * LAYERS
    )  # the source's MLPs are read in a run of their own


def test_heads_into_an_mlp_run_no_layer_above_it_twice(model, pair):
    """Layers 0 to 4 send into the MLP of layer 4, which one_token runs and the suffix runs again."""
    counts = work(model, pair, Path("last", "input", (Mlp(4),)), "default")
    one_token = sum(HEADS * (5 - layer) for layer in range(5))
    suffix = 5 * HEADS * (LAYERS - 4)
    assert counts["layers"] == EXAMPLES * (TOKENS * (LAYERS - 1 + 4) + 1 + one_token + suffix)
