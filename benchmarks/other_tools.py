"""`python -m benchmarks.other_tools --model FOLDER`: the same heads of a real model by other tools, and what it costs.

Indirect object identification as in real.yaml, float32, eager attention everywhere. Each quantity is defined in
docs/methods.md, and computed by this project's engine, by plain PyTorch hooks, and, where they are installed, by
TransformerLens' bridge and by pyvene. A second table has what these tools offer under the same name ready-made, and
plain hooks that do what these do: it shows where a difference comes from.

The others need an environment of their own (benchmarks/requirements_other_tools.txt); what is not there is left out.
"""

from __future__ import annotations

try:  # first: the type checker that TransformerLens brings cannot be imported after nnsight
    from benchmarks.tools.lens import Lens
except ModuleNotFoundError:
    Lens = None
try:
    from benchmarks.tools.vene import Vene
except ModuleNotFoundError:
    Vene = None

import argparse
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

import nnsight_et as et
from benchmarks.setting import written
from benchmarks.tools.cost import SEED, collated, cost_table, counted, timed
from benchmarks.tools.hooks import Hooks
from nnsight_et.api.models import LoadedModel
from nnsight_et.core.batch import Pair
from nnsight_et.core.circuit import Circuit, Head, HeadGroup, Via
from nnsight_et.engine.budget import Chunks
from nnsight_et.engine.paths import Path as PatchedPath
from nnsight_et.interventions.activation_patching import patched_readouts
from nnsight_et.interventions.path_patching import edge_probabilities, path_probabilities
from nnsight_et.tasks.boxes import Boxes
from nnsight_et.tasks.ioi import IOI

TOP = 8
RECEIVERS = 4
LENGTHS = (54, 128)
"""Of prompts whose cost is counted beside those that are measured: of seven boxes, and longer ones."""
TASKS = {"ioi": IOI(templates=1), "boxes": Boxes(7, foils=True)}
"""Of prompts of one length."""
PACKAGES = {"TransformerLens": "transformer-lens", "pyvene": "pyvene"}
Scores = dict[str, list[float]]
"""Of each head of a list: the change of the logit difference, and of the probability as a share of it."""
Quantity = PatchedPath | str
"""A path; or, of whole heads, the position they are patched at."""
Made = dict[str, tuple[Quantity, list[Head], Scores]]
"""By name: what is computed, the heads that can have an effect, and this project's scores of all of them."""
DIRECT, QUERY, WHOLE = "into the logits, at last", "into those heads' queries, at last", "whole heads, at last"


def eager(folder: Path) -> Any:
    """The model as plain transformers has it, with eager attention, frozen."""
    module = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    return module.eval().requires_grad_(False)


class Reading:
    """What is read from logits [batch, vocabulary] after the last token, as scores beside those of the base run."""

    def __init__(self, pair: Pair) -> None:
        assert pair.foils is not None
        self.answer, self.foil, self.row = pair.answer, pair.foils[:, 0], torch.arange(len(pair.answer))

    def difference(self, logits: Tensor) -> Tensor:
        """[batch]: the answer's logit minus the foil's."""
        return logits[self.row, self.answer] - logits[self.row, self.foil]

    def mean(self, logits: Tensor) -> Tensor:
        """The same, its mean over the prompts."""
        return self.difference(logits).mean()

    def scores(self, base: Tensor, patched: Iterator[Tensor]) -> Scores:
        """Of each of the patched runs."""
        before, found = base.softmax(-1)[self.row, self.answer], list[tuple[Tensor, Tensor]]()
        for logits in patched:
            after = logits.softmax(-1)[self.row, self.answer]
            found.append((self.difference(logits) - self.difference(base), (after - before) / before))
        return _scores(*map(torch.stack, zip(*found, strict=True)))


def _scores(differences: Tensor, ratios: Tensor) -> Scores:
    """From [head, batch]."""
    return {"logit_difference": differences.mean(-1).tolist(), "probability": ratios.mean(-1).tolist()}


