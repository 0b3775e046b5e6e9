from __future__ import annotations

from pathlib import Path

import pytest

from nnsight_et.core.errors import ManifestError, accepted_names
from nnsight_et.manifest import DCM, Faithfulness, PathPatching, load, parse
from nnsight_et.models.catalog import KNOWN_MODELS

TEXT = """\
name: study
seed: 3
task: {kind: boxes, boxes: 7}
experiments:
  circuit:
    method: path_patching
    model: llama-tiny
    examples: 30
    stages:
      - {group: value_fetcher, into: logits, at: last, keep: 8, receivers: 4}
      - {group: position_transmitter, into: value_fetcher, via: query, at: last, keep: 6, receivers: 3}
      - {group: position_detector, into: position_transmitter, via: value, at: query_label, keep: 6}
  table1:
    method: faithfulness
    circuit: circuit
    models: [llama-tiny, goat-tiny]
"""


TINY = KNOWN_MODELS["llama-tiny"].shape
ALL = TINY.n_layers * TINY.n_heads


def problem(old: str, new: str, text: str = TEXT) -> str:
    """The message about TEXT with `old` replaced by `new`."""
    assert old in text
    with pytest.raises(ManifestError) as raised:
        parse(text.replace(old, new, 1), "study.yaml")
    return str(raised.value)


def test_a_manifest_has_every_default_filled_in():
    manifest = parse(TEXT, "study.yaml")
    circuit, table = manifest.experiments["circuit"], manifest.experiments["table1"]
    assert isinstance(circuit, PathPatching)
    assert [stage.receivers for stage in circuit.stages] == [4, 3, None]
    assert isinstance(table, Faithfulness)
    assert (table.examples, table.ablation_examples, table.random_circuits) == (500, 500, 10)
    assert (manifest.engine, manifest.dtype, manifest.device, manifest.attention) == (
        "default",
        "float32",
        "auto",
        "sdpa",
    )
    assert table.needs == ("circuit",)
    assert circuit.needs == ()


