"""The fine-tunes of examples/real_study and their manifests, small: an embedded model takes the real one's place."""

from __future__ import annotations

import json
import re
import runpy
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import nnsight_et as et
from examples.real_study import fine_tune
from nnsight_et.manifest import load
from nnsight_et.planning.plan import plan
from tests.helpers.commands import ROOT
from tools import real_study, stability

STUDY = ROOT / "examples/real_study"
FEW = ["--steps", "2", "--batch", "2", "--look", "1", "--boxes", "3", "--keep", "1", "--stop", "2"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model as a folder with a tokenizer."""
    folder = shutil.copytree(ROOT / "nnsight_et/zoo/embedded/llama-tiny", tmp_path_factory.mktemp("base") / "model")
    et.load("llama-tiny").tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["bindings", "arithmetic", "whole"])
def test_a_fine_tune_learns_its_words_keeps_its_steps_and_comes_out_the_same_again(
    kind: str, base: Path, tmp_path: Path
):
    for out in ("one", "two"):  # twice the same
        fine_tune.main([kind, str(base), str(tmp_path / out), "--name", "llama-tiny", *FEW])
    lines = [json.loads(line) for line in (tmp_path / "one/log.jsonl").read_text().splitlines()]
    assert lines == [json.loads(line) for line in (tmp_path / "two/log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1, 2]
    assert [set(line) - {"step"} for line in lines] == [{"right", "own", "loss"}] * 2 + [{"right", "own"}]
    file = "model.safetensors" if kind == "whole" else "adapter_model.safetensors"
    first, last = (load_file(tmp_path / "one" / step / file) for step in ("step-1", "step-2"))
    assert any(not torch.equal(first[key], last[key]) for key in first)
    folder = tmp_path / "one/step-2"
    if kind == "whole":
        tuned = et.load(str(folder))
    else:
        assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == "llama-tiny"
        assert {value.dtype for value in last.values()} == {torch.float16}
        tuned = et.load(str(base), adapter=str(folder))
    pairs = et.Pairs.boxes(4, boxes=3)
    assert all(one.isfinite().all() for one in et.path_patch(tuned, pairs, at="last").scores.values())


def test_only_the_words_that_are_asked_for_are_learned():
    tokenizer = et.load("llama-tiny").tokenizer
    text = "The apple is in Box F. Box F contains the apple."
    batch = fine_tune.batch_of([(text, [(text.rindex(" apple"), len(text) - 1)])], tokenizer)
    learned = batch["labels"][batch["labels"] != -100]
    assert tokenizer.convert_ids_to_tokens(learned.tolist()) == tokenizer.tokenize(" apple")


@pytest.mark.parametrize("name", ["names", "boxes", "stable"])
def test_the_manifests_of_the_study_are_accepted(name: str):
    manifest = load(STUDY / f"{name}.yaml")
    assert len(plan(manifest).jobs) == len(manifest.experiments)


def as_runs(folder: Path) -> None:
    """The kept results where runs leave theirs."""
    for name in real_study.RUNS:
        shutil.copytree(real_study.DOCS / "real_study" / name, folder / name / "0")
        (folder / name / "0" / "report.html").touch()


def test_each_circuit_of_other_seeds_and_sentences_is_measured_on_every_sentence(tmp_path: Path):
    as_runs(tmp_path / "runs")
    stability.copy_circuits(tmp_path / "runs", tmp_path / "build/real/circuits")
    (tmp_path / "examples/real_study").mkdir(parents=True)
    copy = shutil.copy(STUDY / "across.yaml", tmp_path / "examples/real_study")
    assert {job.name for job in plan(load(Path(copy))).jobs} == {
        f"{model}-{name}" for model, names in stability.FOUND_WITH.items() for name in names
    }


def test_the_tables_over_several_runs_say_how_many_circuits_have_a_head():
    heads = [("L1H0", "L1H1", "L2H0"), ("L1H1", "L1H0", "L3H0"), ("L1H0", "L1H1", "L3H0")]
    circuits = [et.Circuit((et.HeadGroup("movers", "last", tuple(map(et.Head.parse, one))),)) for one in heads]
    row = stability.row_of(circuits, "movers", 16)
    assert row[:4] == ("movers", "L1H0 (1 to 2), L1H1 (1 to 2)", "L3H0 (3)", "L2H0 (3)")
    assert row[4] == f"{(1 / 2 + 1 / 2 + 1) / 3:.2f}"
    # 3 of 16 heads drawn twice: 234, 39 and 1 of 560 draws share one, two and three
    assert row[5] == f"{(234 / 5 + 39 * 2 / 4 + 1) / 560:.2f}"


def test_the_tables_of_the_page_are_those_of_its_results(tmp_path: Path):
    """As `make real-study` ends: from runs to a page with their tables, and the report."""
    as_runs(tmp_path / "runs")
    (tmp_path / "build").mkdir()
    real_study.main([str(tmp_path / "runs"), str(tmp_path / "build")])
    assert (tmp_path / "build/real_study.md").read_text() == (real_study.DOCS / "real_study.md").read_text()
    report = (real_study.DOCS / "real_study/report.html").read_bytes()
    assert (tmp_path / "build/real_study/report.html").stat().st_size > 0
    assert len(report) < 3_000_000


def test_the_notebook_runs_and_is_its_script(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv("ET_KEPT", str(real_study.DOCS / "real_study"))
    runpy.run_path(str(STUDY / "look.py"))
    said = capsys.readouterr().out.splitlines()
    assert any("L23H3" in line for line in said)
    script = (STUDY / "look.py").read_text()
    text = (real_study.DOCS / "real_study.ipynb").read_text()
    assert "site-packages" not in text
    cells = json.loads(text)["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert code == [cell.strip() for cell in re.findall(r"# %%\n(.*?)(?=\n# %%|\Z)", script, re.DOTALL)]
    shown = [
        cell["outputs"] for cell in cells if re.search(r"^ *(display|print)\(", "".join(cell["source"]), re.MULTILINE)
    ]
    assert len(shown) == 4
    assert all(shown)
    kept = [line for outputs in shown for one in outputs if one["output_type"] == "stream" for line in one["text"]]
    assert [line for line in kept if line.rstrip("\n") not in said] == []


@pytest.mark.parametrize("kind", ["arithmetic", "bindings", "bindings-2"])
def test_the_adapters_that_are_kept_are_of_a_published_model(kind: str):
    config = json.loads((STUDY / "adapters" / kind / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    log = [json.loads(line) for line in (STUDY / "adapters" / kind / "log.jsonl").read_text().splitlines()]
    assert log[-1]["step"] == len(log) - 1 == (201 if kind == "bindings-2" else 200)
