"""Before the first run: manifests that are written, their schema, and what the doctor finds."""

from __future__ import annotations

import importlib
import json
import shutil
from itertools import combinations, product
from pathlib import Path

import jsonschema
import pytest
from nnsight_et_cli import setup

from nnsight_et.core.errors import ManifestError
from nnsight_et.diagnostics.sizing import MINUTES, fit_study
from nnsight_et.manifest import BoxesTask, load, parse
from nnsight_et.manifest.document import read
from nnsight_et.manifest.experiments import METHODS
from nnsight_et.manifest.schema import MODELINE, json_schema, schema_text
from nnsight_et.manifest.template import TWO_MODELS, InitOptions, render_manifest
from nnsight_et.models.catalog import EMBEDDED
from nnsight_et.planning.plan import plan
from tests.helpers.commands import EVERY, ROOT, STUDY, et, python

doctor = importlib.import_module("nnsight_et.diagnostics.doctor")
CHECKER = jsonschema.Draft202012Validator(json_schema())
SINGLE, PAIRS = [(name,) for name in METHODS], list(combinations(METHODS, 2))


@pytest.mark.parametrize("model", ["llama-tiny", "llama", "org/some-model", "./a folder/x"])
def test_what_init_writes_is_accepted_whatever_is_wished_for(model: str, tmp_path: Path):
    tiny = model == "llama-tiny"
    wished = [*SINGLE, *(PAIRS if tiny else ()), tuple(METHODS)]
    for methods, finetuned in product(wished, (None, "goat-tiny" if tiny else "./tuned")):
        if finetuned is None and not set(TWO_MODELS).isdisjoint(methods):
            continue
        text = render_manifest(InitOptions(model, finetuned, 5, methods))
        manifest = parse(text, "written")
        assert set(methods) <= {spec.method for spec in manifest.experiments.values()}
        assert manifest.task == BoxesTask(boxes=5)
        assert plan(manifest).jobs
        assert text.splitlines()[0] == MODELINE
        CHECKER.validate(read(text, "written").data)


def test_names_that_yaml_would_take_for_something_else_are_quoted():
    for name in ("./null", "./true", "a/1e3", "x/y: z", "./it's", "org/#1", "12/3", "~/a"):
        text = render_manifest(InitOptions(model=name, methods=("knockout",)))
        assert parse(text, "written").experiments["blind"].model_names == {("model",): name}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The embedded model's configuration and tokenizer, without a weight."""
    made = tmp_path / "mine"
    made.mkdir()
    for place in ("llama-tiny/config.json", "tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json"):
        shutil.copy(EMBEDDED / place, made)
    return made


def test_a_first_study_of_a_folder_has_the_examples_that_fit_the_machine(folder: Path):
    wishes = InitOptions(model=str(folder), boxes=3)
    usual = fit_study(wishes, folder.parent, speed=1e15)
    assert usual.text == render_manifest(wishes)
    assert usual.minutes is not None
    flops = usual.minutes * 60 * 1e15
    slow = fit_study(wishes, folder.parent, speed=flops / (60 * 60))  # an hour, which is four times too long
    assert slow.minutes == pytest.approx(MINUTES, rel=0.1)  # what ablated heads output is not scaled
    counts = {name: spec.examples for name, spec in parse(slow.text, "x").experiments.items()}  # type: ignore[union-attr]
    assert counts == {"circuit": 70, "minimal": 20, "faithful": 120}
    assert "smaller than usual" in slow.text
    assert "smaller than usual" not in usual.text


