"""`python -m benchmarks.coverage`: how often 95% intervals miss the truth, and how often the test of heads errs.

Intervals of accuracies are enumerated, the rest is drawn. `--scores` takes folders of results of path patching on real
models: their heads' effects, each shifted to mean 0, are then drawn from as well. Writes results/coverage.json and,
with `--document`, the figures and the tables of docs/statistics.md, which are made from that file alone.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from math import lgamma, log, log1p, sqrt
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from benchmarks.setting import written
from nnsight_et.core.statistics import (
    LEVEL,
    accuracy_intervals,
    difference_interval,
    effect_p_values,
    holm,
    mean_interval,
    ratio_interval,
    student_below,
    wilson_interval,
)
from nnsight_et.display.figures import Curves, DataPoint, FigureGroup, Series
from nnsight_et.report.html.figure_files import figure_files
from nnsight_et.results.store import read_result

DOCUMENT = Path(__file__).parents[1] / "docs" / "statistics.md"
ACCURACIES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.975, 0.99)
MODELS = (0.7, 0.9, 0.99, 1.0)
SIZES = (20, 50, 100, 200, 500)
HEADS = 40
Row = dict[str, Any]


def accuracy_rows(sizes: Sequence[int]) -> Iterator[Row]:
    """Exact: the probability of every number of right answers whose interval holds the accuracy."""
    for count in sizes:
        bounds = [wilson_interval(right, count) for right in range(count + 1)]
        for share in ACCURACIES:
            held = sum(
                _binomial(right, count, share) for right, (low, high) in enumerate(bounds) if low <= share <= high
            )
            yield {"what": "accuracy", "n": count, "accuracy": share, "coverage": held}


def draw_rows(sizes: Sequence[int], trials: int) -> Iterator[Row]:
    """Means of 10 draws on the same prompts; on half of these all draws are right, or all wrong."""
    draw = torch.Generator().manual_seed(1)
    for count in sizes:
        for share in ACCURACIES:
            shares = torch.full((trials, count), share)
            same, one = (torch.bernoulli(some, generator=draw) for some in (torch.full_like(shares, 0.5), shares))
            right = torch.where(same > 0, one, torch.binomial(torch.full_like(shares, 10), shares, generator=draw) / 10)
            bounds = torch.tensor(accuracy_intervals(right))
            held = ((bounds[:, 0] <= share) & (bounds[:, 1] >= share)).double().mean().item()
            yield {"what": "mean of 10 draws", "n": count, "accuracy": share, "coverage": held}


def paired_rows(sizes: Sequence[int], trials: int) -> Iterator[Row]:
    """Faithfulness and completeness: a circuit that is right only where the model is, or whatever the model is."""
    draw = torch.Generator().manual_seed(2)
    for count in sizes:
        for model in MODELS:
            for share in (one for one in ACCURACIES if one <= model):
                for nested in (True, False) if model < 1 else (True,):
                    both = share if nested else share * model
                    cells = torch.tensor([both, share - both, model - both, 1 - share - model + both]).clamp(min=0)
                    drawn = torch.multinomial(cells, trials * count, replacement=True, generator=draw)
                    counts = torch.nn.functional.one_hot(drawn.view(trials, count), 4).sum(1)
                    kinds, times = counts.unique(dim=0, return_counts=True)
                    held = {"faithfulness": 0, "completeness": 0}
                    for kind, time in zip(kinds.tolist(), times.tolist(), strict=True):
                        ratio, difference = _paired_bounds(*kind)
                        held["faithfulness"] += time * (ratio[0] <= share / model <= ratio[1])
                        held["completeness"] += time * (difference[0] <= share - model <= difference[1])
                    place = {"n": count, "accuracy": share, "model": model, "nested": nested}
                    for what, right in held.items():
                        yield {"what": what} | place | {"coverage": right / trials}


@cache
def _paired_bounds(both: int, first: int, second: int, neither: int) -> tuple[list[float], list[float]]:
    kinds = torch.tensor([0, 1, 2, 3]).repeat_interleave(torch.tensor([both, first, second, neither]))
    circuit, model = kinds < 2, (kinds == 0) | (kinds == 2)
    return ratio_interval(circuit, model), difference_interval(circuit, model)


def real_effects(folders: Sequence[Path]) -> dict[str, Tensor]:
    """Name -> [head, example]: what a stage of a result tested, of the heads that can reach."""
    found: dict[str, Tensor] = {}
    for folder in folders:
        result = read_result(folder)
        for name in [key.removesuffix(".per_example") for key in result.scores if key.endswith(".per_example")]:
            effects = result.scores[f"{name}.per_example"].double()[result.scores[f"{name}.reach"]]
            shown = f"{result.header.job.name}, {name.replace('_', ' ')}"
            found[shown] = effects.log1p() if f"{name}.log_ratio" in result.scores else effects
    return found


def shapes(real: dict[str, Tensor]) -> dict[str, Callable[[int, torch.Generator], Tensor]]:
    """Name -> [head, example] of mean 0, from how many examples and a generator."""

    def of(name: str) -> Callable[[int, torch.Generator], Tensor]:
        effects = real[name] - real[name].mean(-1, keepdim=True)
        return lambda count, draw: effects[:, torch.randint(effects.shape[1], (count,), generator=draw)]

    def exponential(count: int, draw: torch.Generator) -> Tensor:
        return torch.empty(HEADS, count, dtype=torch.float64).exponential_(generator=draw) - 1

    def normal(count: int, draw: torch.Generator) -> Tensor:
        return torch.randn(HEADS, count, generator=draw, dtype=torch.float64)

    made = {
        "normal": normal,
        "right tail: exponential": exponential,
        "left tail: exponential": lambda count, draw: -exponential(count, draw),
        "right tail: lognormal": lambda count, draw: (normal(count, draw) / 2).exp() - torch.tensor(0.125).exp(),
    }
    return made | {name: of(name) for name in real}


def test_rows(sizes: Sequence[int], trials: int, real: dict[str, Tensor]) -> Iterator[Row]:
    """How often any head is beyond chance that has mean 0, and how often the interval of a mean misses 0.

    Beside it the same of Student's t alone. Of real effects also: how many heads are found if they are not shifted.
    """
    for name, make in shapes(real).items():
        draw = torch.Generator().manual_seed(3)
        for count in sizes:
            wrong, plain, held, powers = 0, 0, 0.0, list[tuple[int, int]]()
            for trial in range(trials):
                effects = make(count, draw)
                wrong += bool((holm(effect_p_values(effects)) <= LEVEL).any())
                plain += bool((holm(_student(effects)) <= LEVEL).any())
                low, high = mean_interval(effects)
                held += ((low <= 0) & (high >= 0)).double().mean().item()
                if name in real and trial % 10 == 0:
                    whole = real[name][:, torch.randint(real[name].shape[1], (count,), generator=draw)]
                    ours, plainly = (int((holm(p) <= LEVEL).sum()) for p in (effect_p_values(whole), _student(whole)))
                    powers.append((ours, plainly))
            row = {"what": "test", "shape": name, "n": count, "error": wrong / trials, "plain": plain / trials}
            found = {"found": sum(one for one, _ in powers), "found_plain": sum(one for _, one in powers)}
            yield (
                row | {"coverage": held / trials} | {key: value / len(powers) for key, value in found.items() if powers}
            )


def _student(effects: Tensor) -> Tensor:
    count = effects.shape[-1]
    return student_below(effects.mean(-1) / effects.std(-1) * sqrt(count), count - 1)


def skews(real: dict[str, Tensor]) -> dict[str, list[float]]:
    """Name -> 5%, 25%, 50%, 75% and 95% quantile over heads of their effects' skewness."""
    found = {}
    for name, effects in real.items():
        apart = effects - effects.mean(-1, keepdim=True)
        skew = apart.pow(3).mean(-1) / apart.square().mean(-1).pow(1.5)
        found[name] = skew[skew.isfinite()].quantile(torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95]).double()).tolist()
    return found


