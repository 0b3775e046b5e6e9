"""NaN and infinity are refused wherever they would be scored, with layer, token, dtype and what to choose instead."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import nnsight_et as et
from nnsight_et.core.batch import Pair
from nnsight_et.core.circuit import Head
from nnsight_et.core.errors import ExperimentError, UnsupportedModel
from nnsight_et.engine.budget import Chunks
from nnsight_et.engine.paths import Path as PatchedPath
from nnsight_et.interventions.ablation import (
    AblationValues,
    circuit_readouts,
    mean_outputs,
    model_readouts,
    remainder_readouts,
)
from nnsight_et.interventions.activation_patching import patched_readouts
from nnsight_et.interventions.attention_patterns import attention_from
from nnsight_et.interventions.attribution import head_effects
from nnsight_et.interventions.calls import Call, run_calls
from nnsight_et.interventions.cmap import (
    by_place,
    donor_inputs,
    donor_outputs,
    recipient_input_readouts,
    recipient_readouts,
    with_heads,
)
from nnsight_et.interventions.dcm import Training, initial_state, resume_training, steps_of, trained_masks
from nnsight_et.interventions.knockout import knockout_readouts
from nnsight_et.interventions.path_patching import path_probabilities
from nnsight_et.measuring import model_pool
from nnsight_et.models.finite import check_numbers, find_nonfinite
from nnsight_et.models.model import Model
from nnsight_et.remote.failures import failure_from_description
from tests.helpers.architecture_table import SENDERS, SET
from tests.helpers.commands import et as command
from tests.helpers.methods_study import CIRCUIT, STUDY
from tests.helpers.tiny_model import few_pairs, hf_llama, tiny_model, tokenizer

HUGE, MORE = 60000.0, 8000.0  # float16 ends at 65504
PLACE = r"tiny in float16: NaN or infinity, first in the residual of layer 1, at token 5"
CHOICE = "accepted: dtype: bfloat16 or float32"


def overflowing(word: str = "Box", dtype: torch.dtype = torch.float16):
    """A random model whose first channel is huge at one word, and in layer 1 more than float16 has numbers for."""
    module = hf_llama(mlp_bias=True)
    with torch.no_grad():
        module.model.embed_tokens.weight[tokenizer().convert_tokens_to_ids(word), 0] = HUGE
        module.model.layers[1].mlp.down_proj.bias[0] = MORE
    return module.to(dtype)


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny_model(overflowing(), "eager")


@pytest.fixture(scope="module")
def pair() -> Pair:
    return few_pairs((2, 3))


def across(model: Model, pair: Pair, engine: str):
    """The model as recipient: of another one's outputs."""
    given = with_heads(donor_outputs(tiny_model(hf_llama(dtype=torch.float16)), pair.base, [SET]), [SET])
    return recipient_readouts(model, pair.question, given, [SET], engine, Chunks())


def across_inputs(model: Model, pair: Pair, engine: str):
    group = SET.groups[0]
    inputs = by_place(donor_inputs(tiny_model(hf_llama(dtype=torch.float16)), pair.base, group))
    return recipient_input_readouts(model, pair.question, (group, inputs), [("query",)], engine, Chunks())


def blocked(model: Model, pair: Pair, engine: str):
    edge = pair.base.positions["last"], pair.base.positions["query_label"]
    return knockout_readouts(model, pair.question, edge, [0, 2], engine, Chunks())


def paths(path: PatchedPath) -> Callable:
    return lambda model, pair, engine: path_probabilities(model, pair, path, SENDERS, engine, Chunks())


def alone(model: Model, pair: Pair, engine: str):
    return circuit_readouts(model, pair.question, AblationValues(), [SET], engine, Chunks())


def without(model: Model, pair: Pair, engine: str):
    return remainder_readouts(model, pair.question, AblationValues(), [SET], engine, Chunks())


def attributed(model: Model, pair: Pair, engine: str):
    return head_effects(model, pair, "last", SET.groups[0].heads, engine, Chunks())


