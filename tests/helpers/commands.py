"""The `et` command as a user calls it, and a small study to call it on."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner, Result

ROOT = Path(__file__).parents[2]
STUDY = """\
name: small
seed: 1
models: {one: {path: one}, two: {path: two}}
task: {kind: boxes, boxes: 3}
experiments:
  table1:
    {method: faithfulness, circuit: found, models: [one, two], examples: 6, ablation_examples: 5, random_circuits: 2}
  found:
    method: path_patching
    model: one
    examples: 5
    stages:
      - {group: value_fetcher, into: logits, at: last, keep: 3, receivers: 2}
      - {group: position_transmitter, into: value_fetcher, via: query, at: last, keep: 2}
"""
EVERY = """\
  minimal: {method: minimality, circuit: found, examples: 4, ablation_examples: 4}
  complete: {method: completeness, circuit: found, examples: 4, ablation_examples: 4, draws: 2}
  overlap: {method: comparison, circuits: [found, minimal], scores: found}
  graph: {method: discovery, model: one, examples: 4, held_out_examples: 4, keep: 1, branches: 1, closed_sample: 0}
  selected: {method: dcm, circuit: found, training_examples: 4, validation_examples: 2, test_examples: 3, batch: 1}
  functions: {method: activation_patching, roles: selected, models: [one, two], examples: 3, draws: 2}
  across: {method: cmap, donor: one, recipient: two, circuit: found, roles: selected, examples: 4, random_sets: 2}
  blind: {method: knockout, model: one, examples: 4}
  looks: {method: attention_patterns, circuit: found, examples: 4}
  screen: {method: attribution, model: one, examples: 4}
"""
STAGE = "{group: value_fetcher, into: logits, at: last, keep: 3}"


def et(*arguments: object) -> Result:
    """The command in this process; an exception that is not a message to the user is raised here."""
    (script,) = [entry for entry in importlib.metadata.entry_points(group="console_scripts") if entry.name == "et"]
    result = CliRunner().invoke(script.load(), [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def python(code: str, folder: Path) -> str:
    printed = subprocess.run([sys.executable, "-I", "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    return printed.stdout.strip()


def scores(folder: Path) -> dict[str, bytes]:
    """Every result's scores as bytes, by experiment."""
    return {path.parent.name: path.read_bytes() for path in sorted(folder.glob("runs/*/*/*/scores.safetensors"))}
