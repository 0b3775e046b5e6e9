"""A first manifest for a study of one's own, with comments that say what to change."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nnsight_et.core.errors import ManifestError, accepted
from nnsight_et.manifest.experiments import METHODS
from nnsight_et.manifest.json_schema import MODELINE
from nnsight_et.manifest.load import parse
from nnsight_et.manifest.own_pairs import NEED_DESIDERATA
from nnsight_et.manifest.single import stages_of
from nnsight_et.manifest.studies import STUDIES, Study

DEFAULT_METHODS = ("path_patching", "minimality", "faithfulness")
TASKS = ("boxes", *STUDIES)
EMBEDDED = "llama-tiny"
TWO_MODELS = ("comparison", "cmap")
FEWEST = 20  # examples
FEWER = (
    "# The numbers of examples below are smaller than usual, to keep a run short on the machine where this was",
    "# written. More of them give narrower intervals.",
)
NO_CIRCUIT = ("knockout", "attribution")
_PLAIN = re.compile(r"[A-Za-z./][A-Za-z0-9._/-]*")


@dataclass(frozen=True)
class Wishes:
    """What the study is to be of."""

    model: str | None = None
    """The model; the embedded one, or that of the task's paper, when None."""
    finetuned: str | None = None
    """A finetuned model of it, for what compares two."""
    boxes: int | None = None
    """How many boxes the boxes task has; 7 when None."""
    methods: Sequence[str] = DEFAULT_METHODS
    name: str = "my-study"
    task: str = "boxes"
    share: float = 1.0
    """How many of the usual number of examples, at most all of them."""

    def has(self, *methods: str) -> bool:
        """Whether one of these methods is wished for."""
        return not set(methods).isdisjoint(self.methods)

    def examples(self, usual: int) -> int:
        """How many examples an experiment has that usually has so many: tens of them, and no fewer than FEWEST."""
        return min(usual, max(FEWEST, int(usual * self.share) // 10 * 10))

    @property
    def circuit(self) -> str:
        """The experiment that gives the circuit the others use."""
        return "minimal" if self.has("minimality") else "circuit"

    @property
    def study(self) -> Study | None:
        """What is known of the task, unless it is the boxes."""
        return STUDIES.get(self.task)

    @property
    def papers_own(self) -> bool:
        """Whether the model is that of the task's paper, which is written under a name of its own."""
        return self.study is not None and self.model in (None, *self.study.model)

    @property
    def pretrained(self) -> str:
        """The model that is meant."""
        if self.study and self.papers_own:
            return self.study.model[0]
        return self.model or EMBEDDED

    @property
    def models(self) -> str:
        """All models, as a list in YAML."""
        return f"[{', '.join(_text(model) for model in (self.pretrained, self.finetuned) if model)}]"


def written(wishes: Wishes) -> str:
    """The text of a manifest, with the experiments the methods need; ManifestError if it would not be accepted."""
    _check(wishes)
    lines = [
        MODELINE,
        "# `et plan` shows what this would run, `et run` runs it, and again continues where it was stopped.",
        f"name: {_text(wishes.name)}",
        "seed: 20",
        *(FEWER if wishes.share < 1 else ()),
        "# device: auto      # auto, cpu, cuda, cuda:0, or balanced over all GPUs",
        "# dtype: float32    # bfloat16 for models that would not fit otherwise",
        "# memory: 4GiB      # for one chunk of work; chosen when absent",
        *_task(wishes),
        "",
        "experiments:",
    ]
    for wanted, of_method in EXPERIMENTS:
        if wanted(wishes):
            lines += [f"  {line}" for line in of_method(wishes)]
    text = "\n".join(lines) + "\n"
    parse(text, "the manifest", lines=False)
    return text


def _check(wishes: Wishes) -> None:
    """Raise ManifestError naming the option that cannot be met."""
    if wishes.task not in TASKS:
        raise ManifestError(f"--task: no task {wishes.task!a}; {accepted(wishes.task, TASKS)}")
    if wishes.study and wishes.boxes is not None:
        raise ManifestError(f"--boxes {wishes.boxes}: the task {wishes.task} has none; accepted: with --task boxes")
    usable = [method for method in METHODS if not (wishes.study and method in NEED_DESIDERATA)]
    for method in wishes.methods:
        if method not in METHODS:
            raise ManifestError(f"--methods: no method {method!a}; {accepted(method, usable)}")
        if method not in usable:
            found = f"it needs the desiderata of the boxes task; accepted for {wishes.task}: {', '.join(usable)}"
            raise ManifestError(f"--methods {method}: {found}")
        if method in TWO_MODELS and wishes.finetuned is None:
            raise ManifestError(f"--methods {method}: it compares two models; accepted: with --finetuned MODEL")
    if not wishes.methods:
        raise ManifestError(f"--methods: none is named; accepted: {', '.join(usable)}")


def _task(wishes: Wishes) -> list[str]:
    """The lines of the task, and of the models that have names of their own."""
    study = wishes.study
    lines = [f"# {study.about}", f"task: {study.task}"] if study else []
    lines = lines or [f"task: {{kind: boxes, boxes: {7 if wishes.boxes is None else wishes.boxes}}}"]
    if study and wishes.papers_own:
        name, hub_id = study.model
        return [*lines, "models: # a hub id, or a folder beside this file", f"  {name}: {{path: {hub_id}}}"]
    return [
        *lines,
        "# models:           # names of your own: a folder beside this file, or a hub id",
        "#   mine: {path: org/some-model, adapter: org/some-lora}",
    ]


def _circuit(wishes: Wishes) -> list[str]:
    about = "# which heads matter, stage by stage from the logits back (section 4.1 of the paper)"
    return [about, *_found("circuit", wishes.pretrained, wishes)]


def _finetuned_circuit(wishes: Wishes) -> list[str]:
    assert wishes.finetuned is not None
    return ["# the same in the finetuned model", *_found("finetuned_circuit", wishes.finetuned, wishes)]


def _found(name: str, model: str, wishes: Wishes) -> list[str]:
    lines = [
        f"{name}:",
        "  method: path_patching",
        f"  model: {_text(model)}",
        f"  examples: {wishes.examples(300)}",
        *([f"  metric: {wishes.study.metric}"] if wishes.study else []),
        "  stages: # keep: how many heads join the circuit; receivers: how many of them a later stage patches into",
    ]
    for stage in stages_of(wishes.task, model):
        fields = ", ".join(f"{key}: {value}" for key, value in stage.items())
        lines.append(f"    - {{{fields}}}")
    return lines


def _minimal(wishes: Wishes) -> list[str]:
    about = "# the circuit without heads that add less than the threshold to its accuracy (App. B)"
    fields = f"circuit: circuit, examples: {wishes.examples(100)}, threshold: 0.01"
    return [about, f"minimal: {{method: minimality, {fields}}}"]


def _faithful(wishes: Wishes) -> list[str]:
    about = "# how much of each model's accuracy the circuit alone keeps (Table 1)"
    fields = f"circuit: {wishes.circuit}, models: {wishes.models}, examples: {wishes.examples(500)}"
    return [about, f"faithful: {{method: faithfulness, {fields}}}"]


def _complete(wishes: Wishes) -> list[str]:
    about = "# whether circuit and model lose alike when both lose the same heads (App. C)"
    fields = f"circuit: {wishes.circuit}, examples: {wishes.examples(200)}, draws: 20"
    return [about, f"complete: {{method: completeness, {fields}}}"]


def _overlap(wishes: Wishes) -> list[str]:
    about = "# how the two circuits overlap (App. E4)"
    circuits = f"circuits: [{wishes.circuit}, finetuned_circuit], scores: finetuned_circuit"
    return [about, f"overlap: {{method: comparison, {circuits}}}"]


def _roles(wishes: Wishes) -> list[str]:
    about = "# which heads carry the object, the label, the position (section 5.1)"
    return [about, f"roles: {{method: dcm, circuit: {wishes.circuit}, desiderata: [object, label, position]}}"]


def _functions(wishes: Wishes) -> list[str]:
    about = "# what those heads do in each model (section 5.2)"
    fields = f"roles: roles, models: {wishes.models}, examples: {wishes.examples(200)}"
    return [about, f"functions: {{method: activation_patching, {fields}}}"]


def _across(wishes: Wishes) -> list[str]:
    about = "# the finetuned model's heads in the pretrained one (section 6)"
    models = f"donor: {_text(wishes.finetuned or '')}, recipient: {_text(wishes.pretrained)}"
    fields = f"{models}, circuit: finetuned_circuit, examples: {wishes.examples(200)}"
    return [about, f"across: {{method: cmap, {fields}}}"]


def _blind(wishes: Wishes) -> list[str]:
    about = "# from which layer on a position has what it needs (App. A)"
    edges = ", ".join(f"{{blind: {blind}, to: {to}}}" for blind, to in wishes.study.edges) if wishes.study else ""
    fields = ("method: knockout", f"model: {_text(wishes.pretrained)}", f"examples: {wishes.examples(200)}")
    lines = [about, "blind:", *(f"  {field}" for field in fields)]
    return [*lines, f"  edges: [{edges}]"] if edges else lines


def _looks(wishes: Wishes) -> list[str]:
    about = "# where the circuit's heads look"
    fields = f"circuit: {wishes.circuit}, examples: {wishes.examples(200)}"
    return [about, f"looks: {{method: attention_patterns, {fields}}}"]


def _screen(wishes: Wishes) -> list[str]:
    about = "# a cheap estimate of every head's effect by gradients, beside the exact one"
    at = ", ".join(wishes.study.screened if wishes.study else ("last",))
    fields = f"model: {_text(wishes.pretrained)}, at: [{at}], examples: {wishes.examples(100)}"
    return [about, f"screen: {{method: attribution, {fields}}}"]


EXPERIMENTS: tuple[tuple[Callable[[Wishes], bool], Callable[[Wishes], list[str]]], ...] = (
    (lambda wishes: wishes.has(*set(METHODS) - {*NO_CIRCUIT, "cmap"}), _circuit),
    (lambda wishes: wishes.has(*TWO_MODELS), _finetuned_circuit),
    (lambda wishes: wishes.has("minimality"), _minimal),
    (lambda wishes: wishes.has("faithfulness"), _faithful),
    (lambda wishes: wishes.has("completeness"), _complete),
    (lambda wishes: wishes.has("comparison"), _overlap),
    (lambda wishes: wishes.has("dcm", "activation_patching"), _roles),
    (lambda wishes: wishes.has("activation_patching"), _functions),
    (lambda wishes: wishes.has("cmap"), _across),
    (lambda wishes: wishes.has("knockout"), _blind),
    (lambda wishes: wishes.has("attention_patterns"), _looks),
    (lambda wishes: wishes.has("attribution"), _screen),
)
"""When an experiment is needed, and its lines; in the order of a manifest."""


def study_name(stem: str) -> str:
    """A study's name made of a file's: letters, digits, _ and -."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", stem).strip("-_")[:64]
    return name if name and name.lower() != "store" else Wishes.name


def _text(value: str) -> str:
    """A name as YAML text, quoted where it could be taken for something else."""
    special = value.lower() in ("null", "true", "false")
    return value if _PLAIN.fullmatch(value) and not special else json.dumps(value)
