"""backend: simulate: a server of this machine's own, started for the run and gone with it; the same numbers."""

from __future__ import annotations

import psutil
import pytest

from nnsight_et.manifest import Manifest, parse
from nnsight_et.models import files
from nnsight_et.models.catalog import ModelSpec
from nnsight_et.planning.plan import plan
from nnsight_et.remote.server import name_on_server
from nnsight_et.results.headers import folder_of
from nnsight_et.results.store import read_result
from nnsight_et.runner.run import run
from tests.helpers.closeness import assert_same_scores
from tests.helpers.commands import et

STUDY = """\
name: tried
backend: %s
task: {kind: boxes, boxes: 4}
experiments:
  found: {method: path_patching, model: goat-tiny, examples: 3, stages: [{group: a, into: logits, at: last, keep: 3}]}
  across: {method: cmap, donor: goat-tiny, recipient: llama-tiny, circuit: found, examples: 3, random_sets: 1}
"""


def study(backend: str) -> Manifest:
    return parse(STUDY % backend, "tried.yaml")


@pytest.mark.slow
def test_an_adapter_and_its_base_give_the_numbers_they_give_here_and_the_server_is_gone_afterwards(tmp_path):
    found = {}
    for backend in ("local", "simulate"):
        for _ in run(plan(study(backend)), tmp_path / backend):
            pass
        folder = folder_of(tmp_path / backend, plan(study(backend)))
        found[backend] = {name: read_result(folder / name) for name in ("found", "across")}
    for name, here in found["local"].items():
        there = found["simulate"][name]
        assert there.header.identity == here.header.identity
        assert there.header.device == "simulate"
        assert_same_scores(there.scores, here.scores, said=name)
    assert not [child for child in psutil.Process().children(recursive=True) if "serve.py" in " ".join(child.cmdline())]


def test_what_a_simulated_run_shows_and_does_not_show_is_said(tmp_path):
    (tmp_path / "tried.yaml").write_text(STUDY.split("  across")[0] % "local")
    options = ("--backend", "simulate", "--self-check", "off", "--out", tmp_path / "runs")
    done = et("run", tmp_path / "tried.yaml", *options)
    assert done.exit_code == 0, done.output
    assert "Simulated: every job went to a server on this machine" in done.output
    assert "goat-tiny" in done.output


def test_every_model_has_a_name_and_a_folder_with_its_tokenizer_there():
    jobs = name_on_server("simulate", plan(study("simulate")).jobs)
    specs = {choice.name: choice.spec for job in jobs for choice in job.models}
    assert specs["goat-tiny"].server_names == ("here/goat-tiny", "here/goat-tiny-adapter")
    assert specs["llama-tiny"].server_names == ("here/llama-tiny", None)
    assert name_on_server("ndif", plan(study("ndif")).jobs) == list(plan(study("ndif")).jobs)


def test_weights_need_not_be_here_for_a_server(tmp_path, folder):
    spec = ModelSpec(str(folder), ndif="org/name")
    with_weights = files.download_files("one", spec, weights_too=False)
    (folder / "model.safetensors").unlink()
    without = files.download_files("one", spec, weights_too=False)
    assert without.weights == with_weights.weights
    assert without.fingerprint != with_weights.fingerprint
