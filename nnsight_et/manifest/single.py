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
from nnsight_et.manifest.document import KeyPath, read
from nnsight_et.manifest.load import parse
from nnsight_et.manifest.schema import Manifest
from nnsight_et.manifest.template import stages_of
from nnsight_et.manifest.written import SHIPPED, is_file, is_shipped

STAGE = "{group: a, into: logits, at: last, keep: 8}"
OPTIONS = {
    "model": "--model", "models": "--models", "circuit": "--circuit", "examples": "--examples", "donor": "--src",
    "recipient": "--dst", "desiderata": "--desiderata", "roles": "--roles", "scores": "--scores",
}  # fmt: skip
"""The options that experiments' keys come from."""
Experiments = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Setting:
    """What every command can set: the rest of a manifest has its defaults, or comes from `settings` (--set)."""

    seed: int
    boxes: int
    examples: int | None = None
    """How many examples the method has; its default when None."""
    settings: Sequence[str] = ()


def path_patching(model: str, stages: Sequence[str], setting: Setting) -> Manifest:
    """Path patching on `model`; each of `stages` is YAML text such as {group: ..., into: logits, at: last, keep: 8}.

    Without stages: those of the task, as the boxes task's four, from the value fetchers back to the structure readers.
    """
    written = [read(text, f"--stage {index}", lines=False).data for index, text in enumerate(stages, 1)]
    found = {"method": "path_patching", "model": model, "stages": written or _template(model, setting)}
    return _manifest("path-patch", {"circuit": found}, "circuit", setting)


def evaluation(circuit: str, models: Sequence[str], also: Sequence[str], setting: Setting) -> Manifest:
    """Faithfulness of a circuit on `models`; on each of them also `minimality` or `completeness`, where asked for."""
    experiments: Experiments = {
        "faithfulness": {"method": "faithfulness", "circuit": _place(circuit), "models": list(models)}
    }
    for method in also:
        for number, model in enumerate(models, 1):
            name = method if len(models) == 1 else f"{method}_{number}"
            experiments[name] = {"method": method, "circuit": _place(circuit), "model": model}
    return _manifest("evaluate", experiments, "", setting)


def dcm(model: str, circuit: str | None, desiderata: Sequence[str], setting: Setting) -> Manifest:
    """Which heads of a circuit carry which variable in `model`."""
    experiments: Experiments = {}
    selected = {"method": "dcm", "circuit": _circuit(model, circuit, experiments, setting), "model": model}
    experiments["roles"] = selected | ({"desiderata": list(desiderata)} if desiderata else {})
    return _manifest("dcm", experiments, "", setting)


def cmap(
    donor: str, recipient: str, setting: Setting, *, circuit: str | None = None, roles: str | None = None
) -> Manifest:
    """The donor's head activations in the recipient; circuit and roles are by default the donor's own."""
    experiments: Experiments = {}
    circuit = _circuit(donor, circuit, experiments, setting)
    roles = _roles(donor, circuit, roles, experiments)
    patched = {"method": "cmap", "donor": donor, "recipient": recipient, "circuit": circuit, "roles": roles}
    return _manifest("cmap", experiments | {"cmap": patched}, "cmap", setting)


def knockout(model: str, setting: Setting) -> Manifest:
    """The five sweeps of attention knockout (App. A) in `model`."""
    return _manifest("knockout", {"knockout": {"method": "knockout", "model": model}}, "knockout", setting)


def comparison(first: str, second: str, scores: str | None, setting: Setting) -> Manifest:
    """How two circuits overlap, and with the second one's scores their heads by causal impact."""
    compared = {"method": "comparison", "circuits": [_place(first), _place(second)]}
    return _manifest("compare", {"comparison": compared | ({"scores": scores} if scores else {})}, "", setting)


def _circuit(model: str, given: str | None, experiments: Experiments, setting: Setting) -> str:
    """The circuit to use: the given one, the shipped one, or one that a further experiment finds."""
    if given is not None:
        return _place(given)
    for shipped in SHIPPED:
        if shipped.partition("/")[2] == model:
            return shipped
    stages = _template(model, setting)
    experiments["circuit"] = {"method": "path_patching", "model": model, "stages": stages}
    return "circuit"


def _template(model: str, setting: Setting) -> list[dict[str, Any]]:
    """The stages to take where none are given; ManifestError if the task, as the settings have it, brings none."""
    own = [text for text in setting.settings if text.partition("=")[0].partition(".")[0] == "task"]
    experiments: Experiments = {"any": {"method": "attribution", "model": model}}
    probe = {"name": "task", "experiments": experiments, "task": _task(setting)}
    task = parse(json.dumps(probe), "", own, lines=False, options=_options("", experiments)).task
    stages = stages_of(task.kind, model)
    if not stages:
        accept = f"a circuit, or for `et path-patch` --stage '{STAGE}' and the like"
        raise ManifestError(
            f"task.kind: {task.kind}, and the four stages are those of the boxes task; accepted: {accept}"
        )
    return stages


def _roles(model: str, circuit: str, given: str | None, experiments: Experiments) -> str:
    """The selected heads to use: the given ones, the shipped ones, or what a further experiment selects."""
    if given is not None:
        return given
    if is_shipped(circuit):
        return circuit
    experiments["roles"] = {"method": "dcm", "circuit": circuit, "model": model}
    return "roles"


def _place(circuit: str) -> str:
    return circuit if is_file(circuit) else f"./{circuit}"


def _task(setting: Setting) -> dict[str, Any]:
    return {"kind": "boxes", "boxes": setting.boxes}


def _manifest(name: str, experiments: Experiments, sized: str, setting: Setting) -> Manifest:
    """A manifest of these experiments; the number of examples goes to the one called `sized`, or if empty to all."""
    for key, experiment in experiments.items():
        if setting.examples is not None and (not sized or key == sized):
            experiment["examples"] = setting.examples
    data = {"name": name, "seed": setting.seed, "task": _task(setting), "experiments": experiments}
    text, options = json.dumps(data, ensure_ascii=False), _options(name, experiments)
    return parse(text, f"et {name}", setting.settings, lines=False, options=options)


def _options(command: str, experiments: Experiments) -> dict[KeyPath, str]:
    """Where a command's manifest has a value -> the option or argument that it comes from."""
    found: dict[KeyPath, str] = {("task", "boxes"): "--boxes", ("seed",): "--seed"}
    own = OPTIONS | ({"circuit": "CIRCUIT"} if command == "evaluate" else {})
    for name, spec in experiments.items():
        here: KeyPath = ("experiments", name)
        found |= {(*here, key): option for key, option in own.items() if key in spec}
        found |= {(*here, "stages", index): f"--stage {index + 1}" for index in range(len(spec.get("stages", ())))}
        found |= {(*here, "circuits", index): "AB"[index] for index in range(len(spec.get("circuits", ())))}
    return found
