"""The words everything speaks: circuits, batches of prompts, metrics, statistics, errors. Imports torch at most."""
