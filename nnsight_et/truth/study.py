"""What is run on a model whose circuit is known: a manifest like any other, on models written to a folder."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnsight_et.manifest import Manifest, parse
from nnsight_et.zoo.hard import HARD
from nnsight_et.zoo.known import KNOWN, POSITION, Known, make_model, store
from nnsight_et.zoo.statements import SCREENED, fewer

EXTRA = 2  # heads a stage keeps beyond the planted ones, for minimality to drop
Experiments = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Trial:
    """One manifest of the benchmark: a model, its seed, the engine, and how much is run."""

    known: Known
    seed: int = 0
    engine: str = "default"
    silenced: tuple[str, ...] = ()
    """The groups that do not work in the recipients of CMAP: one recipient each."""
    examples: int = 20

    @property
    def whole(self) -> bool:
        """Whether every method is run: the reference engine runs those that it has a definition of its own for."""
        return self.engine == "default"


def quick_trials() -> tuple[Trial, ...]:
    """What `et selfcheck` runs: every model once, and the reference engine on one of them."""
    first = (Trial(known, silenced=tuple(known.groups)[1:2], examples=16) for known in KNOWN)
    return (*first, Trial(POSITION, engine="reference", examples=4))


def whole_trials(seeds: Iterable[int]) -> tuple[Trial, ...]:
    """What `et benchmark-truth` runs: for every seed every model, every group silenced, and both engines."""
    return tuple(
        trial
        for seed in seeds
        for known in KNOWN
        for trial in (
            Trial(known, seed, silenced=tuple(known.groups)),
            Trial(known, seed, engine="reference", examples=4),
        )
    )


def hard_trials(seeds: Iterable[int]) -> tuple[Trial, ...]:
    """What `et benchmark-truth` measures beside: every hard model, with enough prompts to draw few from."""
    return tuple(Trial(known, seed, examples=60) for seed in seeds for known in HARD)


def write_trial(trial: Trial, folder: Path) -> Manifest:
    """The trial's manifest, its models and circuits written to `folder`."""
    known = trial.known
    store(make_model(known, trial.seed), folder / "planted")
    for group in trial.silenced:
        store(make_model(known, trial.seed, silenced=group), folder / f"without-{group}")
    (folder / "truth.json").write_text(known.circuit.to_json())
    (folder / "fewer.json").write_text(fewer(known.circuit).to_json())
    names = ("planted", *(f"without-{group}" for group in trial.silenced))
    data = {
        "name": "truth",
        "seed": trial.seed,
        "engine": trial.engine,
        "device": "cpu",
        "self_check": "off",  # each engine is to be held against the truth alone
        "models": {name: {"path": f"./{name}"} for name in names},
        "experiments": experiments(trial),
    }
    return parse(json.dumps(data), f"benchmark of {known.name}", lines=False).in_folder(folder)


def experiments(trial: Trial) -> Experiments:
    """The trial's experiments, by name."""
    sizes = {"examples": trial.examples, "ablation_examples": 50 if trial.whole else 20}
    on_truth = {"circuit": "./truth.json", "model": "planted"}
    found: Experiments = {
        "found": {"method": "path_patching", "model": "planted", "stages": stages(trial.known)}
        | {"examples": trial.examples if not trial.known.demanded else min(trial.examples, 20)},
        "faithful": {"method": "faithfulness", "circuit": "./truth.json", "models": ["planted"], "random_circuits": 0}
        | sizes,
        "blocked": {"method": "knockout", "model": "planted", "edges": edges(trial.known), "examples": trial.examples},
    }
    if not trial.whole:
        return found
    screen = {"method": "attribution", "model": "planted", "at": list(SCREENED), "examples": 10}
    if not any(group.heads for group in trial.known.circuit.groups):
        return {"found": found["found"], "screen": screen}
    found |= {
        "minimal": {"method": "minimality", "circuit": "found"} | sizes,
        "complete": {"method": "completeness", "draws": 5} | on_truth | sizes,
        "incomplete": {"method": "completeness", "draws": 0} | on_truth | sizes | {"circuit": "./fewer.json"},
        "overlap": {"method": "comparison", "circuits": ["./truth.json", "./fewer.json"]},
        "roles": {"method": "dcm"} | on_truth | dcm_sizes(),
        "functions": {"method": "activation_patching", "roles": "roles", "models": ["planted"], "draws": 2}
        | {"examples": trial.examples},
        "looks": {"method": "attention_patterns", "examples": trial.examples} | on_truth,
        "screen": screen,
    }
    if not trial.known.demanded:  # what is left out says nothing of prompts, or of a circuit without noise alone
        return {name: one for name, one in found.items() if name not in ("incomplete", "overlap", "looks")}
    for group in trial.silenced:
        across = {"method": "cmap", "donor": "planted", "recipient": f"without-{group}", "circuit": "./truth.json"}
        found[f"across-{group}"] = across | {"roles": "roles", "examples": trial.examples, "random_sets": 0}
    return found


def stages(known: Known) -> list[dict[str, Any]]:
    """One stage per planted group, from the logits back; each keeps EXTRA heads too many."""
    return [
        {"group": name, "into": group.into, "at": group.at, "receivers": max(len(known.circuit.group(name).heads), 1)}
        | {"keep": len(known.circuit.group(name).heads) + EXTRA}
        | ({"via": group.via} if group.via else {})
        for name, group in known.groups.items()
    ]


def edges(known: Known) -> list[dict[str, str]]:
    """What is blocked: every planted head's attention, some that no head has, and random tokens."""
    looked = [(group.at, group.looks_at) for group in known.groups.values()]
    others = [
        ("last", "correct_object"),
        ("last", "previous_query_label"),
        ("last", "random"),
        ("query_label", "random"),
    ]
    return [{"blind": blind, "to": to} for blind, to in dict.fromkeys((*looked, *others))]


def dcm_sizes() -> dict[str, Any]:
    """A short training, in large steps: planted heads change the target by whole logits, others by none."""
    return {
        "training_examples": 32,
        "validation_examples": 12,
        "test_examples": 30,
        "batch": 32,
        "epochs": 5,
        "learning_rate": 0.2,
        "validate_every": 1,
        "sparsity": 0.0001,
    }
