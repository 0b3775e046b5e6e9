"""The same by pyvene, a head at a time: what is kept or put is named as it names the parts of a Llama."""

# pyright: reportMissingImports=false

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from typing import Any, Literal

with contextlib.redirect_stdout(sys.stderr):  # it says that an old nnsight is not there
    import pyvene

import torch
from torch import Tensor

from nnsight_et.core.batch import Pair
from nnsight_et.core.circuit import Head
from nnsight_et.engine.paths import Path

WHOLE, HEAD = "attention_value_output", "head_attention_value_output"
VIA = {"query": "head_query_output", "key": "head_key_output", "value": "head_value_output"}
Part = dict[str, Any]
Side = Literal["base", "source"]


class Vene:
    """Interventions on one batch of pairs, whose prompts have one length."""

    name = "pyvene"

    def __init__(self, module: Any, pair: Pair) -> None:
        self.module, self.pair, self.batch = module, pair, len(pair.base.tokens)
        self.layers, self.heads = module.config.num_hidden_layers, module.config.num_attention_heads
        self.group = self.heads // module.config.num_key_value_heads
        self.inputs = {side: {"input_ids": run.tokens} for side, run in (("base", pair.base), ("source", pair.source))}
        self.collected: dict[tuple[Side, str], list[Tensor]] = {}

    @staticmethod
    def knows(module: Any) -> bool:
        """Whether it has names for the parts of such a model."""
        return type(module) in pyvene.type_to_module_mapping

    def base(self) -> Tensor:
        """[batch, vocabulary]: the logits after the last token."""
        with torch.no_grad():
            return self.module(**self.inputs["base"]).logits[:, -1]

    def whole(self, head: Head, at: str) -> Tensor:
        """The same where the head has its output of the source run at a position."""
        return self._run([self._sender(head, at)], [self._head(head.index, at)])[1]

    def path(self, path: Path, sender: Head) -> Tensor:
        """The same where the path from one sender is patched."""
        frozen = self._outputs("base", path.at)
        parts = [{"layer": layer, "component": WHOLE, "unit": "pos", "source_representation": z}
                 for layer, z in enumerate(frozen)] + [self._sender(sender, path.at)]  # fmt: skip
        places = [self._place("base", path.at)] * len(frozen) + [self._head(sender.index, path.at)]
        if not path.receivers:
            return self._run(parts, places)[1]
        ends = {(one.layer, one.index if path.via == "query" else one.index // self.group) for one in path.receivers}
        into: Part = {"component": VIA[str(path.via)], "unit": "h.pos"}
        collect = [{"layer": layer} | into for layer, _ in sorted(ends)]
        here = [self._head(index, path.at) for _, index in sorted(ends)]
        kept, _ = self._run([*_typed("Vanilla", parts), *_typed("Collect", collect)], [*places, *here])
        put = [one | {"source_representation": value.clone()} for one, value in zip(collect, kept, strict=True)]
        return self._run(put, here)[1]

    def own_path(self, sender: Head) -> Tensor:
        """Path patching as its README has it: attention of later layers and MLPs from the sender's on are restored."""
        restored = [{"layer": sender.layer, "component": "mlp_output", "unit": "pos", "group_key": 1}]
        restored += [{"layer": layer, "component": part, "unit": "pos", "group_key": 1}
                     for layer in range(sender.layer + 1, self.layers)
                     for part in ("attention_output", "mlp_output")]  # fmt: skip
        first = {"layer": sender.layer, "component": HEAD, "unit": "h.pos", "group_key": 0}
        every = [list(range(self.pair.base.tokens.shape[1]))] * self.batch
        places = [self._head(sender.index, "last"), *[every] * len(restored)]
        return self._run([first, *restored], places, [self.inputs["source"], self.inputs["base"]])[1]

    def _sender(self, head: Head, at: str) -> Part:
        z = self._outputs("source", at)[head.layer].unflatten(-1, (self.heads, -1))[:, :, head.index, None]
        return {"layer": head.layer, "component": HEAD, "unit": "h.pos", "source_representation": z}

    def _outputs(self, side: Side, at: str) -> list[Tensor]:
        """Per layer [batch, 1, heads x width]: what all heads put out at a position, collected once."""
        if (side, at) not in self.collected:
            parts = [{"layer": layer, "component": WHOLE, "unit": "pos"} for layer in range(self.layers)]
            places = [self._place(side, at)] * self.layers
            found, _ = self._run(_typed("Collect", parts), places, side=side)
            self.collected[side, at] = [one.clone() for one in found]
        return self.collected[side, at]

    def _place(self, side: Side, at: str) -> list[list[int]]:
        return {"base": self.pair.base, "source": self.pair.source}[side].positions[at][:, None].tolist()

    def _head(self, index: int, at: str) -> list[list[list[int]]]:
        return [[[index]] * self.batch, self._place("base", at)]

    @torch.no_grad()
    def _run(self, parts: Sequence[Part], places: Sequence[Any], sources: Any = None, side: Side = "base") -> Any:
        """What was collected, and the logits [batch, vocabulary] after the last token."""
        model = pyvene.IntervenableModel([dict(part) for part in parts], model=self.module)
        where = {"sources->base": (list(places) if sources else None, list(places))}
        found, outcome = model(self.inputs[side], sources, unit_locations=where, use_cache=False)
        return (found[1] if isinstance(found, tuple) else None), outcome.logits[:, -1]


def _typed(kind: str, parts: Sequence[Part]) -> list[Part]:
    return [part | {"intervention_type": getattr(pyvene, f"{kind}Intervention")} for part in parts]
