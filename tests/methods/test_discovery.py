"""Discovery on a model whose circuit was planted: the search, its decisions, the graph, and what is shown of it."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from nnsight_et_cli.render import show
from rich.console import Console

from benchmarks.discovery import CASES, edges_of, exhaustive, found_in, search, truth
from nnsight_et.core.circuit import Head, Mlp
from nnsight_et.core.errors import ManifestError
from nnsight_et.diagnostics.costs import costs
from nnsight_et.diagnostics.sizing import read_rows
from nnsight_et.display.figures import Diagram
from nnsight_et.manifest import Manifest, parse
from nnsight_et.methods.discovery.experiment import EXPERIMENT
from nnsight_et.methods.discovery.graph import Branch, Edge, Group, Node, branches_of, connected, grouped
from nnsight_et.methods.discovery.present import _found as noted
from nnsight_et.methods.discovery.summary import DiscoverySummary
from nnsight_et.methods.discovery.words import sentence, sentences
from nnsight_et.planning.plan import Plan, plan
from nnsight_et.report.difference import difference
from nnsight_et.report.difference_tables import difference_tables
from nnsight_et.report.export import export
from nnsight_et.report.results import head_rows, metric_rows, tables
from nnsight_et.results.headers import folder_of
from nnsight_et.results.store import MethodResult, read_result
from nnsight_et.results.study import Study
from nnsight_et.runner.run import Progress, run
from nnsight_et.tasks.boxes import Boxes
from nnsight_et.zoo.known import POSITION, make_model, store
from nnsight_et.zoo.tokenizer import word_tokenizer

SEARCH = {"method": "discovery", "model": "planted", "examples": 48, "held_out_examples": 60}
GROUPS = {  # what was planted, and the heads of layer 0 that tell tokens their segment
    "last_1": {"L4H0", "L4H1"},
    "last_2": {"L3H0"},
    "query_label_1": {"L2H0"},
}


def manifest_of(folder: Path, **more: Any) -> Manifest:
    data = {
        "name": "d",
        "seed": 1,
        "device": "cpu",
        "models": {"planted": {"path": "./planted"}},
        "experiments": {
            "found": SEARCH | more,
            "alone": {"method": "faithfulness", "circuit": "found", "models": ["planted"], "examples": 40}
            | {"ablation_examples": 40, "random_circuits": 0},
            "carries": {"method": "activation_patching", "roles": "found", "models": ["planted"], "draws": 1}
            | {"desiderata": ["object", "position"], "examples": 30},
        },
    }
    return parse(json.dumps(data), "d", lines=False).in_folder(folder)


def finish(jobs: Plan, root: Path, only: tuple[str, ...] = ()) -> list[Progress]:
    return list(run(jobs, root, only))


@pytest.fixture(scope="module")
def planted(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("planted")
    store(make_model(POSITION, 0), root / "planted")
    jobs = plan(manifest_of(root))
    finish(jobs, root / "runs")
    return root


@pytest.fixture(scope="module")
def found(planted) -> MethodResult[DiscoverySummary]:
    return read_result(folder_of(planted / "runs", plan(manifest_of(planted))) / "found").read(DiscoverySummary)


def test_it_finds_what_was_planted_without_being_told_a_stage(found):
    summary, heads = found.summary, {}
    for group in summary.groups:
        heads[group.name] = set(group.nodes)
    assert GROUPS.items() <= heads.items()
    assert {"L1H0"} in [nodes for name, nodes in heads.items() if name.startswith("previous_query_label")]
    others = {node for name, nodes in heads.items() for node in nodes if name not in GROUPS} - {"L1H0"}
    assert others <= {f"L0H{index}" for index in range(7)}  # they write the segments that the others read
    edges = {(edge.node, edge.at, edge.into, edge.via) for edge in summary.graph if edge.node[1] != "0"}
    reader = next(group.name for group in summary.groups if group.nodes == ["L1H0"])
    assert edges == {
        ("L4H0", "last", "logits", None),
        ("L4H1", "last", "logits", None),
        ("L3H0", "last", "last_1", "query"),
        ("L2H0", "query_label", "last_2", "value"),
        ("L1H0", "previous_query_label", "query_label_1", "value"),
    }
    assert reader.startswith("previous_query_label")


def test_the_closed_branches_say_why(found):
    why = {(one.into, one.via, one.at): one.why for one in found.summary.branches}
    assert why["last_1", "query", "last"] == "effect"
    assert why["last_1", "value", "correct_object"] == "token"  # the object itself, which no head carries
    assert why["query_label_1", "query", "query_label"] == "token"  # the label itself
    assert set(why.values()) <= {"logits", "effect", "sampled", "nothing", "token"}
    sample = found.summary.closed_sample
    assert sample.searched == 2 < sample.closed
    assert found.summary.ended == "nothing more"


def test_halves_open_a_branch_on_which_heads_cancel(found):
    """Each head of layer 0 marks one segment: all of them swap one mark for another, and the key adds marks up."""
    (branch,) = [
        one
        for one in found.summary.branches
        if (one.into, one.via, one.at) == ("query_label_1", "key", "previous_query_label")
    ]
    scores = {what: [one.score for one in branch.probes if one.what == what] for what in ("heads", "half")}
    assert scores["heads"][0] > -found.summary.effect
    assert min(scores["half"]) < -0.1
    assert branch.why == "effect"
    assert branch.found
    assert all(node.startswith("L0H") for node in branch.found)


def test_the_circuit_is_one_for_every_other_method(planted, found):
    alone = read_result(folder_of(planted / "runs", plan(manifest_of(planted))) / "alone")
    (row,) = alone.header.summary["rows"]
    assert row["faithfulness"] >= 0.95
    groups = found.summary.circuit.to_circuit().groups
    assert [group.name for group in groups] == [group.name for group in found.summary.groups if group.nodes]


def test_whole_groups_are_patched_and_each_says_what_it_carries(planted, found):
    folder = folder_of(planted / "runs", plan(manifest_of(planted)))
    carries = read_result(folder / "carries")
    rows = {(row["group"], row["desideratum"]): row for row in carries.header.summary["rows"]}
    assert {group for group, _ in rows} == {group.name for group in found.summary.groups if group.nodes}
    for name, variable in (("last_1", "object"), ("last_2", "position"), ("query_label_1", "position")):
        assert rows[name, variable]["heads"] == len(GROUPS[name])
        assert rows[name, variable]["mean"] > 0.9
    assert rows["last_1", "position"]["mean"] < 0.1
    said = [*sentences(Study("d", (found, carries), ()), ["found"])]
    assert len(said) == len({group for group, _ in rows})
    (one,) = [text for text in said if text.startswith("last_2,")]
    assert "it carries position (its answer on 1.00 of prompts, 0.0" in one
    assert "object" not in one
    assert not [text for text in sentences(Study("d", (found,), ()), ["found"]) if "Patched" in text]


def test_a_search_that_found_nothing_says_why(found):
    empty = found.summary.model_copy(update={"edges": [], "nodes": []})
    told = (
        "Nothing found. 40 heads patched into the logits, and 9 further branches searched, on 48 pairs of prompts: none"
    )
    assert told in noted(found.header, empty)
    few = empty.model_copy(update={"held_out_examples": 4})
    assert "With 4 examples no head can be beyond chance" in noted(found.header, few)
    lost = noted(found.header, found.summary.model_copy(update={"nodes": []}))
    assert "on 60 held-out pairs, and none beyond chance leads to the logits, at an error rate of 0.05 over all" in lost


def test_a_search_that_is_continued_measures_nothing_twice_and_finds_the_same(planted, found):
    jobs = plan(manifest_of(planted))
    folder = folder_of(planted / "runs", jobs) / "found"
    (folder / "result.json").unlink()
    steps = finish(jobs, planted / "runs", ("found",))
    assert all(step.reused == step.done for step in steps)
    assert len({step.step for step in steps}) > 10
    again = read_result(folder)
    assert again.header.summary == found.header.summary
    assert again.header.scores_digest == found.header.scores_digest


def test_a_search_that_was_stopped_in_the_middle_goes_on_there_and_finds_the_same(planted):
    jobs, found = plan(manifest_of(planted, branches=1)), []
    for root in (planted / "runs", planted / "stopped"):
        folder = folder_of(root, jobs) / "found"
        if root.name == "stopped":
            for step in run(jobs, root, ("found",)):
                if step.step.startswith("branches"):
                    break
            assert not (folder / "result.json").exists()
        steps = finish(jobs, root, ("found",))
        found.append(read_result(folder).header)
    earlier = [step.step for step in steps if step.total and step.reused == step.total]
    assert {"logits", "profiles 1"} <= {*earlier}
    assert "held out" not in earlier
    assert found[0].summary == found[1].summary
    assert found[0].scores_digest == found[1].scores_digest


def test_what_it_cost_is_counted_beside_the_exhaustive_search(found):
    cost = found.summary.cost
    assert 0 < cost.total < 0.5 * cost.exhaustive  # of a model with 5 layers of 8 heads; deeper ones save more


def test_in_a_deep_model_it_costs_a_tenth_of_the_exhaustive_search(tmp_path):
    """All senders of all branches on as many prompts as test an edge. tests/planning holds counts to the engine."""
    case = CASES["twelve layers"]
    summary = search(case, 0, tmp_path, {"examples": 64, "held_out_examples": 128}, boxes=4)
    assert summary.cost.total <= 0.1 * summary.cost.exhaustive
    assert found_in(case.known, summary) == truth(case.known)


@pytest.mark.slow
def test_in_a_deep_model_it_misses_little_of_what_the_exhaustive_search_finds(tmp_path):
    case = CASES["twelve layers"]
    summary = search(case, 0, tmp_path, {"examples": 64, "held_out_examples": 64}, boxes=4)
    examples, model = Boxes(4).examples(word_tokenizer(), 64, 0, "discovery"), make_model(case.known, 0)
    for edges in exhaustive(model, summary, examples).values():  # on the prompts it had
        assert truth(case.known)[0] <= {(Head.parse(node), at) for node, at, _ in edges}
        assert len(edges & edges_of(summary, tested=True)) >= 0.95 * len(edges)


def test_tables_figures_and_long_tables_show_it(found):
    groups, edges, branches = tables(found.header)
    assert groups.rows[0][:3] == ("last_1", "last", "2")
    assert len(edges.rows) == len(found.summary.graph)
    assert len(branches.rows) == len(found.summary.branches)
    drawn, maps = EXPERIMENT.figures(found, Study("d", (found,), ()))
    (panel,) = drawn.panels
    assert isinstance(panel, Diagram)
    assert ("last_2", "last_1", "query") in {(arrow.source, arrow.target, arrow.via) for arrow in panel.arrows}
    assert len(maps.panels) == sum(one.open for one in found.summary.branches)
    kept = [row for row in head_rows(found) if row.metric == "held_out_patching_score" and row.kept]
    assert len(kept) == len(found.summary.graph)
    values = {row.metric: row.value for row in metric_rows(found)}
    assert values["nodes"] == len(found.summary.nodes)
    first = next(group for group in found.summary.groups if group.name == "last_2")
    text = (
        "last_2, 1 head at last, reads its value from query_label_1 at query_label, and writes to the query of last_1."
    )
    assert sentence(found.summary, first) == text


def test_a_screen_of_80_columns_shows_every_word_of_its_tables_whole(found):
    for table in tables(found.header):
        console = Console(width=80, file=StringIO(), color_system=None)
        show(console, table)
        assert isinstance(console.file, StringIO)
        lines = console.file.getvalue().splitlines()
        assert max(map(len, lines)) <= 80
        shown = {word for line in lines for word in line.split()}
        assert {word for row in table.rows for cell in row for word in cell.split()} <= shown
        for name in {row[0] for row in table.rows}:  # in each band as often as in the first
            assert sum(line.split()[:1] == [name] for line in lines) % sum(row[0] == name for row in table.rows) == 0


@pytest.mark.parametrize(
    ("more", "ended", "opened"),
    [
        ({"branches": 1}, "branches", 1),
        ({"budget": {"token_layers": 1.0}}, "budget", 0),
        ({"budget": {"minutes": 1e-9}}, "budget", 0),
    ],
)
def test_a_search_ends_where_it_may_cost_no_more(planted, more, ended, opened):
    jobs = plan(manifest_of(planted, **more))
    finish(jobs, planted / "runs", ("found",))
    summary = read_result(folder_of(planted / "runs", jobs) / "found").read(DiscoverySummary).summary
    assert summary.ended == ended
    assert sum(one.open for one in summary.branches) == 1 + opened
    assert {group.name for group in summary.groups if group.round == 1} == {"last_1"}


def test_a_plan_is_a_bound_that_keeps_to_the_budget(planted, found):
    budget = 0.3 * (found.summary.cost.search + found.summary.cost.probes)
    jobs = plan(manifest_of(planted, budget={"token_layers": budget}))
    finish(jobs, planted / "runs", ("found",))
    spent = read_result(folder_of(planted / "runs", jobs) / "found").read(DiscoverySummary).summary.cost.total
    rows, _ = read_rows(jobs, {}, None)
    bound, without = (costs(one, rows, {})["found"].count.token_layers for one in (jobs, plan(manifest_of(planted))))
    assert spent <= bound <= 1.7 * budget  # on held-out examples edges are tested beyond it
    assert found.summary.cost.total <= without


def test_mistakes_are_told_by_line(tmp_path):
    for more, text in (
        ({"metric": "kl"}, "kl, which has no sign to test"),
        ({"positions": ["first"]}, "no position 'first'"),
        ({"budget": {}}, "one of token_layers and minutes"),
        ({"budget": {"minutes": 1, "token_layers": 1}}, "one of token_layers and minutes"),
        ({"effect": 0}, "effect"),
    ):
        with pytest.raises(ManifestError, match=text):
            manifest_of(tmp_path, **more)


def test_nodes_form_groups_by_position_and_profile():
    profiles = {
        Node(Head(4, 0), "last"): [-0.5, 0.0, -0.4],
        Node(Head(4, 1), "last"): [-0.05, 0.0, -0.05],
        Node(Head(3, 0), "last"): [0.0, -0.6, 0.0],
        Node(Head(3, 1), "last"): [0.0, 0.001, 0.0],
        Node(Head(2, 1), "other"): [-0.5, 0.0],
        Node(Mlp(2), "last"): [-0.5],
        Node(Head(2, 2), "last"): [0.001, 0.0, 0.0],
    }
    groups = grouped(profiles, 0.02, 0.7, {"last_1"}, 2)
    assert {group.name: group.parts for group in groups} == {
        "last_2": (Head(4, 0), Head(4, 1)),
        "last_3": (Head(3, 0),),
        "last_4": (Head(3, 1), Head(2, 2)),
        "other_1": (Head(2, 1),),
        "last_mlps_1": (Mlp(2),),
    }


def test_branches_go_to_earlier_positions_alone():
    group = Group("b_1", "b", "heads", (Head(2, 0),), 1)
    ends = [(one.via, one.at) for one in branches_of(group, ("a", "b", "c"), lambda *_: False)]
    assert ends == [("query", "b"), ("key", "a"), ("key", "b"), ("value", "a"), ("value", "b")]
    assert len(branches_of(group, ("a", "b", "c"), lambda *pair: set(pair) == {"a", "b"})) == 3


def test_edges_that_lead_nowhere_are_no_part_of_the_graph():
    nodes = [Node(Head(layer, 0), "last") for layer in range(4)]
    into = {name: Branch(name, "query", "last") for name in ("a", "b")}
    logits = Branch("logits", None, "last")
    edges = [Edge(nodes[3], logits), Edge(nodes[2], into["a"]), Edge(nodes[1], into["b"]), Edge(nodes[0], into["a"])]
    groups = {nodes[3]: "a", nodes[2]: "c", nodes[1]: "d", nodes[0]: "b"}
    assert connected(edges, groups) == set(edges)
    assert connected(edges[:3], groups) == set(edges[:2])
    assert connected(edges[1:], groups) == set()


def test_heads_are_patched_alone_where_halves_of_their_layers_move_an_answer(found):
    names = ("per_example", "reach", "halves", "in_half")
    each, reach, halves, half = (found.scores[f"last_1.query.last.{name}"] for name in names)
    (branch,) = [one for one in found.summary.branches if one.name == "last_1.query.last"]
    assert halves.shape == (8, 16) == (branch.halves, 16)  # two of each of four layers, on the first examples
    moving = {number for number in range(8) if halves[number].abs().mean() > 0.001}
    assert moving == {int(half[3, 0])}  # where the transmitter is
    assert branch.cleared == 7
    run = ~each[:4].isnan().all(-1)
    sampled = {str(Head(*where)) for where in run.nonzero().tolist() if int(half[tuple(where)]) not in moving}
    assert {*branch.sampled} == sampled
    assert len(sampled) == 4
    assert branch.tested == 8 == int(run.sum())
    assert not each[~reach].any()
    assert torch.equal(found.scores["last_1.query.last.p"].isnan(), ~reach)


def test_what_16_examples_decide_is_not_run_on_more(found):
    """A head that matters in every prompt is sure of its place at once; one that marks one segment of seven is not."""
    run = (~found.scores["last_1.query.last.per_example"][3].isnan()).sum(-1)
    assert set(run.tolist()) == {0, 16}
    (branch,) = [one for one in found.summary.branches if one.name == "query_label_1.key.previous_query_label"]
    each = found.scores[f"{branch.name}.per_example"][0]
    assert {int((~each[int(name[3:])].isnan()).sum()) for name in branch.candidates} <= {32, 48}


def test_networkx_reads_what_is_exported(found, tmp_path):
    networkx = pytest.importorskip("networkx")
    paths = {path.name: path for path in export([found], tmp_path)}
    text = json.loads(paths["found.graph.json"].read_text())
    graphs = networkx.node_link_graph(text, edges="edges"), networkx.read_graphml(paths["found.graphml"])
    nodes = {f"{node.node}@{node.at}": node.group for node in found.summary.nodes}
    for graph in graphs:
        assert graph.is_directed()
        assert {name: data["group"] for name, data in graph.nodes(data=True) if name != "logits"} == nodes
        assert all(networkx.has_path(graph, name, "logits") for name in nodes)
        into = [data for one, other, data in graph.edges(data=True) if (one, other) == ("L3H0@last", "L4H1@last")]
        (edge,) = [one for one in found.summary.graph if (one.node, one.into) == ("L3H0", "last_1")]
        assert [(one["via"], one["score"]) for one in into] == [("query", pytest.approx(edge.score))]
    assert sorted(map(str, graphs[0].edges())) == sorted(map(str, graphs[1].edges()))


def test_a_graph_is_exported_as_json_and_graphml(found, tmp_path):
    paths = {path.name: path for path in export([found], tmp_path)}
    graph = json.loads(paths["found.graph.json"].read_text())
    ids = {node["id"] for node in graph["nodes"]}
    assert ids == {"logits"} | {f"{node.node}@{node.at}" for node in found.summary.nodes}
    assert {edge[end] for edge in graph["edges"] for end in ("source", "target")} <= ids
    said = {(edge["source"], edge["target"], edge["via"]) for edge in graph["edges"]}
    assert ("L3H0@last", "L4H1@last", "query") in said  # into the group of both
    assert ("L4H1@last", "logits", "") in said
    space = "{http://graphml.graphdrawing.org/xmlns}"
    root = ElementTree.fromstring(paths["found.graphml"].read_bytes())
    edges = root.findall(f".//{space}edge")
    assert len(edges) == len(graph["edges"])
    key = next(one.get("id") for one in root.findall(f"{space}key") if one.get("attr.name") == "score")
    scores = {one.text for edge in edges for one in edge.findall(f"{space}data") if one.get("key") == key}
    assert scores == {str(edge["score"]) for edge in graph["edges"]}


def test_two_graphs_are_compared_by_nodes_and_edges(found):
    fewer = found.header.model_copy(update={"summary": json.loads(json.dumps(found.header.summary))})
    gone = next(edge for edge in fewer.summary["edges"] if edge["node"] == "L3H0")
    gone["in_graph"] = False
    fewer.summary["nodes"] = [node for node in fewer.summary["nodes"] if node["node"] != "L3H0"]
    (group,) = [group for group in fewer.summary["groups"] if group["nodes"] == ["L3H0"]]
    group["nodes"], group["dropped"] = [], ["L3H0"]
    other = Study("d", (type(found)(fewer, found.scores, DiscoverySummary.read(fewer)),), ())
    members = {one.group: one for one in difference(Study("d", (found,), ()), other).members}
    assert members["nodes at last"].only_a == ("L3H0",)
    assert {"L4H0", "L4H1"} == {*members["nodes at last"].both}
    assert members["group last_2"].only_a == ("L3H0",)
    assert members["edges from last into the query at last"].only_a == ("L3H0",)
    assert members["edges from last into logits"].only_a == ()


def test_groups_of_two_graphs_are_compared_with_those_that_share_their_nodes(found):
    renamed = json.loads(json.dumps(found.header.summary).replace("last_1", "last_9"))
    header = found.header.model_copy(update={"summary": renamed})
    other = Study("d", (type(found)(header, found.scores, DiscoverySummary.read(header)),), ())
    members = {one.group: one for one in difference(Study("d", (found,), ()), other).members}
    assert {*members["group last_1 | last_9"].both} == {"L4H0", "L4H1"}
    assert not any(one.only_a or one.only_b for one in members.values())


def test_of_many_probes_that_differ_the_largest_are_shown_behind_what_the_graph_lost(found):
    changed = json.loads(json.dumps(found.header.summary))
    probes = [probe for branch in changed["branches"] for probe in branch["probes"]]
    for number, probe in enumerate(probes):
        probe["score"] += 1 + number
    changed["nodes"] = changed["nodes"][1:]
    header = found.header.model_copy(update={"summary": changed})
    other = Study("d", (type(found)(header, found.scores, DiscoverySummary.read(header)),), ())
    several = difference(Study("d", (found,), ()), other)
    tables = {table.title: table for table in difference_tables(several, top=3)}
    assert [*tables] == ["head by head: membership", "metric by metric", "metrics with many values"]
    assert [row[2] for row in tables["metric by metric"].rows] == ["nodes"]
    assert [row[-1] for row in tables["metrics with many values"].rows] == [
        f"{number:+.4g}" for number in (len(probes), len(probes) - 1, len(probes) - 2)
    ]
    assert f"found: {len(probes)} of probe_effect differ." in tables["metrics with many values"].note
    assert len(several.metrics) == len(probes) + 1 > 100
