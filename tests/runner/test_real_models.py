"""Real pretrained models: SmolLM2-135M and Gemma-3-270M, whole studies of indirect object identification.

ET_REAL_MODELS names a folder that holds them as `smollm2` and `gemma3-270m` in Hugging Face format; the tests skip
where it is not set. They need about 6 GB of memory and several minutes.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import nnsight_et
from nnsight_et.core.batch import Pair, collate
from nnsight_et.core.circuit import Head, Via
from nnsight_et.engine.budget import Chunks
from nnsight_et.engine.paths import Path as PatchedPath
from nnsight_et.interventions.path_patching import path_probabilities
from nnsight_et.tasks.ioi import IOI
from tests.helpers import plain_hooks
from tests.helpers.commands import et

MODELS = Path(os.environ.get("ET_REAL_MODELS", "real_models"))
NAMES = ("smollm2", "gemma3-270m")
pytestmark = [
    pytest.mark.real_models,
    pytest.mark.skipif(not all((MODELS / name).is_dir() for name in NAMES), reason="ET_REAL_MODELS has no real models"),
]
STUDY = """\
name: real
seed: 3
task: {{kind: ioi, templates: 1}}
dtype: {dtype}
models: {{real: {{path: {path}}}}}
experiments:
  circuit:
    method: path_patching
    model: real
    examples: 12
    held_out_examples: 6
    metric: logit_difference
    stages:
      - {{group: name_mover, into: logits, at: last, keep: 8, receivers: 4}}
      - {{group: s_inhibition, into: name_mover, via: query, at: last, keep: 6, receivers: 4}}
      - {{group: induction, into: s_inhibition, via: value, at: s2, keep: 6, receivers: 3}}
      - {{group: previous_token, into: induction, via: key, at: s1_plus_1, keep: 4}}
  minimal: {{method: minimality, circuit: circuit, examples: 12, ablation_examples: 20}}
  faithful: {{method: faithfulness, circuit: circuit, models: [real], examples: 12, ablation_examples: 20}}
  complete: {{method: completeness, circuit: circuit, examples: 8, ablation_examples: 20, draws: 2}}
  blind: {{method: knockout, model: real, examples: 6, edges: [{{blind: last, to: io}}, {{blind: s2, to: s1}}]}}
  looks: {{method: attention_patterns, circuit: circuit, examples: 6}}
  screen: {{method: attribution, model: real, at: [s2, last], examples: 8}}
  itself: {{method: cmap, donor: real, recipient: real, circuit: circuit, examples: 6, random_sets: 2}}
"""


@pytest.mark.parametrize("name", NAMES)
def test_a_real_model_is_inspected(name: str):
    done = et("models", "inspect", MODELS / name)
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", NAMES)
def test_every_method_runs_and_all_its_checks_pass(name: str, dtype: str, tmp_path: Path):
    manifest = tmp_path / "real.yaml"
    manifest.write_text(STUDY.format(path=(MODELS / name).resolve(), dtype=dtype))
    done = et("run", manifest, "--out", tmp_path / "runs")
    assert done.exit_code == 0, done.output
    headers = [json.loads(path.read_text()) for path in tmp_path.glob("runs/real/*/*/result.json")]
    assert len(headers) == 8
    checks = {header["job"]["name"]: header["self_check"]["checks"] for header in headers}
    assert all(check["worst"] <= check["tolerance"] for found in checks.values() for check in found)
    measured = [check for found in checks.values() for check in found if check["check"] == "reference engine"]
    assert sum(check["cells"] for check in measured) >= 20


@pytest.mark.parametrize("name", NAMES)
def test_forty_heads_through_every_input_score_what_plain_hooks_give(name: str):
    loaded = nnsight_et.load(str(MODELS / name))
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


def test_float16_is_refused_where_numbers_do_not_fit(tmp_path: Path):
    manifest = tmp_path / "real.yaml"
    manifest.write_text(STUDY.format(path=(MODELS / "gemma3-270m").resolve(), dtype="float16"))
    done = et("run", manifest, "--out", tmp_path / "runs")
    assert done.exit_code == 2, done.output
    assert "float16" in done.output
    assert "bfloat16" in done.output
    assert not list(tmp_path.glob("runs/real/*/*/result.json"))