def test_init_says_how_long_a_run_takes_or_why_that_is_not_known(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("nnsight_et.diagnostics.sizing.flops_per_second", lambda device: 1e12)
    printed = et("init", folder.parent / "a study.yaml", "--model", "./mine").output
    assert "A run takes about 1 minute on this machine" in printed
    assert "name: a-study\n" in (folder.parent / "a study.yaml").read_text()
    printed = et("init", folder.parent / "other.yaml", "--model", "org/none").output
    assert "The time it takes is unknown: org/none: " in printed


def test_only_what_is_needed_is_written():
    found = parse(render_manifest(InitOptions(methods=("knockout", "attribution"))), "written").experiments
    assert set(found) == {"blind", "screen"}
    found = parse(render_manifest(InitOptions(methods=("activation_patching",))), "written").experiments
    assert set(found) == {"circuit", "roles", "functions"}
    found = parse(render_manifest(InitOptions(finetuned="goat-tiny", methods=("cmap",))), "written").experiments
    assert set(found) == {"finetuned_circuit", "across"}


def test_wishes_that_cannot_be_met_are_refused():
    for wishes, part in (
        (InitOptions(methods=("faithfullness",)), "did you mean 'faithfulness'"),
        (InitOptions(methods=("cmap",)), "--finetuned MODEL"),
        (InitOptions(methods=()), "no method is named"),
        (InitOptions(model="lama-tiny"), "did you mean 'llama-tiny'"),
        (InitOptions(boxes=13), "2 to 12"),
    ):
        with pytest.raises(ManifestError, match=part):
            render_manifest(wishes)


def test_init_writes_a_manifest_and_its_schema_and_overwrites_nothing(tmp_path: Path):
    path = tmp_path / "new" / "study.yaml"
    result = et("init", path, "--model", "llama-tiny", "--boxes", 3, "--methods", "knockout")
    assert result.exit_code == 0
    assert et("validate", path).exit_code == 0
    assert load(path).task == BoxesTask(boxes=3)
    assert (path.parent / "manifest.schema.json").read_text() == schema_text()
    before = path.read_bytes()
    again = et("init", path)
    assert again.exit_code == 2
    assert "it exists already" in again.stderr
    assert path.read_bytes() == before

    (path.parent / "manifest.schema.json").write_text("{}")
    refused = et("init", path.parent / "other.yaml")
    assert refused.exit_code == 2
    assert not (path.parent / "other.yaml").exists()
    assert et("schema", "--write", path).exit_code == 2
    assert path.read_bytes() == before


def test_a_wish_that_is_refused_leaves_no_file(tmp_path: Path):
    assert et("init", tmp_path / "a.yaml", "--model", "lama-tiny").exit_code == 2
    for option in ("--model", "--finetuned"):
        refused = et("init", tmp_path / "a.yaml", option, "./none")
        assert refused.exit_code == 2
        assert refused.stderr.startswith(f"{option}: no folder ./none; accepted: a built-in model, a folder, or a hub")
    assert not list(tmp_path.iterdir())


def test_init_asks_on_a_terminal_and_takes_the_answers(tmp_path: Path, monkeypatch):
    answers = iter(["boxes", "goat-tiny", "", 4, "knockout, attribution"])
    monkeypatch.setattr(setup.sys, "stdin", type("Terminal", (), {"isatty": lambda self: True})())
    monkeypatch.setattr(setup.typer, "prompt", lambda *_args, **_options: next(answers))
    setup.init(tmp_path / "a.yaml", None, None, None, None)
    manifest = load(tmp_path / "a.yaml")
    assert set(manifest.experiments) == {"blind", "screen"}
    assert (manifest.task, manifest.experiments["blind"].model_names) == (BoxesTask(boxes=4), {("model",): "goat-tiny"})


def test_the_schema_accepts_manifests_and_refuses_what_they_may_not_hold(tmp_path: Path):
    jsonschema.Draft202012Validator.check_schema(json_schema())
    assert json.loads(et("schema").stdout) == json_schema()
    texts = [(ROOT / name).read_text() for name in ("experiments.yaml", "paper.yaml")] + [STUDY + EVERY]
    for text in texts:
        CHECKER.validate(read(text, "manifest").data)
    for old, new in (("keep: 3", "keeep: 3"), ("seed: 1", "seed: -1"), ("kind: boxes", "kind: bags")):
        assert old in STUDY
        assert not CHECKER.is_valid(read(STUDY.replace(old, new), "manifest").data)


def test_the_schema_explains_keys_in_the_words_of_the_docstrings():
    schema = json_schema()
    stage = schema["$defs"]["Stage"]["properties"]
    assert stage["receivers"]["description"].startswith(
        "How many of the kept heads or MLPs, the strongest first, later"
    )
    assert schema["$defs"]["DCM"]["description"].startswith("Find which heads of each group carry which variable")
    silent = [
        f"{name}.{key}"
        for name, kind in ({"": schema} | schema["$defs"]).items()
        for key, one in kind["properties"].items()
        if "description" not in one and key not in ("method", "kind")
    ]
    assert silent == [], "a docstring under the field"


def test_the_repositorys_manifests_point_at_a_schema_that_is_current():
    assert (ROOT / "manifest.schema.json").read_text() == schema_text(), "et schema --write manifest.schema.json"
    for name in ("experiments.yaml", "paper.yaml"):
        assert (ROOT / name).read_text().startswith(MODELINE + "\n")


def test_the_doctor_finds_the_embedded_models_and_says_how_to_get_the_others(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(doctor.huggingface_hub, "try_to_load_from_cache", lambda place, name: None)
    result = et("doctor", "--out", tmp_path / "runs")
    assert result.exit_code == 0
    lines = {line.split()[0]: line for line in result.stdout.splitlines() if line}
    assert "files are here; embedded" in lines["goat-tiny"]
    goat = next(line for line in result.stdout.splitlines() if line.startswith("note  goat "))
    assert "hf download tiedong/goat-lora-7b" in goat
    assert result.stdout.endswith("Ready to run.\n")
    assert not list(tmp_path.iterdir())


def test_files_from_the_hub_are_found_where_it_keeps_them(tmp_path: Path, monkeypatch):
    snapshot = tmp_path / "models--org--one" / "snapshots" / "0"
    snapshot.mkdir(parents=True)
    (tmp_path / "models--org--one" / "refs").mkdir()
    (tmp_path / "models--org--one" / "refs" / "main").write_text("0")
    (snapshot / "config.json").write_text("{}")
    cached = doctor.huggingface_hub.try_to_load_from_cache
    monkeypatch.setattr(
        doctor.huggingface_hub, "try_to_load_from_cache", lambda place, name: cached(place, name, cache_dir=tmp_path)
    )
    assert not doctor._find_weights("org/one")  # no weights yet
    (snapshot / "model.safetensors").write_bytes(b"")
    assert doctor._find_weights("org/one")
    assert not doctor._find_weights("org/two")


def test_what_must_be_mended_is_told_with_the_command_and_exit_code_2(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(doctor.metadata, "version", lambda name: "0.1")
    result = et("doctor", "--out", tmp_path)
    assert result.exit_code == 2
    torch = next(line for line in result.stdout.splitlines() if line.startswith("FIX") and " torch " in line)
    assert "pip install 'torch>=2.6'" in torch
    assert "Ready" not in result.stdout


def test_little_room_and_folders_that_cannot_be_written_are_told(tmp_path: Path, monkeypatch):
    assert doctor._disk(tmp_path / "a" / "b").state in ("ok", "note")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": doctor.GIB})())
    assert doctor._disk(tmp_path) == doctor.Diagnosis(
        "results", "1 GiB free", "note", "--out DIR: a folder on a larger disk"
    )
    monkeypatch.setattr(doctor.os, "access", lambda folder, mode: False)
    assert doctor._disk(tmp_path).state == "mend"


def test_init_and_schema_start_without_torch(tmp_path: Path):
    code = "import sys; from nnsight_et_cli import app\n"
    code += "for command in (['init', 'a.yaml'], ['schema', '--write', 'b.json'], ['validate', 'a.yaml']):\n"
    code += "    try: app(command)\n    except SystemExit as end: print(end.code)\n"
    code += "print(sorted({'torch', 'nnsight', 'transformers', 'pandas', 'psutil'} & set(sys.modules)))"
    lines = python(code, tmp_path).splitlines()
    assert [line for line in lines if line.isdigit()] == ["0", "0", "0"]
    assert lines[-1] == "[]"
