"""`python -m tools.embedded_models.make`: makes the embedded models and their record again, from seeds alone."""

from __future__ import annotations

import copy
import json
import platform
import sys
import time
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from nnsight_et.models.catalog import EMBEDDED
from nnsight_et.zoo.tokenizer import word_tokenizer
from tools.embedded_models import family
from tools.embedded_models.lessons import arithmetic_lessons, rephrased_lessons
from tools.embedded_models.measure import accuracy, last_logits
from tools.embedded_models.record import STAGES, measure_models
from tools.embedded_models.training import word_accuracy

SEED = 2
STEPS = {"llama-tiny": 60, "vicuna-tiny": 60, "goat-tiny": 200, "float-tiny": 200}
"""At most; goat-tiny and float-tiny stop at their goal."""


def main(place: Path = EMBEDDED) -> None:
    """Make every model under `place`, then measure what was stored and write record.json beside it."""
    started = time.time()
    torch.set_num_threads(1)  # sums in one order, whatever the machine: the same weights
    torch.manual_seed(SEED)
    tokenizer = word_tokenizer()
    story, losses = make_models(place, tokenizer)
    made_in = time.time() - started
    print(f"{made_in:.0f} s: the models are made; now they are measured", flush=True)
    record = {
        "how_to_rerun": "python -m tools.embedded_models.make",
        "seed": SEED,
        "steps": {name: len(values) for name, values in losses.items()},
        "settings": settings(),
        "llama_tiny_made": story,
        "losses": {name: summary(values) for name, values in losses.items()},
        "skills": skills(place, tokenizer),
        **measure_models({name: load(place / name) for name in STEPS}, tokenizer),
        "digests": digests(place),
        "seconds": {
            "making": round(made_in),
            "all": round(time.time() - started),
            "processor": round(time.process_time()),
        },
        "versions": {name: version(name) for name in ("torch", "transformers", "peft", "tokenizers")}
        | {"python": platform.python_version()},
    }
    (place / "record.json").write_text(json.dumps(record, indent=1) + "\n")
    print(f"{time.time() - started:.0f} s: done", flush=True)


def make_models(place: Path, tokenizer) -> tuple[dict, dict[str, list[float]]]:
    """Stores the tokenizer and the four models; how llama-tiny came about, and every model's losses."""
    store_tokenizer(tokenizer, place / "tokenizer")
    llama, story = family.llama_tiny(SEED, STEPS["llama-tiny"])
    losses = {"llama-tiny": story.pop("losses")}
    story["stored_as"] = storage(llama, tokenizer)
    store_model(llama, place / "llama-tiny")
    llama = load(place / "llama-tiny")
    for name, train in (("vicuna-tiny", family.vicuna_tiny), ("float-tiny", family.float_tiny)):
        model = copy.deepcopy(llama)
        losses[name] = train(model, tokenizer, SEED, STEPS[name])
        store_model(model, place / name)
        print(f"{name} is trained", flush=True)
    adapted, losses["goat-tiny"] = family.goat_tiny(llama, tokenizer, SEED, STEPS["goat-tiny"])
    store_adapter(adapted, place / "goat-tiny")
    return story, losses


def storage(model, tokenizer) -> dict[str, dict[str, float]]:
    """What each 16-bit form would change: the largest change of a logit, and the accuracy on training prompts."""
    pair, found = family.training_pair(tokenizer, 500, SEED + 1), {}
    exact = last_logits(model, pair.base.tokens)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        rounded = copy.deepcopy(model).to(dtype).float()
        found[str(dtype).removeprefix("torch.")] = {
            "largest_logit_change": round((last_logits(rounded, pair.base.tokens) - exact).abs().max().item(), 4),
            "accuracy": accuracy(rounded, pair),
        }
    return found


def settings() -> dict:
    """The numbers of the recipe."""
    numbers = ("CONTRAST", "NOISE", "MLP_NOISE", "FAINT_LAYERS", "FAINTNESS", "GOAL", "GOAT_GOAL", "FLOAT_GOAL")
    return {name.lower(): getattr(family, name) for name in numbers} | {"stages": [stage._asdict() for stage in STAGES]}


def summary(losses: list[float]) -> dict[str, float]:
    """First loss, and the mean of the first and of the last ten."""
    first, last = losses[:10], losses[-10:]
    return {
        "first": round(losses[0], 4),
        "first_ten": round(sum(first) / len(first), 4),
        "last_ten": round(sum(last) / len(last), 4),
    }


def store_tokenizer(tokenizer, place: Path) -> None:
    """Save the tokenizer, under the class name that every version of transformers knows."""
    tokenizer.save_pretrained(place)
    rewrite_json(place / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")


def store_model(model, place: Path) -> None:
    """Save the weights in float16, to be read back as float32."""
    copy.deepcopy(model).half().save_pretrained(place)
    (place / "model.safetensors").chmod(0o644)
    rewrite_json(place / "config.json", dtype="float32")
    (place / "generation_config.json").unlink(missing_ok=True)


def store_adapter(model: PeftModel, place: Path) -> None:
    """Save the LoRA weights in float16."""
    model.save_pretrained(str(place))
    weights = place / "adapter_model.safetensors"
    save_file({name: weight.half() for name, weight in load_file(weights).items()}, weights, metadata={"format": "pt"})
    weights.chmod(0o644)
    settings_file = place / "adapter_config.json"
    modules = sorted(json.loads(settings_file.read_text())["target_modules"])  # a set, in any order
    rewrite_json(settings_file, base_model_name_or_path="llama-tiny", target_modules=modules)
    (place / "README.md").unlink(missing_ok=True)


def rewrite_json(path: Path, **changes: object) -> None:
    """Set some keys of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes, indent=2, sort_keys=True) + "\n")


def load(place: Path) -> Any:
    """A stored model in float32; an adapter is loaded over llama-tiny and merged into it."""
    if (place / "adapter_config.json").exists():
        base = load(place.parent / "llama-tiny")
        return PeftModel.from_pretrained(base, str(place)).merge_and_unload().eval()
    return AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32, trust_remote_code=False).eval()


def digests(place: Path) -> dict[str, str]:
    """SHA-256 of every stored weight file, by its path under `place`."""
    files = sorted(place.rglob("*.safetensors"))
    return {file.relative_to(place).as_posix(): sha256(file.read_bytes()).hexdigest() for file in files}


def skills(place: Path, tokenizer) -> dict[str, dict[str, float]]:
    """Per model, accuracy per answer token on fresh arithmetic and rephrased prompts."""
    lessons = {
        "arithmetic": arithmetic_lessons(tokenizer, 200, SEED + 1000),
        "rephrased": rephrased_lessons(tokenizer, 200, SEED + 1000),
    }
    return {
        name: {kind: round(word_accuracy(load(place / name), these), 4) for kind, these in lessons.items()}
        for name in STEPS
    }


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))