def _binomial(right: int, count: int, share: float) -> float:
    ways = lgamma(count + 1) - lgamma(right + 1) - lgamma(count - right + 1)
    return torch.tensor(ways + right * log(share) + (count - right) * log1p(-share)).exp().item()


def plates(data: dict[str, Any]) -> list[FigureGroup]:
    """Misses in 100 over the accuracy, a curve per number of prompts; and the test's errors over the examples."""
    ratio = [row for row in data["rows"] if row["what"] == "faithfulness" and row["model"] == max(MODELS)]
    panels = [
        _curves("accuracy", [row for row in data["rows"] if row["what"] == "accuracy"]),
        _curves("faithfulness, of a model that is always right", ratio),
    ]
    tests = [row for row in data["rows"] if row["what"] == "test"]
    sizes = list(dict.fromkeys(row["n"] for row in tests))
    series = [
        Series(name, tuple(_point(row["error"]) for row in tests if row["shape"] == name))
        for name in dict.fromkeys(row["shape"] for row in tests)
    ]
    errors = Curves("", tuple(map(str, sizes)), "examples", tuple(series), "runs with a false head in 100")
    meant = "Intervals that miss the truth, in 100; 5 are meant."
    return [
        FigureGroup("coverage", "Coverage of 95% intervals", meant, tuple(panels)),
        FigureGroup("test_error", "Error of the test of heads", "Runs with any false head, in 100.", (errors,)),
    ]


