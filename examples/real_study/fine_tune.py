"""Fine-tunes of SmolLM2 for the study of docs/real_study.md: `python -m examples.real_study.fine_tune KIND BASE OUT`.

bindings: LoRA on which word belongs to which in a list, in other words and sentences than the boxes task.
arithmetic: LoRA on sums and products, as the paper's arithmetic model was trained.
whole: every weight, on bindings; stopped at several steps, each kept as a model of its own.

OUT gets log.jsonl, a line per number of updates: `right`, the share of boxes prompts (docs/methods.md) that are
answered right, by how many boxes they have; `own`, the share of learned tokens that are, in texts that were not trained
on; `loss`, of the texts that the next update learns from. OUT/step-N is the adapter or the model after N updates. One
seed makes one result on one machine.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from nnsight_et.core.batch import collate
from nnsight_et.tasks.boxes import Boxes

PEOPLE = "Ann Tom Mary John Lucy Paul Kate Mark Jane Luke Rose Jack Anna Adam Emma Noah Lily Owen Ruth Sam".split()  # noqa: SIM905
COLORS = "red blue green black white brown pink orange purple yellow gray gold silver".split()  # noqa: SIM905
CITIES = "Paris London Rome Berlin Madrid Vienna Oslo Cairo Delhi Tokyo Moscow Lima Boston Dublin".split()  # noqa: SIM905
THINGS = """apple key coin ring hat shoe lamp chair table spoon ball drum flag rope shirt coat bowl knife bell
    brush""".split()  # noqa: SIM905
KEYS = "one two three four five six seven eight nine ten eleven twelve".split()  # noqa: SIM905
LETTERS = list("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
FORMS: tuple[tuple[str, str, Sequence[str], Sequence[str]], ...] = (
    ("{key} has the {value}", "{key} has the", PEOPLE, THINGS),
    ("the {value} belongs to {key}", "{key} owns the", PEOPLE, THINGS),
    ("{key} lives in {value}", "{key} lives in", PEOPLE, CITIES),
    ("the {value} is on shelf {key}", "Shelf {key} holds the", KEYS, THINGS),
    ("shelf {key} holds the {value}", "Shelf {key} holds the", KEYS, THINGS),
    ("the {key} is {value}", "The {key} is", THINGS, COLORS),
    ("the {value} is in drawer {key}", "Drawer {key} has the", LETTERS, THINGS),
    ("row {key} is {value}", "Row {key} is", LETTERS, COLORS),
)
"""How a pair of words is told, how it is asked for, and which words there are."""
Text = tuple[str, list[tuple[int, int]]]
"""A text, and where in it the words are that are learned."""


def bindings(draw: random.Random) -> Text:
    """A list of two to seven pairs, then each of them asked for, in another order."""
    told, asked, keys, values = draw.choice(FORMS)
    count = draw.randint(2, 7)
    pairs = list(zip(draw.sample(keys, count), draw.sample(values, count), strict=True))
    text = ", ".join(told.format(key=key, value=value) for key, value in pairs)
    text = text[0].upper() + text[1:] + "."
    spans = []
    for key, value in draw.sample(pairs, count):
        text += f" {asked.format(key=key)}"
        spans.append((len(text), len(text) + 1 + len(value)))
        text += f" {value}."
    return text, spans


def arithmetic(draw: random.Random) -> Text:
    """Four sums, differences or products, whose results are learned."""
    text, spans = "", []
    for _ in range(4):
        one, two, sign = draw.randint(2, 99), draw.randint(2, 99), draw.choice("+-*")
        result = {"+": one + two, "-": one - two, "*": one * two}[sign]
        text += f"{one} {sign} {two} ="
        spans.append((len(text), len(text) + 1 + len(str(result))))
        text += f" {result}\n"
    return text, spans


def batch_of(texts: Sequence[Text], tokenizer: PreTrainedTokenizerBase) -> dict[str, Tensor]:
    """Texts as tokens [text, token], padded on the right; labels are those of the words that are learned, else -100."""
    encoded: Any = tokenizer(
        [text for text, _ in texts], return_offsets_mapping=True, padding=True, return_tensors="pt"
    )
    labels = torch.full_like(encoded["input_ids"], -100)
    for row, (_, spans) in enumerate(texts):
        for start, end in spans:
            for column, (first, last) in enumerate(encoded["offset_mapping"][row].tolist()):
                if first < last and first >= start and last <= end:
                    labels[row, column] = encoded["input_ids"][row, column]
    return {"input_ids": encoded["input_ids"], "attention_mask": encoded["attention_mask"], "labels": labels}


@torch.no_grad()
def right_on_own(model: Any, tokenizer: PreTrainedTokenizerBase, texts: Sequence[Text]) -> float:
    """The share of learned tokens, in texts that were not trained on, that have the largest logit of all."""
    batch = batch_of(texts, tokenizer)
    model.eval()
    predicted = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.argmax(-1)[:, :-1]
    model.train()
    labels = batch["labels"][:, 1:]
    return (predicted == labels)[labels != -100].double().mean().item()


@torch.no_grad()
def right_on_boxes(model: Any, tokenizer: PreTrainedTokenizerBase, boxes: int, count: int = 50) -> float:
    """The share of boxes prompts whose answer has the largest logit of all tokens."""
    pair = collate(Boxes(boxes).examples(tokenizer, count, 0, "evaluation"))
    model.eval()
    logits = model(input_ids=pair.base.tokens, attention_mask=pair.base.mask.long(), logits_to_keep=1).logits[:, -1]
    model.train()
    return (logits.argmax(-1) == pair.answer).double().mean().item()


def trained(
    model: Any, tokenizer: PreTrainedTokenizerBase, text: Callable[[random.Random], Text], how: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """Train in place by AdamW with a linear warm-up and decay; what is to be logged, after each step."""
    draw, unseen = random.Random(how.seed), random.Random(f"{how.seed} unseen")
    weights = [one for one in model.parameters() if one.requires_grad]
    torch.manual_seed(how.seed)
    optimizer = torch.optim.AdamW(weights, how.learning_rate, weight_decay=0.0)
    warm = max(1, how.steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm, (how.steps - step) / (how.steps - warm + 1))
    )
    model.train()
    for step in range(how.stop + 1):
        line: dict[str, Any] = {"step": step}
        if step in how.keep or step % how.look == 0 or step == how.stop:
            line["right"] = {boxes: right_on_boxes(model, tokenizer, boxes) for boxes in how.boxes}
            line["own"] = right_on_own(model, tokenizer, [text(unseen) for _ in range(20)])
        if step < how.stop:
            batch = batch_of([text(draw) for _ in range(how.batch)], tokenizer)
            with torch.autocast("cpu", torch.bfloat16, enabled=how.bfloat16):
                loss = model(**batch).loss
            loss.backward()
            line["loss"] = round(loss.item(), 4)
        yield line
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()


def keep(model: Any, tokenizer: PreTrainedTokenizerBase, folder: Path, name: str) -> None:
    """Save a model and its tokenizer, or an adapter's weights in half precision, for the model of this name."""
    if not isinstance(model, PeftModel):
        model.save_pretrained(str(folder))
        tokenizer.save_pretrained(str(folder))
        return
    model.save_pretrained(str(folder))
    (folder / "README.md").unlink()
    config = json.loads((folder / "adapter_config.json").read_text()) | {"base_model_name_or_path": name}
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")
    weights = {key: value.half() for key, value in load_file(folder / "adapter_model.safetensors").items()}
    save_file(weights, folder / "adapter_model.safetensors", {"format": "pt"})


