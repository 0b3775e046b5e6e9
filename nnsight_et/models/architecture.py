"""Per architecture: where the residual, z, q, k, v and the attention output are. Nothing else in the package knows."""

from __future__ import annotations

from dataclasses import dataclass

from nnsight_et.errors import UnsupportedModel, accepted


@dataclass(frozen=True)
class Architecture:
    """Attribute paths of a decoder-only model's parts; those of a layer's parts start at the layer."""

    embedding: str
    layers: str
    attention: str
    query: str
    key: str
    value: str
    attention_out: str  # its input is z, the heads' outputs side by side
    mlp: str
    unembedding: str

    def site(self, via: str) -> str:
        """The path of the projection whose output is the `via` ("query", "key" or "value") of the heads."""
        return {"query": self.query, "key": self.key, "value": self.value}[via]


LLAMA = Architecture(
    embedding="model.embed_tokens",
    layers="model.layers",
    attention="self_attn",
    query="self_attn.q_proj",
    key="self_attn.k_proj",
    value="self_attn.v_proj",
    attention_out="self_attn.o_proj",
    mlp="mlp",
    unembedding="lm_head",
)

FAMILIES: dict[str, Architecture] = {"llama": LLAMA}  # by the configuration's model_type


def architecture(model_type: str, where: str) -> Architecture:
    """The architecture of `model_type`; UnsupportedModel naming `where` if it is not known."""
    if model_type not in FAMILIES:
        raise UnsupportedModel(f"{where}: architecture '{model_type}' is not known; {accepted(model_type, FAMILIES)}")
    return FAMILIES[model_type]
