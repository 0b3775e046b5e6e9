"""A first manifest for a study of one's own, with comments that say what to change."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nnsight_et.errors import ManifestError, accepted
from nnsight_et.manifest.experiments import METHODS
from nnsight_et.manifest.json_schema import MODELINE
from nnsight_et.manifest.load import parse
from nnsight_et.manifest.single import four_stages

DEFAULT_METHODS = ("path_patching", "minimality", "faithfulness")
TWO_MODELS = ("comparison", "cmap")
NO_CIRCUIT = ("knockout", "attribution")
_PLAIN = re.compile(r"[A-Za-z./][A-Za-z0-9._/-]*")


@dataclass(frozen=True)
class Wishes:
    """What the study is to be of."""

    model: str = "llama-tiny"
    finetuned: str | None = None
    """A finetuned model of it, for what compares two."""
    boxes: int = 7
    methods: Sequence[str] = DEFAULT_METHODS
    name: str = "my-study"

    def has(self, *methods: str) -> bool:
        """Whether one of these methods is wished for."""
        return not set(methods).isdisjoint(self.methods)

    @property
    def circuit(self) -> str:
        """The experiment that gives the circuit the others use."""
        return "minimal" if self.has("minimality") else "circuit"

    @property
    def models(self) -> str:
        """All models, as a list in YAML."""
        return f"[{', '.join(_text(model) for model in (self.model, self.finetuned) if model)}]"


def written(wishes: Wishes) -> str:
    """The text of a manifest, with the experiments the methods need; ManifestError if it would not be accepted."""
    for method in wishes.methods:
        if method not in METHODS:
            raise ManifestError(f"--methods: no method {method!a}; {accepted(method, METHODS)}")
        if method in TWO_MODELS and wishes.finetuned is None:
            raise ManifestError(f"--methods {method}: it compares two models; accepted: with --finetuned MODEL")
    if not wishes.methods:
        raise ManifestError(f"--methods: none is named; accepted: {', '.join(METHODS)}")
    lines = [
        MODELINE,
        "# `et plan` shows what this would run, `et run` runs it, and again continues where it was stopped.",
        f"name: {_text(wishes.name)}",
        "seed: 20",
        "# device: auto      # auto, cpu, cuda or cuda:0",
        "# dtype: float32    # bfloat16 for models that would not fit otherwise",
        "# memory: 4GiB      # for one chunk of work; chosen when absent",
        f"task: {{kind: boxes, boxes: {wishes.boxes}}}",
        "# models:           # names of your own: a folder beside this file, or a hub id",
        "#   mine: {path: org/some-model, adapter: org/some-lora}",
        "",
        "experiments:",
    ]
    for wanted, of_method in EXPERIMENTS:
        if wanted(wishes):
            lines += [f"  {line}" for line in of_method(wishes)]
    text = "\n".join(lines) + "\n"
    parse(text, "the manifest", lines=False)
    return text


def _circuit(wishes: Wishes) -> list[str]:
    about = "# which heads matter, stage by stage from the logits back (section 4.1 of the paper)"
    return [about, *_found("circuit", wishes.model)]


def _finetuned_circuit(wishes: Wishes) -> list[str]:
    assert wishes.finetuned is not None
    return ["# the same in the finetuned model", *_found("finetuned_circuit", wishes.finetuned)]


def _found(name: str, model: str) -> list[str]:
    lines = [
        f"{name}:",
        "  method: path_patching",
        f"  model: {_text(model)}",
        "  examples: 300",
        "  stages: # keep: how many heads join the circuit; receivers: how many of them a later stage patches into",
    ]
    for stage in four_stages(model):
        fields = ", ".join(f"{key}: {value}" for key, value in stage.items())
        lines.append(f"    - {{{fields}}}")
    return lines


def _minimal(wishes: Wishes) -> list[str]:
    about = "# the circuit without heads that add less than the threshold to its accuracy (App. B)"
    return [about, "minimal: {method: minimality, circuit: circuit, examples: 100, threshold: 0.01}"]


def _faithful(wishes: Wishes) -> list[str]:
    about = "# how much of each model's accuracy the circuit alone keeps (Table 1)"
    fields = f"circuit: {wishes.circuit}, models: {wishes.models}, examples: 500"
    return [about, f"faithful: {{method: faithfulness, {fields}}}"]


def _complete(wishes: Wishes) -> list[str]:
    about = "# whether circuit and model lose alike when both lose the same heads (App. C)"
    return [about, f"complete: {{method: completeness, circuit: {wishes.circuit}, examples: 200, draws: 20}}"]


def _overlap(wishes: Wishes) -> list[str]:
    about = "# how the two circuits overlap (App. E4)"
    circuits = f"circuits: [{wishes.circuit}, finetuned_circuit], scores: finetuned_circuit"
    return [about, f"overlap: {{method: comparison, {circuits}}}"]


def _roles(wishes: Wishes) -> list[str]:
    about = "# which heads carry the object, the label, the position (section 5.1)"
    return [about, f"roles: {{method: dcm, circuit: {wishes.circuit}, desiderata: [object, label, position]}}"]


def _functions(wishes: Wishes) -> list[str]:
    about = "# what those heads do in each model (section 5.2)"
    return [about, f"functions: {{method: activation_patching, roles: roles, models: {wishes.models}, examples: 200}}"]


def _across(wishes: Wishes) -> list[str]:
    about = "# the finetuned model's heads in the pretrained one (section 6)"
    models = f"donor: {_text(wishes.finetuned or '')}, recipient: {_text(wishes.model)}"
    return [about, f"across: {{method: cmap, {models}, circuit: finetuned_circuit, examples: 200}}"]


def _blind(wishes: Wishes) -> list[str]:
    about = "# from which layer on a position has what it needs (App. A)"
    return [about, f"blind: {{method: knockout, model: {_text(wishes.model)}, examples: 200}}"]


def _looks(wishes: Wishes) -> list[str]:
    about = "# where the circuit's heads look"
    return [about, f"looks: {{method: attention_patterns, circuit: {wishes.circuit}, examples: 200}}"]


def _screen(wishes: Wishes) -> list[str]:
    about = "# a cheap estimate of every head's effect by gradients, beside the exact one"
    return [about, f"screen: {{method: attribution, model: {_text(wishes.model)}, at: [last], examples: 100}}"]


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


def _text(value: str) -> str:
    """A name as YAML text, quoted where it could be taken for something else."""
    special = value.lower() in ("null", "true", "false")
    return value if _PLAIN.fullmatch(value) and not special else json.dumps(value)
