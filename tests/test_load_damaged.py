"""Model folders whose weights cannot be what their configuration says: refused, never filled up with random numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from tiny_model import change_config, hf_llama

from nnsight_et.errors import UnsupportedModel
from nnsight_et.models.files import found
from nnsight_et.models.load import loaded, shape_of
from nnsight_et.models.model import Model
from nnsight_et.models.named import ModelSpec


def read(spec: ModelSpec) -> Model:
    files = found("mine", spec)
    shape_of(files)
    return loaded(files)


def damaged(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"not tensors" * 99)


def half_of_the_shards(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    hf_llama().save_pretrained(folder, max_shard_size="60KB")
    next(folder.glob("model-00002-of-*.safetensors")).unlink()


def sizes_of_another_model(folder: Path) -> None:
    change_config(folder, intermediate_size=90)


def layers_without_weights(folder: Path) -> None:
    change_config(folder, num_hidden_layers=5)  # transformers makes random numbers for them, and says so in its log


def sizes_that_are_no_numbers(folder: Path) -> None:
    change_config(folder, num_attention_heads="four")


@pytest.mark.parametrize(
    "break_",
    [damaged, half_of_the_shards, sizes_of_another_model, layers_without_weights, sizes_that_are_no_numbers],
    ids=lambda change: change.__name__,
)
def test_weights_that_cannot_be_what_the_configuration_says_are_refused(folder, break_):
    break_(folder)
    with pytest.raises(UnsupportedModel, match=r"^mine: "):
        read(ModelSpec(str(folder)))


def test_an_adapter_of_another_model_is_refused(folder, adapter):
    path = adapter / "adapter_model.safetensors"
    save_file({name.replace("layers.1", "layers.7"): value for name, value in load_file(path).items()}, path)
    with pytest.raises(UnsupportedModel, match=r"^mine: "):
        read(ModelSpec(str(folder), str(adapter)))
