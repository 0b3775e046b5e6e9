"""Manifests of one method, as the single-method commands build them: the same text a user would write.

Where a method needs a circuit or selected heads and none are named, those that are shipped for the model are taken;
for any other model the manifest first finds them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nnsight_et.core.errors import ManifestError
from nnsight_et.manifest.checks import desiderata_of
from nnsight_et.manifest.document import KeyPath, read
from nnsight_et.manifest.load import parse
from nnsight_et.manifest.methods.dcm import BOXES_DESIDERATA
from nnsight_et.manifest.schema import BoxesTask, Manifest
from nnsight_et.manifest.template import stages_of
from nnsight_et.manifest.written import SHIPPED, is_file, is_shipped

STAGE = "{group: a, into: logits, at: last, keep: 8}"
OPTIONS = {
    "model": "--model", "models": "--models", "circuit": "--circuit", "examples": "--examples", "donor": "--src",
    "recipient": "--dst", "desiderata": "--desiderata", "roles": "--roles", "scores": "--scores",
}  # fmt: skip
"""The options that experiments' keys come from."""
METRICS = {"ioi": "logit_difference", "greater_than": "probability_difference", "colored_objects": "logit_difference"}
"""What discovery scores heads by in tasks whose papers do so; in others by the ratio of probabilities."""
CARRIED = {"examples": 100, "draws": 2}
Experiments = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class SingleMethod:
    """What every command can set: the rest of a manifest has its defaults, or comes from `settings` (--set)."""

    seed: int
    boxes: int
    examples: int | None = None
    """How many examples the method has; its default when None."""
    settings: Sequence[str] = ()

    def path_patching(self, model: str, stages: Sequence[str]) -> Manifest:
        """Path patching on `model`; each of `stages` is YAML text such as {group: ..., into: logits, at: last, ...}.

        Without stages: those of the task, as the boxes task's four, from the value fetchers back to the structure
        readers.
        """
        written = [read(text, f"--stage {index}", lines=False).data for index, text in enumerate(stages, 1)]
        found = {"method": "path_patching", "model": model, "stages": written or self._template(model)}
        return self._manifest("path-patch", {"circuit": found}, "circuit")

    def evaluation(self, circuit: str, models: Sequence[str], also: Sequence[str]) -> Manifest:
        """Faithfulness of a circuit on `models`; on each of them also `minimality` or `completeness`, if asked for."""
        experiments: Experiments = {
            "faithfulness": {"method": "faithfulness", "circuit": _place(circuit), "models": list(models)}
        }
        for method in also:
            for number, model in enumerate(models, 1):
                name = method if len(models) == 1 else f"{method}_{number}"
                experiments[name] = {"method": method, "circuit": _place(circuit), "model": model}
        return self._manifest("evaluate", experiments)

    def dcm(self, model: str, circuit: str | None, desiderata: Sequence[str]) -> Manifest:
        """Which heads of a circuit carry which variable in `model`."""
        experiments: Experiments = {}
        selected = {"method": "dcm", "circuit": self._circuit(model, circuit, experiments), "model": model}
        experiments["roles"] = selected | ({"desiderata": list(desiderata)} if desiderata else {})
        return self._manifest("dcm", experiments)

    def discovery(self, model: str, task: str) -> Manifest:
        """Discovery of the circuit of a task in `model`; its faithfulness, where its heads look, and what they carry.

        What groups carry is measured for the task's desiderata, if it has any; of the boxes task for the plain ones.
        """
        found = {"method": "discovery", "model": model} | ({"metric": METRICS[task]} if task in METRICS else {})
        experiments: Experiments = {
            "discovered": found,
            "faithfulness": {"method": "faithfulness", "circuit": "discovered", "models": [model]},
            "looks": {"method": "attention_patterns", "circuit": "discovered"},
        }
        data = None if task == "boxes" else {"kind": task}
        if variables := _variables(self._probe(data)):
            carried = {"method": "activation_patching", "roles": "discovered", "models": [model], **CARRIED}
            experiments["carries"] = carried | {"desiderata": list(variables)}
        return self._manifest("discover", experiments, "discovered", data)

    def cmap(self, donor: str, recipient: str, *, circuit: str | None = None, roles: str | None = None) -> Manifest:
        """The donor's head activations in the recipient; circuit and roles are by default the donor's own."""
        experiments: Experiments = {}
        circuit = self._circuit(donor, circuit, experiments)
        if roles is None:
            roles = circuit if is_shipped(circuit) else "roles"
            if roles == "roles":
                experiments["roles"] = {"method": "dcm", "circuit": circuit, "model": donor}
        patched = {"method": "cmap", "donor": donor, "recipient": recipient, "circuit": circuit, "roles": roles}
        return self._manifest("cmap", experiments | {"cmap": patched}, "cmap")

    def knockout(self, model: str) -> Manifest:
        """The five sweeps of attention knockout (App. A) in `model`."""
        return self._manifest("knockout", {"knockout": {"method": "knockout", "model": model}})

    def comparison(self, first: str, second: str, scores: str | None) -> Manifest:
        """How two circuits overlap, and with the second one's scores their heads by causal impact."""
        compared = {"method": "comparison", "circuits": [_place(first), _place(second)]}
        return self._manifest("compare", {"comparison": compared | ({"scores": scores} if scores else {})})

    def _circuit(self, model: str, given: str | None, experiments: Experiments) -> str:
        """The circuit to use: the given one, the shipped one, or one that a further experiment finds."""
        if given is not None:
            return _place(given)
        for shipped in SHIPPED:
            if shipped.partition("/")[2] == model:
                return shipped
        experiments["circuit"] = {"method": "path_patching", "model": model, "stages": self._template(model)}
        return "circuit"

    def _template(self, model: str) -> list[dict[str, Any]]:
        """The stages to take where none are given; ManifestError if the task, as the settings have it, brings none."""
        task = self._probe().task
        stages = stages_of(task.kind, model)
        if not stages:
            accept = f"a circuit, or stages for `et path-patch`, such as --stage '{STAGE}'"
            raise ManifestError(f"task.kind: {task.kind}, which has no built-in stages; accepted: {accept}")
        return stages

    def _probe(self, task: dict[str, Any] | None = None) -> Manifest:
        """A manifest of the task alone, as the settings have it."""
        own = [text for text in self.settings if text.partition("=")[0].partition(".")[0] == "task"]
        experiments: Experiments = {"any": {"method": "attribution", "model": "llama-tiny"}}
        probe = {"name": "task", "experiments": experiments, "task": task or self._boxes}
        return parse(json.dumps(probe), "", own, lines=False, options=_options("", experiments))

    @property
    def _boxes(self) -> dict[str, Any]:
        return {"kind": "boxes", "boxes": self.boxes}

    def _manifest(
        self, name: str, experiments: Experiments, sized: str = "", task: dict[str, Any] | None = None
    ) -> Manifest:
        """A manifest of these experiments; the number of examples goes to the one called `sized`, or to all."""
        for key, experiment in experiments.items():
            if self.examples is not None and (not sized or key == sized):
                experiment["examples"] = self.examples
        data = {"name": name, "seed": self.seed, "task": task or self._boxes, "experiments": experiments}
        text, options = json.dumps(data, ensure_ascii=False), _options(name, experiments)
        return parse(text, f"et {name}", self.settings, lines=False, options=options)


def _variables(manifest: Manifest) -> tuple[str, ...]:
    """The task's desiderata; of boxes the paper's three, of which two boxes have no other position to ask for."""
    if isinstance(manifest.task, BoxesTask):
        return BOXES_DESIDERATA[: 2 if manifest.task.boxes == 2 else 3]
    return desiderata_of(manifest)


def _place(circuit: str) -> str:
    return circuit if is_file(circuit) else f"./{circuit}"


def _options(command: str, experiments: Experiments) -> dict[KeyPath, str]:
    """Where a command's manifest has a value -> the option or argument that it comes from."""
    found: dict[KeyPath, str] = {("task", "boxes"): "--boxes", ("seed",): "--seed"}
    own = OPTIONS | {"evaluate": {"circuit": "CIRCUIT"}, "cmap": {"model": "--src"}}.get(command, {})
    for name, spec in experiments.items():
        here: KeyPath = ("experiments", name)
        found |= {(*here, key): option for key, option in own.items() if key in spec}
        found |= {(*here, "stages", index): f"--stage {index + 1}" for index in range(len(spec.get("stages", ())))}
        found |= {(*here, "circuits", index): "AB"[index] for index in range(len(spec.get("circuits", ())))}
    return found