def ours(model: LoadedModel, pair: Pair, quantity: Quantity, heads: Sequence[Head]) -> Scores:
    """What this project's engine finds."""
    if isinstance(quantity, PatchedPath):
        found = path_probabilities(model.model, pair, quantity, heads, "default", Chunks())
        ratios = (found["patched"] - found["base"]) / found["base"]
        return _scores(found["patched_value"] - found["base_value"], ratios)
    assert pair.foils is not None
    sets = [Circuit(()), *(Circuit((HeadGroup("one", quantity, (head,)),)) for head in heads)]
    answer, foil = (patched_readouts(model.model, one, sets, "default", Chunks())
                    for one in (pair, replace(pair, answer=pair.foils[:, 0])))  # fmt: skip
    differences, p = answer["logit"] - foil["logit"], answer["probability"]
    return _scores(differences[1:] - differences[0], (p[1:] - p[0]) / p[0])


def theirs(tool: Any, reading: Reading, quantity: Quantity, heads: Sequence[Head]) -> Scores:
    """What another tool finds, a head at a time."""
    if isinstance(quantity, PatchedPath):
        return reading.scores(tool.base(), (tool.path(quantity, head) for head in heads))
    return reading.scores(tool.base(), (tool.whole(head, quantity) for head in heads))


def lowest(scores: Scores, heads: Sequence[Head], count: int) -> list[Head]:
    """The heads that matter most: with the most negative change of the logit difference."""
    order = sorted(range(len(heads)), key=lambda number: scores["logit_difference"][number])
    return [heads[number] for number in order[:count]]


def quantities(model: LoadedModel, pair: Pair, until: str) -> Made:
    """What is computed, by name, up to one of the names: the first stages of real.yaml, and whole heads."""
    sizes, made = (model.shape.n_layers, model.shape.n_heads), Made()
    receivers: tuple[Head, ...] = ()
    ends: tuple[tuple[str, str, Via | None], ...] = (
        (DIRECT, "last", None),
        (QUERY, "last", "query"),
        ("into those heads' values, at S2", "s2", "value"),
    )
    for name, at, via in ends:
        path = PatchedPath(at, via, receivers)
        heads = [Head(*one) for one in path.reaching(*sizes)]
        scores = ours(model, pair, path, heads)
        made[name] = path, heads, scores
        if name == until:
            return made
        receivers = tuple(sorted(lowest(scores, heads, RECEIVERS)))
    heads = [Head(layer, index) for layer in range(sizes[0]) for index in range(sizes[1])]
    return made | {WHOLE: ("last", heads, ours(model, pair, "last", heads))}


def chosen(scores: Scores, heads: Sequence[Head], count: int) -> list[Head]:
    """Those that matter most, and as many drawn from the others as are asked for."""
    best = lowest(scores, heads, TOP)
    others = [head for head in heads if head not in best]
    return sorted([*best, *random.Random(SEED).sample(others, min(count, len(others)))])


def some_of(scores: Scores, heads: Sequence[Head], some: Sequence[Head]) -> Scores:
    """The scores of some of the heads."""
    return {key: [values[heads.index(head)] for head in some] for key, values in scores.items()}


def agreement(one: Scores, other: Scores, heads: Sequence[Head]) -> dict[str, Any]:
    """How far two lists of scores of the same heads lie apart, and whether the heads that matter most are the same."""
    apart = {key: max(abs(a - b) for a, b in zip(one[key], other[key], strict=True)) for key in other}
    best, theirs = (lowest(scores, heads, TOP) for scores in (one, other))
    return {"largest_difference": apart, "top": len({*best} & {*theirs}), "same_order": best == theirs}


def compare(made: Made, pair: Pair, tools: Sequence[Any], count: int) -> Iterator[dict[str, Any]]:
    """A row for each quantity and tool, as soon as there is one."""
    reading = Reading(pair)
    for name, (quantity, every, scores) in made.items():
        heads = chosen(scores, every, count)
        mine = some_of(scores, every, heads)
        receivers = [str(one) for one in quantity.receivers] if isinstance(quantity, PatchedPath) else []
        for tool in tools:
            found = theirs(tool, reading, quantity, heads)
            yield {"what": name, "receivers": receivers, "tool": tool.name, "heads": [str(head) for head in heads],
                   "ours": mine, "theirs": found} | agreement(mine, found, heads)  # fmt: skip


