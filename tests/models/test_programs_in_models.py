"""Programs that come with a model's weights never run, whatever is said; they are named where nothing works else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nnsight_et.core.errors import UnsupportedModel
from nnsight_et.models.catalog import ModelSpec
from nnsight_et.models.files import FILES, download_files
from nnsight_et.models.load import configuration, distant, load_model, tokenizer_of
from tests.helpers.commands import STUDY, et
from tests.helpers.tiny_model import change_config, hf_llama, tokenizer

PROGRAM = "from pathlib import Path\nPath({!r}).write_text('a program was run')\n"
MAP = {
    "AutoConfig": "configuration_mine.MineConfig",
    "AutoModelForCausalLM": "modeling_mine.MineForCausalLM",
    "AutoTokenizer": ["tokenization_mine.MineTokenizer", None],
}


@pytest.fixture
def ran(tmp_path: Path) -> Path:
    """The file that a program beside the weights writes as soon as it is imported."""
    return tmp_path / "ran"


@pytest.fixture
def folder(tmp_path: Path, ran: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model that has programs beside its weights, and a user who agrees to whatever is asked."""
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    place = tmp_path / "model"
    hf_llama().save_pretrained(place)
    tokenizer().save_pretrained(place)
    for name in ("configuration_mine", "modeling_mine", "tokenization_mine"):
        (place / f"{name}.py").write_text(PROGRAM.format(str(ran)))
    return place


def of_tokenizer(folder: Path, **changes: object) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_model_that_only_its_own_program_describes_is_refused_by_name(folder: Path, ran: Path):
    change_config(folder, model_type="mine", auto_map=MAP)
    with pytest.raises(
        UnsupportedModel, match=r"config\.json asks to run 'configuration_mine\.py, modeling_mine\.py, "
    ):
        configuration(download_files("mine", ModelSpec(str(folder))))
    change_config(folder, auto_map={"AutoConfig": "org/elsewhere--configuration_mine.MineConfig"})
    with pytest.raises(UnsupportedModel, match=r"'org/elsewhere/configuration_mine\.py', which nnsight_et never does"):
        configuration(download_files("mine", ModelSpec(str(folder))))
    assert not ran.exists()


def test_a_tokenizer_that_only_its_own_program_describes_is_refused_or_read_without_it(folder: Path, ran: Path):
    of_tokenizer(folder, tokenizer_class="MineTokenizer", auto_map={"AutoTokenizer": MAP["AutoTokenizer"]})
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UnsupportedModel, match=r"tokenizer_config\.json asks to run 'tokenization_mine\.py'"):
        tokenizer_of(download_files("mine", ModelSpec(str(folder))))
    assert not ran.exists()


def test_a_known_model_with_programs_beside_it_is_read_without_them(folder: Path, ran: Path):
    change_config(folder, auto_map=MAP)
    of_tokenizer(folder, auto_map={"AutoTokenizer": MAP["AutoTokenizer"]})
    files = download_files("mine", ModelSpec(str(folder)))
    assert type(load_model(files).nn._module).__module__.startswith("transformers.models.llama")
    assert distant(files, ModelSpec("org/mine")).n_layers == 3
    assert not ran.exists()


def test_the_command_says_so_and_ends_with_2(folder: Path, ran: Path, tmp_path: Path):
    change_config(folder, model_type="mine", auto_map=MAP)
    text = STUDY.replace(
        "models: {one: {path: one}, two: {path: two}}", "models: {one: {path: model}, two: {path: two}}"
    )
    (tmp_path / "study.yaml").write_text(text)
    for command in (("run", tmp_path / "study.yaml", "--only", "found"), ("models", "inspect", folder)):
        said = et(*command)
        assert said.exit_code == 2
        assert "configuration_mine.py" in said.stderr.replace("\n", "")
    (tmp_path / "study.yaml").write_text(text.replace("{path: model}", "{path: model, trust_remote_code: true}"))
    said = et("validate", tmp_path / "study.yaml")
    assert said.exit_code == 2
    assert "trust_remote_code" in said.stderr
    assert not ran.exists()


def test_programs_are_not_even_fetched():
    assert not [pattern for pattern in FILES if "py" in pattern.rpartition(".")[2]]
