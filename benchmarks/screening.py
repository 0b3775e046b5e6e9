"""`python -m benchmarks.screening`: a circuit's stages with a screen beside the same stages without one.

Side by side in one process: token-layers, counted where MLPs put out; processor seconds; which heads are kept.
`--model` is a folder in Hugging Face format, by default the embedded model. `--seeds` are of the data: of each it says
whether the same heads are kept. `--effects` is a folder for all effects and estimates of each seed; `--orders` races
them again in so many other orders. `--headline` and `--memory` measure one stage: forwards per head, and bytes held.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks import setting
from benchmarks.setting import written
from benchmarks.tools.one_stage import bytes_held, headline
from benchmarks.tools.races import KnownStage
from benchmarks.tools.token_layers import counted_token_layers
from nnsight_et.manifest import parse
from nnsight_et.manifest.methods.path_patching import Screen
from nnsight_et.manifest.template import STUDIES, stages_of
from nnsight_et.measuring.race import Race
from nnsight_et.methods.path_patching import experiment
from nnsight_et.planning.plan import plan
from nnsight_et.results.headers import folder_of
from nnsight_et.results.store import Result, read_result
from nnsight_et.runner.run import run

SCREENS: dict[str, dict[str, Any] | None] = {
    "all prompts": None,
    "first: 4": {"first": 4},
    "first: 8": {"first": 8},
    "effects alone": {"first": 8, "gradient": False},
}
MLPS: list[dict[str, Any]] = [
    {"group": "mlp", "into": "logits", "at": "last", "senders": "mlps", "keep": 6, "receivers": 3},
    {"group": "mlp_reader", "into": "mlp", "via": "input", "at": "last", "keep": 6},
]
Rows = dict[str, dict[str, Any]]
"""By the name of the screen: one run."""


@contextmanager
def kept_races() -> Iterator[list[Race]]:
    """The races of a run's stages, as they end."""
    races, original = list[Race](), experiment.run_race

    def run_race(*some: Any, **named: Any) -> Any:
        race = yield from original(*some, **named)
        races.append(race)
        return race

    experiment.run_race = run_race
    try:
        yield races
    finally:
        experiment.run_race = original


def measured(given: argparse.Namespace, seed: int, screen: dict[str, Any] | None) -> tuple[dict[str, Any], Found]:
    """One run: its stages, token-layers and seconds of the processor; and its effects, or estimates, by stage.

    Nothing of it stays on the disk.
    """
    metric = STUDIES[given.task].metric if given.task in STUDIES else "probability_ratio"
    stages = stages_with(given, screen)
    with tempfile.TemporaryDirectory() as folder, counted_token_layers() as count, kept_races() as races:
        made = plan(parse(manifest_of(given, seed, stages, metric), "screening.yaml", ("self_check=off",)))
        start, spent = time.process_time(), {"layers": 0, "seconds": 0.0}
        of_stage = {stage["group"]: {"token_layers": 0, "seconds": 0.0} for stage in stages}
        for progress in run(made, Path(folder)):
            seconds, step = time.process_time() - start, progress.step.split()[0]
            if step in of_stage:
                of_stage[step]["token_layers"] += count[0] - spent["layers"]
                of_stage[step]["seconds"] += seconds - spent["seconds"]
            spent = {"layers": count[0], "seconds": seconds}
        seconds = time.process_time() - start
        result = read_result(folder_of(Path(folder), made) / "circuit")
    found = [stage | of_stage[stage["group"]] for stage in _stages(result)]
    row = {"examples": given.examples, "seconds": seconds, "token_layers": count[0], "stages": found}
    return row, dict(_tensors(result, races))


Found = dict[str, Tensor]
"""Of a run on all prompts "GROUP.effects" [sender, prompt] and "GROUP.base" [prompt]; else "GROUP.estimates"."""


