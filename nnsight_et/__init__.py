"""nnsight_et: path patching, circuits and their evaluation on any causal language model, from one manifest."""

__version__ = "0.1.0"
