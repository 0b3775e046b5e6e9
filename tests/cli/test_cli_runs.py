from __future__ import annotations

import gc
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from nnsight_et_cli import execute
from safetensors.torch import load_file

from nnsight_et.manifest import load
from nnsight_et.manifest.experiments import METHODS
from nnsight_et.results.store import Store
from tests.helpers.commands import EVERY, STAGE, STUDY, et, scores


def test_a_run_ends_with_the_table_and_a_second_one_has_nothing_to_do(written: Path):
    first = et("run", "study.yaml")
    assert first.exit_code == 0
    for part in ("faithfulness", "value_fetcher", "random circuits", "Results: runs"):
        assert part in first.stdout
    assert "Nothing to do" not in first.stdout
    assert "found: value_fetcher 1/1" in first.stderr
    before = scores(written.parent)
    assert set(before) == {"found", "table1"}

    assert et("plan", "study.yaml").stdout.count("done") == 2
    second = et("run", "study.yaml")
    assert "no forward pass was run" in second.stdout
    assert scores(written.parent) == before

    (result,) = written.parent.glob("runs/small/*/found")
    tensors = load_file(result / "scores.safetensors")
    assert tensors["value_fetcher.score"].shape == (3, 4)
    assert json.loads((result / "result.json").read_text())["job"]["name"] == "found"


def test_what_imports_have_made_is_kept_out_of_garbage_collections_once(done: Path, monkeypatch: pytest.MonkeyPatch):
    frozen = list[int]()
    monkeypatch.setattr(gc, "freeze", lambda: frozen.append(1))
    execute._freeze_imports.cache_clear()
    for _ in range(2):
        assert et("run", "study.yaml").exit_code == 0
    assert frozen == [1]


def test_a_damaged_result_is_made_again_from_its_cells(done: Path):
    before = scores(done.parent)
    (damaged,) = done.parent.glob("runs/small/*/found/scores.safetensors")
    damaged.write_bytes(damaged.read_bytes()[:-1])
    (cell, *_) = sorted(done.parent.glob("runs/store/*/*.safetensors"))
    cell.write_bytes(b"")
    assert et("plan", "study.yaml").exit_code == 0
    again = et("run", "study.yaml")
    assert again.exit_code == 0
    assert scores(done.parent) == before


def test_only_what_is_asked_for_runs(written: Path):
    assert et("run", "study.yaml", "--only", "found").exit_code == 0
    assert set(scores(written.parent)) == {"found"}
    assert "Nothing to do" not in et("run", "study.yaml").stdout
    assert set(scores(written.parent)) == {"found", "table1"}


def test_fresh_computes_again_and_limit_and_set_are_other_runs(done: Path):
    before = scores(done.parent)
    fresh = et("run", "study.yaml", "--only", "found", "--fresh")
    assert "Nothing to do" not in fresh.stdout
    assert scores(done.parent) == before
    et("run", "study.yaml", "--only", "found", "--limit", 2)
    et("run", "study.yaml", "--only", "found", "--set", "engine=reference")
    assert len(list(done.parent.glob("runs/small/*"))) == 3


def test_a_run_directory_held_by_another_process_is_refused(done: Path):
    (folder,) = done.parent.glob("runs/small/*")
    hold = "import sys; from pathlib import Path; from nnsight_et.results.store import Store\n"
    hold += f"with Store(Path()).writing(Path({str(folder)!r})): print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        refused = et("run", "study.yaml")
        assert et("plan", "study.yaml").exit_code == 0
        holder.kill()
    assert refused.exit_code == 1
    assert f"process {holder.pid} on " in refused.stderr
    with Store(Path()).writing(folder):
        pass


def test_single_method_commands_run_the_same_code(done: Path):
    options: Sequence[object] = ("--seed", 1, "--boxes", 3, "--examples", 5)
    patched = et("path-patch", "--model", "./one", "--stage", STAGE, *options)
    assert patched.exit_code == 0
    assert "value_fetcher" in patched.stdout
    (alone,) = done.parent.glob("runs/path-patch/*/circuit/scores.safetensors")
    (whole,) = done.parent.glob("runs/small/*/found/scores.safetensors")
    name = "value_fetcher.per_example"
    assert load_file(alone)[name].equal(load_file(whole)[name])

    measured = et("evaluate", alone.parent, "--models", "./one,./two", *options)
    assert measured.exit_code == 0
    assert "./two" in measured.stdout
    assert et("evaluate", alone.parent, "--models", "./one,./none", *options).exit_code == 2


def test_every_method_runs_from_a_manifest_and_shows_its_table(written: Path):
    written.write_text(STUDY + EVERY)
    result = et("run", "study.yaml")
    assert result.exit_code == 0
    names = list(load(written).experiments)
    assert {spec.method for spec in load(written).experiments.values()} == set(METHODS)
    assert all(f"\n{name}: " in f"\n{result.stdout}" for name in names)
    assert all(re.search(rf"\] {name}: (done in [^;]*|from the store); \w", result.stderr) for name in names)
    assert "no forward pass was run" in et("run", "study.yaml").stdout


