"""Real pretrained models: SmolLM2-135M and Gemma-3-270M, every method on indirect object identification.

ET_REAL_MODELS names the folder that has them, as tools.real_models makes it; when absent it is where `make real` puts
them. What is not there is skipped. They need about 6 GB of memory and several minutes.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import nnsight_et
from nnsight_et.core.batch import Pair, collate
from nnsight_et.core.circuit import Head, Via
from nnsight_et.engine.budget import Chunks
from nnsight_et.engine.paths import Path as PatchedPath
from nnsight_et.interventions.path_patching import path_probabilities
from nnsight_et.methods import METHODS
from nnsight_et.tasks.ioi import IOI
from tests.helpers import plain_hooks
from tests.helpers.commands import ROOT, et

MODELS = Path(os.environ.get("ET_REAL_MODELS") or ROOT / "build" / "real")
NAMES = {"smollm2": "none", "gemma3": "add"}
"""Each model, and whether its texts begin with <bos>: without it Gemma does not answer."""
pytestmark = pytest.mark.real_models
SETTING = """\
name: real
seed: 3
task: {{kind: ioi, templates: 1}}
dtype: {dtype}
models: {{real: {{path: {path}, bos: {bos}}}}}
experiments:
"""
CIRCUIT = """\
  circuit:
    method: path_patching
    model: real
    examples: 3
    metric: logit_difference
    stages:
      - {group: name_mover, into: logits, at: last, keep: 8, receivers: 4}
      - {group: s_inhibition, into: name_mover, via: query, at: last, keep: 4, receivers: 2}
"""
MORE = """\
      - {group: induction, into: s_inhibition, via: value, at: s2, keep: 4, receivers: 2}
      - {group: previous_token, into: induction, via: key, at: s1_plus_1, keep: 3}
  graph:
    {method: discovery, model: real, examples: 2, held_out_examples: 2, keep: 1, branches: 1, closed_sample: 0}
  minimal: {method: minimality, circuit: circuit, examples: 2, ablation_examples: 6}
  overlap: {method: comparison, circuits: [circuit, minimal], scores: circuit}
  faithful: {method: faithfulness, circuit: circuit, models: [real], examples: 6, ablation_examples: 6}
  complete: {method: completeness, circuit: circuit, examples: 4, ablation_examples: 6, draws: 2}
  roles:
    method: dcm
    circuit: circuit
    desiderata: [name]
    training_examples: 10
    validation_examples: 2
    test_examples: 2
    batch: 2
  functions: {method: activation_patching, roles: roles, models: [real], examples: 2, draws: 2}
  itself: {method: cmap, donor: real, recipient: real, circuit: circuit, examples: 4, random_sets: 2}
  blind: {method: knockout, model: real, examples: 3, edges: [{blind: last, to: io}]}
  looks: {method: attention_patterns, circuit: circuit, examples: 4}
  screen: {method: attribution, model: real, at: [last], examples: 2}
"""


def real(name: str) -> Path:
    """The model's folder; skips the test where there is none."""
    for folder in (MODELS / name, MODELS / f"{name}-270m"):
        if folder.is_dir():
            return folder.resolve()
    pytest.skip(f"{MODELS} has no {name}: python -m tools.real_models {MODELS} makes it")


def study_of(text: str, name: str, dtype: str, tmp_path: Path) -> Path:
    """A manifest of the model, written."""
    manifest = tmp_path / "real.yaml"
    manifest.write_text(SETTING.format(path=real(name), bos=NAMES[name], dtype=dtype) + text)
    return manifest


