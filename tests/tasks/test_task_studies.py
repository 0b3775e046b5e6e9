"""The shipped manifests of IOI and greater-than: as et init writes them, and run from end to end on GPT-2's shape."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from nnsight_et.core.batch import Example, Pair, collate
from nnsight_et.core.errors import ManifestError
from nnsight_et.manifest import PathPatching, load, parse
from nnsight_et.manifest.one_method import SingleMethod
from nnsight_et.manifest.schema import MODELINE
from nnsight_et.manifest.template import METHODS, STUDIES, InitOptions, render_manifest
from nnsight_et.planning.plan import plan
from nnsight_et.results.headers import folder_of
from nnsight_et.results.store import Result, read_result
from nnsight_et.tasks.colored_objects import ColoredObjects
from nnsight_et.tasks.greater_than import GreaterThan
from nnsight_et.tasks.ioi import IOI
from tests.helpers import plain_hooks
from tests.helpers.closeness import assert_near
from tests.helpers.commands import ROOT, et
from tests.helpers.gpt2_study import saved, tokenizer

USED = ("path_patching", "minimality", "faithfulness", "completeness", "knockout", "attention_patterns", "attribution")
LAYERS, HEADS, PAIRS = 6, 6, 2
ON_THE_CIRCUIT = [f"experiments.{name}.circuit=circuit" for name in ("complete", "looks")]  # minimality leaves no head


def manifest(kind: str) -> Path:
    return ROOT / "examples" / f"{kind}.yaml"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("gpt2"), LAYERS, HEADS)


@pytest.fixture(scope="module", params=STUDIES)
def found(request: pytest.FixtureRequest, model: Path, tmp_path_factory) -> tuple[str, dict[str, Result]]:
    """A task, and what `et run` finds with its shipped manifest on that model."""
    name = STUDIES[request.param].model[0]
    out, settings = tmp_path_factory.mktemp("runs"), [f"models.{name}.path={model}", *ON_THE_CIRCUIT]
    given = [word for setting in settings for word in ("--set", setting)]
    done = et("run", manifest(request.param), *given, "--limit", PAIRS, "--out", out, "--quiet")
    assert done.exit_code == 0, done.output
    folder = folder_of(out, plan(load(manifest(request.param), settings).with_limit(PAIRS)))
    assert (folder / "report.html").is_file()
    return request.param, {one.name: read_result(one) for one in folder.iterdir() if one.is_dir()}


def test_the_shipped_manifest_runs_from_end_to_end(found: tuple[str, dict[str, Result]]):
    kind, results = found
    assert {result.header.job.spec.method for result in results.values()} == set(USED)
    assert all(result.header.self_check.on for result in results.values())
    assert {result.header.job.task.kind for result in results.values()} == {kind}
    circuit = results["circuit"].header.summary["circuit"]
    assert [group["name"] for group in circuit["groups"]] == [stage["group"] for stage in STUDIES[kind].stages]
    edges = [(row["blind"], row["to"]) for row in results["blind"].header.summary["rows"]]
    assert edges == list(STUDIES[kind].edges)


def _logit_difference(logits: Tensor, example: Example) -> float:
    return (logits[example.answer] - logits[list(example.foils)].mean()).item()


def _probability_difference(logits: Tensor, example: Example) -> float:
    p = logits.softmax(-1)
    return (p[[example.answer, *example.also_right]].sum() - p[list(example.foils)].sum()).item()


VALUES = {
    "ioi": _logit_difference, "greater_than": _probability_difference, "colored_objects": _logit_difference,
}  # fmt: skip


def logits_by_hooks(module, pair: Pair, senders: list, path: tuple) -> tuple[Tensor, Tensor]:
    """[batch, vocabulary] at the last token of the base run, and [sender, batch, vocabulary] of the patched ones."""
    z = plain_hooks.head_outputs(module, pair.base), plain_hooks.head_outputs(module, pair.source)
    patched = plain_hooks.patched_logits(module, pair, z, senders, path)
    base = plain_hooks.run_model(module, pair.base.tokens, pair.base.mask)
    row, last = torch.arange(len(base)), pair.base.positions["last"]
    return base[row, last], patched.unflatten(0, (len(senders), -1))[:, row, last]


def test_scores_of_every_stage_agree_with_plain_hooks(found: tuple[str, dict[str, Result]], model: Path):
    kind, results = found
    task = {"ioi": IOI(templates=1), "greater_than": GreaterThan(), "colored_objects": ColoredObjects()}[kind]
    examples = task.examples(tokenizer(), PAIRS, 20, "discovery")
    pair = collate(examples, 0)
    module, circuit = AutoModelForCausalLM.from_pretrained(model), results["circuit"]
    for stage, row in zip(STUDIES[kind].stages, circuit.header.summary["stages"], strict=True):
        receivers = [(int(name[1 : name.index("H")]), int(name[name.index("H") + 1 :])) for name in row["receivers"]]
        score = circuit.scores[f"{stage['group']}.score"]
        top = max((layer for layer, _ in receivers), default=LAYERS)
        senders = [(0, 1), (0, 4), (top - 1, 2)]
        base, patched = logits_by_hooks(module, pair, senders, (receivers, stage.get("via"), stage["at"]))
        values = [torch.tensor([VALUES[kind](*row) for row in zip(some, examples, strict=True)]) for some in patched]
        whole = torch.tensor([VALUES[kind](*row) for row in zip(base, examples, strict=True)])
        expected = torch.stack([(one - whole).mean() for one in values])
        assert expected.abs().max() > 1e-4, stage
        measured = torch.stack([score[sender] for sender in senders]).float()
        assert_near(measured, expected, size=1, dtype=torch.float32)


@pytest.mark.parametrize("kind", STUDIES)
def test_the_shipped_manifest_is_what_init_writes(kind: str, tmp_path: Path):
    text = manifest(kind).read_text()
    assert text.splitlines()[0] == MODELINE.replace("manifest.schema", "../manifest.schema")
    wanted = render_manifest(InitOptions(task=kind, methods=USED, name=kind))
    assert text.split("\n", 1)[1] == wanted.split("\n", 1)[1]
    done = et("init", tmp_path / "a.yaml", "--task", kind, "--methods", ",".join(USED))
    assert done.exit_code == 0
    assert (tmp_path / "a.yaml").read_text() == wanted.replace(f"name: {kind}", "name: a")
    assert plan(load(tmp_path / "a.yaml")).jobs


@pytest.mark.parametrize("kind", STUDIES)
def test_init_writes_every_method_that_the_task_has_for_any_model(kind: str):
    swaps = STUDIES[kind].desiderata
    methods = [name for name, spec in METHODS.items() if swaps or not spec.needs_desiderata]
    own, hub_id = STUDIES[kind].model
    for model, name in (("org/some-model", "org/some-model"), (hub_id, own), (None, own)):
        made = parse(render_manifest(InitOptions(model, "org/tuned", methods=methods, task=kind)), "written")
        assert {spec.method for spec in made.experiments.values()} == set(methods)
        circuit = made.experiments["circuit"]
        assert isinstance(circuit, PathPatching)
        assert circuit.model == name
        assert made.task.kind == kind
        assert plan(made).jobs


@pytest.mark.parametrize(
    ("wishes", "message"),
    [
        (InitOptions(task="io"), "--task: no task 'io'; did you mean 'ioi'? accepted: boxes, ioi, greater_than, col"),
        (InitOptions(task="ioi", boxes=3), "--boxes 3: the task ioi has no boxes; accepted: --boxes with --task boxes"),
        (InitOptions(task="greater_than", methods=("dcm",)),
         "--methods dcm: it needs a task with desiderata, such as boxes or ioi; accepted"),
    ],
)  # fmt: skip
def test_wishes_that_the_task_cannot_meet_are_refused(wishes: InitOptions, message: str):
    with pytest.raises(ManifestError) as error:
        render_manifest(wishes)
    assert str(error.value).startswith(message)


def test_a_single_method_takes_the_stages_of_its_task():
    made = SingleMethod(0, 7, settings=["task={kind: ioi}"]).path_patching("org/model", [])
    circuit = made.experiments["circuit"]
    assert isinstance(circuit, PathPatching)
    assert [stage.group for stage in circuit.stages] == ["name_mover", "s_inhibition", "induction", "previous_token"]
    assert (circuit.stages[0].keep, circuit.stages[0].receivers) == (10, 3)


def test_what_the_heads_of_ioi_carry_is_found_patched_and_put_into_another_model(model: Path, tmp_path: Path):
    (tmp_path / "roles.yaml").write_text(f"""
name: roles
task: {{kind: ioi, templates: 1}}
models:
  one: {{path: {model}}}
  two: {{path: {model}, dtype: float64}}
experiments:
  circuit:
    method: path_patching
    model: one
    examples: 4
    stages: [{{group: name_mover, into: logits, at: last, keep: 4}}]
  roles:
    method: dcm
    circuit: circuit
    desiderata: [name, position, duplicate]
    training_examples: 20
    batch: 4
    validation_examples: 4
    test_examples: 6
  functions: {{method: activation_patching, roles: roles, models: [one, two], examples: 4, draws: 2}}
  across:
    {{method: cmap, donor: two, recipient: one, circuit: circuit, roles: roles, main_role: {{name_mover: name}},
      examples: 4, random_sets: 1}}
""")
    done = et("run", tmp_path / "roles.yaml", "--out", tmp_path / "runs", "--quiet")
    assert done.exit_code == 0, done.output
    (folder,) = (one for one in (tmp_path / "runs" / "roles").iterdir() if one.is_dir())
    rows = read_result(folder / "functions").header.summary["rows"]
    assert {row["desideratum"] for row in rows} == {"name", "position", "duplicate"}
    assert all(read_result(folder / name).header.self_check.on for name in ("roles", "functions", "across"))
