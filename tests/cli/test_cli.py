from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

from nnsight_et.manifest import load
from tests.helpers.commands import ROOT, et, python

HEAVY = {"torch", "nnsight", "transformers", "numpy", "safetensors", "vl_convert", "pandas"}


@pytest.mark.parametrize(
    ("arguments", "shown", "also"),
    [
        (["--help"], "path-patch", {"pydantic", "ruamel", "nnsight_et.manifest", "jinja2"}),
        (["validate", "tiny"], "no errors", {"jinja2"}),
        (["plan", "tiny"], "to run", {"jinja2"}),
        (["models"], "llama-tiny", {"jinja2"}),
    ],
)
def test_what_needs_no_model_starts_without_what_models_need(arguments, shown, also, tmp_path: Path):
    code = "import sys; from nnsight_et_cli import app\n"
    code += f"try: app({arguments!r})\nexcept SystemExit: pass\n"
    code += f"print(sorted({HEAVY | also!r} & set(sys.modules)))"
    printed = python(code, tmp_path)
    assert shown in printed
    assert printed.endswith("[]")


def test_the_command_line_is_no_module_called_cli(tmp_path: Path):
    code = (
        "import importlib.util; print(importlib.util.find_spec('cli'), importlib.util.find_spec('nnsight_et_cli').name)"
    )
    assert python(code, tmp_path) == "None nnsight_et_cli"
    failed = subprocess.run([sys.executable, "-c", "import cli"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "nnsight_et_cli" in failed.stderr


def test_every_command_has_a_help_text():
    for command in (
        "run",
        "plan",
        "report",
        "validate",
        "models",
        "path-patch",
        "evaluate",
        "dcm",
        "cmap",
        "knockout",
        "compare",
    ):
        result = et(command, "--help")
        assert result.exit_code == 0
        assert "Usage" in result.output


def test_the_version_is_shown():
    assert et("--version").stdout.strip() == importlib.metadata.version("nnsight_et")


def test_models_known_by_name_are_listed():
    assert "goat-tiny" in et("models").stdout


def test_the_main_manifest_validates_and_plans(tmp_path: Path):
    checked = et("validate", ROOT / "experiments.yaml", ROOT / "paper.yaml")  # as pre-commit calls it
    assert checked.exit_code == 0
    assert checked.stdout.count("no errors") == 2
    planned = et("plan", ROOT / "experiments.yaml", "--out", tmp_path)
    assert planned.stdout.count("to run") == len(load(ROOT / "experiments.yaml").experiments)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("command", "old", "new", "part"),
    [
        (
            "validate",
            "circuit: found",
            "circuit: fuond",
            "study.yaml:7: experiments.table1.circuit: no experiment named",
        ),
        ("plan", "circuit: found", "circuit: none.json", "no file none.json"),
        ("run", "keep: 3, ", "keeep: 3, ", "study.yaml:13: experiments.found.stages.0.keeep: no key"),
        ("run", "path: two", "path: ./three", "three"),
        ("run", "path: two", "path: .", "two: no config.json"),
        ("validate", "path: two", "path: .", "two: no config.json"),
        ("run", "keep: 2", "keep: 200", "keep"),
        ("run", "boxes: 3", "boxes: 2, objects: [book, car, ice cream, letter]", "ice cream"),
    ],
)
def test_bad_input_is_one_message_and_leaves_nothing(written: Path, command: str, old: str, new: str, part: str):
    text = written.read_text()
    assert old in text
    written.write_text(text.replace(old, new))
    result = et(command, "study.yaml")
    assert result.exit_code == 2
    assert part in result.stderr, result.stderr
    assert "Traceback" not in result.output
    assert not list(written.parent.glob("runs/**/*.json"))
    assert not list(written.parent.glob("runs/**/*.safetensors"))


def test_options_that_do_not_fit_are_refused(written: Path):
    for options, part in (
        (["--only", "fuond"], "did you mean 'found'"),
        (["--device", "gpu"], "accepted: auto, cpu"),
        (["--memory", "lots"], "512MiB or 4GiB"),
        (["--set", "sede=3"], "did you mean 'seed'"),
        (["--limit", "0"], "--limit"),
    ):
        result = et("run", "study.yaml", *options)
        assert result.exit_code == 2, options
        assert part in result.stderr
    assert not (written.parent / "runs").exists() or not list(written.parent.glob("runs/**/result.json"))


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ("plan study.yaml --out study.yaml", "'study.yaml' is a file"),
        ("doctor --out study.yaml", "'study.yaml' is a file"),
        ("run study.yaml --out study.yaml/x", "study.yaml is a file; accepted: a folder"),
        ("report study.yaml --figures study.yaml", "'study.yaml' is a file"),
        ("schema --write study.yaml/x", "study.yaml/x: study.yaml is a file; accepted: a folder"),
        ("schema --write one", "one: it exists and is not a schema"),
        ("init study.yaml/x.yaml", "study.yaml is a file; accepted: a folder"),
        ("init one", "one: it exists already"),
        ("init new.yaml --model nobody", "--model: no model named 'nobody'"),
        ("init new.yaml --finetuned ./none", "--finetuned: no folder ./none"),
        ("circuit import none.npy", "none.npy: no file; accepted: a circuit, or one or more matrices"),
        ("circuit show none.json", "no file none.json"),
        ("compare none.json published/goat", "A: none.json: no file none.json"),
        ("evaluate none.json --models llama-tiny", "CIRCUIT: none.json: no file none.json"),
        ("dcm --model llama-tiny --circuit none.json", "--circuit: none.json: no file none.json"),
        ("cmap --src nobody --dst llama-tiny", "--src: no model named 'nobody'"),
        ("diff none one", "none: no result here"),
        ("export study.yaml", "study.yaml: no result here"),
        ("models inspect ./none", "no folder ./none"),
        ("models inspect llama-tiny --manifest one", "one: cannot be read (Is a directory)"),
        ("pairs check one", "cannot be read: it is not a file"),
    ],
)
def test_a_place_that_is_not_there_or_of_another_kind_is_told(written: Path, arguments: str, part: str):
    before = sorted(written.parent.rglob("*"))
    refused = et(*arguments.split())
    assert refused.exit_code == 2
    assert part in " ".join(refused.stderr.replace("│", " ").split())
    assert "experiments." not in refused.stderr
    assert sorted(written.parent.rglob("*")) == before