METHODS: dict[str, Callable] = {
    "the model": lambda model, pair, engine: model_readouts(model, pair.question, engine),
    "paths into logits": paths(PatchedPath("last")),
    "paths into queries": paths(PatchedPath("last", "query", (Head(2, 0),))),
    "activation patching": lambda model, pair, engine: patched_readouts(model, pair, [SET], engine, Chunks()),
    "circuit alone": alone,
    "without": without,
    "outputs of another model": across,
    "inputs of another model": across_inputs,
    "knockout": blocked,
    "attention": lambda model, pair, engine: attention_from(model, pair.base, "last", ("query_label",), engine),
    "attribution": attributed,
}
OF_NO_ENGINE: dict[str, Callable] = {
    "means": lambda model, pair: mean_outputs(model, [pair.source], None),
    "donor's outputs": lambda model, pair: donor_outputs(model, pair.base, [SET]),
    "donor's inputs": lambda model, pair: donor_inputs(model, few_pairs((2, 2)).base, SET.groups[0]),
    "masks": lambda model, pair: trained_masks(model, SET.groups, Training(epochs=1), [pair], [pair], Chunks()),
    "masks in parts": lambda model, pair: resume_training(
        model, SET.groups, Training(), [pair], ([initial_state(group) for group in SET.groups], 1), Chunks()
    ),
}


@pytest.mark.parametrize("engine", ["default", "reference"])
@pytest.mark.parametrize("name", METHODS)
def test_every_method_refuses_a_model_that_overflows_and_names_the_place(model, pair, name, engine):
    pairs = few_pairs((2, 2)) if name == "inputs of another model" else pair
    with pytest.raises(ExperimentError, match=f"{PLACE}.*; {CHOICE}"):
        METHODS[name](model, pairs, engine)


@pytest.mark.parametrize("name", OF_NO_ENGINE)
def test_so_does_what_no_engine_does(model, pair, name):
    with pytest.raises(ExperimentError, match=f"{PLACE}.*; {CHOICE}"):
        OF_NO_ENGINE[name](model, pair)


def test_masks_whose_validation_alone_overflows_are_refused(pair):
    """The word stands in the validation's prompts and in none of the training's."""
    words = tokenizer()
    other = words.convert_tokens_to_ids("apple")
    model = tiny_model(overflowing("apple"))
    tokens = {"train": pair.base.tokens.clone(), "validation": pair.base.tokens.clone()}
    tokens["train"][tokens["train"] == other] = words.convert_tokens_to_ids("Box")
    tokens["validation"][:, -4] = other
    runs = {name: type(pair.base)(one, pair.base.mask, pair.base.positions) for name, one in tokens.items()}
    train, validation = (Pair(run, run, pair.answer) for run in runs.values())
    assert steps_of(Training(epochs=1), [train]) == 1
    with pytest.raises(ExperimentError, match="first in the residual of layer 1"):
        trained_masks(model, SET.groups, Training(epochs=1), [train], [validation], Chunks())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_same_weights_run_in_dtypes_that_reach_further(pair, dtype):
    found = model_readouts(tiny_model(overflowing(dtype=dtype)), pair.question, "default")
    assert all(bool(tensor.isfinite().all()) for tensor in found.values())


def test_a_job_that_a_server_carries_out_fails_with_the_same_words(model, pair):
    call = Call(model_readouts, (pair.question, "default"))
    with pytest.raises(ExperimentError, match=PLACE) as raised, model.session():
        run_calls(model, [call])
    said = str(raised.value).strip().splitlines()[-1].removeprefix("ExperimentError: ")
    text = f"Traceback (most recent call last):\n  ...\nnnsight_et.errors.ExperimentError: {said}"
    assert str(failure_from_description(text, "experiments.found")) == f"experiments.found: {said}"
    assert said.startswith("tiny in float16: NaN")
    assert CHOICE in said


def test_a_place_has_the_name_of_its_position(pair):
    model = tiny_model(overflowing("apple", torch.float32))  # loaded in float32, which says nothing of float16
    last = pair.base.tokens.clone()
    last[1, -1] = tokenizer().convert_tokens_to_ids("apple")
    last[0, last[0] == last[1, -1]] = 3
    last[1, :-1][last[1, :-1] == last[1, -1]] = 3
    run = type(pair.base)(last, pair.base.mask, pair.base.positions)
    length = int(pair.base.mask[1].sum())
    assert find_nonfinite(model, run) == ""
    half = tiny_model(overflowing("apple"))
    expected = f"NaN or infinity, first in the residual of layer 1, at token {length - 1} (last) of prompt 2 of 2"
    assert find_nonfinite(half, run) == expected


