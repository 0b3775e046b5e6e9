"""Which devices a model's layers are on."""

from __future__ import annotations

from dataclasses import replace

import torch

from nnsight_et.core.errors import UnsupportedModel
from nnsight_et.models.model import Model


def on_its_devices(model: Model, name: str) -> Model:
    """The model, knowing where its layers are; UnsupportedModel unless each of them is whole on one device."""
    places = [{weight.device for weight in model.layer(layer).parameters()} for layer in range(model.n_layers)]
    for layer, found in enumerate(places):
        if len(found) > 1 or torch.device("meta") in found:
            where = " and ".join(sorted(str(device).replace("meta", "no device") for device in found))
            accept = "each layer whole on one device; more GPUs, or a dtype of fewer bytes"
            raise UnsupportedModel(f"{name}: the weights of layer {layer} are on {where}; accepted: {accept}")
    spread = tuple(device for (device,) in places)
    return model if set(spread) == {model.device} else replace(model, spread=spread)
