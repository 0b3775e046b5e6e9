"""Answers of several tokens: every method by both engines against plain hooks, one whole text after the other.

Held against the definition: each text is put behind its prompt without its last token, alone and without padding; what
is patched is patched in the prompt, and what follows the prompt recomputes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import nnsight
import pytest
import torch
from torch import Tensor

from nnsight_et.core.batch import UNFINISHED, Answers, Example, Pair, Prompt, Side, collate
from nnsight_et.core.circuit import Circuit, Head, HeadGroup, Mlp, Via
from nnsight_et.core.metrics import is_right, patching_effect
from nnsight_et.core.named_metrics import WRITTEN, Metric
from nnsight_et.engine import shared_runs
from nnsight_et.engine.budget import Chunks
from nnsight_et.engine.capture import component_outputs
from nnsight_et.interventions import (
    ablation,
    activation_patching,
    attribution,
    cmap,
    dcm,
    knockout,
    probes,
    screened_paths,
)
from nnsight_et.interventions.engine_checks import engine_errors
from nnsight_et.interventions.method_checks import training_errors
from nnsight_et.interventions.path_patching import Path, edge_probabilities, path_probabilities
from tests.helpers import plain_hooks, plain_methods, plain_mlps
from tests.helpers.tiny_model import PAD, few_examples, hf_llama, tiny_model

ENGINES = ("default", "reference")
PATHS = {
    "direct": Path("last"),
    "direct, MLPs": Path("last", senders="mlps"),
    "query at last": Path("last", "query", (Head(1, 3), Head(2, 0), Head(2, 1))),
    "value at query_label": Path("query_label", "value", (Head(2, 2), Head(2, 3))),
    "input at query_label": Path("query_label", "input", (Mlp(1), Mlp(2))),
}
SETS = (
    Circuit((HeadGroup("a", "last", (Head(0, 1), Head(2, 3))), HeadGroup("b", "query_label", (Head(1, 0),)))),
    Circuit((HeadGroup("a", "last", (Head(1, 2),)), HeadGroup("b", "query_label", (Head(0, 3), Head(1, 1))))),
)
HEADS = [{group.at: group.heads for group in heads.groups} for heads in SETS]
GROUP = HeadGroup("b", "query_label", (Head(0, 1), Head(1, 0), Head(1, 3)))
SMALL = Chunks(tokens=40, branch_tokens=12)


@pytest.fixture(scope="module")
def module() -> Any:
    return hf_llama(kv_heads=2, attention_bias=True, dtype=torch.float64)


@pytest.fixture(scope="module")
def model(module):
    return tiny_model(module)


def continued(module, prompt: Prompt, count: int) -> tuple[int, ...]:
    """What the model itself says after a prompt."""
    tokens = list(prompt.tokens)
    for _ in range(count):
        run = torch.tensor([tokens])
        tokens.append(int(plain_hooks.run_model(module, run, torch.ones_like(run))[0, -1].argmax()))
    return tuple(tokens[len(prompt.tokens) :])


@pytest.fixture(scope="module")
def examples(module) -> list[Example]:
    """Four: said by the model, with a foil that begins alike; not begun by it; begun and left; of one token."""
    one, two, three, four = few_examples((2, 3, 2, 3))
    said, begun = continued(module, one.base, 3), continued(module, three.base, 2)
    left = (begun[0], (begun[1] + 1) % 100, 7)
    return [
        Example(one.base, one.source, said[0], (), (said[0], 20), (said[1:], (said[1], 31), (9,))),
        Example(two.base, two.source, 33, (50,), (44,), ((45,), (51, 52), ())),
        Example(three.base, three.source, left[0], (61, 90), (80, 81), (left[1:], (), (62,), (17, 18), ())),
        Example(four.base, four.source, 40, foils=(41,), further=((), (42,))),
    ]


def pair_of(examples, metric: Metric = "probability_ratio", side: Side = "left") -> Pair:
    return collate(examples, PAD, side, metric=metric)


def run_of(prompt: Prompt, text: tuple[int, ...] = ()) -> Any:
    tokens = torch.tensor([[*prompt.tokens, *text[:-1]]])
    positions = {name: torch.tensor([place]) for name, place in prompt.positions.items()}
    return SimpleNamespace(tokens=tokens, mask=torch.ones_like(tokens), positions=positions)


def alone(example: Example, text: tuple[int, ...]) -> Any:
    """One prompt with a text behind it, and its source, as plain_hooks takes them."""
    return SimpleNamespace(base=run_of(example.base, text), source=run_of(example.source), answer=torch.tensor([0]))


def reading(run, later: int) -> Any:
    """The run, whose logits are read that many tokens after its prompt, which ends at `end`."""
    last = run.positions["last"]
    return SimpleNamespace(**(vars(run) | {"positions": run.positions | {"end": last, "last": last + later}}))


def said_by_hooks(example: Example, logits_of: Callable[[Any, int], Tensor]) -> list[Tensor]:
    """Of each text [token, vocabulary]; logits_of: of its pair, how many tokens after the prompt -> [1, vocabulary]."""
    found = []
    for text in (*example.right, *example.wrong):
        pair = alone(example, text)
        found.append(torch.cat([logits_of(pair, later) for later in range(len(text))]))
    return found


def expected(example: Example, logits: list[Tensor]) -> dict[str, Tensor]:
    """Probability, logit and prediction of an example, whose texts have these logits [token, vocabulary]."""
    texts = (*example.right, *example.wrong)
    log_p = [log_of(one, text) for one, text in zip(logits, texts, strict=True)]
    said = [tuple(one.argmax(-1).tolist()) for one in logits]
    right = len(example.right)
    finished = any(said[i] == texts[i] for i in range(right))
    begun = any(said[i][0] == texts[i][0] for i in range(right))
    logit = sum(logits[0][i, token] for i, token in enumerate(texts[0]))
    return {
        "probability": log_p[0].exp(),
        "logit": torch.as_tensor(logit),
        "predicted": torch.tensor(UNFINISHED if begun and not finished else said[0][0]),
    }


def log_of(logits: Tensor, text: tuple[int, ...]) -> Tensor:
    return torch.stack([logits[i].log_softmax(-1)[token] for i, token in enumerate(text)]).sum()


def value_of(metric: str, example: Example, base: list[Tensor], logits: list[Tensor]) -> Tensor:
    texts, right = (*example.right, *example.wrong), len(example.right)
    log_p = torch.stack([log_of(one, text) for one, text in zip(logits, texts, strict=True)])
    if metric == "logit_difference":
        return log_p[0] - log_p[right:].mean()
    if metric == "probability_difference":
        return log_p[:right].exp().sum() - log_p[right:].exp().sum()
    p = base[0].softmax(-1)
    return (p * (p.log() - logits[0].log_softmax(-1))).sum()


def assert_as_by_hooks(found, examples, logits_of, near: float = 1e-9) -> None:
    """Readouts [variant, example]; logits_of: variant, pair, how many tokens after the prompt -> [1, vocabulary]."""
    for variant in range(len(found["probability"])):
        for number, example in enumerate(examples):
            logits = said_by_hooks(example, lambda pair, later, variant=variant: logits_of(variant, pair, later))
            for name, value in expected(example, logits).items():
                given = found[name][variant, number]
                torch.testing.assert_close(given.double(), value.double(), atol=near, rtol=near, msg=f"{name} {number}")


def test_a_row_is_a_text_behind_its_prompt_without_its_last_token(examples):
    for side in ("left", "right"):
        pair = pair_of(examples, "logit_difference", side).by_row()
        assert isinstance(pair.answer, Answers)
        texts = [(one, text) for one in examples for text in (*one.right, *one.wrong)]
        assert len(pair.base.tokens) == len(pair.source.tokens) == len(texts)
        for row, (example, text) in enumerate(texts):
            real = pair.base.tokens[row, pair.base.mask[row].bool()].tolist()
            assert real == [*example.base.tokens, *text[:-1]]
            begins = int(pair.base.mask[row].argmax())
            found = {name: int(index[row]) - begins for name, index in pair.base.positions.items()}
            assert found == example.base.positions
    accuracy = pair_of(examples).by_row()  # without the foils, which nobody asks for
    assert len(accuracy.base.tokens) == sum(len(one.right) for one in examples)


@pytest.mark.parametrize("name", PATHS)
def test_paths_and_every_metric_agree_with_plain_hooks(name, module, model, examples, monkeypatch):
    path = PATHS[name]
    senders = path.reaching(model.n_layers, model.n_heads)
    senders = senders if len(senders) < 4 else senders[::3]
    plain = [one.layer if isinstance(one, Mlp) else tuple(one) for one in senders]
    ends = [one.layer if isinstance(one, Mlp) else tuple(one) for one in path.receivers]
    by_example = []
    for example in examples:
        base, patched = [], []
        for text in (*example.right, *example.wrong):

            def read(logits, last, _answer, text=text):
                return logits[0, int(last) : int(last) + len(text)]

            monkeypatch.setattr(plain_mlps, "probability", read)
            of_base, of_each = plain_mlps.path_patching(module, alone(example, text), plain, ends, path.via, path.at)
            base.append(of_base)
            patched.append(of_each)
        by_example.append((base, patched))
    moved = 0.0
    for metric in WRITTEN:
        runs_as: tuple[tuple[str, Side, Chunks], ...] = (
            ("default", "left", Chunks()),
            ("default", "right", SMALL),
            ("reference", "left", SMALL),
        )
        for engine, side, chunks in runs_as:
            found = path_probabilities(model, pair_of(examples, metric, side), path, senders, engine, chunks)
            for number, (example, (base, patched)) in enumerate(zip(examples, by_example, strict=True)):
                runs = [("base", None, base)] + [
                    ("patched", i, [one[i] for one in patched]) for i in range(len(senders))
                ]
                for run, sender, logits in runs:
                    given = {
                        key: one[number] if sender is None else one[sender, number]
                        for key, one in found.items()
                        if key.startswith(run)
                    }
                    wanted = {run: expected(example, logits)["probability"]}
                    if metric != "probability_ratio":
                        wanted[f"{run}_value"] = value_of(metric, example, base, logits)
                    assert given.keys() == wanted.keys()
                    for key, value in wanted.items():
                        torch.testing.assert_close(given[key], value, atol=1e-9, rtol=1e-9)
                    moved = max(
                        moved, abs(log_of(logits[0], example.right[0]) - log_of(base[0], example.right[0])).item()
                    )
    assert moved > 1e-3
    edges = edge_probabilities(model, pair_of(examples), [(path, one) for one in senders], "default", Chunks())
    whole = path_probabilities(model, pair_of(examples), path, senders, "default", Chunks())
    assert torch.equal(edges["patched"], whole["patched"])


def test_a_direct_path_changes_later_tokens_too_because_they_read_what_the_sender_changes(module, model, examples):
    senders = [Head(0, head) for head in range(4)]
    first = [replace(one, further=()) for one in examples[:1]]
    whole, short = (
        path_probabilities(model, collate(some, PAD), PATHS["direct"], senders, "default", Chunks())
        for some in (examples[:1], first)
    )
    shares = [found["patched"][:, 0] / found["base"][0] for found in (whole, short)]
    assert ((shares[0] - shares[1]).abs() > 1e-4).all()


def test_the_plain_model_and_exact_match(module, model, examples):
    def plain(_variant, pair, later):
        return plain_methods.plain_logits(module, reading(pair.base, later))

    pair = pair_of(examples)
    for engine in ENGINES:
        found = ablation.model_readouts(model, pair.question, engine)
        assert_as_by_hooks({name: one[None] for name, one in found.items()}, examples, plain)
        assert is_right(found["predicted"], pair.right).tolist()[:3] == [True, False, False]
        assert found["predicted"][2] == UNFINISHED


def renamed(heads) -> dict[str, Any]:
    return {"end" if at == "last" else at: some for at, some in heads.items()}


def test_activation_patching_agrees_with_plain_hooks_also_where_sources_have_other_answers(module, model, examples):
    def patched(variant, pair, later):
        run = SimpleNamespace(base=reading(pair.base, later), source=reading(pair.source, 0))
        return plain_methods.patched_logits(module, run, renamed(HEADS[variant]))

    for engine in ENGINES:
        found = activation_patching.patched_readouts(model, pair_of(examples), SETS, engine, SMALL)
        assert_as_by_hooks(found, examples, patched)
    others = [replace(one, answer=33, also_right=(), foils=(), further=((44, 45),)) for one in examples]
    pairs = [pair_of(examples), pair_of(others)]
    sources = [ablation.Question(pair.source, pair.answer) for pair in pairs]
    for engine in ENGINES:
        found = activation_patching.patched_readouts_by_source(
            model, pairs[0].base, sources, [(0, SETS[0]), (1, SETS[0])], engine, Chunks()
        )
        for number, some in enumerate((examples, others)):
            part = {name: one[number : number + 1] for name, one in found.items()}
            assert_as_by_hooks(part, some, lambda _, pair, later: patched(0, pair, later))


@pytest.mark.parametrize("fill", ["mean", "resample"])
def test_circuits_alone_and_the_model_without_heads_agree_with_plain_hooks(fill, module, model, examples):
    some = [replace(one, source=replace(one.base)) for one in examples]
    others = [few_examples((boxes,), seed)[0].base for boxes in (2, 3) for seed in (5, 6)]
    if fill == "resample":
        some = [replace(one, source=next(p for p in others if p.length == one.base.length)) for one in some]
        given = ablation.AblationValues(resampled=pair_of(some).source)
    else:
        names = ("query_label", "last")
        means = ablation.mean_outputs(model, [collate([Example(p, p, 0) for p in others], PAD).base], names)["z"]
        given = ablation.AblationValues(means, names)

    def values(example: Example, length: int) -> list[Tensor]:
        """Per layer [1, seq, head, d_head]; behind the prompt, where no head is ablated, zeros."""
        if fill == "resample":
            z = plain_hooks.head_outputs(module, run_of(example.source))
            return [torch.cat([one, one.new_zeros(1, length - one.shape[1], *one.shape[2:])], 1) for one in z]
        slot = torch.full((1, length), 2)
        slot[0, example.base.positions["query_label"]], slot[0, example.base.positions["last"]] = 0, 1
        return [layer[slot] for layer in means]

    def by_hooks(alone: bool):
        def logits(variant, pair, later):
            tokens = pair.base.tokens[0].tolist()
            example = next(one for one in some if tokens[: one.base.length] == list(one.base.tokens))
            given = values(example, len(tokens))
            where = torch.zeros(len(given), *given[0].shape[:3], dtype=torch.bool)
            where[:, :, : example.base.length] = alone
            for group in SETS[variant].groups:
                place = example.base.positions[group.at]
                for layer, index in group.heads:
                    where[layer, 0, place, index] = not alone
            return plain_hooks.replaced_logits(
                module, reading(pair.base, later), dict(enumerate(zip(where, given, strict=True)))
            )

        return logits

    for measure, whole in ((ablation.circuit_readouts, True), (ablation.remainder_readouts, False)):
        for engine in ENGINES:
            found = measure(model, pair_of(some).question, given, SETS, engine, SMALL)
            assert_as_by_hooks(found, some, by_hooks(whole))


def test_cmap_agrees_with_plain_hooks(module, model, examples):
    donor_module = hf_llama(kv_heads=2, attention_bias=True, dtype=torch.float64, seed=9)
    donor, pair = tiny_model(donor_module), pair_of(examples)
    given = cmap.with_heads(cmap.donor_outputs(donor, pair.base, SETS), SETS)

    def across(variant, pair, later):
        return plain_methods.across_logits(module, donor_module, reading(pair.base, later), renamed(HEADS[variant]))

    for engine in ENGINES:
        assert_as_by_hooks(cmap.recipient_readouts(model, pair.question, given, SETS, engine, SMALL), examples, across)
    vias: tuple[tuple[Via, ...], ...] = (("query",), ("key", "value"))

    def inputs_across(variant, pair, later):
        run = reading(pair.base, later)
        return plain_methods.across_input_logits(module, donor_module, run, GROUP.heads, GROUP.at, vias[variant])

    for some in (
        [one for one in examples if one.base.length == length] for length in {e.base.length for e in examples}
    ):
        pair = pair_of(some)
        if not isinstance(pair.answer, Answers):
            continue
        inputs = cmap.by_place(cmap.donor_inputs(donor, pair.base, GROUP))
        for engine in ENGINES:
            found = cmap.recipient_input_readouts(model, pair.question, (GROUP, inputs), vias, engine, SMALL)
            assert_as_by_hooks(found, some, inputs_across)


def test_knockout_agrees_with_plain_hooks(module, model, examples):
    pair = pair_of(examples)
    edge = pair.base.positions["last"], pair.base.positions["query_label"]

    def blocked(first, pair, later):
        end, to = pair.base.positions["last"], pair.base.positions["query_label"]
        return plain_methods.knockout_logits(module, reading(pair.base, later), first, end, to)

    for engine in ENGINES:
        found = knockout.knockout_readouts(model, pair.question, edge, range(4), engine, Chunks())
        assert_as_by_hooks(found, examples, blocked)


def test_attribution_agrees_with_plain_hooks(module, model, examples, monkeypatch):
    heads = [Head(layer, index) for layer in range(3) for index in range(4)]
    pair = pair_of(examples)
    found = {
        engine: attribution.head_effects(model, pair, "query_label", heads, engine, Chunks()) for engine in ENGINES
    }
    for number, example in enumerate(examples):
        text = example.right[0]
        monkeypatch.setattr(plain_methods, "at_last", lambda run, logits: logits)
        monkeypatch.setattr(
            plain_methods, "probabilities",
            lambda logits, _, text=text, end=example.base.positions["last"]: log_of(logits[0, end:], text).exp()[None],
        )  # fmt: skip
        slopes = plain_methods.attributed(module, alone(example, text), "query_label")
        monkeypatch.undo()
        for engine, near in (("default", 1e-9), ("reference", 1e-6)):
            estimate = found[engine]["attributed"][:, number].view(3, 4)
            torch.testing.assert_close(estimate, slopes[..., 0], atol=near, rtol=near)
    exact = activation_patching.patched_readouts(
        model, pair, [Circuit((HeadGroup("a", "query_label", (head,)),)) for head in heads], "default", Chunks()
    )
    base = ablation.model_readouts(model, pair.question, "default")["probability"]
    for engine in ENGINES:
        torch.testing.assert_close(found[engine]["exact"], exact["probability"] / base - 1, atol=1e-9, rtol=1e-9)


def test_masks_are_trained_on_the_sum_of_the_target_s_logits(module, model, examples, monkeypatch):
    pair, mask = pair_of(examples), torch.tensor([0.3, 0.8, 0.5], dtype=torch.float64)
    with model.session():
        (batch,) = dcm.prepare_batches(model, [GROUP], pair)
        slope = nnsight.save(dcm.mask_gradient(model, GROUP, batch, mask, Chunks()))
    leaf, total = mask.clone().requires_grad_(), torch.zeros((), dtype=torch.float64)
    monkeypatch.setattr(plain_methods, "at_last", lambda run, logits: logits)
    for example in examples:
        text, end = example.right[0], example.base.positions["last"]
        logits = plain_methods.masked_logits(module, alone(example, text), GROUP.heads, GROUP.at, leaf)
        total = total + sum(logits[0, end + i, token] for i, token in enumerate(text)) / len(examples)
    (expected_slope,) = torch.autograd.grad(total, leaf)
    torch.testing.assert_close(slope, expected_slope, atol=1e-9, rtol=1e-9)
    trained = dcm.trained_masks(model, [GROUP], dcm.Training(validate_every=1), [pair], [pair], Chunks())
    chosen = Circuit(
        (
            HeadGroup(
                "b", "query_label", tuple(h for h, m in zip(GROUP.heads, trained[0]["mask"], strict=True) if m == 0)
            ),
        )
    )
    again = activation_patching.patched_readouts(model, pair, [chosen], "reference", Chunks())["predicted"]
    assert trained[0]["accuracies"].max() == is_right(again, pair.right).double().mean()


def test_probes_of_discovery_agree_in_both_engines(model, examples):
    into = Path("query_label", "value", (Head(2, 2), Head(2, 3)))
    asked = [probes.Probe(into), probes.Probe(into, (Head(0, 1), Head(1, 2)))]
    for metric in WRITTEN:
        one, other = (
            probes.probe_probabilities(model, pair_of(examples, metric), asked, engine, SMALL) for engine in ENGINES
        )
        for name in other:
            torch.testing.assert_close(one[name], other[name], atol=1e-9, rtol=1e-9)
        assert (one["patched"] / one["base"] - 1).abs().max() > 1e-3


@pytest.mark.parametrize("metric", ["probability_ratio", "probability_difference"])
@pytest.mark.parametrize("name", ["direct", "query at last"])
def test_a_gradient_estimates_what_a_small_part_of_the_way_does(name, metric, model, examples, monkeypatch):
    path, pair, part = PATHS[name], pair_of(examples, metric), 1e-3
    senders = path.reaching(model.n_layers, model.n_heads)
    found = screened_paths.screened_probabilities(model, pair, path, senders, "default", Chunks())
    exact = path_probabilities(model, pair, path, senders, "default", Chunks())
    assert all(torch.equal(found[key], exact[key]) for key in exact)
    moved, key, rows = [], "" if metric == "probability_ratio" else "_value", pair.by_row()
    for step in (part, -part):

        def go_a_part(model, run, wanted, step=step):
            ((end, base),) = component_outputs(model, rows.base, wanted).items()
            source = component_outputs(model, rows.source, wanted)[end]
            return {end: {layer: z + step * (source[layer] - z) for layer, z in base.items()}}

        monkeypatch.setattr(shared_runs, "component_outputs", go_a_part)
        one = screened_paths.screened_probabilities(model, pair, path, senders, "default", Chunks())
        moved.append(patching_effect(one[f"patched{key}"], one[f"base{key}"], metric))
    slope = (moved[0] - moved[1]) / (2 * part)
    assert slope.abs().max() > 1e-4
    torch.testing.assert_close(found["estimate"][0], slope, rtol=1e-2, atol=1e-2 * slope.abs().max().item())


def test_what_runs_check_of_a_model_holds(model, examples):
    pair = pair_of(examples)
    assert max(engine_errors(model, pair).values()) < 1e-6
    assert max(training_errors(model, GROUP, pair, pair).values()) < 1e-3


@pytest.mark.parametrize("name", PATHS)
def test_both_engines_agree_to_1e_5_in_fp32(name, examples):
    model, path = tiny_model(hf_llama(kv_heads=2)), PATHS[name]
    senders = path.reaching(model.n_layers, model.n_heads)
    one, other = (path_probabilities(model, pair_of(examples), path, senders, engine, Chunks()) for engine in ENGINES)
    for key in other:
        torch.testing.assert_close(one[key], other[key], atol=1e-5, rtol=1e-5 * 10)