def ready_made(
    model: LoadedModel, made: Made, folder: Path, pair: Pair, tools: Mapping[str, Any], count: int
) -> Iterator[dict[str, Any]]:
    """What the tools offer ready-made under the same names, beside ours, and beside hooks that do what they do."""
    reading, hooks = Reading(pair), tools[Hooks.name]
    (path, every, scores), (_, _, patched) = made[DIRECT], made[WHOLE]
    heads = chosen(scores, every, count)
    assert isinstance(path, PatchedPath)

    def row(what: str, beside: str, some: list[Head], found: Scores, again: Scores | None) -> dict[str, Any]:
        mine = some_of(made[beside][2], made[beside][1], some)
        return outcome_of(what, beside, some, mine, found, again and agreement(again, found, some))

    sdpa = et.load(str(folder), device="cpu")
    yield row("this project with sdpa", DIRECT, heads, ours(sdpa, pair, path, heads), None)
    if pyvene := tools.get("pyvene"):
        found = reading.scores(pyvene.base(), map(pyvene.own_path, heads))
        frozen = (hooks.path(path, head, mlps="freeze") for head in heads)
        yield row("pyvene: its README's path patching", DIRECT, heads, found, reading.scores(hooks.base(), frozen))
    if not (lens := tools.get("TransformerLens")):
        return
    some = chosen(patched, every, count)
    found = beside_base(lens, reading, lens.own_whole(some, reading.mean))
    again = reading.scores(hooks.base(), (hooks.whole(head, None) for head in some))
    yield row("TransformerLens: get_act_patch_attn_head_out_all_pos", WHOLE, some, found, again)
    if model.model.nn.config.model_type == "llama":
        yield edges(model, pair, lens, hooks, max(lowest(made[QUERY][2], made[QUERY][1], TOP)))
    lens.process_weights()
    yield row("TransformerLens with processed weights", DIRECT, heads, theirs(lens, reading, path, heads), None)


def outcome_of(
    what: str, beside: str, heads: list[Head], mine: Scores, found: Scores, again: dict[str, Any] | None
) -> dict[str, Any]:
    """A row of what is offered ready-made."""
    same = None if again is None else again["largest_difference"]
    row = {"what": what, "beside": beside, "heads": [str(head) for head in heads], "ours": mine, "theirs": found}
    return row | agreement(mine, found, heads) | {"hooks_that_do_this": same}


def beside_base(lens: Any, reading: Reading, values: Tensor) -> Scores:
    """The change of the logit difference, from what TransformerLens has of each head."""
    return {"logit_difference": (values - reading.mean(lens.base())).tolist()}


def edges(model: LoadedModel, pair: Pair, lens: Any, hooks: Hooks, sender: Head) -> dict[str, Any]:
    """From one head into the query of every later one, each edge by itself."""
    reading, sizes = Reading(pair), (model.shape.n_layers, model.shape.n_heads)
    later = [Head(layer, index) for layer in range(sender.layer + 1, sizes[0]) for index in range(sizes[1])]
    paths = [(PatchedPath("last", "query", (head,)), sender) for head in later]
    alone = edge_probabilities(model.model, pair, paths, "default", Chunks())
    mine = {"logit_difference": (alone["patched_value"] - alone["base_value"]).mean(-1).tolist()}
    found = beside_base(lens, reading, lens.own_edges(sender, reading.mean)[sender.layer + 1 :].flatten())
    best = lowest(found, later, TOP)
    again = reading.scores(hooks.base(), (hooks.edge(sender, head) for head in best))
    same = agreement(again, some_of(found, later, best), best)
    what = f"TransformerLens: get_act_patch_direct_path from {sender}"
    return outcome_of(what, "into one head's query, at last", later, mine, found, same)


