"""A first manifest for a study of one's own, with comments that say what to change; what it says of built-in tasks."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from textwrap import dedent, indent
from typing import Any

from nnsight_et.core.errors import ManifestError, accepted_names
from nnsight_et.core.named_metrics import Metric
from nnsight_et.manifest.document import KeyPath, read
from nnsight_et.manifest.experiments import METHODS
from nnsight_et.manifest.load import parse
from nnsight_et.manifest.methods.dcm import DCM
from nnsight_et.manifest.methods.path_patching import PathPatching
from nnsight_et.manifest.schema import MODELINE
from nnsight_et.manifest.tasks import IOI_DESIDERATA
from nnsight_et.models.catalog import KNOWN_MODELS, LLAMA_7B

Stages = tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class StarterStudy:
    """A built-in task, and the experiments its paper suggests."""

    about: str
    """A comment above the task."""
    task: str
    """The task in YAML."""
    model: tuple[str, str]
    """The paper's model: a name for it, and its hub id."""
    stages: Stages
    edges: tuple[tuple[str, str], ...]
    """Whose attention to what knockout blocks."""
    screened: tuple[str, ...]
    """The positions whose heads attribution screens."""
    metric: Metric
    """What the paper scores paths by."""
    desiderata: tuple[str, ...] = ()
    """The variables that DCM finds heads for."""


# keep and receivers of the boxes task's four stages: the paper's for its 7B models (§4.1), fewer for the rest
PAPER_SIZES = ((58, 20), (10, 5), (25, 10), (5, None))
SMALL_SIZES = ((8, 4), (6, 3), (6, 3), (4, None))
GPT2 = ("gpt2", "openai-community/gpt2")
STUDIES: dict[str, StarterStudy] = {
    "ioi": StarterStudy(
        about="indirect object identification (Wang et al. 2022). With templates: 1 all prompts have one length, and\n"
        "# ablated heads output their mean at the same token. With more, it is their mean at the same named position.",
        task="{kind: ioi, order: mixed, templates: 1}",
        model=GPT2,
        stages=(
            {"group": "name_mover", "into": "logits", "at": "last", "keep": 10, "receivers": 3},
            {"group": "s_inhibition", "into": "name_mover", "via": "query", "at": "last", "keep": 6, "receivers": 4},
            {"group": "induction", "into": "s_inhibition", "via": "value", "at": "s2", "keep": 8, "receivers": 4},
            {"group": "previous_token", "into": "induction", "via": "key", "at": "s1_plus_1", "keep": 4},
        ),
        edges=(("last", "io"), ("last", "s2"), ("s2", "s1"), ("s2", "s1_plus_1")),
        screened=("s2", "last"),
        metric="logit_difference",
        desiderata=IOI_DESIDERATA,
    ),
    "greater_than": StarterStudy(
        about="greater-than (Hanna et al. 2023)",
        task="{kind: greater_than}",
        model=GPT2,
        stages=(
            {"group": "year_reader", "into": "logits", "at": "last", "keep": 8, "receivers": 6},
            {"group": "year_writer", "into": "year_reader", "via": "value", "at": "start_year", "keep": 6},
        ),
        edges=(("last", "start_year"),),
        screened=("start_year", "last"),
        metric="probability_difference",
    ),
    "colored_objects": StarterStudy(
        about="colored objects (Merullo et al. 2024), with the stages of their circuit in GPT-2 Medium",
        task="{kind: colored_objects}",
        model=("gpt2-medium", "openai-community/gpt2-medium"),
        stages=(
            {"group": "mover", "into": "logits", "at": "last", "keep": 12, "receivers": 5},
            {"group": "content_gatherer", "into": "mover", "via": "query", "at": "last", "keep": 8, "receivers": 3},
            {"group": "duplicate_token", "into": "content_gatherer", "via": "value", "at": "asked", "keep": 6},
        ),
        edges=(("last", "color"), ("last", "asked"), ("asked", "object")),
        screened=("asked", "last"),
        metric="logit_difference",
    ),
}
"""By the task's kind."""


