"""Stages that keep MLPs: from a manifest to result, tables, figures, export and Python; and what is refused."""

from __future__ import annotations

from pathlib import Path as Folder

import pytest
import torch

from nnsight_et.core.circuit import Circuit, Head, Mlp, part
from nnsight_et.core.errors import ManifestError, TaskError
from nnsight_et.core.metrics import patching_score
from nnsight_et.display.figures import Diagram, HeatMap
from nnsight_et.manifest import Stage
from nnsight_et.methods.path_patching.experiment import assembled_circuit, mlps
from nnsight_et.models.catalog import KNOWN_MODELS
from nnsight_et.planning.plan import digest, plan, senders
from nnsight_et.report.results import head_rows, metric_rows, plates, tables
from nnsight_et.results.records import MlpGroupRecord
from nnsight_et.results.study import Study
from tests.helpers import plain_mlps
from tests.helpers.closeness import assert_near
from tests.helpers.methods_study import MODELS, manifest, models_in, pairs, results

EXPERIMENT = """\
  found:
    method: path_patching
    model: one
    examples: 5
    held_out_examples: 4
    stages:
      - {group: a, into: logits, at: last, keep: 3, receivers: 2}
      - {group: m, into: logits, at: last, senders: mlps, keep: 2, receivers: 2}
      - {group: b, into: m, via: input, at: last, keep: 2}
      - {group: n, into: a, via: query, senders: mlps, at: last, keep: 1, receivers: 1}
      - {group: o, into: a, via: value, senders: mlps, at: query_label, keep: 1}
      - {group: p, into: m, via: input, senders: mlps, at: last, keep: 1}
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return results(models_in(tmp_path_factory.mktemp("mlps")), EXPERIMENT)["found"]


def stage_of(found, group: str) -> dict:
    return next(stage for stage in found.header.summary["stages"] if stage["group"] == group)


def test_scores_of_mlps_are_those_of_plain_hooks(found):
    module, pair = MODELS["one"](), pairs(5, "discovery")
    ends = {"m": ("last", None), "n": ("last", "query"), "o": ("query_label", "value"), "p": ("last", "input")}
    for group, (at, via) in ends.items():
        receivers = [part(name) for name in stage_of(found, group)["receivers"]]
        receivers = [one.layer if isinstance(one, Mlp) else tuple(one) for one in receivers]
        reach = found.scores[f"{group}.reach"][:, 0]
        layers = [layer for layer in range(3) if reach[layer]]
        base, patched = plain_mlps.path_patching(module, pair, layers, receivers, via, at)
        score = found.scores[f"{group}.score"]
        assert score.shape == (3, 1)
        assert_near(score[reach, 0], patching_score(patched, base), size=1)
        assert score[~reach].eq(0).all()
        assert found.scores[f"{group}.per_example"].shape == (3, 1, 5)


def test_heads_into_mlps_are_those_of_plain_hooks(found):
    module, pair = MODELS["one"](), pairs(5, "discovery")
    receivers = [Mlp.parse(name).layer for name in stage_of(found, "b")["receivers"]]
    senders = [(layer, index) for layer in range(max(receivers) + 1) for index in range(4)]
    base, patched = plain_mlps.path_patching(module, pair, senders, receivers, "input", "last")
    expected = patching_score(patched, base).double()
    assert_near(found.scores["b.score"][found.scores["b.reach"]], expected, size=1, dtype=torch.float32)


def test_the_best_mlps_are_kept_beside_the_circuit(found):
    summary = found.header.summary
    order = found.scores["m.score"][:, 0].argsort(stable=True).tolist()
    assert [one["head"] for one in stage_of(found, "m")["kept"]] == [f"L{layer}MLP" for layer in order[:2]]
    assert summary["mlps"][0] == {"name": "m", "at": "last", "mlps": [f"L{layer}MLP" for layer in order[:2]]}
    assert [group["name"] for group in summary["mlps"]] == ["m", "n", "o", "p"]
    assert [group.name for group in Circuit.from_dict(summary["circuit"]).groups] == ["a", "b"]
    assert [stage["senders"] for stage in summary["stages"]] == ["heads", "mlps", "heads", "mlps", "mlps", "mlps"]


def test_a_head_stays_in_its_group_whatever_mlps_are_kept_of_its_layer():
    """The MLP of layer 2 and the head L2H0 have the same place in a table; only heads leave groups to later heads."""
    stages = [
        Stage(group="a", into="logits", at="last", keep=1),
        Stage(group="m", into="logits", at="last", senders="mlps", keep=1),
    ]
    ranked = {"a": [Head(2, 0)], "m": [Mlp(2)]}
    assert assembled_circuit(stages, ranked).group("a").heads == (Head(2, 0),)
    assert mlps(stages, ranked) == [MlpGroupRecord(name="m", at="last", mlps=["L2MLP"])]


def test_mlps_are_checked_by_the_reference_engine_and_the_engines_on_paths_into_them(found):
    checks = found.header.self_check.checks
    sampled = {check.step for check in checks if check.check == "reference engine"}
    assert {"a", "m", "b", "n", "o", "p"} <= sampled
    assert "paths into MLPs" in {check.check for check in checks}
    assert {"recount", "source = base"} <= {check.check for check in checks}


def test_tables_show_mlps_apart_from_the_circuit(found):
    circuit, of_mlps, beyond, held_out = tables(found.header)
    assert [row[0] for row in circuit.rows] == ["a", "b"]
    assert of_mlps.columns == ("group", "at", "MLPs", "beyond chance", "stability", "MLP and score")
    assert [row[:3] for row in of_mlps.rows] == [
        ("m", "last", "2"),
        ("n", "last", "1"),
        ("o", "query_label", "1"),
        ("p", "last", "1"),
    ]
    assert of_mlps.rows[0][-1].startswith(stage_of(found, "m")["kept"][0]["head"])
    assert "MLPs are not in the circuit" in of_mlps.note
    assert beyond.columns[1] == "heads or MLPs tested"
    assert [row[1] for row in beyond.rows][:2] == ["12", "3"]
    assert any(row[1].endswith("MLP") for row in held_out.rows)


def test_figures_have_a_map_of_layers_alone_and_boxes_of_mlps(found):
    drawn, maps = plates(found, Study("mlps", (found,), ()))
    heat, last, diagram = maps.panels[1], maps.panels[5], drawn.panels[0]
    assert isinstance(heat, HeatMap)
    assert isinstance(last, HeatMap)
    assert isinstance(diagram, Diagram)
    assert (heat.columns, len(heat.rows), heat.axes) == (("MLP",), 3, ("layer", ""))
    kept = [one["head"] for one in stage_of(found, "m")["kept"]]
    assert [cell.text.partition(":")[0] for row in heat.cells for cell in row if cell.framed] == sorted(kept)
    assert last.cells[2][0].text == "L2MLP: cannot reach m through its input; exactly 0, not run"
    nodes = {node.name: (node.kind, node.count) for node in diagram.nodes}
    assert list(nodes) == ["a", "m", "b", "n", "o", "p"]
    assert nodes["m"] == ("MLP", 2)
    size = Circuit.from_dict(found.header.summary["circuit"]).size
    assert f"{size} heads in 2 groups" in drawn.caption
    assert "Next to them 5 MLPs, which are not part of the circuit." in drawn.caption


def test_the_long_tables_have_a_row_per_mlp_and_metric(found):
    rows = [row for row in head_rows(found) if row.group == "m" and row.metric == "patching_score"]
    assert [(row.head, row.layer, row.index) for row in rows] == [(f"L{layer}MLP", layer, None) for layer in range(3)]
    assert [row.value for row in rows] == found.scores["m.score"][:, 0].tolist()
    assert sum(bool(row.kept) for row in rows) == 2
    metrics = {(row.group, row.metric): row.value for row in metric_rows(found)}
    assert metrics["m", "tested"] == 3
    assert metrics["m", "kept"] == 2


ONLY_MLPS = """\
  only:
    method: path_patching
    model: one
    examples: 4
    stages: [{group: m, into: logits, at: last, senders: mlps, keep: 1}]
