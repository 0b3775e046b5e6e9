from __future__ import annotations

import pytest

from nnsight_et.core.errors import ManifestError
from nnsight_et.manifest import CMAP, BoxesTask, PathPatching
from nnsight_et.manifest.methods.activation_patching import ActivationPatching
from nnsight_et.manifest.one_method import STAGE, SingleMethod
from nnsight_et.planning.plan import plan, senders
from tests.helpers.commands import et

SETTING = SingleMethod(seed=3, boxes=5, examples=40)


def test_the_default_stages_are_the_papers_for_its_models_and_smaller_for_others():
    large, small = (SETTING.path_patching(model, ()).experiments["circuit"] for model in ("goat", "goat-tiny"))
    assert isinstance(large, PathPatching)
    assert isinstance(small, PathPatching)
    assert [(stage.keep, stage.receivers) for stage in large.stages] == [(58, 20), (10, 5), (25, 10), (5, None)]
    assert [stage.at for stage in large.stages] == ["last", "last", "query_label", "previous_query_label"]
    assert all(mine.keep < papers.keep for mine, papers in zip(small.stages, large.stages, strict=True))
    assert senders(plan(SETTING.path_patching("llama", ())).jobs[0]) == (32 + 31 + 30 + 29) * 32


def test_stages_and_settings_are_those_that_are_given():
    stage = "{group: a, into: logits, at: last, keep: 3}"
    manifest = SingleMethod(3, 5, None, ["engine=reference"]).path_patching("llama-tiny", [stage])
    circuit = manifest.experiments["circuit"]
    assert isinstance(circuit, PathPatching)
    assert (circuit.examples, len(circuit.stages)) == (300, 1)
    assert (manifest.seed, manifest.task, manifest.engine) == (3, BoxesTask(boxes=5), "reference")


@pytest.mark.parametrize(
    ("stage", "part"),
    [
        ("{group: a", "--stage 1: not YAML"),
        ("{group: a, into: logits, at: last}", "et path-patch: --stage 1.keep: missing"),
        ("a", "--stage 1: found 'a'"),
    ],
)
def test_a_stage_that_cannot_be_read_is_refused(stage: str, part: str):
    with pytest.raises(ManifestError) as raised:
        SETTING.path_patching("llama-tiny", [stage])
    assert str(raised.value).startswith(part) or f": {part}" in str(raised.value)


def test_a_circuit_that_is_not_named_is_shipped_with_the_model_or_is_found_first():
    papers = plan(SETTING.cmap("goat", "llama"))
    assert [job.name for job in papers.jobs] == ["cmap"]
    assert isinstance(spec := papers.jobs[0].spec, CMAP)
    assert (spec.circuit, spec.roles, spec.examples) == ("published/goat", "published/goat", 40)

    (tiny,) = plan(SETTING.cmap("goat-tiny", "llama-tiny")).jobs
    assert isinstance(tiny.spec, CMAP)
    assert (tiny.spec.circuit, tiny.spec.roles) == ("embedded/goat-tiny", "embedded/goat-tiny")
    assert [choice.name for choice in tiny.models] == ["goat-tiny", "llama-tiny"]

    own = plan(SETTING.cmap("vicuna-tiny", "llama-tiny"))
    assert [job.name for job in own.jobs] == ["circuit", "roles", "cmap"]
    assert own.job("circuit").models[0].name == "vicuna-tiny"

    assert [job.name for job in plan(SingleMethod(3, 5).dcm("llama", None, ["object"])).jobs] == ["roles"]


def test_evaluation_also_measures_what_is_asked_for_on_every_model():
    manifest = SETTING.evaluation("published/llama", ["llama", "goat"], ["completeness"])
    assert list(manifest.experiments) == ["faithfulness", "completeness_1", "completeness_2"]
    assert all(job.spec.model_dump()["examples"] == 40 for job in plan(manifest).jobs)


def test_published_circuits_can_be_compared_without_a_model():
    (job,) = plan(SingleMethod(0, 7).comparison("published/llama", "published/goat", "published/goat")).jobs
    assert not job.models
    with pytest.raises(ManifestError, match="published/lama"):
        SingleMethod(0, 7).comparison("published/lama", "published/goat", None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("path-patch", "--model", "lama-tiny"), "--model: no model named 'lama-tiny'; did you mean 'llama-tiny'?"),
        (("path-patch", "--model", "llama-tiny", "--boxes", 40), "--boxes: 40 boxes need 81 letters"),
        (
            ("path-patch", "--model", "llama-tiny", "--stage", STAGE.replace("last", "lst")),
            "--stage 1.at: no position 'lst'",
        ),
        (("evaluate", "a.json", "--models", "llama-tiny,goatx"), "--models: no model named 'goatx'"),
        (
            ("dcm", "--model", "llama-tiny", "--desiderata", "objec"),
            "--desiderata: found 'objec'; did you mean 'object'?",
        ),
        (("cmap", "--src", "goat-tiny", "--dst", "lama-tiny"), "--dst: no model named 'lama-tiny'"),
        (("knockout", "--model", "llama-tiny", "--examples", 9999999), "--examples: found 9999999"),
        (("knockout", "--model", "llama-tiny", "--memory", 3), "--memory 3: found 3; accepted: a size with its unit"),
        (("knockout", "--model", "llama-tiny", "--device", "gpu"), "--device gpu: found 'gpu'; accepted: auto, cpu"),
        (("compare", "published/llam", "published/goat"), "A: no shipped circuit 'published/llam'"),
        (
            ("knockout", "--model", "llama-tiny", "--set", "experiments.knockout.examples=-1"),
            "--set experiments.knockout.examples=-1: experiments.knockout.examples: found -1",
        ),
    ],
)
def test_a_mistake_is_told_in_the_words_of_the_command(arguments: tuple, message: str, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused = et(*arguments)
    assert refused.exit_code == 2
    assert message in refused.stderr
    assert ("experiments." in refused.stderr) == ("--set" in arguments)


@pytest.mark.parametrize(
    ("task", "boxes", "settings", "carried"),
    [
        ("boxes", 7, [], ("object", "label", "position")),
        ("boxes", 2, ["experiments.carries.draws=1"], ("object", "label")),  # no third box to ask for
        ("ioi", 7, [], ("name", "position", "duplicate")),
        ("greater_than", 7, [], None),
        ("boxes", 7, ["task={kind: colored_objects}"], None),
    ],
)
def test_discover_says_what_groups_carry_where_the_task_has_desiderata(task, boxes, settings, carried):
    manifest = SingleMethod(3, boxes, 40, settings).discovery("llama-tiny", task)
    names = ["discovered", "faithfulness", "looks"]
    assert list(manifest.experiments) == names + (["carries"] if carried else [])
    one = manifest.experiments.get("carries")
    assert one is None or isinstance(one, ActivationPatching)
    assert (one and one.desiderata) == carried
    assert plan(manifest).jobs[-1].needs == ("discovered",)
