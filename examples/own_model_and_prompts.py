# %% [markdown]
# # Your own model and prompts
#
# Any Llama-like model of transformers, and any prompts whose answer is one token. Here the model is built on the spot
# from the embedded weights; yours comes from `AutoModelForCausalLM.from_pretrained(...)` in the same way, or by its
# name: `et.load("org/name")`.
#
# A few seconds on one core.

# %%
import json
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer

import nnsight_et as et
from nnsight_et.models.catalog import KNOWN_MODELS

try:
    from IPython.display import display
except ImportError:
    display = print

spec = KNOWN_MODELS["float-tiny"].spec
module = AutoModelForCausalLM.from_pretrained(spec.path)
tokenizer = AutoTokenizer.from_pretrained(spec.tokenizer)
model = et.load(module, tokenizer)

# %% [markdown]
# Base, source, answer. `{{name|text}}` marks a position that both prompts of a pair have: the last token of `text`.
# `last`, the last token of the prompt, needs no mark. Prompts of different lengths go together. The source should
# differ from the base in what you ask about: here it has other objects and labels, and asks for a box that it does
# not have.

# %%
pairs = et.Pairs.of(
    [
        (
            "The {{object|apple}} is in Box {{label|F}}, the computer is in Box Q. Box {{asked|F}} contains the",
            "The {{object|fish}} is in Box {{label|C}}, the drug is in Box H. Box {{asked|Y}} contains the",
            "apple",
        ),
        (
            "The book is in Box A, the {{object|fan}} is in Box {{label|K}}. Box {{asked|K}} contains the",
            "The ball is in Box C, the {{object|drug}} is in Box {{label|H}}. Box {{asked|Y}} contains the",
            "fan",
        ),
        (
            "The plant is in Box B, the {{object|key}} is in Box {{label|W}}. Box {{asked|W}} contains the",
            "The crown is in Box D, the {{object|boat}} is in Box {{label|E}}. Box {{asked|P}} contains the",
            "key",
        ),
    ]
)
display(pairs)

# %% [markdown]
# Which heads move the answer's probability when their path into the logits breaks? Three pairs show where to look, no
# more: the p-values say so.

# %%
scores = et.path_patch(model, pairs, at="last", keep=5)
display(scores)

# %%
upstream = et.path_patch(model, pairs, at="last", into=scores.top(2), via="query", keep=5)
print(upstream.top(3))

# %% [markdown]
# From which layer on does the last token no longer need to look at the object?

# %%
display(et.knockout(model, pairs, blind="last", to="object"))

# %% [markdown]
# Many pairs are easier to keep in a file of JSON lines, which also has `{"base": ..., "source": ..., "answer": ...}`.

# %%
line = {
    "base": "The {{object|apple}} is in Box F. Box F contains the",
    "source": "The {{object|fish}} is in Box C. Box Y contains the",
    "answer": "apple",
}
Path("pairs.jsonl").write_text(json.dumps(line) + "\n")
print(et.Pairs.read("pairs.jsonl"))
