"""Rotations that depend on how long a prompt is: every number is that of the prompt alone, whatever is beside it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import nnsight_et as et
from nnsight_et.core.batch import Pair, collate
from nnsight_et.core.errors import TaskError
from nnsight_et.engine.budget import Chunks
from nnsight_et.interventions.ablation import AblationValues, circuit_readouts, mean_outputs, model_readouts
from nnsight_et.interventions.activation_patching import patched_readouts
from nnsight_et.interventions.attention_patterns import attention_from
from nnsight_et.interventions.attribution import head_effects
from nnsight_et.interventions.cmap import (
    VIAS,
    by_place,
    donor_inputs,
    donor_outputs,
    recipient_input_readouts,
    recipient_readouts,
    with_heads,
)
from nnsight_et.interventions.engine_checks import engine_errors
from nnsight_et.interventions.knockout import knockout_readouts
from nnsight_et.interventions.path_patching import path_probabilities
from nnsight_et.measuring.examples import has_length_limit, require_prompts_fit
from nnsight_et.models.catalog import ModelSpec
from nnsight_et.models.files import download_files as found_files
from nnsight_et.models.load import longest_alike
from nnsight_et.models.rotary import unchanging_length
from tests.helpers import own_pairs_study, plain_hooks, plain_methods
from tests.helpers.architecture_table import EDGES, HEADS, PATHS, SENDERS, SET, apart
from tests.helpers.architectures import hf_model
from tests.helpers.tiny_model import PAD, few_examples, tiny_model, tokenizer

LIMIT = 22  # prompts have 19, 26 and 33 tokens
LONG = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0] * 4,
    "long_factor": [3.0 + i for i in range(4)],
    "original_max_position_embeddings": LIMIT,
}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}
PLAIN = {"rope_type": "default", "rope_theta": 10000.0}
MODELS = {
    "longrope": ("Phi-3", {"rope_parameters": LONG, "original_max_position_embeddings": LIMIT, "sliding_window": None}),
    "dynamic": ("Llama (MQA)", {"rope_parameters": DYNAMIC, "max_position_embeddings": LIMIT}),
    "dynamic in some layers": (
        "Gemma-3",
        {
            "rope_parameters": {"full_attention": DYNAMIC, "sliding_attention": PLAIN},
            "max_position_embeddings": LIMIT,
        },
    ),
}
SHORTER = 14
BOXES = (2, 4, 3, 2)
"""Prompts on both sides of the limit side by side, each with a source of another length."""


def plain_model(kind: str, seed: int = 0):
    """The random model as transformers has it, with rotations that are made anew in every run."""
    module = random_model(kind, seed)
    rotary = module.model.rotary_emb
    rotary.forward = lambda *given, **named: type(rotary)(rotary.config)(*given, **named)
    return module


def random_model(kind: str, seed: int = 0):
    """The random model as a user has it."""
    name, changes = MODELS[kind]
    return hf_model(name, seed, **changes)


def batches() -> tuple[Pair, list[Pair]]:
    """The prompts side by side, and each alone."""
    examples = few_examples(BOXES)
    return collate(examples, PAD), [collate([example], PAD) for example in examples]


def path_patching(name: str):
    """Both numbers of one path, from the package and from plain hooks."""
    path, senders = PATHS[name], SENDERS

    def found(models, pair: Pair, engine: str) -> Tensor:
        some = [one for one in senders if one in path.reaching(models[0].n_layers, models[0].n_heads)]
        return path_probabilities(models[0], pair, path, some, engine, Chunks())["patched"]

    def expected(modules, pair: Pair) -> Tensor:
        some = [one for one in senders if one in path.reaching(3, 4)]
        return plain_hooks.path_patching(modules[0], pair, some, path.receivers, path.via, path.at)[1]

    return found, expected


def plain(modules, pair: Pair) -> Tensor:
    return plain_methods.probabilities(plain_methods.plain_logits(modules[0], pair.base), pair.answer)


def blocked(models, pair: Pair, engine: str) -> Tensor:
    where = tuple(pair.base.positions[at] for at in EDGES[0])
    return knockout_readouts(models[0], pair.question, (where[0], where[1]), range(3), engine, Chunks())["probability"]


def plain_blocked(modules, pair: Pair) -> Tensor:
    where = tuple(pair.base.positions[at] for at in EDGES[0])
    rows = [plain_methods.knockout_logits(modules[0], pair.base, first, *where) for first in range(3)]
    return torch.stack([plain_methods.probabilities(logits, pair.answer) for logits in rows])


def across(models, pair: Pair, engine: str) -> Tensor:
    given = with_heads(donor_outputs(models[1], pair.base, [SET]), [SET])
    return recipient_readouts(models[0], pair.question, given, [SET], engine, Chunks())["probability"]


def plain_across(modules, pair: Pair) -> Tensor:
    logits = plain_methods.across_logits(modules[0], modules[1], pair.base, HEADS)
    return plain_methods.probabilities(logits, pair.answer)[None]


def across_inputs(models, pair: Pair, engine: str) -> Tensor:
    group = SET.groups[0]
    inputs = by_place(donor_inputs(models[1], pair.base, group))
    given, vias = (group, inputs), [VIAS]
    return recipient_input_readouts(models[0], pair.question, given, vias, engine, Chunks())["probability"]


def plain_across_inputs(modules, pair: Pair) -> Tensor:
    group, vias = SET.groups[0], ("query", "key", "value")
    logits = plain_methods.across_input_logits(modules[0], modules[1], pair.base, group.heads, group.at, vias)
    return plain_methods.probabilities(logits, pair.answer)[None]


def patched(models, pair: Pair, engine: str) -> Tensor:
    return patched_readouts(models[0], pair, [SET], engine, Chunks())["probability"]


def plain_patched(modules, pair: Pair) -> Tensor:
    return plain_methods.probabilities(plain_methods.patched_logits(modules[0], pair, HEADS), pair.answer)[None]


def attributed(models, pair: Pair, engine: str) -> Tensor:
    return 1 + head_effects(models[0], pair, "last", SET.groups[0].heads, engine, Chunks())["attributed"]


def plain_attributed(modules, pair: Pair) -> Tensor:
    every = plain_methods.attributed(modules[0], pair, "last")
    return 1 + torch.stack([every[head] for head in SET.groups[0].heads])


METHODS: dict[str, tuple[Callable, Callable]] = {
    "the model": (lambda models, pair, engine: model_readouts(models[0], pair.question, engine)["probability"], plain),
    **{name: path_patching(name) for name in PATHS},
    "activation patching": (patched, plain_patched),
    "knockout": (blocked, plain_blocked),
    "outputs of another model": (across, plain_across),
    "inputs of another model": (across_inputs, plain_across_inputs),
    "attribution": (attributed, plain_attributed),
}


@pytest.mark.parametrize("kind", MODELS)
def test_every_method_gives_what_transformers_gives_of_each_prompt_alone(kind):
    together, alone = batches()
    modules = [plain_model(kind, seed) for seed in (0, 1)]
    models = [tiny_model(random_model(kind, seed)) for seed in (0, 1)]
    for name, (measure, plainly) in METHODS.items():
        expected = torch.cat([plainly(modules, pair) for pair in alone], -1)
        for engine in ("default", "reference"):
            pairs = alone if name == "inputs of another model" and engine == "default" else [together]
            found = torch.cat([measure(models, pair, engine) for pair in pairs], -1)
            assert apart(found, expected) < 1e-5, (name, engine)


@pytest.mark.parametrize("kind", MODELS)
def test_the_frequencies_of_a_longer_prompt_would_give_other_numbers(kind):
    """Without the hook the short prompts take the frequencies of the longest: there is something to get wrong."""
    together, alone = batches()
    module = random_model(kind)
    mixed = plain([module], together)
    expected = torch.cat([plain([plain_model(kind)], pair) for pair in alone])
    assert apart(mixed[[0, 2, 3]], expected[[0, 2, 3]]) > 1e-3


@pytest.mark.parametrize("kind", MODELS)
def test_numbers_do_not_depend_on_what_ran_before(kind):
    model = tiny_model(random_model(kind))
    _, alone = batches()
    forth = [model_readouts(model, pair.question, "default")["probability"] for pair in alone]
    back = [model_readouts(model, pair.question, "default")["probability"] for pair in reversed(alone)][::-1]
    assert all(torch.equal(one, other) for one, other in zip(forth, back, strict=True))


@pytest.mark.parametrize("engine", ["default", "reference"])
def test_ablation_and_attention_are_those_of_each_prompt_alone(engine):
    model = tiny_model(random_model("longrope"), "eager")
    together, alone = batches()
    names = tuple(HEADS)
    means = mean_outputs(model, [together.source], names)["z"]
    apart_means = mean_outputs(model, [pair.source for pair in alone], names)["z"]
    assert (means - apart_means).abs().max() < 1e-6
    fill, of_names = AblationValues(means, names), ("query_label",)
    for measure in (
        lambda pair: circuit_readouts(model, pair.question, fill, [SET], engine, Chunks())["probability"],
        lambda pair: attention_from(model, pair.base, "last", of_names, engine)["weights"],
    ):
        assert (measure(together) - torch.cat([measure(pair) for pair in alone], -1)).abs().max() < 1e-6


@pytest.mark.parametrize("kind", MODELS)
def test_what_must_hold_of_any_model_holds_of_prompts_on_both_sides_of_the_limit(kind):
    together, _ = batches()
    assert max(engine_errors(tiny_model(random_model(kind)), together).values()) < 1e-5


def test_a_model_in_memory_is_the_same_alone_and_can_be_loaded_twice():
    module = random_model("dynamic")
    _, alone = batches()
    expected = [plain([plain_model("dynamic")], pair) for pair in alone]
    for _ in range(2):
        model = et.load(module, tokenizer())
        found = [model_readouts(model.model, pair.question, "default")["probability"] for pair in alone]
        assert all(apart(one, other) < 1e-5 for one, other in zip(found, expected, strict=True))


def test_up_to_which_length_prompts_are_rotated_alike():
    configs = {kind: hf_model(name, **changes).config for kind, (name, changes) in MODELS.items()}
    found = {kind: unchanging_length(config) for kind, config in configs.items()}
    assert found == {"longrope": LIMIT, "dynamic": LIMIT - 1, "dynamic in some layers": LIMIT - 1}
    assert unchanging_length(hf_model("Llama 3 (GQA)").config) is None
    assert unchanging_length(hf_model("GPT-2").config) is None


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A study on pairs of 12 and 19 tokens, in a model that rotates the long ones otherwise."""
    models = tmp_path / "models"
    for seed, name in enumerate(("one", "two")):
        changes = {"rope_parameters": DYNAMIC, "max_position_embeddings": SHORTER}
        hf_model(MODELS["dynamic"][0], seed, **changes).save_pretrained(models / name)
        tokenizer().save_pretrained(models / name)
    (tmp_path / "study").mkdir()
    return own_pairs_study.written(tmp_path / "study", models)


