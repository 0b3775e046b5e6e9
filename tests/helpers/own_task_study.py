"""Modules with tasks of one's own, and a manifest that uses one."""

from __future__ import annotations

from pathlib import Path

from tests.helpers.own_pairs_study import MANIFEST, TASK, lines

MODULE = '''\
"""The pairs of a file, as a class."""

import json
import random
from pathlib import Path

PARTS = {"discovery": 0, "pruning": 0, "evaluation": 1, "ablation": 2}


class Pairs:
    positions = ("object", "label", "asked")

    def __init__(self, file, shuffled=True):
        self.pairs = [json.loads(line) for line in (Path(__file__).parent / file).read_text().splitlines()]
        self.shuffled = shuffled

    def examples(self, tokenizer, count, seed, split):
        mine = self.pairs[PARTS[split] :: 3]
        if self.shuffled:
            random.Random(f"{seed}/{split}").shuffle(mine)
        return mine[:count]
'''


def written(folder: Path, models: Path, module: str = MODULE, name: str = "my_pairs") -> Path:
    """A manifest on the module's class `Pairs`, in the same folder."""
    for model in ("one", "two"):
        (folder / model).symlink_to(models / model)
    (folder / "pairs.jsonl").write_text("\n".join(lines()))
    (folder / f"{name}.py").write_text(module)
    text = MANIFEST.replace(TASK, f"task: {{kind: '{name}:Pairs', options: {{file: pairs.jsonl}}}}")
    text = text.replace("examples: 6", "examples: 5")
    (folder / "own.yaml").write_text(text)
    return folder / "own.yaml"


def module(body: str = "return []", positions: str = '("object",)', more: str = "") -> str:
    """A task of no options whose `examples` is the body; its line 8 is the body's first."""
    indented = body.replace("\n", "\n        ")
    return f"""\
import random


class Pairs:
    positions = {positions}
{more}
    def examples(self, tokenizer, count, seed, split):
        {indented}
"""
