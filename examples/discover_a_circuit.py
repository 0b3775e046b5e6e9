# %% [markdown]
# # Discover a circuit
#
# Which heads of a model track which object is in which box? Found as in section 4.1 of the paper, by path patching
# from the logits back, then held against the whole model and against random heads on prompts that had no say.
#
# Run it as a script, or open it as a notebook (VS Code, or Jupyter with jupytext). About 15 seconds on one core.
# `ET_PAIRS=8` in the environment makes it quick and its numbers rough.

# %%
import os
from pathlib import Path

import nnsight_et as et

try:
    from IPython.display import display
except ImportError:
    display = print

count = int(os.environ.get("ET_PAIRS", "60"))
model = et.load("llama-tiny")
print(model)

# %% [markdown]
# A pair is a base prompt, which the model answers, and a source prompt, which asks for a box that is in neither: what
# it donates carries no answer. Heads are patched at named positions.

# %%
pairs = et.Pairs.boxes(count)
display(pairs)

# %% [markdown]
# From the logits back. First the heads that write the answer at the last token, then those that reach the queries of
# the best of them, then those that reach the values of these at the label that is asked for.

# %%
fetchers = et.path_patch(model, pairs, at="last", keep=6)
display(fetchers)

# %%
transmitters = et.path_patch(model, pairs, at="last", into=fetchers.top(4), via="query", keep=4)
detectors = et.path_patch(model, pairs, at="query_label", into=transmitters.top(3), via="value", keep=5)
readers = et.path_patch(model, pairs, at="previous_query_label", into=detectors.top(3), via="value", keep=3)
display(transmitters)

# %%
circuit = et.circuit_of(
    fetchers.group("value_fetcher"),
    transmitters.group("position_transmitter"),
    detectors.group("position_detector"),
    readers.group("structure_reader"),
)
for group in circuit.groups:
    print(f"{group.name} at {group.at}: {', '.join(map(str, group.heads))}")

# %% [markdown]
# The circuit alone, every other head replaced by its mean over the source prompts; on contexts of another split.

# %%
evaluation = et.evaluate(model, et.Pairs.boxes(count, split="evaluation"), circuit)
display(evaluation)

# %% [markdown]
# What the groups carry: patched from a source prompt about other objects, the value fetchers bring its object along.

# %%
carried = et.activation_patch(model, et.Pairs.desideratum("object", count), circuit)
display(carried)

# %% [markdown]
# A circuit is a small JSON file, which `et evaluate`, `et dcm` and manifests take (`circuit: circuit.json`).

# %%
Path("circuit.json").write_text(circuit.to_json())
