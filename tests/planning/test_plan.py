from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from nnsight_et.core.circuit import Circuit, Head, HeadGroup
from nnsight_et.core.errors import ManifestError, TaskError
from nnsight_et.manifest import load, parse
from nnsight_et.models.catalog import KNOWN_MODELS
from nnsight_et.planning.plan import Plan, digest, plan, senders

TEXT = """\
name: study
task: {kind: boxes, boxes: 5}
experiments:
  table1: {method: faithfulness, circuit: found, models: [llama-tiny, float-tiny]}
  found:
    method: path_patching
    model: llama-tiny
    stages:
      - {group: a, into: logits, at: last, keep: 4, receivers: 2}
      - {group: b, into: a, via: query, at: last, keep: 4}
"""
TINY = KNOWN_MODELS["llama-tiny"].shape
CIRCUIT = Circuit((HeadGroup("a", "last", (Head(1, 2), Head(0, 3))),))


def planned(old: str = "", new: str = "") -> Plan:
    assert old in TEXT
    return plan(parse(TEXT.replace(old, new), "study.yaml"))


def with_file(folder: Path, circuit: str, name: str = "circuit.json") -> Plan:
    (folder / name).write_text(circuit)
    (folder / "study.yaml").write_text(TEXT.replace("circuit: found", f"circuit: {name}"))
    return plan(load(folder / "study.yaml"))


def test_a_job_comes_after_the_jobs_it_needs_whatever_the_order_of_the_text():
    assert [job.name for job in planned().jobs] == ["found", "table1"]
    assert planned().job("table1").needs == ("found",)
    assert planned().job("table1").need_ids == (planned().job("found").id,)


def test_only_what_is_asked_for_and_what_it_needs_is_chosen():
    assert [job.name for job in planned().selected_jobs(["found"])] == ["found"]
    assert [job.name for job in planned().selected_jobs(["table1"])] == ["found", "table1"]
    with pytest.raises(ManifestError, match=r"--only fuond: .* did you mean 'found'"):
        planned().selected_jobs(["fuond"])


@pytest.mark.parametrize(
    "new",
    ["device: cpu\n", "device: 'cuda:1'\n", "memory: 2GiB\n", "seed: 0\n", "engine: default\n", "models: {}\n"],
)
def test_an_id_does_not_depend_on_where_and_how_or_on_defaults_written_out(new):
    assert planned("name: study\n", f"name: study\n{new}").digest == planned().digest


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("name: study\n", "name: study\nseed: 1\n"),
        ("name: study\n", "name: study\nengine: reference\n"),
        ("name: study\n", "name: study\ndtype: float64\n"),
        ("name: study\n", "name: study\nattention: eager\n"),
        ("name: study\n", "name: study\nmodels: {llama-tiny: {path: org/other}}\n"),
        ("boxes: 5", "boxes: 6"),
        ("boxes: 5", "boxes: 2, objects: [a, b, c, d]"),
        ("receivers: 2", "receivers: 3"),
        ("model: llama-tiny", "model: goat-tiny"),
        ("via: query", "via: key"),
        ("model: llama-tiny", "model: llama-tiny\n    examples: 299"),
    ],
)
def test_an_id_depends_on_what_is_computed_and_so_do_the_ids_of_jobs_that_need_it(old, new):
    before, after = planned(), planned(old, new)
    assert all(after.job(name).id != before.job(name).id for name in ("found", "table1"))
    assert after.digest != before.digest


def test_a_job_keeps_its_id_under_another_name_and_when_others_change():
    renamed = plan(parse(TEXT.replace("found", "renamed"), "study.yaml"))
    assert [job.id for job in renamed.jobs] == [job.id for job in planned().jobs]
    assert renamed.digest != planned().digest
    changed = planned("float-tiny", "goat-tiny")
    assert changed.job("found").id == planned().job("found").id
    assert changed.job("table1").id != planned().job("table1").id


