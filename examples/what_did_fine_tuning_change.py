# %% [markdown]
# # What did fine-tuning change?
#
# `goat-tiny` is `llama-tiny` fine-tuned on arithmetic (and boxes), and tracks entities better. Cross-model activation
# patching (section 6 of the paper) says which step it does better: on the same prompt, the heads of one group of the
# fine-tuned model's circuit give their outputs to the pretrained one.
#
# About 10 seconds on one core. `ET_PAIRS=8` in the environment makes it quick and its numbers rough.

# %%
import os

import nnsight_et as et
from nnsight_et.circuits import published

try:
    from IPython.display import display
except ImportError:
    display = print

count = int(os.environ.get("ET_PAIRS", "100"))
pretrained, finetuned = et.load("llama-tiny"), et.load("goat-tiny")

# %% [markdown]
# The circuit of the fine-tuned model comes with the package, as do the heads that DCM selected in it; `cmap_circuit`
# is what the paper patches: of each group the heads of its main role.

# %%
circuit = published.cmap_circuit("goat-tiny")
for group in circuit.groups:
    print(f"{group.name} at {group.at}: {', '.join(map(str, group.heads))}")

# %%
pairs = et.Pairs.boxes(count, split="evaluation")
across = et.cmap(finetuned, pretrained, pairs, circuit)
display(across)

# %% [markdown]
# The dashed lines are both models alone. A group that lifts the pretrained model towards the fine-tuned one does its
# step better there. Beside them: as many heads drawn at random, at the same positions. In models as small as these
# they lift it as much, 17 heads being a third of all; without that control the bars would look like a finding.
#
# The other direction says which groups the fine-tuned model cannot do without:

# %%
back = et.cmap(pretrained, finetuned, pairs, circuit)
display(back)

# %% [markdown]
# Is it the same circuit in both? Its faithfulness says so: circuit over full model, for each.

# %%
for model in (pretrained, finetuned):
    display(et.evaluate(model, pairs, published.circuit("goat-tiny"), random=5))