def markdown(outcome: dict[str, Any]) -> str:
    """The tables, as docs/peers.md has them."""
    columns = "largest difference, LD | largest difference, p | same of the top 8"
    lines = [f"| quantity | tool | {columns} |", "|---|---|---|---|---|"]
    lines += [f"| {row['what']} | {row['tool']} | {_numbers(row)} |" for row in outcome["same_definition"]]
    lines += ["", f"| ready-made | beside | {columns} | plain hooks that do this |", "|---|---|---|---|---|---|"]
    for row in outcome["ready_made"]:
        again = row["hooks_that_do_this"]
        same = "" if again is None else f"{max(again.values()):.0e}"
        lines.append(f"| {row['what']} | {row['beside']} | {_numbers(row)} | {same} |")
    lines += ["", "| tokens | this engine | two runs with hooks | ratio |", "|---|---|---|---|"]
    for row in outcome["counted"]:
        lines.append(f"| {row['tokens']} | {row['engine']:.2f} | {row['two_runs']:.2f} | {row['ratio']:.0f} |")
    return "\n".join(lines)


def _numbers(row: dict[str, Any]) -> str:
    apart = row["largest_difference"]
    cells = [f"{apart[key]:.0e}" if key in apart else "" for key in ("logit_difference", "probability")]
    return " | ".join([*cells, f"{row['top']}{', same order' if row['same_order'] else ''}"])


def main(words: Sequence[str] | None = None) -> None:
    """Compute, compare, time, print the tables, and write results/other_tools_NAME.json."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="a folder with the model and its tokenizer")
    parser.add_argument("--bos", choices=["add", "none"], help="as real.yaml has it: add, for Gemma")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--others", type=int, default=8, help="how many heads are measured beside the top 8")
    parser.add_argument("--timed", type=int, default=0, metavar="ROUNDS", help="time it instead, in so many rounds")
    parser.add_argument("--task", choices=list(TASKS), default="ioi", help="whose prompts are timed")
    parser.add_argument("--screened", type=int, default=96, help="on how many prompts the screened stage is timed")
    given = parser.parse_args(words)
    torch.set_num_threads(1)
    model = et.load(str(given.model), device="cpu", attention="eager", bos=given.bos)
    count = max(given.prompts, given.screened if given.timed else 0)
    examples = TASKS[given.task].examples(model.tokenizer, count, SEED, "discovery")
    pair = collated(examples[: given.prompts])
    tools: dict[str, Any] = {Hooks.name: Hooks(eager(given.model), pair)}
    if Lens is not None:
        tools[Lens.name] = Lens(eager(given.model), model.tokenizer, pair)
    if Vene is not None and Vene.knows(tools[Hooks.name].module):  # of Gemma 3 it names no parts
        tools[Vene.name] = Vene(tools[Hooks.name].module, pair)
    versions = {name: version(PACKAGES[name]) for name in tools if name in PACKAGES}
    outcome: dict[str, Any] = {"model": given.model.name, "prompts": given.prompts, "tools": versions}
    made = quantities(model, pair, QUERY if given.timed else WHOLE)
    if given.timed:
        lens, path = tools.get("TransformerLens"), made[QUERY][0]
        assert isinstance(path, PatchedPath)
        if lens is None:
            parser.error("--timed: TransformerLens is not installed; accepted: an environment that has it")
        outcome["cost"] = timed(model, path, examples, given.prompts, lens, given.timed)
        print(cost_table(outcome["cost"]))
        print(f"Written to {written(f'other_tools_{given.model.name}_cost_{given.task}', outcome)}")
        return
    path, heads, _ = made[QUERY]
    assert isinstance(path, PatchedPath)
    lengths = pair.base.tokens.shape[1], *LENGTHS
    outcome["counted"] = [counted(model, path, heads, length) for length in lengths]
    outcome |= {"same_definition": [], "ready_made": []}
    for table, rows in (
        ("same_definition", compare(made, pair, list(tools.values()), given.others)),
        ("ready_made", ready_made(model, made, given.model, pair, tools, given.others)),
    ):
        for row in rows:  # written as they come: a run takes long
            outcome[table].append(row)
            place = written(f"other_tools_{given.model.name}", outcome)
    print(markdown(outcome))
    print(f"Written to {place}")


if __name__ == "__main__":
    main()