def test_words_that_a_vocabulary_only_has_room_for_may_be_minus_infinity(pair):
    module = hf_llama()
    answers = set(pair.answer.tolist())
    unused = next(token for token in range(20, 122) if token not in answers)

    def without_words(_, given, logits):
        return logits.index_fill(-1, torch.tensor([unused]), -torch.inf) if logits.shape[-1] > unused else None

    module.lm_head.register_forward_hook(without_words)
    model = tiny_model(module)
    for name, measure in METHODS.items():
        if name not in ("attention", "inputs of another model", "outputs of another model"):
            found = measure(model, pair, "default")
            assert all(bool(tensor.isfinite().all()) for tensor in found.values()), name


def test_an_answer_that_is_minus_infinity_is_refused(pair):
    module = hf_llama()
    module.lm_head.register_forward_hook(lambda _, given, logits: logits.index_fill(-1, pair.answer[:1], -torch.inf))
    with pytest.raises(ExperimentError, match="tiny in float32: logit is NaN or infinite, although nothing in the"):
        model_readouts(tiny_model(module), pair.question, "default")


def test_the_value_of_a_metric_may_not_exist():
    found = {"value": torch.tensor([torch.inf]), "base": torch.tensor([0.5]), "predicted": torch.tensor([3])}
    assert check_numbers(None, found, []).keys() == found.keys()  # type: ignore[arg-type]


def test_a_model_that_overflows_at_the_beginning_of_text_is_refused_when_it_is_loaded(tmp_path):
    module, words = overflowing("<s>"), tokenizer()
    wanted = (
        r"in float16 a prompt gives NaN or infinity, first in the residual of layer 1, at token 0; accepted: dtype: bf"
    )
    with pytest.raises(UnsupportedModel, match=wanted):
        et.load(module, words)
    module.float().save_pretrained(tmp_path)
    words.save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModel, match=wanted):
        et.load(str(tmp_path), dtype="float16")
    assert et.load(str(tmp_path), dtype="bfloat16").model.dtype == torch.bfloat16


def test_weights_that_are_no_numbers_are_not_called_layers_that_do_not_add_up():
    module = hf_llama()
    module.model.layers[1].mlp.down_proj.weight[:] = torch.nan
    with pytest.raises(UnsupportedModel, match="tiny: two tokens give NaN or infinity in float32; accepted: weights"):
        tiny_model(module)


def test_every_method_in_python_refuses(pair):
    model = et.load(overflowing(), tokenizer())
    pairs = et.Pairs.boxes(4, boxes=2)
    circuit = et.circuit_of(et.HeadGroup("a", "last", (Head(0, 1), Head(2, 2))))
    for measure in (
        lambda: et.evaluate(model, pairs, circuit, random=1),
        lambda: et.path_patch(model, pairs),
        lambda: et.activation_patch(model, pairs, circuit),
        lambda: et.knockout(model, pairs, "last", "query_label"),
        lambda: et.cmap(model, model, pairs, circuit, random=0),
        lambda: et.dcm(model, circuit, et.Pairs.boxes(160, boxes=2), pairs, pairs),
        lambda: pairs.answered_by(model),
    ):
        with pytest.raises(ExperimentError, match=r"first in the residual of layer 1, at token 5.*bfloat16"):
            measure()


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A manifest of two experiments in float16; the second one's model overflows on its first prompt."""
    hf_llama(seed=1).save_pretrained(tmp_path / "one")
    overflowing(dtype=torch.float32).save_pretrained(tmp_path / "two")
    for name in ("one", "two"):
        tokenizer().save_pretrained(tmp_path / name)
    (tmp_path / "circuit.json").write_text(CIRCUIT)
    rest = "  {name}: {{method: faithfulness, circuit: ./circuit.json, models: [{name}], examples: 4}}\n"
    text = STUDY.replace("seed: 3\n", "seed: 3\ndtype: float16\n")
    (tmp_path / "study.yaml").write_text(text + rest.format(name="one") + rest.format(name="two"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_run_tries_its_float16_models_before_any_experiment(study):
    done = command("run", "study.yaml", "--self-check", "off")
    assert done.exit_code == 1
    assert "two in float16: NaN or infinity, first in the residual of layer 1, at token 5" in done.output
    assert "Traceback" not in done.output
    assert not list(study.glob("runs/*/*/result.json"))


def test_a_run_whose_models_have_been_tried_goes_on_and_tries_them_once(study, monkeypatch):
    arguments = ("run", "study.yaml", "--self-check", "off", "--only", "one")
    assert command(*arguments).exit_code == 0
    monkeypatch.setattr(model_pool, "load_model", lambda *_, **__: pytest.fail("a model was loaded"))
    assert command(*arguments).exit_code == 0
