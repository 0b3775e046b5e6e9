"""Files of pairs of the shapes that people have, with the columns they have, and a model that knows their words."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.helpers.tiny_model import hf_llama

NAMES = ("Laura", "Peter", "Oscar", "Emma", "Simon", "Alice")
CSV_ROWS = [(NAMES[i], NAMES[(i + 1) % 6], NAMES[(i + 3) % 6], i % 2) for i in range(6)]
CSV = "clean,corrupted,answer,foil,template\n" + "\n".join(
    f'"Then, {io} and {s} went. {s} gave to","Then, {io} and {s} went. {other} gave to"," {io}"," {s}",{kind}'
    for io, s, other, kind in CSV_ROWS
)
CITIES = {"Norway": "Oslo", "Japan": "Tokyo", "Egypt": "Cairo", "Italy": "Rome", "Peru": "Lima", "Cuba": "Havana"}
COUNTRIES = list(CITIES)
PROMPTS = [
    {
        "clean": f"The capital of {one} is",
        "corrupt": f"The capital of {COUNTRIES[(index + 1) % 6]} is",
        "answers": [f" {CITIES[one]}"],
        "wrong_answers": [f" {CITIES[COUNTRIES[(index + 1) % 6]]}"],
    }
    for index, one in enumerate(COUNTRIES)
]
THINGS = ("lamp", "coat", "drum")
CONTEXT = ", ".join(f"Box {box} contains the {thing}" for box, thing in enumerate(THINGS))
MASKED = [
    {
        "sentence_masked": f"{CONTEXT}{end} Box {box} contains the <extra_id_0> .",
        "masked_content": f"<extra_id_0> {thing}",
        "sample_id": number,
    }
    for number, end in enumerate((".", " ,"))
    for box, thing in enumerate(THINGS)
]
FILES = {
    "x.csv": CSV,
    "x.tsv": re.sub(r'(?<="),|(?<=[a-z]),(?=[a-z])|,(?=\d)', "\t", CSV),
    "x.json": json.dumps({"name": "capitals", "prompts": PROMPTS}, indent=1),
    "list.json": json.dumps(PROMPTS),
    "x.jsonl": "\n".join(map(json.dumps, MASKED)),
}
NAMED = "columns: {base: clean, source: corrupted, answer: answer, foil: foil}"
LISTED = "columns: {base: clean, source: corrupt, answer: answers, foil: wrong_answers}"
KEYS = {
    "x.csv": f"{NAMED}, find: {{place: differing}}",
    "x.tsv": f"{NAMED}, find: {{place: differing}}",
    "x.json": f"{LISTED}, find: {{place: 'of (\\w+)'}}",
    "list.json": f"{LISTED}, find: {{place: 'of (\\w+)'}}",
    "x.jsonl": "layout: masked_sentences, find: {place: 'Box (\\d) contains the$'}",
}


def manifest(file: str, keys: str | None = None, count: int = 2) -> str:
    """A manifest of ten lines on one of the files."""
    return f"""\
name: files
task: {{kind: pairs, file: {file}, positions: [place], {KEYS[file] if keys is None else keys}}}
models: {{one: {{path: one}}}}
experiments:
  found:
    {{method: path_patching, model: one, examples: {count}, held_out_examples: {count}, stages: [
      {{group: a, into: logits, at: last, keep: 2, receivers: 2}},
      {{group: b, into: a, via: key, at: place, keep: 2}},
    ]}}
"""


def word_tokenizer(texts: Sequence[str] = tuple(FILES.values())) -> PreTrainedTokenizerFast:
    """A token for each word of the texts."""
    words = dict.fromkeys(re.findall(r"\w+|[^\w\s]+", " ".join((*texts, " ".join(THINGS), ".,,."))))
    vocabulary = {word: index for index, word in enumerate(["<pad>", "<unk>", *words])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", unk_token="<unk>")


def written(folder: Path, file: str, keys: str | None = None, content: str | None = None) -> Path:
    """The file, its manifest, and a model that knows the words of all files, in a folder."""
    tokenizer = word_tokenizer()
    hf_llama(vocab_size=len(tokenizer)).save_pretrained(folder / "one")
    tokenizer.save_pretrained(folder / "one")
    (folder / file).write_text(FILES[file] if content is None else content)
    (folder / "files.yaml").write_text(manifest(file, keys))
    return folder / "files.yaml"