def test_commands_of_one_method_find_first_what_they_need(written: Path):
    sizes = {"roles.training": 2, "roles.validation": 2, "roles.test": 2, "circuit.": 2}
    settings = [f"--set=experiments.{key}_examples={count}".replace("._", ".") for key, count in sizes.items()]
    settings.append("--set=experiments.roles.epochs=5")  # of one step each
    stages = f"--set=experiments.circuit.stages=[{STAGE}]"
    result = et("cmap", "--src", "./one", "--dst", "./two", "--boxes", 3, "--examples", 2, stages, *settings)
    assert result.exit_code == 0
    assert "./one into ./two" in result.stdout
    assert {path.name for path in written.parent.glob("runs/cmap/*/*/")} == {"circuit", "roles", "cmap"}

    again = et("dcm", "--model", "./one", "--boxes", 3, stages, *settings)
    assert again.exit_code == 0
    assert re.search(r"circuit: done in .*\(no new measurements", again.stderr)  # what cmap has measured is shared
    assert "none" in et("knockout", "--model", "./two", "--boxes", 3, "--examples", 2).stdout


def test_published_circuits_are_compared_as_in_table_a6(written: Path):
    result = et("compare", "published/llama", "published/goat")
    assert result.exit_code == 0
    assert " ".join(result.stdout.split()).count("total 72 175 54 0.75 0.31") == 1


def test_models_that_are_not_here_are_told_with_what_runs_now(written: Path):
    missing = ["--set=models.goat.path=./nowhere", "--set=models.llama.path=./nowhere"]
    result = et("cmap", "--src", "goat", "--dst", "llama", *missing)
    assert result.exit_code == 2
    assert "nowhere" in result.stderr
    assert "goat-tiny for goat, llama-tiny for llama" in result.stderr


def test_shipped_manifests_run_by_their_names(written: Path):
    assert et("validate", "tiny").exit_code == 0
    assert "figure_4_goat" in et("plan", "paper").stdout
    assert "did you mean 'paper'" in et("plan", "papre").stderr


def test_four_stages_are_the_default_for_the_boxes_task(written: Path):
    result = et("path-patch", "--model", "./one", "--boxes", 3, "--examples", 2)
    assert result.exit_code == 2  # three layers of four heads: nothing is left to reach the fourth stage's receivers
    assert "structure_reader" in result.stderr or "keep" in result.stderr


STRICT = "examples: 4, held_out_examples: 4, effect: 0.99"


def test_a_search_that_finds_nothing_ends_with_what_was_searched(written: Path):
    settings = (f"discovered.{setting.replace(': ', '=')}" for setting in STRICT.split(", "))
    options = [part for setting in settings for part in ("--set", f"experiments.{setting}")]
    found = et("discover", "--model", "./one", "--boxes", 3, *options)
    assert found.exit_code == 0
    told = (
        "Nothing found. 12 heads patched into the logits on 4 pairs of prompts: none has an effect of 0.99 of the base"
    )
    assert told in found.stdout
    assert "To try: more pairs, a smaller effect, MLPs as well." in found.stdout
    skipped = [line for line in found.stderr.splitlines() if "skipped" in line]
    assert skipped == [
        f"{name}: skipped: discovered, whose heads it needs, found none; the tables of discovered say why"
        for name in ("faithfulness", "looks", "carries")
    ]
    (page,) = written.parent.glob("runs/discover/*/report.html")
    assert "Nothing found." in page.read_text()


def test_what_needs_a_circuit_that_was_not_found_is_skipped_and_the_others_run(written: Path):
    head, _, _ = STUDY.partition("  table1:")
    written.write_text(f"""{head}\
  nobody: {{method: discovery, model: one, {STRICT}}}
  pruned: {{method: minimality, circuit: nobody, examples: 4, ablation_examples: 4}}
  table1: {{method: faithfulness, circuit: pruned, models: [one], examples: 4, ablation_examples: 4}}
  carries: {{method: activation_patching, roles: nobody, models: [one], desiderata: [object], examples: 4}}
  blind: {{method: knockout, model: one, examples: 4}}
""")
    run = et("run", "study.yaml", "--json")
    assert run.exit_code == 1
    objects = [json.loads(line) for line in run.stdout.splitlines()]
    assert {one["experiment"] for one in objects if one["event"] == "result"} == {"nobody", "blind"}
    skipped = {one["experiment"]: one["why"] for one in objects if one["event"] == "skipped"}
    nobody = "nobody, whose heads it needs, found none; the tables of nobody say why"
    assert skipped == {"pruned": nobody, "table1": "it needs pruned, skipped too", "carries": nobody}
    assert set(scores(written.parent)) == {"nobody", "blind"}
    again = et("run", "study.yaml")
    assert (again.exit_code, again.stderr.count("skipped: ")) == (1, 3)
    assert "nobody, whose heads it needs, found none" in " ".join(et("report", "study.yaml").stdout.split())