"""


def test_an_experiment_of_mlps_alone_has_an_empty_circuit_and_is_none(tmp_path):
    one = results(models_in(tmp_path), ONLY_MLPS)["only"]
    assert one.header.summary["circuit"]["groups"] == []
    assert [table.title for table in tables(one.header)] == ["only: MLPs of one", "only: heads beyond chance in one"]
    drawn, _ = plates(one, Study("mlps", (one,), ()))
    assert drawn.title == "Paths of one"


@pytest.mark.parametrize(
    "user",
    [
        "  table: {method: faithfulness, circuit: only, models: [one]}\n",
        "  less: {method: minimality, circuit: only}\n",
        "  more: {method: comparison, circuits: [only, ./circuit.json]}\n",
    ],
)
def test_a_circuit_of_mlps_is_refused_before_anything_runs(user):
    text = r"experiment 'only' keeps only MLPs, and a circuit consists of heads; accepted"
    with pytest.raises(ManifestError, match=text):
        manifest(Folder(), ONLY_MLPS + user)


def test_scores_of_mlps_order_no_heads():
    user = "  more: {method: comparison, circuits: [./circuit.json, ./circuit.json], scores: only}\n"
    with pytest.raises(ManifestError, match=r"more\.scores"):
        manifest(Folder(), ONLY_MLPS + user)


REFUSED = {
    "heads via input": (
        "into: a, via: input, at: last",
        "via: via 'input' into a, which are heads; accepted: query, key, value",
    ),
    "MLPs via query": ("into: m, via: query, at: last", "via: via 'query' into m, which are MLPs; accepted: input"),
    "MLPs without via": ("into: m, at: last", "via: missing; accepted: input"),
    "logits via input": ("into: logits, via: input, at: last", "via: via 'input' into logits, which have no"),
    "another position": (
        "into: m, via: input, at: query_label",
        "at: senders at query_label, but the input of m is computed at last; accepted: last",
    ),
    "expanded": (
        "into: m, via: input, at: last, kv_heads: expanded",
        "kv_heads: expanded via the input of MLPs, which have no keys; accepted: shared",
    ),
    "a typo": ("into: logits, at: last, senders: mlp", "senders: "),
}  # fmt: skip


@pytest.mark.parametrize(("stage", "told"), REFUSED.values(), ids=REFUSED)
def test_what_no_path_can_be_is_refused_with_what_can(stage, told):
    text = """\
  found:
    method: path_patching
    model: one
    stages:
      - {group: a, into: logits, at: last, keep: 3, receivers: 2}
      - {group: m, into: logits, at: last, senders: mlps, keep: 2, receivers: 2}
