"""A first manifest for a study of one's own, with comments that say what to change."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from textwrap import dedent, indent

from nnsight_et.core.errors import ManifestError, accepted_names
from nnsight_et.manifest.experiments import METHODS
from nnsight_et.manifest.json_schema import MODELINE
from nnsight_et.manifest.load import parse
from nnsight_et.manifest.methods.path_patching import PathPatching
from nnsight_et.manifest.studies import STUDIES, StarterStudy, stages_of

DEFAULT_METHODS = ("path_patching", "minimality", "faithfulness")
TASKS = ("boxes", *STUDIES)
EMBEDDED = "llama-tiny"
FEWEST = 20  # examples
FEWER = (
    "# The numbers of examples below are smaller than usual, to keep a run short on the machine where this was",
    "# written. More of them give narrower intervals.",
)
PLACE = re.compile(r"<(\w+)>")
"""Where a method's template has a name, or a usual number of examples."""
FINDS = {"circuit": "path_patching", "candidates": "path_patching", "roles": "dcm"}
"""What an experiment uses of another -> the method that finds it."""
TWO_MODELS = tuple(method for method, spec in METHODS.items() if "<finetuned_circuit>" in spec.template)
_PLAIN = re.compile(r"[A-Za-z./][A-Za-z0-9._/-]*")


@dataclass(frozen=True)
class InitOptions:
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
    def study(self) -> StarterStudy | None:
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


def render_manifest(wishes: InitOptions) -> str:
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
    lines += [indent(text, "  ") for text in _experiments(wishes)]
    text = "\n".join(lines) + "\n"
    parse(text, "the manifest", lines=False)
    return text


def _check(wishes: InitOptions) -> None:
    """Raise ManifestError naming the option that cannot be met."""
    if wishes.task not in TASKS:
        raise ManifestError(f"--task: no task {wishes.task!a}; {accepted_names(wishes.task, TASKS)}")
    if wishes.study and wishes.boxes is not None:
        raise ManifestError(f"--boxes {wishes.boxes}: the task {wishes.task} has none; accepted: with --task boxes")
    usable = [method for method, spec in METHODS.items() if not (wishes.study and spec.needs_desiderata)]
    for method in wishes.methods:
        if method not in METHODS:
            raise ManifestError(f"--methods: no method {method!a}; {accepted_names(method, usable)}")
        if method not in usable:
            found = f"it needs the desiderata of the boxes task; accepted for {wishes.task}: {', '.join(usable)}"
            raise ManifestError(f"--methods {method}: {found}")
        if method in TWO_MODELS and wishes.finetuned is None:
            raise ManifestError(f"--methods {method}: it compares two models; accepted: with --finetuned MODEL")
    if not wishes.methods:
        raise ManifestError(f"--methods: none is named; accepted: {', '.join(usable)}")


def _task(wishes: InitOptions) -> list[str]:
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


def _experiments(wishes: InitOptions) -> Iterator[str]:
    """The methods that are wished for and those they need, those that find circuits first."""
    wanted, more = set[str](), set(wishes.methods)
    while more:
        wanted |= more
        more = {FINDS[name] for method in wanted for name in PLACE.findall(METHODS[method].template) if name in FINDS}
        more -= wanted
    # of path patching finds_circuit is a property, as its stages decide; that it is there counts
    for method, spec in sorted(METHODS.items(), key=lambda item: not item[1].finds_circuit):
        if method in wanted:
            yield _filled(spec.template, wishes, wishes.pretrained)
        if spec is PathPatching and wishes.finetuned and wishes.has(*TWO_MODELS):
            again = r"# the same in the finetuned model\n\1finetuned_circuit:"
            same = re.sub(r"# .*\n( *)circuit:", again, spec.template)
            yield _filled(same, wishes, wishes.finetuned)


def _filled(template: str, wishes: InitOptions, model: str) -> str:
    """An experiment's text: names and numbers in their places; without lines that the task has nothing for."""
    study = wishes.study
    stages = [_mapping(stage) for stage in stages_of(wishes.task, model)]
    edges = [_mapping({"blind": blind, "to": to}) for blind, to in study.edges] if study else []
    values = {
        "model": _text(model),
        "models": wishes.models,
        "finetuned": _text(wishes.finetuned or ""),
        "candidates": "circuit",
        "circuit": "minimal" if wishes.has("minimality") else "circuit",
        "finetuned_circuit": "finetuned_circuit",
        "roles": "roles",
        "metric": study.metric if study else "",
        "stages": "\n    - ".join(stages),
        "edges": f"[{', '.join(edges)}]" if edges else "",
        "screened": f"[{', '.join(study.screened if study else ('last',))}]",
    }

    def value(place: re.Match[str]) -> str:
        return str(wishes.examples(int(place[1]))) if place[1].isdecimal() else values[place[1]]

    lines = dedent(template).strip().splitlines()
    kept = [line for line in lines if all(values.get(name, "any") for name in PLACE.findall(line))]
    return "\n".join(PLACE.sub(value, line) for line in kept)


def _mapping(fields: Mapping[str, object]) -> str:
    return f"{{{', '.join(f'{key}: {value}' for key, value in fields.items())}}}"


def study_name(stem: str) -> str:
    """A study's name made of a file's: letters, digits, _ and -."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", stem).strip("-_")[:64]
    return name if name and name.lower() != "store" else InitOptions.name


def _text(value: str) -> str:
    """A name as YAML text, quoted where it could be taken for something else."""
    special = value.lower() in ("null", "true", "false")
    return value if _PLAIN.fullmatch(value) and not special else json.dumps(value)
