"""Help, examples and completion of every command, as the shell has them."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import typer
from nnsight_et_cli import app
from nnsight_et_cli import options as complete
from nnsight_et_cli.shell import EXAMPLES
from typer.testing import CliRunner

from nnsight_et.manifest.load import SHIPPED
from nnsight_et.models.catalog import KNOWN_MODELS
from tests.helpers.commands import et

SHELL = typer.main.get_command(app)
COMMANDS = sorted(SHELL.commands)  # type: ignore[attr-defined]


def test_every_command_has_an_example():
    assert set(EXAMPLES) == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_ends_with_an_example_that_the_command_accepts(name: str):
    result = et(name, "--help")
    assert result.exit_code == 0
    program, command, *arguments = shlex.split(EXAMPLES[name])
    assert (program, command) == ("et", name)
    shown = " ".join(result.stdout.split())
    assert shown.endswith(f"Example: {EXAMPLES[name]}")
    found = SHELL.get_command(None, name)  # type: ignore[attr-defined]
    found.make_context(name, arguments)  # raises on an option or argument there is not


@pytest.mark.parametrize("name", ["", *COMMANDS, "models inspect", "circuit import"])
def test_help_names_no_type_of_what_is_switched_on_and_cuts_nothing(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "80")
    shown = et(*name.split(), "--help").stdout
    assert "bool" not in shown
    assert "…" not in shown
    assert ("--fresh" in shown) == (name in ("run", "path-patch", "discover", "evaluate", "dcm", "cmap", "knockout"))


def test_help_names_the_extra_that_parquet_needs():
    assert "pip install 'nnsight-et[export]'" in " ".join(et("export", "--help").stdout.replace("│", " ").split())


def test_a_mistyped_command_or_option_is_told_what_was_meant():
    for arguments, part in ((["rnu"], "run"), (["run", "tiny", "--quite"], "--quiet"), (["run", "tinny"], "'tiny'")):
        result = et(*arguments)
        assert result.exit_code == 2
        assert part in result.stderr


def completed(words: str) -> list[str]:
    """What bash would offer after `words`."""
    count = len(words.split(" ")) - 1
    environment = {"_ET_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(count)}
    return CliRunner().invoke(app, [], prog_name="et", env=environment).stdout.split()


def test_models_manifests_and_circuits_are_completed(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tell.yaml").touch()
    (tmp_path / "table.csv").touch()
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "one.yml").touch()
    (tmp_path / ".hidden").mkdir()
    assert completed("et run t") == ["tiny", "tell.yaml"]
    assert completed("et plan dee") == ["deep/"]
    assert completed("et plan deep/") == ["deep/one.yml"]
    assert completed("et validate nowhere/") == []
    assert completed("et cmap --src go") == ["goat", "goat-tiny"]
    assert completed("et evaluate embedded/g") == ["embedded/goat-tiny"]
    assert completed("et doc") == ["doctor"]
    assert complete.manifests("") == [*SHIPPED, "deep/", "tell.yaml"]
    assert complete.model_names("") == list(KNOWN_MODELS)
    assert complete.model_lists("goat,llama-t") == ["goat,llama-tiny"]
    assert complete.model_lists("goat,go") == ["goat,goat-tiny"]


def test_completion_can_be_installed():
    shown = et("--help").stdout
    assert "--install-completion" in shown
    assert "--show-completion" in shown