@pytest.mark.parametrize(
    ("old", "new", "place", "parts"),
    [
        ("examples: 30", "exampels: 30", "8: experiments.circuit.exampels", ["no key 'exampels'", "mean 'examples'"]),
        ("seed: 3", "sede: 3", "2: sede", ["no key 'sede'", "mean 'seed'"]),
        ("keep: 8", "kep: 8", "10: experiments.circuit.stages.0.kep", ["mean 'keep'"]),
        ("examples: 30", "examples: many", "8: experiments.circuit.examples", ["'many'", "accepted: a whole number"]),
        ("examples: 30", "examples: '30'", "8: experiments.circuit.examples", ["found '30'"]),
        ("examples: 30", "examples: true", "8: experiments.circuit.examples", ["found True"]),
        ("examples: 30", "examples: 0", "8: experiments.circuit.examples", ["found 0", "accepted: 1 or more"]),
        ("seed: 3", "seed: -1", "2: seed", ["found -1"]),
        ("method: faith", "method: faiht", "14: experiments.table1.method", ["mean 'faithfulness'", "path_patching"]),
        ("    method: faithfulness\n", "", "13: experiments.table1.method", ["missing"]),
        ("    model: llama-tiny\n", "", "5: experiments.circuit.model", ["missing"]),
        ("circuit: circuit", "circuit: circut", "15: experiments.table1.circuit", ["named 'circut'", "'circuit'"]),
        ("circuit: circuit", "circuit: table1", "15: experiments.table1.circuit", ["'table1' finds no circuit"]),
        ("model: llama-tiny", "model: lama-tiny", "7: experiments.circuit.model", ["'lama-tiny'", "mean 'llama-tiny'"]),
        ("goat-tiny]", "goat-tniy]", "16: experiments.table1.models.1", ["mean 'goat-tiny'"]),
        ("goat-tiny]", "llama-tiny]", "16: experiments.table1.models.1", ["twice"]),
        ("via: query", "via: qurey", "11: experiments.circuit.stages.1.via", ["mean 'query'", "query, key, value"]),
        ("via: query, ", "", "11: experiments.circuit.stages.1.via", ["missing"]),
        ("into: logits, at", "into: logits, via: query, at", "10: experiments.circuit.stages.0.via", ["logits"]),
        ("into: logits", "into: logit", "10: experiments.circuit.stages.0.into", ["mean 'logits'"]),
        ("into: value_fetcher", "into: position_detector", "11: experiments.circuit.stages.1.into", ["no earlier"]),
        ("into: value_fetcher", "into: position_transmitter", "11: experiments.circuit.stages.1.into", ["no earlier"]),
        ("group: position_transmitter", "group: value_fetcher", "11: experiments.circuit.stages.1.group", ["taken"]),
        ("group: position_transmitter", "group: logits", "11: experiments.circuit.stages.1.group", ["taken"]),
        ("group: value_fetcher", "group: a/b", "10: experiments.circuit.stages.0.group", ["'a/b'", "letters, digits"]),
        ("at: query_label", "at: querylabel", "12: experiments.circuit.stages.2.at", ["mean 'query_label'"]),
        ("query, at: last", "query, at: query_label", "11: experiments.circuit.stages.1.at", ["accepted: last"]),
        ("logits, at: last", "logits, at: query_label", "10: experiments.circuit.stages.0.at", ["accepted: last"]),
        ("keep: 8", f"keep: {ALL + 1}", "10: experiments.circuit.stages.0.keep", [f"{ALL + 1} heads", f"1 to {ALL}"]),
        ("keep: 6, rec", f"keep: {ALL}, rec", "11: experiments.circuit.stages.1.keep", [f"1 to {ALL - TINY.n_heads}"]),
        ("receivers: 4", "receivers: 9", "10: experiments.circuit.stages.0.receivers", ["9 receivers of 8"]),
        (", receivers: 4", "", "10: experiments.circuit.stages.0.receivers", ["missing", "value_fetcher"]),
        ("boxes: 7", "boxes: 13", "3: task.boxes", ["13 boxes need 27 letters, but there are 26", "2 to 12"]),
        ("boxes: 7", "boxes: 1", "3: task.boxes", ["2 to 12"]),
        ("boxes: 7", "boxes: 2, objects: [a, b, c]", "3: task.objects", ["3 objects", "at least 4"]),
        ("boxes: 7", "boxes: 2, objects: [a, b, c, a, d]", "3: task.objects.3", ["'a' appears twice"]),
        ("kind: boxes", "kind: bags", "3: task.kind", ["found 'bags'", "accepted: boxes"]),
        ("seed: 3", "seed: 3\nengine: fast", "3: engine", ["default, reference"]),
        ("seed: 3", "seed: 3\ndtype: float23", "3: dtype", ["mean 'float32'"]),
        ("seed: 3", "seed: 3\ndevice: gpu", "3: device", ["auto, cpu, cuda"]),
        ("seed: 3", "seed: 3\nmemory: lots", "3: memory", ["'lots'", "4GiB"]),
        ("seed: 3", "seed: 3\nmodels: {mine: {pth: x}}", "3: models.mine.pth", ["mean 'path'"]),
        ("name: study", "name: ../study", "1: name", ["letters, digits"]),
        ("name: study", "name: store", "1: name", ["reserved"]),
        ("name: study\n", "", "1: name", ["missing"]),
        ("  table1:", "  table 1:", '13: experiments."table 1"'.replace('"', "'"), ["letters, digits"]),
    ],
)  # fmt: skip
def test_a_problem_is_told_by_line_and_key_with_what_is_accepted(old, new, place, parts):
    message = problem(old, new)
    told = [line for line in message.splitlines() if line.startswith(f"study.yaml:{place}: ")]
    assert len(told) == 1, message
    assert all(part in told[0] for part in parts), message


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        (
            "keep: 8",
            "keep: 8, screen: 0.1",
            "stages.0.screen: found 0.1; accepted: a mapping such as {miss: 0.05}; keys",
        ),
        (
            "seed: 3",
            "seed: 3\nmodels: {mine: org/it}",
            "models.mine: found 'org/it'; accepted: a mapping such as {path: ",
        ),
        (
            "seed: 3",
            "seed: 3\nmodels: [mine]",
            "models: found a list of 1; accepted: a mapping such as {name: {path: ...",
        ),
        ("[llama-tiny, goat-tiny]", "llama-tiny", "models: found 'llama-tiny'; accepted: a list, such as [llama-tiny]"),
        (
            "{kind: boxes, boxes: 7}",
            "{kind: pairs, file: a, find: x, positions: [x]}",
            "task.find: found 'x'; accepted: a m",
        ),
        (
            "{kind: boxes, boxes: 7}",
            "{kind: pairs, file: a, columns: b}",
            "a mapping such as {base: ...}; keys: base, sou",
        ),
        (
            "  table1:",
            "  more: 5\n  table1:",
            "experiments.more: found 5; accepted: a mapping such as {method: ...}; met",
        ),
    ],
)
def test_what_is_no_mapping_or_list_is_shown_one(old: str, new: str, text: str):
    assert text in problem(old, new)