"""
    with pytest.raises(ManifestError) as error:
        manifest(Folder(), f"{text}      - {{group: x, keep: 1, {stage}}}\n")
    assert f"found.stages.2.{told}" in str(error.value)


LAYERS = KNOWN_MODELS["llama-tiny"].shape.n_layers
HEADS_FIRST = "{group: a, into: logits, at: last, keep: 1, receivers: 1}"
MLPS_FIRST = "{group: a, into: logits, at: last, senders: mlps, keep: 1, receivers: 1}"
MOST = {
    "MLPs": ("{group: m, into: logits, at: last, senders: mlps, keep: %d}", LAYERS, "6 layers of one MLP"),
    "MLPs into heads": (
        HEADS_FIRST + ", {group: m, into: a, via: query, at: last, senders: mlps, keep: %d}",
        LAYERS - 1,
        "of which 5 can reach a",
    ),
    "MLPs into MLPs": (
        MLPS_FIRST + ", {group: m, into: a, via: input, at: last, senders: mlps, keep: %d}",
        LAYERS - 1,
        "of which 5 can reach a",
    ),
    "heads into MLPs": (
        MLPS_FIRST + ", {group: m, into: a, via: input, at: last, keep: %d}",
        8 * LAYERS,
        "6 layers of 8 heads",
    ),
}


@pytest.mark.parametrize(("stages", "most", "told"), MOST.values(), ids=MOST)
def test_more_than_can_reach_is_refused_and_as_many_is_not(stages, most, told):
    text = "  found: {method: path_patching, model: llama-tiny, stages: [%s]}\n"
    manifest(Folder(), text % (stages % most))
    with pytest.raises(ManifestError, match=rf"keep: {most + 1} (heads|MLPs); llama-tiny has .*{told}.*1 to {most}$"):
        manifest(Folder(), text % (stages % (most + 1)))


def test_more_mlps_than_layers_is_refused_when_the_model_is_read(tmp_path):
    text = ONLY_MLPS.replace("keep: 1", "keep: 4")
    with pytest.raises(TaskError, match=r"stages\[0\].keep: 4 MLPs, but one has 3 MLPs; accepted: 1 to 3"):
        results(models_in(tmp_path), text)


def test_a_plan_counts_mlps_once_a_layer():
    text = "  found: {method: path_patching, model: llama-tiny, stages: [%s]}\n"
    stages = (
        "{group: a, into: logits, at: last, senders: mlps, keep: 2, receivers: 2}, "
        "{group: b, into: a, via: input, at: last, senders: mlps, keep: 1}, "
        "{group: c, into: a, via: input, at: last, keep: 1}"
    )
    (job,) = plan(manifest(Folder(), text % stages)).jobs
    assert senders(job) == 6 + 5 + 48


def test_a_stage_of_heads_has_the_identity_it_had_before_there_were_mlps():
    text = (
        "  found: {method: path_patching, model: llama-tiny, stages: [{group: a, into: logits, at: last, keep: 1%s}]}\n"
    )
    before, said, other = (
        plan(manifest(Folder(), text % more)).jobs[0] for more in ("", ", senders: heads", ", senders: mlps")
    )
    assert before.id == said.id != other.id
    assert list(before.spec.identity(set())["stages"][0]) == [
        "group", "into", "via", "at", "kv_heads", "keep", "receivers",
    ]  # fmt: skip
    assert before.to_dict()["spec"]["stages"][0]["senders"] == "heads"
    assert digest({"of": before.to_dict()}) == digest({"of": said.to_dict()})
