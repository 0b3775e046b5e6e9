"""A tiny tokenizer with chat templates: one token a word, <s> in front, turns in <u> and <a>."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from nnsight_et.tasks.boxes import LABELS, OBJECTS

SPECIAL = ("<s>", "<pad>", "<unk>", "<u>", "<a>", "</t>")
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'user' %}<u>{{ m.content | trim }}</t>{% else %}<a>{{ m.content }}</t>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<a>{% endif %}"
)
SYSTEM = TEMPLATE.replace("{{ bos_token }}", "{{ bos_token }}Sit .")
SPACED = TEMPLATE.replace("<a>{{", "<a> {{")
TWICE = "{{ bos_token }}" + TEMPLATE
CHANGING = TEMPLATE.replace("| trim", "| upper")
REFUSING = "{{ raise_exception('turns must alternate') }}"


def chat_tokenizer(template: str | dict[str, str] | None = TEMPLATE) -> PreTrainedTokenizerFast:
    words = [*SPECIAL, "The", "the", "is", "in", "Box", "contains", ",", ".", "Sit", *OBJECTS, *LABELS]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    made = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", pad_token="<pad>", unk_token="<unk>")
    made.add_special_tokens({"additional_special_tokens": ["<u>", "<a>", "</t>"]})
    made.chat_template = template
    return made


def written(folder: Path, template: str | dict[str, str] | None = TEMPLATE) -> Path:
    """A folder with that tokenizer."""
    chat_tokenizer(template).save_pretrained(folder)
    return folder