def test_a_text_with_a_line_break_where_a_list_belongs_is_told_in_one_line():
    said = problem("[llama-tiny, goat-tiny]", r'"line\nbreak"')
    assert said.endswith(r"models: found 'line\nbreak'; accepted: a list")


def test_senders_after_their_receivers_are_refused():
    after = TEXT.replace("via: value, at: query_label", "via: value, at: last").replace(
        "into: value_fetcher, via: query, at: last", "into: value_fetcher, via: value, at: query_label"
    )
    with pytest.raises(
        ManifestError, match="after position_transmitter at query_label; accepted: correct_object, prev"
    ):
        parse(after, "study.yaml")


def test_a_cycle_is_told_once_with_its_members():
    text = "name: x\nexperiments:\n"
    for name, needed in (("a", "b"), ("b", "c"), ("c", "a"), ("d", "a")):
        text += f"  {name}: {{method: faithfulness, circuit: {needed}, models: [llama-tiny]}}\n"
    with pytest.raises(ManifestError) as raised:
        parse(text, "x.yaml")
    assert str(raised.value).count("a cycle") == 1
    assert "x.yaml:3: experiments.a: a cycle: a needs b needs c needs a" in str(raised.value)


def test_all_problems_are_told_at_once_in_the_order_of_the_text():
    message = problem("seed: 3", "seed: no\nspeed: 4\nengine: 5")
    assert [line.split(": ")[1] for line in message.splitlines()] == ["seed", "speed", "engine"]


def test_settings_replace_values_and_are_named_in_messages():
    manifest = parse(
        TEXT, "e.yaml", ["experiments.circuit.examples=5", "engine=reference", "experiments.circuit.stages.0.keep=4"]
    )
    circuit = manifest.experiments["circuit"]
    assert isinstance(circuit, PathPatching)
    assert (circuit.examples, manifest.engine, circuit.stages[0].keep) == (5, "reference", 4)
    own = parse(TEXT, "e.yaml", ["models.llama-tiny.path=./weights"])
    assert own.models["llama-tiny"].path == "./weights"


@pytest.mark.parametrize(
    ("setting", "part"),
    [
        ("experiments.circit.examples=5", "no key 'circit' in experiments; did you mean 'circuit'?"),
        ("experiments.circuit.stages.9.keep=5", "no entry 9 in experiments.circuit.stages; accepted: 0 to 2"),
        (
            "experiments.circuit.examples=x",
            "--set experiments.circuit.examples=x: experiments.circuit.examples: found 'x'",
        ),
        ("experiments.circuit.exampels=5", "no key 'exampels'"),
        ("task.boxes.x=5", "neither a mapping nor a list"),
        ("seed", "not a setting; accepted: key.path=value"),
        ("seed=[1", "--set seed=[1: not YAML"),
        ("experiments=3", "found 3; accepted: a mapping"),
    ],
)
def test_a_setting_that_does_not_fit_is_refused(setting, part):
    with pytest.raises(ManifestError) as raised:
        parse(TEXT, "e.yaml", [setting])
    assert part in str(raised.value)
    assert str(raised.value).startswith("--set ")


