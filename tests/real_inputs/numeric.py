"""Numbers that are too large, too small or too coarse, and models that answer by chance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from .case import Given, case
from .plain import base_folder, base_tokenizer, llama, of_folder, save, tensors_of

AREA = "numbers"
FILE = "model.safetensors"
BOXES = {"kind": "boxes", "boxes": 2}
OVERFLOW = "float16|finite|NaN|no number|overflow"
CIRCUIT = "embedded/llama-tiny"


def grown(folder: Path, by: float) -> Path:
    """The base with one channel of the residual that passes `by` at the first token, as in Gemma-3, and counts little.

    The channel is written at <s>, and every norm's weight for it is small.
    """
    made = base_folder(folder)
    tensors = tensors_of(made)
    for name, one in tensors.items():
        if name.endswith("norm.weight"):
            one[5] = 0.0
    tensors["model.embed_tokens.weight"][1, 5] = by
    save_file(tensors, made / FILE, {"format": "pt"})
    return made


@case(AREA, "one channel of 100,000 at the first token, float32")
def large(folder: Path) -> Given:
    made = grown(folder, 1e5)
    return Given({"path": str(made)}, of_folder(made))


@case(AREA, "one channel of 100,000 at the first token, bfloat16")
def large_bfloat16(folder: Path) -> Given:
    made = grown(folder, 1e5)
    return Given({"path": str(made), "dtype": "bfloat16"}, of_folder(made), tolerance=0.5)


METHODS: dict[str, dict[str, Any]] = {
    "path patching": {},
    "faithfulness": {"method": "faithfulness", "circuit": CIRCUIT, "models": ["mine"], "examples": 4,
                     "ablation_examples": 4, "random_circuits": 1},
    "knockout": {"method": "knockout", "model": "mine", "examples": 4},
    "attribution": {"method": "attribution", "model": "mine", "examples": 4},
    "minimality": {"method": "minimality", "model": "mine", "circuit": CIRCUIT, "examples": 4, "ablation_examples": 4},
    "completeness": {"method": "completeness", "model": "mine", "circuit": CIRCUIT, "examples": 4,
                     "ablation_examples": 4, "draws": 1},
    "DCM": {"method": "dcm", "model": "mine", "circuit": CIRCUIT, "training_examples": 12, "validation_examples": 2,
            "test_examples": 4, "batch": 2},
    "activation patching": {
        "method": "activation_patching",
        "roles": CIRCUIT,
        "models": ["mine"],
        "examples": 4,
        "draws": 1,
    },
    "CMAP": {"method": "cmap", "donor": "mine", "recipient": "llama-tiny", "circuit": CIRCUIT, "examples": 4,
             "random_sets": 1},
    "attention patterns": {"method": "attention_patterns", "model": "mine", "circuit": CIRCUIT, "examples": 4},
}  # fmt: skip
CALLS = ("path_patch", "evaluate", "knockout", "activation_patch", "cmap")


def overflow(method: str) -> None:
    """A case of float16 numbers that pass 65,504, for a method."""

    @case(AREA, f"float16 whose numbers pass 65,504: {method}", slow=method not in ("path patching", "faithfulness"))
    def make(folder: Path) -> Given:
        made = grown(folder, 1e5)
        task = BOXES if METHODS[method] else {}
        return Given({"path": str(made), "dtype": "float16"}, reason=OVERFLOW, task=task, experiment=METHODS[method])


for _method in METHODS:
    overflow(_method)


def half_in_memory(call: str) -> None:
    """A case of a float16 model in memory, whose numbers pass 65,504, for a function."""

    @case(AREA, f"float16 in memory whose numbers pass 65,504: et.{call}", slow=call != "evaluate")
    def make(folder: Path) -> Given:
        made = grown(folder, 1e5)

        def load() -> Any:
            from transformers import AutoModelForCausalLM

            import nnsight_et as et

            module = AutoModelForCausalLM.from_pretrained(made, dtype=torch.float16)
            return et.load(module, base_tokenizer())

        return Given({}, reason=OVERFLOW, load=load, call=lambda model: called(call, model), commands=False)


def called(call: str, model: Any) -> Any:
    """What the function says of the model on the boxes task."""
    import nnsight_et as et

    pairs = et.Pairs.boxes(4, boxes=2)
    circuit = et.circuit_of(et.HeadGroup("a", "last", (et.Head(4, 0), et.Head(3, 1))))
    match call:
        case "path_patch":
            return et.path_patch(model, pairs)
        case "evaluate":
            return et.evaluate(model, pairs, circuit)
        case "knockout":
            return et.knockout(model, pairs, blind="last", to="correct_object")
        case "activation_patch":
            return et.activation_patch(model, pairs, circuit)
        case _:
            return et.cmap(model, et.load("llama-tiny"), pairs, circuit)


for _call in CALLS:
    half_in_memory(_call)


@case(AREA, "float16, nothing passes its range")
def half(folder: Path) -> Given:
    made = base_folder(folder)
    return Given({"path": str(made), "dtype": "float16"}, of_folder(made), tolerance=0.05)


@case(AREA, "bfloat16")
def bfloat16(folder: Path) -> Given:
    made = base_folder(folder)
    return Given({"path": str(made), "dtype": "bfloat16"}, of_folder(made), tolerance=0.3)


@case(AREA, "float64")
def double(folder: Path) -> Given:
    made = base_folder(folder)
    return Given({"path": str(made), "dtype": "float64"}, of_folder(made, dtype="float64"), tolerance=1e-6)


@case(AREA, "an answer whose probability is 0 in float32")
def impossible(folder: Path) -> Given:
    made = base_folder(folder)
    tensors = tensors_of(made)
    tensors["lm_head.weight"] *= 1e4
    tensors["lm_head.weight"][base_tokenizer().convert_tokens_to_ids("apple")] *= -1
    save_file(tensors, made / FILE, {"format": "pt"})
    assert max(of_folder(made)) < 1e-45
    return Given({"path": str(made)}, reason="probability.* 0")


@case(AREA, "head outputs of 5,000 that cancel, float32")
def cancel(folder: Path) -> Given:
    made = base_folder(folder)
    tensors = tensors_of(made)
    value, out = (f"model.layers.1.self_attn.{name}_proj.weight" for name in "vo")
    tensors[value][:64] *= 100
    tensors[out][:, 32:64] = -tensors[out][:, :32]
    tensors[value][32:64] = tensors[value][:32]
    for name in "qk":
        weight = tensors[f"model.layers.1.self_attn.{name}_proj.weight"]
        weight[32:64] = weight[:32]
    save_file(tensors, made / FILE, {"format": "pt"})
    return Given({"path": str(made)}, of_folder(made), tolerance=2e-3)


@case(AREA, "a model that knows nothing of the boxes task is told to answer by chance")
def chance(folder: Path) -> Given:
    tokenizer = base_tokenizer()
    made = save(llama(tokenizer), tokenizer, folder / "random")
    return Given({"path": str(made)}, task=BOXES, notice="chance")


@case(AREA, "a model that answers the boxes task is not told to answer by chance")
def no_chance(folder: Path) -> Given:
    return Given({"path": str(base_folder(folder))}, task=BOXES, notice="^(?!.*by chance)")