@pytest.mark.parametrize("name", NAMES)
def test_a_real_model_is_inspected(name: str):
    done = et("models", "inspect", real(name))
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", NAMES)
def test_every_method_runs_and_all_its_checks_pass(name: str, dtype: str, tmp_path: Path):
    done = et("run", study_of(CIRCUIT + MORE, name, dtype, tmp_path), "--out", tmp_path / "runs", "--quiet")
    assert done.exit_code == 0, done.output
    headers = [json.loads(path.read_text()) for path in tmp_path.glob("runs/real/*/*/result.json")]
    assert {header["job"]["spec"]["method"] for header in headers} == set(METHODS)
    checks = {header["job"]["name"]: header["self_check"]["checks"] for header in headers}
    assert all(check["worst"] <= check["tolerance"] for found in checks.values() for check in found)
    measured = [check for found in checks.values() for check in found if check["check"] == "reference engine"]
    assert sum(check["cells"] for check in measured) >= 20


@pytest.mark.parametrize("name", NAMES)
def test_forty_heads_through_every_input_score_what_plain_hooks_give(name: str):
    loaded = nnsight_et.load(str(real(name)), device="cpu")
    pair = collate(IOI(templates=1).examples(loaded.tokenizer, 4, 5, "discovery"), loaded.pad)
    module, worst = loaded.model.nn._module, 0.0
    with torch.inference_mode(False):
        for path, senders in _paths(loaded.shape.n_layers, loaded.shape.n_heads):
            found = path_probabilities(loaded.model, pair, path, senders, "default", Chunks())
            receivers = [(head.layer, head.index) for head in path.receivers]
            plain = plain_hooks.path_patching(
                module, pair, [tuple(one) for one in senders], receivers, path.via, path.at
            )
            worst = max(worst, _apart(pair, found, plain))
    print(f"{name}: 40 heads, largest difference of scores {worst:.1e}")
    assert worst < 1e-5


def _paths(n_layers: int, n_heads: int) -> Iterator[tuple[PatchedPath, list[Head]]]:
    """Ten heads into the logits, and ten each into query, key and value of three late heads."""
    draw = random.Random(0)
    late = tuple(sorted(Head(n_layers - 1 - draw.randrange(4), draw.randrange(n_heads)) for _ in range(3)))
    ends: tuple[tuple[Via | None, str], ...] = (
        (None, "last"),
        ("query", "last"),
        ("key", "s1_plus_1"),
        ("value", "s2"),
    )
    for via, at in ends:
        path = PatchedPath(at, via, late if via else ())
        yield path, sorted(draw.sample(path.reaching(n_layers, n_heads), 10))  # type: ignore[type-var]


def _apart(pair: Pair, found: dict[str, torch.Tensor], plain: tuple[torch.Tensor, torch.Tensor]) -> float:
    """The largest difference of scores, (p_patched - p_base) / p_base averaged over the pairs, of any head."""
    base, patched = plain
    ours = ((found["patched"] - found["base"]) / found["base"]).double().mean(-1)
    theirs = ((patched - base) / base).double().mean(-1)
    return ((ours - theirs).abs() / theirs.abs().clamp(min=1)).max().item()


@pytest.mark.parametrize("name", ["smollm2"])
def test_a_server_of_this_machine_gives_the_same_scores(name: str, tmp_path: Path):
    manifest = study_of(CIRCUIT, name, "float32", tmp_path)
    found = {}
    for backend in ("local", "simulate"):
        done = et("run", manifest, "--set", f"backend={backend}", "--out", tmp_path / backend, "--quiet")
        assert done.exit_code == 0, done.output
        (path,) = (tmp_path / backend).glob("real/*/circuit/scores.safetensors")
        found[backend] = load_file(path)
    assert set(found["local"]) == set(found["simulate"])
    for key, here in found["local"].items():
        if key.endswith((".base", ".base_value", ".per_example")):  # a p of an effect near 0 is all rounding
            assert torch.allclose(here, found["simulate"][key], atol=1e-4, equal_nan=True), key


@pytest.mark.parametrize("name", ["gemma3"])
def test_float16_is_refused_where_numbers_do_not_fit(name: str, tmp_path: Path):
    done = et("run", study_of(CIRCUIT, name, "float16", tmp_path), "--out", tmp_path / "runs")
    assert done.exit_code == 2, done.output
    assert "float16" in done.output
    assert "bfloat16" in done.output
    assert not list(tmp_path.glob("runs/real/*/*/result.json"))