def test_a_run_whose_batches_mix_lengths_passes_its_checks_with_transformers_numbers(study, monkeypatch):
    monkeypatch.chdir(study.parent)
    result = own_pairs_study.results(study)["found"]
    assert result.header.self_check.on
    module = hf_model(MODELS["dynamic"][0], rope_parameters=DYNAMIC, max_position_embeddings=SHORTER)
    rotary = module.model.rotary_emb
    rotary.forward = lambda *given, **named: type(rotary)(rotary.config)(*given, **named)
    pairs = [pair.base.text for pair in et.Pairs.read(study.parent / "pairs.jsonl")]
    answers = [own_pairs_study.THINGS[index] for index in range(len(pairs))]
    words, expected = tokenizer(), []
    for text, answer in zip(pairs, answers, strict=True):
        ids = torch.tensor([words(text).input_ids])
        logits = plain_hooks.run_model(module, ids, torch.ones_like(ids))[0, -1]
        expected.append(logits.softmax(-1)[words.convert_tokens_to_ids(answer)].item())
    for found in result.scores["a.base"].tolist():
        assert min(abs(found / one - 1) for one in expected) < 1e-5


def test_on_a_server_prompts_that_others_would_change_are_refused(study):
    files = found_files("one", ModelSpec(str(study.parent / "one")))
    short, long = few_examples((2, 3))
    assert longest_alike(files) == SHORTER - 1
    assert require_prompts_fit([short, long], files, "found") == [short, long]
    with pytest.raises(TaskError) as refused:
        require_prompts_fit([short, long], files, "found", on_server=True)
    assert str(refused.value) == (
        "experiments.found: a prompt of 26 tokens; beyond 13, one's rotations depend on the longest of a batch; "
        "accepted: at most 13 tokens on a server; longer ones with backend: local"
    )
    assert has_length_limit(files, on_server=True)
    assert not has_length_limit(files, on_server=False)