def stages_with(given: argparse.Namespace, screen: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The stages that are measured, each with the screen."""
    stages = [*stages_of(given.task, "a model"), *(MLPS if given.mlps else [])]
    return [stage | ({"screen": screen} if screen else {}) for stage in stages]


def manifest_of(given: argparse.Namespace, seed: int, stages: Sequence[Mapping[str, Any]], metric: str) -> str:
    """In YAML, one experiment."""
    kind = "{kind: ioi, order: mixed, templates: 1}" if given.task == "ioi" else f"{{kind: {given.task}}}"
    more = f", bos: {given.bos}" if given.bos else ""
    named = f"models: {{it: {{path: {given.model}{more}}}}}\n" if "/" in given.model else ""
    model = "it" if named else given.model
    one = {"method": "path_patching", "model": model, "examples": given.examples, "metric": metric, "stages": stages}
    return f"name: screening\nseed: {seed}\ntask: {kind}\n{named}experiments:\n  circuit: {json.dumps(one)}\n"


def _stages(result: Result) -> Iterator[dict[str, Any]]:
    for stage in result.header.summary["stages"]:
        share = stage["screen"]["measured"] if "screen" in stage else 1.0
        yield {"group": stage["group"], "kept": [one["head"] for one in stage["kept"]], "receivers": stage["receivers"],
               "measured": share, "bar": stage["kept"][-1]["score"]}  # fmt: skip


def _tensors(result: Result, races: Sequence[Race]) -> Iterator[tuple[str, Tensor]]:
    for index, stage in enumerate(result.header.summary["stages"]):
        group, scores = stage["group"], result.scores
        if races:
            yield f"{group}.estimates", races[index].estimates.double()
            continue
        yield f"{group}.effects", scores[f"{group}.per_example"].double()[scores[f"{group}.reach"].bool()]
        yield f"{group}.base", scores.get(f"{group}.base_value", scores[f"{group}.base"]).double()


def beside(one: dict[str, Any], whole: dict[str, Any]) -> dict[str, Any]:
    """What a run with a screen has in common with the one without, and its share of that one's work."""
    stages = list(zip(one["stages"], whole["stages"], strict=True))
    return {
        "same_kept": [{*a["kept"]} == {*b["kept"]} for a, b in stages],
        "same_order": [a["kept"] == b["kept"] for a, b in stages],
        "same_receivers": [a["receivers"] == b["receivers"] for a, b in stages],
        "pairs": [a["measured"] for a, _ in stages],
        "token_layers": one["token_layers"] / whole["token_layers"],
        "token_layers_of_stages": [a["token_layers"] / b["token_layers"] for a, b in stages],
        "seconds": one["seconds"] / whole["seconds"],
    }


def keep_effects(given: argparse.Namespace, seed: int, found: Found, rows: Rows) -> None:
    """A file of the effects; of estimates as far as the runs with a screen had the same receivers."""
    runs = [row for name, row in rows.items() if SCREENS[name] and SCREENS[name].get("gradient", True)]  # type: ignore[union-attr]
    for one, *others in zip(rows["all prompts"]["stages"], *(row["stages"] for row in runs), strict=True):
        if any(other["receivers"] != one["receivers"] for other in others):
            found.pop(f"{one['group']}.estimates", None)
    given.effects.mkdir(parents=True, exist_ok=True)
    save_file(
        {key: value.contiguous() for key, value in found.items()}, given.effects / f"{_name(given)}_{seed}.safetensors"
    )


def simulated(given: argparse.Namespace, screen: Mapping[str, Any]) -> dict[str, Any]:
    """Races of all stages whose effects and estimates are kept, each in so many orders."""
    keeps = {stage["group"]: stage["keep"] for stage in stages_with(given, None)}
    metric = STUDIES[given.task].metric if given.task in STUDIES else "probability_ratio"
    how, of_stages = Screen.model_validate(screen), dict[str, list[dict[str, Any]]]()
    for path in sorted(given.effects.glob(f"{_name(given)}_*.safetensors")):
        found = load_file(path)
        for group, keep in keeps.items():
            if f"{group}.estimates" not in found:
                continue
            effects, estimates = (found[f"{group}.{name}"] for name in ("effects", "estimates"))
            stage = KnownStage(metric, keep, effects, estimates, found[f"{group}.base"])
            races = [stage.outcome(how, f"{path.stem}/{order}") for order in range(given.orders)]
            of_stages.setdefault(group, []).extend(races)
    every = [race for races in of_stages.values() for race in races]
    return {"screen": dict(screen), "all": _summed(every)} | {group: _summed(one) for group, one in of_stages.items()}


def _summed(races: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    total = {
        key: sum(race[key] for race in races) for key in ("left", "lost", "lost_outside_interval", "wrong_intervals")
    }
    lacking = sum(race["lost"] > 0 for race in races)
    return {
        "races": len(races),
        "lacking_a_head": lacking,
        "pairs": statistics.mean(race["measured"] for race in races),
    } | total


def _name(given: argparse.Namespace) -> str:
    return f"{Path(given.model).name}_{given.task}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and add to results/screening_MODEL_TASK.json, or write screening_headline.json and the like."""
    given = _parsed(arguments)
    torch.set_num_threads(1)
    if given.headline or given.memory:
        name = "headline" if given.headline else f"{Path(given.model).name}_memory"
        found = headline(given.rounds) if given.headline else bytes_held(given.model, given.examples)
        print(json.dumps(found, indent=1), f"\nWritten to {written(f'screening_{name}', found)}")
        return
    name = f"screening_{_name(given)}"
    outcome = _earlier(name)
    for seed in given.seeds:
        rows = outcome["seeds"][str(seed)] = Rows()
        for _ in range(given.rounds):
            _add_round(given, seed, rows)
            written(name, outcome)
        Console().print(_table(rows, seed))
    if given.orders:
        screens = [screen for one in given.screens if (screen := SCREENS[one])]
        outcome["other_orders"] = [simulated(given, screen) for screen in screens]
        print(json.dumps(outcome["other_orders"], indent=1))
    print(f"Written to {written(name, outcome)}")


def _earlier(name: str) -> dict[str, Any]:
    """What earlier runs found with other seeds."""
    path = setting.RESULTS / f"{name}.json"
    found = json.loads(path.read_text()) if path.exists() else {"seeds": {}}
    return {key: value for key, value in found.items() if key != "with"}


def _add_round(given: argparse.Namespace, seed: int, rows: Rows) -> None:
    """One more run with each of the screens."""
    tensors: Found = {}
    for name in given.screens:
        row, found = measured(given, seed, SCREENS[name])
        tensors |= found if given.effects else {}
        seconds = [*rows.get(name, {}).get("every_seconds", []), row["seconds"]]
        rows[name] = row | {"seconds": statistics.median(seconds), "every_seconds": seconds}
        if name != "all prompts" and "all prompts" in rows:
            rows[name]["beside_all_prompts"] = beside(rows[name], rows["all prompts"])
    if given.effects:
        keep_effects(given, seed, tensors, rows)


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="llama-tiny")
    parser.add_argument("--bos", choices=["add", "none"], help="as models: has it: add, for Gemma")
    parser.add_argument("--task", default="boxes")
    parser.add_argument("--mlps", action="store_true", help="two stages more: MLPs into the logits, heads into MLPs")
    parser.add_argument("--examples", type=int, default=96)
    parser.add_argument("--seeds", nargs="*", type=int, default=[20], help="of the data; none: only --orders")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--screens", nargs="*", choices=list(SCREENS), default=list(SCREENS))
    parser.add_argument("--effects", type=Path, help="a folder for a file with all effects of each seed")
    parser.add_argument("--orders", type=int, default=0, help="race what is in that folder again, in so many orders")
    parser.add_argument("--headline", action="store_true", help="forwards per head, value at the previous label")
    parser.add_argument("--memory", action="store_true", help="bytes of all tensors at once, value at S2, from --model")
    given = parser.parse_args(arguments)
    if given.orders and not given.effects:
        parser.error("--orders: no folder with effects; accepted: --effects FOLDER beside it")
    if given.effects and given.seeds and given.screens[:1] != ["all prompts"]:
        parser.error(f"--screens: {given.screens}; accepted with --effects: 'all prompts' first")
    return given


def _table(rows: Rows, seed: int) -> Table:
    table = Table("screen", "token-layers", "seconds", "pairs of head and prompt", "same kept", "in order", "receivers",
                  title=f"seed {seed}, of a run without")  # fmt: skip
    for name, row in rows.items():
        found = beside(row, rows.get("all prompts", next(iter(rows.values()))))
        shares = [f"{found[key]:.3f}" for key in ("token_layers", "seconds")]
        alike = [f"{sum(found[key])} of {len(found[key])}" for key in ("same_kept", "same_order", "same_receivers")]
        table.add_row(name, *shares, " ".join(f"{share:.2f}" for share in found["pairs"]), *alike)
    return table


if __name__ == "__main__":
    main()
