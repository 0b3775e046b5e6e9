"""`python -m benchmarks.ioi --model FOLDER`: indirect object identification in a Llama, found and held against others.

Discovery by the logit difference; its circuit alone on held-out prompts; what each group carries; and head by head,
beside the scores of the graph: direct logit attribution, by plain hooks, and activation patching of whole heads. Then
which of the roles of Wang et al. (2022) the graph's heads have, judged by where they are and look; and the heads that
discovery does not look for: those that work against the answer, and those that step in for the name movers.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaForCausalLM

import nnsight_et as et
from benchmarks.setting import written
from nnsight_et.core.batch import Example, Pair, Question, collate
from nnsight_et.core.circuit import Circuit, Head
from nnsight_et.engine.budget import Chunks
from nnsight_et.interventions.ablation import AblationValues, circuit_readouts
from nnsight_et.manifest import Manifest, parse
from nnsight_et.manifest.tasks import IOI_DESIDERATA
from nnsight_et.methods.attention_patterns.summary import AttentionPatternsSummary, HeadAttention
from nnsight_et.methods.attribution.summary import AttributionSummary
from nnsight_et.methods.discovery.summary import DiscoverySummary
from nnsight_et.methods.discovery.words import sentences
from nnsight_et.methods.faithfulness.summary import FaithfulnessSummary
from nnsight_et.planning.plan import plan
from nnsight_et.results.headers import folder_of
from nnsight_et.results.store import read_result
from nnsight_et.results.study import study_of
from nnsight_et.runner.run import run
from nnsight_et.tasks.ioi import IOI

ROLES = {
    ("last", "io"): "name mover",
    ("last", "s1"): "S-inhibition",
    ("last", "s2"): "S-inhibition",
    ("s2", "s1"): "duplicate token",
    ("s2", "s1_plus_1"): "induction",
    ("s1_plus_1", "s1"): "previous token",
}
"""Where a head is, and the named position it looks at most -> its role in GPT-2 (Wang et al. 2022)."""
TASK = {"kind": "ioi", "templates": 1}
"""All prompts of one length: ablated heads output their mean at the same token."""
OTHERS = ("first token", "other")  # where attention rests that looks at no named position


@dataclass(frozen=True)
class Prompts:
    """Prompts of one length, and the tokens of both names."""

    pair: Pair

    @property
    def tokens(self) -> Tensor:
        """[batch, seq]"""
        return self.pair.base.tokens

    @property
    def last(self) -> Tensor:
        """[batch]"""
        return self.pair.base.positions["last"]

    @property
    def answer(self) -> Tensor:
        """[batch]: the indirect object."""
        assert isinstance(self.pair.answer, Tensor)
        return self.pair.answer

    @property
    def foil(self) -> Tensor:
        """[batch]: the subject."""
        assert self.pair.foils is not None
        return self.pair.foils[:, 0]


def direct_attributions(
    module: LlamaForCausalLM, prompts: Prompts, knocked: Iterable[Head] = ()
) -> tuple[Tensor, float]:
    """[layer, head], in logits: the part of the mean logit difference that a head writes itself; and the difference.

    The scale of the final norm is the run's own. knocked: heads whose output at the last token is its mean over
    prompts.
    """
    row, config, seen = torch.arange(len(prompts.tokens)), module.config, dict[Any, Tensor]()
    layers: Any = module.model.layers
    out = {*knocked}

    def take(layer: int) -> Any:
        def hook(_: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
            z = inputs[0].unflatten(-1, (config.num_attention_heads, -1)).clone()
            for head in out:
                if head.layer == layer:
                    z[row, prompts.last, head.index] = z[row, prompts.last, head.index].mean(0)
            seen[layer] = z[row, prompts.last]
            return (z.flatten(-2),)

        return hook

    def take_stream(_: Any, inputs: tuple[Tensor, ...]) -> None:
        seen["stream"] = inputs[0][row, prompts.last]

    with ExitStack() as hooks, torch.no_grad():
        for layer, block in enumerate(layers):
            hooks.callback(block.self_attn.o_proj.register_forward_pre_hook(take(layer)).remove)
        hooks.callback(module.model.norm.register_forward_pre_hook(take_stream).remove)
        logits: Tensor = module(prompts.tokens).logits[row, prompts.last]
        difference = (logits[row, prompts.answer] - logits[row, prompts.foil]).mean().item()
        unembed = module.lm_head.weight[prompts.answer] - module.lm_head.weight[prompts.foil]
        norm: Any = module.model.norm
        scale = (seen["stream"].pow(2).mean(-1, keepdim=True) + norm.variance_epsilon).rsqrt()
        direction = unembed * norm.weight * scale  # [batch, d_model]
        found = list[Tensor]()
        for layer, block in enumerate(layers):
            weight = block.self_attn.o_proj.weight.unflatten(1, (config.num_attention_heads, -1))
            found.append(torch.einsum("bhd,mhd,bm->h", seen[layer], weight, direction) / len(row))
    return torch.stack(found), difference


def manifest(folder: Path, given: argparse.Namespace) -> Manifest:
    """Discovery, its circuit alone, where its heads look, and whole heads patched at the positions asked for."""
    sizes = {"examples": given.examples, "held_out_examples": given.held_out}
    found = {"method": "discovery", "model": "model", "metric": "logit_difference", **sizes}
    found |= json.loads(given.set)
    experiments = {
        "found": found,
        "alone": {"method": "faithfulness", "circuit": "found", "models": ["model"], "examples": given.held_out}
        | {"random_circuits": 3},
        "looks": {"method": "attention_patterns", "circuit": "found", "examples": given.held_out},
        "carries": {"method": "activation_patching", "roles": "found", "models": ["model"], "draws": 1}
        | {"desiderata": list(IOI_DESIDERATA), "examples": given.held_out},
        "whole": {"method": "attribution", "model": "model", "at": given.at.split(","), "examples": given.patched},
    }
    data = {"name": "ioi", "seed": given.seed, "device": "cpu", "self_check": "off", "task": TASK}
    data |= {"models": {"model": {"path": str(folder)}}, "experiments": experiments}
    return parse(json.dumps(data), "ioi", lines=False)


def share_alone(
    model: et.LoadedModel, circuit: Circuit, prompts: Prompts, others: Sequence[Example], whole: float
) -> float:
    """The circuit's share of the model's mean logit difference `whole`: faithfulness as Wang et al. measure it.

    Alone: at its positions other heads output their mean over the source prompts of `others`, elsewhere all heads do.
    """
    fill, logit = AblationValues(runs=(collate(others).source,)), list[Tensor]()
    for answer in (prompts.answer, prompts.foil):
        question = Question(prompts.pair.base, answer)
        logit.append(circuit_readouts(model.model, question, fill, [circuit], "default", Chunks())["logit"][0])
    return (logit[0] - logit[1]).mean().item() / whole


def role_of(row: HeadAttention, direct: bool) -> str:
    """The role of a head that is and looks there; "" if it looks at no named position, or no head of GPT-2 does so.

    direct: whether its strongest edge goes into the logits. Of GPT-2's heads those that look at the subject do not.
    """
    looks = {name: weight for name, weight in row.weights.items() if name not in (*OTHERS, row.at)}
    role = ROLES.get((row.at, max(looks, key=looks.__getitem__)), "") if looks else ""
    return "" if direct and role == "S-inhibition" else role


def rows_of(folder: Path, attributed: Tensor, whole: float) -> list[dict[str, Any]]:
    """Of each head of the graph what it does by path patching, by its own logits, and patched as a whole."""
    found = read_result(folder / "found").read(DiscoverySummary).summary
    looks = read_result(folder / "looks").read(AttentionPatternsSummary).summary
    patched = read_result(folder / "whole").read(AttributionSummary)
    seen, rows = {(row.at, row.head): row for row in looks.rows}, list[dict[str, Any]]()
    for node in found.nodes:
        head, attention = Head.parse(node.node), seen[node.at, node.node]
        edges = [edge for edge in found.graph if (edge.node, edge.at) == (node.node, node.at)]
        exact = patched.scores.get(f"{node.at}.exact")
        edges.sort(key=lambda edge: edge.score)
        strongest = edges[0]
        named = [one for one in attention.weights.items() if one[0] not in OTHERS]
        column, weight = max(named, key=lambda entry: entry[1])
        row: dict[str, Any] = {
            "head": node.node,
            "at": node.at,
            "group": node.group,
            "role": role_of(attention, strongest.via is None),
        }
        row |= {"into": [f"{edge.into}.{edge.via}" if edge.via else edge.into for edge in edges]}
        row |= {"share": strongest.score / found.base}
        # at another token a head writes nothing into the logits itself
        row |= {"direct_logits": attributed[head].item() / whole if node.at == "last" else 0.0}
        row |= {"whole_head": None if exact is None else exact[head].item(), "looks_at": column, "weight": weight}
        rows.append(row)
    return rows


def table_of(rows: Sequence[dict[str, Any]]) -> str:
    """The graph's heads in Markdown: strongest edge, own logits and whole head as shares, and where they look."""
    lines = ["| head | at | group | strongest edge | direct logits | whole head | looks at | role in GPT-2 |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for row in rows:
        whole = "not patched" if row["whole_head"] is None else f"{row['whole_head']:+.2f}"
        numbers = f"{row['into'][0]} {row['share']:+.2f} | {row['direct_logits']:+.2f} | {whole}"
        looks = f"{row['looks_at']} ({row['weight']:.2f})"
        lines.append(
            f"| {row['head']} | {row['at']} | {row['group']} | {numbers} | {looks} | {row['role'] or 'none'} |"
        )
    return "\n".join(lines)


def whole_heads(folder: Path, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of each position patched: the share of the graph's heads among as many strongest, and the others of these."""
    patched, found = read_result(folder / "whole").read(AttributionSummary), dict[str, Any]()
    for row in patched.summary.rows:
        exact = patched.scores[f"{row.at}.exact"]
        heads = {Head.parse(one["head"]) for one in rows if one["at"] == row.at}
        top = _top(len(heads), -exact)
        outside = {str(head): exact[head].item() for head in top if head not in heads}
        found[row.at] = {"top": len(heads & {*top}) / max(len(heads), 1), "outside": outside}
    return found


def compared(folder: Path, module: LlamaForCausalLM, prompts: Prompts) -> dict[str, Any]:
    """The graph beside the other methods, and the heads that discovery does not look for."""
    attributed, whole = direct_attributions(module, prompts)
    rows = rows_of(folder, attributed, whole)
    result = read_result(folder / "found").read(DiscoverySummary)
    direct, base = result.scores["logits.score"].double(), result.summary.base
    least = result.summary.effect / base
    whole_last = read_result(folder / "whole").read(AttributionSummary).scores.get("last.exact")
    movers = [Head.parse(row["head"]) for row in rows if "logits" in row["into"]]
    after, left = direct_attributions(module, prompts, movers)
    negative = [str(Head(*place)) for place in (direct / base >= least).nonzero().tolist()]
    rises = (after - attributed) / whole
    backup = [Head(*place) for place in (rises >= least).nonzero().tolist()]
    return {
        "heads": rows,
        "whole_heads": whole_heads(folder, rows),
        "whole_heads_correlation": None if whole_last is None else _correlation(direct, whole_last.double()),
        "direct_logits_correlation": _correlation(-direct, attributed.double()),
        "direct_logits_top": len({*movers} & {*_top(len(movers), attributed)}) / max(len(movers), 1),
        "negative": {name: direct[Head.parse(name)].item() / base for name in negative},
        "left_without_direct_heads": left / whole,
        "backup": {str(head): rises[head].item() for head in backup if head not in movers},
        "logit_difference": whole,
    }


def _correlation(one: Tensor, other: Tensor) -> float:
    """Pearson's."""
    return torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1].item()


def _top(count: int, values: Tensor) -> list[Head]:
    """So many heads with the largest values [layer, head]."""
    order = values.flatten().argsort(descending=True)[:count].tolist()
    return [Head(index // values.shape[1], index % values.shape[1]) for index in order]


def study(folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Run what is not stored yet, and compare."""
    jobs = plan(manifest(folder, given))
    list(run(jobs, given.out))
    results = folder_of(given.out, jobs)
    found = read_result(results / "found").read(DiscoverySummary).summary
    (alone,) = read_result(results / "alone").read(FaithfulnessSummary).summary.rows
    module = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    model = et.load(str(folder))
    made = IOI(templates=1)
    prompts = Prompts(collate(made.examples(model.tokenizer, given.held_out, given.seed, "evaluation")))
    outcome = compared(results, module, prompts)
    others, whole = made.examples(model.tokenizer, given.held_out, given.seed, "ablation"), outcome["logit_difference"]
    shape = (module.config.num_hidden_layers, module.config.num_attention_heads)
    heads = tuple(Head(*place) for place in torch.ones(shape).nonzero().tolist())
    groups = tuple(et.HeadGroup(at, at, heads) for at in ("io", "s1", "s1_plus_1", "s2", "last"))
    circuit = found.circuit.to_circuit()
    outcome["accuracy"] = {"model": alone.full, "circuit": alone.circuit, "faithfulness": alone.faithfulness}
    outcome["accuracy"] |= {"interval": alone.faithfulness_interval, "random": alone.random_mean}
    outcome["share_alone"] = share_alone(model, circuit, prompts, others, whole)
    outcome["share_alone_of_all_heads"] = share_alone(model, Circuit(groups), prompts, others, whole)
    missing = {*ROLES.values()} - {row["role"] for row in outcome["heads"]}
    outcome |= {
        "roles_missing": sorted(missing),
        "groups": len(found.groups),
        "edges": len(found.graph),
        "branches": len(found.branches) - 1,
    }
    outcome |= {"opened": sum(one.open for one in found.branches) - 1, "ended": found.ended}
    outcome["groups_say"] = [*sentences(study_of(jobs, results), ["found"])]
    outcome |= {"cost": found.cost.total, "exhaustive": found.cost.exhaustive}
    return outcome


def main(words: Sequence[str] | None = None) -> None:
    """Run it, show the heads and the rest, and write all of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="a folder with a Llama and its tokenizer")
    parser.add_argument("--examples", type=int, default=100)
    parser.add_argument("--held-out", type=int, default=200)
    parser.add_argument("--patched", type=int, default=24, help="on how many prompts whole heads are patched")
    parser.add_argument("--at", default="last,s2,s1_plus_1,s1,io", help="where they are")
    parser.add_argument("--set", default="{}", help="more of discovery's options, as JSON")
    parser.add_argument("--seed", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("runs"), help="what is stored there is not run again")
    given = parser.parse_args(words)
    torch.set_num_threads(1)
    outcome = study(given.model.resolve(), given)
    print(table_of(outcome["heads"]), *outcome["groups_say"], sep="\n")
    print(json.dumps({name: value for name, value in outcome.items() if name != "heads"}, indent=1))
    print(f"Written to {written('ioi', outcome)}")


if __name__ == "__main__":
    main()