def stages_of(kind: str, model: str) -> list[dict[str, Any]]:
    """The stages that come with a task, as a manifest writes them; none where it has none. Of boxes those of §4.1."""
    if kind != "boxes":
        return list(STUDIES[kind].stages) if kind in STUDIES else []
    large = model in KNOWN_MODELS and KNOWN_MODELS[model].shape == LLAMA_7B
    stages: list[dict[str, Any]] = [
        {"group": "value_fetcher", "into": "logits", "at": "last"},
        {"group": "position_transmitter", "into": "value_fetcher", "via": "query", "at": "last"},
        {"group": "position_detector", "into": "position_transmitter", "via": "value", "at": "query_label"},
        {"group": "structure_reader", "into": "position_detector", "via": "value", "at": "previous_query_label"},
    ]
    for stage, (keep, receivers) in zip(stages, PAPER_SIZES if large else SMALL_SIZES, strict=True):
        stage |= {"keep": keep} | ({"receivers": receivers} if receivers else {})
    return stages


DEFAULT_METHODS = ("path_patching", "minimality", "faithfulness")
TASKS = ("boxes", *STUDIES)
EMBEDDED = "llama-tiny"
FEWEST = 20  # examples
FEWER = (
    "# The numbers of examples are smaller than usual, so that a run stays short on the machine where this was",
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
        """Whether the user asked for one of these methods."""
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
        "# `et plan` shows what this would run, `et run` runs it. Run it again to continue an interrupted run.",
        f"name: {_text(wishes.name)}",
        "seed: 20",
        *(FEWER if wishes.share < 1 else ()),
        "# device: auto      # auto, cpu, cuda, cuda:0, or balanced over all GPUs",
        "# dtype: float32    # bfloat16 for models that would not fit otherwise",
        "# memory: 4GiB      # for one batch of work; chosen for you if not set",
        *_task(wishes),
        "",
        "experiments:",
    ]
    lines += [indent(text, "  ") for text in _experiments(wishes)]
    text = "\n".join(lines) + "\n"
    parse(text, "", lines=False, options=dict(_options(text, wishes)))
    return text


def _options(text: str, wishes: InitOptions) -> Iterator[tuple[KeyPath, str]]:
    """The option that the boxes, and each model of the experiments, come from."""
    yield ("task", "boxes"), "--boxes"
    options = {wishes.model: "--model", wishes.finetuned: "--finetuned"}
    for name, spec in read(text, "", lines=False).data["experiments"].items():
        for key, value in spec.items():
            for index, model in enumerate(value if isinstance(value, list) else [value]):
                if isinstance(model, str) and model in options:
                    yield ("experiments", name, key, *([index] if isinstance(value, list) else [])), options[model]


def _check(wishes: InitOptions) -> None:
    """Raise ManifestError naming the option that cannot be met."""
    if wishes.task not in TASKS:
        raise ManifestError(f"--task: no task {wishes.task!a}; {accepted_names(wishes.task, TASKS)}")
    if wishes.study and wishes.boxes is not None:
        raise ManifestError(
            f"--boxes {wishes.boxes}: the task {wishes.task} has no boxes; accepted: --boxes with --task boxes"
        )
    swaps = not wishes.study or wishes.study.desiderata
    usable = [method for method, spec in METHODS.items() if swaps or not spec.needs_desiderata]
    for method in wishes.methods:
        if method not in METHODS:
            raise ManifestError(f"--methods: no method {method!a}; {accepted_names(method, usable)}")
        if method not in usable:
            found = f"it needs a task with desiderata, such as boxes or ioi; accepted for {wishes.task}"
            raise ManifestError(f"--methods {method}: {found}: {', '.join(usable)}")
        if method in TWO_MODELS and wishes.finetuned is None:
            raise ManifestError(
                f"--methods {method}: it compares two models; accepted: together with --finetuned MODEL"
            )
    if not wishes.methods:
        raise ManifestError(f"--methods: no method is named; accepted: {', '.join(usable)}")


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
        "# models:           # your own: a folder next to this file, or a hub id",
        "#   mine: {path: org/some-model, adapter: org/some-lora}",
    ]


def _experiments(wishes: InitOptions) -> Iterator[str]:
    """The methods the user asked for and those they need; methods that find circuits come first."""
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
        "desiderata": f"[{', '.join(study.desiderata if study else DCM.model_fields['desiderata'].default)}]",
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