def _curves(title: str, rows: Sequence[Row]) -> Curves:
    shares = list(dict.fromkeys(row["accuracy"] for row in rows))
    series = [
        Series(f"{count} prompts", tuple(_point(1 - row["coverage"]) for row in rows if row["n"] == count))
        for count in dict.fromkeys(row["n"] for row in rows)
    ]
    return Curves(title, tuple(map(str, shares)), "true accuracy", tuple(series), "misses in 100")


def _point(share: float) -> DataPoint:
    return DataPoint(100 * share, None, f"{100 * share:.1f}")


def tables(data: dict[str, Any]) -> str:
    """The worst and the best coverage of each interval per number of prompts, and the test's errors, in Markdown."""
    rows, sizes = data["rows"], data["sizes"]
    about = f"{data['trials']} samples for each true accuracy, {max(data['trials'] // 10, 10)} runs of each test."
    lines = [
        about,
        "",
        f"| interval | {' | '.join(f'n = {count}' for count in sizes)} |",
        f"|---|{'---|' * len(sizes)}",
    ]
    for what in dict.fromkeys(row["what"] for row in rows if row["what"] != "test"):
        cells = []
        for count in sizes:
            some = [row["coverage"] for row in rows if row["what"] == what and row["n"] == count]
            near = sum(0.93 <= one <= 0.97 for one in some)
            cells.append(f"{min(some):.3f} to {max(some):.3f}; {near} of {len(some)}")
        lines.append(f"| {what} | {' | '.join(cells)} |")
    lines += ["", f"| effects of mean 0 | {' | '.join(f'n = {count}' for count in sizes)} |", lines[3]]
    tests = [row for row in rows if row["what"] == "test"]
    for name in dict.fromkeys(row["shape"] for row in tests):
        some = [row for row in tests if row["shape"] == name]
        cells = [f"{row['error']:.3f} ({row['plain']:.3f}); {row['coverage']:.3f}" for row in some]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    found = [row for row in tests if "found" in row]
    if found:
        lines += ["", f"| heads found | {' | '.join(f'n = {count}' for count in sizes)} |", lines[3]]
        for name in dict.fromkeys(row["shape"] for row in found):
            some = [row for row in found if row["shape"] == name]
            cells = [f"{row['found']:.1f} ({row['found_plain']:.1f})" for row in some]
            lines.append(f"| {name} | {' | '.join(cells)} |")
    for name, (least, low, middle, high, most) in data["skews"].items():
        quantiles = f"{least:.1f}, {low:.1f}, {middle:.1f}, {high:.1f} and {most:.1f}"
        lines += ["", f"Skewness of the effects of {name}: {quantiles} at the 5%, 25%, 50%, 75% and 95% of heads."]
    return "\n".join(lines)


def document(text: str, data: dict[str, Any]) -> str:
    """The document with its tables made anew; what is written by hand around them stays."""
    head, _, rest = text.partition("<!-- coverage -->\n")
    end = "<!-- /coverage -->\n"
    return f"{head}<!-- coverage -->\n{tables(data)}\n{end}{rest.partition(end)[2]}"


def figures(data: dict[str, Any]) -> dict[str, bytes]:
    """File name -> figure."""
    return {name: drawn for plate in plates(data) for name, drawn in figure_files(plate, ["svg"]).items()}


def main(given: Sequence[str] | None = None) -> None:
    """Compute, print, and write results/coverage.json, and with --document what the documentation shows of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=4000, help="of intervals; a tenth of them of tests")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--scores", type=Path, nargs="*", default=[], help="folders of results of path patching")
    parser.add_argument("--document", action="store_true", help="write docs/statistics.md and its figures")
    options = parser.parse_args(given)
    torch.set_num_threads(1)
    real, sizes = real_effects(options.scores), options.sizes
    rows = [*accuracy_rows(sizes), *draw_rows(sizes, options.trials), *paired_rows(sizes, options.trials)]
    rows += test_rows(sizes, max(options.trials // 10, 10), real)
    data = {"trials": options.trials, "sizes": sizes, "skews": skews(real), "rows": rows}
    data = json.loads(json.dumps(data, default=float), parse_float=lambda text: round(float(text), 4))
    console = Console(width=130)
    console.print(tables(data))
    console.print(f"Written to {written('coverage', data)}")
    if options.document:
        write_document(data)


def write_document(data: dict[str, Any]) -> None:
    """The tables and the figures of docs/statistics.md."""
    DOCUMENT.write_text(document(DOCUMENT.read_text(), data))
    for name, drawn in figures(data).items():
        (DOCUMENT.parent / "figures").mkdir(exist_ok=True)
        (DOCUMENT.parent / "figures" / name).write_bytes(drawn)


if __name__ == "__main__":
    main()
