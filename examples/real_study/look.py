# %% [markdown]
# # What fine-tuning changes in a circuit, read from the results
#
# The results of [the study](real_study.md) come with the repository. This notebook opens them; no model is run.
# It is made by `make real-notebook`.

# %%
import os
from pathlib import Path

import nnsight_et as et

try:
    from IPython.display import display
except ImportError:
    display = print

kept = Path(os.environ.get("ET_KEPT", "real_study"))
real, names, boxes = (et.open_run(kept / name) for name in ("real", "real-names", "real-boxes"))

# %% [markdown]
# ## Names in sentences: the circuits of two models
#
# Found by path patching, stage by stage, and by a search that was given no stages.

# %%
for experiment in ("circuit", "found", "gemma_circuit", "gemma_found"):
    print(experiment)
    for group in real[experiment].circuit.groups:
        print(f"  {group.name} at {group.at}: {', '.join(map(str, group.heads))}")

# %% [markdown]
# Is the circuit enough? Its accuracy alone over that of the full model.

# %%
faithfulness = real.to_dataframe("metrics").query("metric == 'faithfulness'")
display(faithfulness[["experiment", "model", "value", "low", "high"]])

# %% [markdown]
# ## What fine-tuning changed in it
#
# The same circuit, SmolLM2's own, in the fine-tuned models, and theirs in SmolLM2.

# %%
metrics = names.to_dataframe("metrics")
display(metrics.query("metric == 'faithfulness'").pivot(index="experiment", columns="model", values="value"))

# %% [markdown]
# ## A task that the model could not do
#
# Five boxes, over the steps of the fine-tune on other bindings: the full model, and the circuit of the last step alone.

# %%
metrics = boxes.to_dataframe("metrics").query("experiment == 'over_steps'")
display(
    metrics[metrics["metric"].isin(["accuracy", "circuit_accuracy"])].pivot(
        index="model", columns="metric", values="value"
    )
)