def test_files_that_are_not_manifests_are_refused(tmp_path: Path):
    (tmp_path / "bytes.yaml").write_bytes(b"name: \xff\xfe")
    for place, part in (
        (tmp_path, "cannot be read"),
        (tmp_path / "none.yaml", "No such file"),
        (tmp_path / "byte.yaml", rf"did you mean '{tmp_path}/bytes\.yaml'"),
        (tmp_path / "bytes.yaml", "UTF-8"),
    ):
        with pytest.raises(ManifestError, match=part):
            load(place)


def test_own_models_and_places_are_accepted_without_being_looked_at():
    text = (
        TEXT.replace("[llama-tiny, goat-tiny]", "[mine, ./folder, org/name, /some/where]")
        + "models: {mine: {path: org/x}}\n"
    )
    assert parse(text, "e.yaml").models["mine"].path == "org/x"


def test_a_quick_look_caps_examples_and_nothing_else():
    limited = parse(TEXT, "e.yaml").with_limit(20)
    assert [limited.experiments[name].model_dump()["examples"] for name in ("circuit", "table1")] == [20, 20]
    assert parse(TEXT, "e.yaml").with_limit(1000).model_dump() == parse(TEXT, "e.yaml").model_dump()


TRAINING = """\
name: x
experiments: {m: {method: dcm, circuit: published/llama, training_examples: 65}}
"""


def trained(text: str, most: int = 1000) -> DCM:
    spec = parse(text, "x").with_limit(most).experiments["m"]
    assert isinstance(spec, DCM)
    return spec


def test_trainings_too_short_to_select_a_head_are_refused_and_a_limit_makes_none():
    """From 1 to 0.5 in steps of 0.1: two epochs of three batches of 32 at most, so 65 pairs or more."""
    assert trained(TRAINING).training_examples == 65
    with pytest.raises(ManifestError) as error:
        parse(TRAINING.replace("65", "64"), "x.yaml")
    text = "x.yaml:2: experiments.m.training_examples: 64 pairs, so 4 steps of 0.1, too few for a mask to get from 1 to"
    assert text in str(error.value)
    assert "accepted: 65 or more, a smaller batch, more epochs or a larger learning_rate" in str(error.value)
    for key in ("epochs: 3", "batch: 25", "learning_rate: 0.2"):
        parse(TRAINING.replace("65", f"64, {key}"), "x")
    few = trained(TRAINING.replace("65", "1000, validation_examples: 15"), 20)
    assert (few.training_examples, few.validation_examples, few.test_examples) == (65, 15, 20)
    assert trained(TRAINING.replace("65", "20, batch: 1"), 3).training_examples == 3
    with pytest.raises(ManifestError, match=r"accepted: \d+ or more"):
        parse(TRAINING.replace("65", "64, learning_rate: 1.0e-320"), "x")


def test_names_that_are_wrong_are_told_beside_keys_and_values_that_are():
    text = """
name: x
seed: 1
task: {kind: boxes, boxes: 7}
experiments:
  a:
    method: path_patching
    model: llama-tny
    stages:
      - {group: value_fetcher, into: logits, at: last, keep: 8, recievers: 4}
      - {group: late, into: value_fetchr, via: query, at: last, keep: 2}
  b: {method: faithfulness, circuit: ab, models: [llama-tiny], examples: many}
  c: {method: faithfulness, circuit: ab, models: [llama-tiny]}
  d: {method: faithfulness, circuit: {value_fetcher: [L5H0]}, models: [llama-tiny]}
"""
    with pytest.raises(ManifestError) as raised:
        parse(text, "mine.yaml")
    said = [line.split(" ", 2)[1:] for line in str(raised.value).splitlines()]
    assert [place for place, _ in said] == [
        "experiments.a.model:", "experiments.a.stages.0.recievers:", "experiments.a.stages.1.into:",
        "experiments.b.examples:", "experiments.c.circuit:", "experiments.d.circuit:",
    ]  # fmt: skip
    assert "a .json file with the heads" in said[-1][1]


def test_the_beginning_of_a_name_means_the_name():
    assert accepted_names("attention", ("attribution", "attention_patterns")).startswith("did you mean 'attention_patt")
    assert accepted_names("at", ("attribution",)) == "accepted: attribution"