@pytest.mark.parametrize("command", ["plan", "validate"])
@pytest.mark.parametrize(
    ("model", "models", "text"),
    [
        (
            "mine",
            "mine: {path: ./none}",
            "study.yaml:4: models.mine.path: no folder none; accepted: a model's folder, or",
        ),
        (
            "mine",
            "mine: {path: org/x, tokenizer: ./none}",
            "study.yaml:4: models.mine.tokenizer: no folder none; accept",
        ),
        (
            "./none",
            "",
            "study.yaml:8: experiments.circuit.model: no folder none; accepted: a model's folder, or a hub id",
        ),
    ],
)
def test_a_model_whose_folder_is_not_there_is_told_by_line(tmp_path: Path, command: str, model: str, models, text: str):
    written = f"""\
name: study
seed: 1
task: {{kind: boxes, boxes: 3}}
models: {{{models}}}
experiments:
  circuit:
    method: path_patching
    model: {model}
    examples: 4
    stages: [{{group: a, into: logits, at: last, keep: 1}}]
"""
    (tmp_path / "study.yaml").write_text(written)
    found = et(command, tmp_path / "study.yaml")
    assert found.exit_code == 2
    assert found.stderr.replace(f"{tmp_path}/", "").startswith(text)
    (tmp_path / "study.yaml").write_text(written.replace("./none", "org/name"))
    assert et(command, tmp_path / "study.yaml").exit_code == 0  # it can be fetched


@pytest.mark.parametrize(("key", "value", "text"), [
    ("circuit", "./none.json", "study.yaml:6: experiments.circuit.circuit: ./none.json: no file"),
    ("task", "{kind: pairs, file: none.csv, positions: []}", "study.yaml:3: task.file: none.csv: cannot be read"),
])  # fmt: skip
def test_files_that_are_not_there_are_told_when_a_manifest_is_checked(tmp_path: Path, key: str, value: str, text: str):
    (tmp_path / "there.json").write_text('{"schema": 1, "groups": [{"name": "a", "at": "last", "heads": ["L1H2"]}]}')
    given = {"task": "{kind: boxes, boxes: 3}", "circuit": "./there.json"} | {key: value}
    (tmp_path / "study.yaml").write_text(f"""\
name: study
seed: 1
task: {given["task"]}

experiments:
  circuit: {{method: faithfulness, circuit: {given["circuit"]}, models: [llama], examples: 4, ablation_examples: 4}}
""")
    found = et("validate", tmp_path / "study.yaml")
    assert found.exit_code == 2
    assert found.stderr.replace(f"{tmp_path}/", "").startswith(text)