def test_ids_are_the_same_in_another_process_with_another_hash_seed():
    code = "from nnsight_et.manifest import parse; from nnsight_et.planning.plan import plan; "
    code += f"print(plan(parse({TEXT!r}, '')).digest)"
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "7"}
    )
    assert printed.stdout.strip() == planned().digest


def test_a_circuit_from_a_file_counts_by_its_content(tmp_path: Path):
    first = with_file(tmp_path, CIRCUIT.to_json())
    assert first.job("table1").circuits == {"circuit.json": CIRCUIT}
    assert first.job("table1").needs == ()
    assert with_file(tmp_path, CIRCUIT.to_json(), "other.json").job("table1").id == first.job("table1").id
    assert with_file(tmp_path, CIRCUIT.to_json().replace("L1H2", "L1H3")).job("table1").id != first.job("table1").id


def test_a_circuit_can_be_read_from_a_result(tmp_path: Path):
    folder = tmp_path / "result"
    folder.mkdir()
    (folder / "result.json").write_text(json.dumps({"summary": {"circuit": CIRCUIT.to_dict()}}))
    (tmp_path / "study.yaml").write_text(TEXT.replace("circuit: found", "circuit: ./result"))
    assert plan(load(tmp_path / "study.yaml")).job("table1").circuits == {"./result": CIRCUIT}


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "is not JSON"),
        ("[" * 100_000, "is nested too deep"),
        ("[]", "not a circuit"),
        (CIRCUIT.to_json().replace("L1H2", "1.2"), "is not the name of a head"),
        (CIRCUIT.to_json().replace('"last"', '"lats"'), "did you mean 'last'"),
        (CIRCUIT.to_json().replace("L1H2", "L1H99"), "has L1H99; the model has"),
    ],
)
def test_a_circuit_file_that_does_not_fit_is_refused_by_name(tmp_path: Path, text, part):
    with pytest.raises((ManifestError, TaskError)) as raised:
        with_file(tmp_path, text)
    assert part in str(raised.value)
    assert str(raised.value).startswith("study.yaml:4: experiments.table1.circuit: circuit.json: ")


def test_a_circuit_file_that_is_not_there_is_refused(tmp_path: Path):
    (tmp_path / "study.yaml").write_text(TEXT.replace("circuit: found", "circuit: none.json"))
    with pytest.raises(ManifestError, match=r"no file .*none\.json"):
        plan(load(tmp_path / "study.yaml"))


def test_folders_beside_the_manifest_are_found_and_hub_ids_are_left_alone(tmp_path: Path):
    (tmp_path / "weights").mkdir()
    models = "models: {mine: {path: weights, adapter: org/adapter, dtype: float64}}\n"
    (tmp_path / "study.yaml").write_text(TEXT.replace("model: llama-tiny", "model: mine") + models)
    choice = plan(load(tmp_path / "study.yaml")).job("found").models[0]
    assert choice.spec.path == str(tmp_path / "weights")
    assert choice.spec.adapter == "org/adapter"
    assert choice.dtype == "float64"
    assert str(tmp_path) not in json.dumps(choice.identity)


def test_senders_are_counted_where_the_shape_is_known():
    assert senders(planned().job("found")) == (2 * TINY.n_layers - 1) * TINY.n_heads
    assert senders(planned().job("table1")) is None
    assert senders(planned("model: llama-tiny", "model: org/name").job("found")) is None


def test_a_digest_ignores_the_order_of_keys_and_nothing_else():
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1})
    others = ({"a": 1}, {"a": 2}, {"a": "1"}, {"a": [1]}, {"b": 1}, {"a": 1.5}, {"a": None})
    assert len({digest(value) for value in others}) == len(others)
    with pytest.raises(ValueError, match="not JSON"):
        digest({"a": float("nan")})


def test_planning_imports_no_torch():
    code = "import sys, nnsight_et.planning.plan; print('torch' in sys.modules)"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert printed.stdout.strip() == "False"
