"""The paper's 7B names on the ordinary hub path: a loopback hub has small models of 32 x 32 heads under their ids."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig, get_peft_model

from nnsight_et.models.catalog import KNOWN_MODELS
from tests.helpers.loopback_hub import serving
from tests.helpers.tiny_model import hf_llama, tokenizer

SIZES: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 64, "head_dim": 2}
IDS = ("huggyllama/llama-7b", "AlekseyKorshuk/vicuna-7b", "nikhil07prakash/float-7b", "tiedong/goat-lora-7b")


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a command that finds the four models on a loopback hub, and nothing else."""
    folder = tmp_path_factory.mktemp("hub")
    places = {name: folder / name.replace("/", "--") for name in IDS}
    for seed, name in enumerate(IDS[:3]):
        model = hf_llama(layers=32, heads=32, kv_heads=32, seed=seed, **SIZES)
        model.save_pretrained(places[name])
        tokenizer().save_pretrained(places[name])
    adapter = get_peft_model(
        hf_llama(layers=32, heads=32, kv_heads=32, **SIZES),
        LoraConfig(r=2, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"], init_lora_weights=False),
    )
    adapter.save_pretrained(str(places[IDS[3]]))
    with serving(places) as address:
        outside = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
        yield outside | {"HF_ENDPOINT": address, "HF_HOME": str(folder / "home"), "HF_HUB_DISABLE_XET": "1"}


ADAPTED = """
import torch; from nnsight_et.models.files import download_files
from nnsight_et.models.load import load_model; from nnsight_et.models.catalog import KNOWN_MODELS
models = {name: load_model(download_files(name, KNOWN_MODELS[name].spec)) for name in ('llama', 'goat')}
names = [name for name, _ in models['goat'].nn.named_parameters()]
print(sum('lora' in name for name in names), sum('base_layer' in name for name in names))
tokens = torch.arange(6)[None]; places = torch.arange(6)[None]
def logits(model):
    with model.trace(tokens, places):
        found = model.logits().save()
    return found
print((logits(models['llama']) - logits(models['goat'])).abs().max().item() > 1e-3)
"""


def python(
    folder: Path, environment: dict[str, str], *options: str, after: str = ""
) -> subprocess.CompletedProcess[str]:
    """`et cmap` from Goat to LLaMA in a Python of its own, which then does more."""
    script = folder / "script.py"
    arguments = ["cmap", "--src", "goat", "--dst", "llama", *options]
    code = f"from nnsight_et_cli import app\napp({arguments}, standalone_mode={not after})\n"
    script.write_text(code + "print('after')\n" + after)
    command = [sys.executable, str(script)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def patched(hub: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of such a run, and what the Python that made it found of the adapter afterwards."""
    folder = tmp_path_factory.mktemp("patched")
    done = python(folder, hub, "--examples", "3", "--set", "experiments.cmap.random_sets=1", after=ADAPTED)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout.rpartition("after\n")[2]


def test_the_named_models_are_those_of_the_paper() -> None:
    assert KNOWN_MODELS["goat"].spec.path == "huggyllama/llama-7b"
    assert KNOWN_MODELS["goat"].spec.adapter == "tiedong/goat-lora-7b"
    assert [KNOWN_MODELS[name].spec.path for name in ("llama", "vicuna", "float")] == list(IDS[:3])


def test_cmap_from_goat_to_llama_runs_with_the_published_circuit(patched: tuple[Path, str]) -> None:
    (place,) = patched[0].glob("runs/cmap/*/cmap/result.json")
    result = json.loads(place.read_text())
    heads = {row["group"]: row["heads"] for row in result["summary"]["rows"] if row["patched"] == "output"}
    published = {"value_fetcher": 56, "position_transmitter": 15, "position_detector": 18, "structure_reader": 39}
    assert heads == published | {"all": 128}
    assert [record["name"] for record in result["models"]] == ["goat", "llama"]
    assert result["models"][0]["fingerprint"] != result["models"][1]["fingerprint"]


def test_the_adapter_is_there_and_not_merged(patched: tuple[Path, str]) -> None:
    assert patched[1].split() == ["256", "128", "True"]


def test_without_weights_and_network_cmap_says_what_to_do(tmp_path: Path) -> None:
    environment = os.environ | {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "home")}
    done = python(tmp_path, environment)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    for word in ("huggyllama/llama-7b", "models:", "goat-tiny", "llama-tiny"):
        assert word in done.stderr
    assert not list(tmp_path.glob("runs/cmap/*/cmap"))