def main(words: Sequence[str] | None = None) -> None:
    """Make one fine-tune and its log."""
    parser = argparse.ArgumentParser(prog="python -m examples.real_study.fine_tune", description=__doc__)
    parser.add_argument("kind", choices=["bindings", "arithmetic", "whole"])
    parser.add_argument("base", type=Path, help="the folder of the model to begin with")
    parser.add_argument("out", type=Path, help="a folder; a fine-tune that was stopped before is begun again")
    parser.add_argument("--name", default="HuggingFaceTB/SmolLM2-135M-Instruct", help="what an adapter calls its base")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--stop", type=int, help="after how many of them it ends; all")
    parser.add_argument("--batch", type=int, default=8, help="texts of a step")
    parser.add_argument("--learning-rate", type=float, help="5e-4; of all weights 1e-4")
    parser.add_argument("--rank", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=int, nargs="*", default=[], help="steps after which it is kept, beside the last")
    parser.add_argument("--look", type=int, default=25, help="after how many steps the boxes task is tried")
    parser.add_argument("--boxes", type=int, nargs="*", default=[3, 7])
    parser.add_argument("--bfloat16", action="store_true", help="multiply matrices in bfloat16")
    how = parser.parse_args(words)
    how.stop = how.steps if how.stop is None else how.stop
    how.learning_rate = how.learning_rate or (1e-4 if how.kind == "whole" else 5e-4)
    how.out.mkdir(parents=True, exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(how.base)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    tokenizer.padding_side = "right"
    model: Any = AutoModelForCausalLM.from_pretrained(how.base, dtype=torch.float32)
    if how.kind != "whole":
        torch.manual_seed(how.seed)
        modules = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
        lora = LoraConfig(r=how.rank, lora_alpha=2 * how.rank, target_modules=modules, task_type="CAUSAL_LM")
        model = get_peft_model(model, lora)
    with (how.out / "log.jsonl").open("w") as log:
        for line in trained(model, tokenizer, arithmetic if how.kind == "arithmetic" else bindings, how):
            print(json.dumps(line), file=log, flush=True)
            if line["step"] in how.keep or line["step"] == how.stop:
                keep(model, tokenizer, how.out / f"step-{line['step']}", how.name)


if __name__ == "__main__":
    main()
