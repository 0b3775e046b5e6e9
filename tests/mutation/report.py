"""docs/mutation.md: the shares and the tables of the seeded faults, in sample and out of it, and surviving mutants."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .faults_strangers import DECISION, NOTES, TESTS_TEXT
from .mutants import Mutant
from .runner import Outcome
from .seeded import AT_RUN_TIME, Tried
from .verdicts import verdict

HEAD = """\
# Injected faults

We inject faults into a copy of the package, one at a time, and see whether a user's own run and the tests catch them.
`make mutation` writes this page; do not edit it. The authors of the checks knew the faults *in sample*. Faults *out of
sample* show how well the checks catch what their authors did not foresee.
"""
SEEDED, STRANGERS, MECHANICAL = "## Seeded faults", "## Out of sample", "## Mechanical mutants"
"""How the headings of the page's parts begin."""
RUN_TIME = """\
A run catches a fault by its self-check, by the check of the model when it is loaded, or by refusing an impossible step
(`refusal`). Each fault runs all methods on two random three-layer models. `gqa`: four query and two key-value heads;
`bias`: one key-value head, and biases, also in the output projection; `lora`: an adapter on q, k, v and o; `padding`:
prompts of two lengths; `pairs`: three methods on a file of pairs. A crash also counts as caught, in a separate figure.
"Tests" names the first test that fails.
"""
OUT_OF_SAMPLE = f"""\
Somebody who had seen neither checks nor tests wrote these faults from the documents and the methods' code. We tried
them once and publish the result unchanged. Runs are those of the seeded faults: they draw no table or figure and read
no file of scores. {TESTS_TEXT} Faults of decision change what is
chosen, drawn, ranked or counted; faults of computation change how it is measured, stored or shown.
"""


@dataclass(frozen=True)
class Line:
    """One fault or mutant as plain data, which is what is kept of a run."""

    kind: str
    name: str
    place: str
    exercise: str
    text: str
    run: dict[str, str]
    tests: dict[str, str]


def line_of_fault(tried: Tried) -> Line:
    """A seeded fault's line."""
    fault = tried.fault
    return Line(fault.kind, fault.name, fault.file, fault.exercise, "", asdict(tried.run), asdict(tried.tests))


def line_of_mutant(mutant: Mutant, tests: Outcome, run: Outcome | None = None) -> Line:
    """A mechanical mutant's line; `run` is there if a run with self-checks was tried."""
    said = asdict(run) if run else {}
    return Line(mutant.kind, mutant.name, mutant.place, "", mutant.text.strip(), said, asdict(tests))


def page(old: str, seeded: Sequence[Line], strangers: Mapping[str, Sequence[Line]], mechanical: Sequence[Line]) -> str:
    """The whole page; a part of which there are no lines stays as the `old` page has it."""
    out_of_sample = [part for name, lines in strangers.items() for part in _strangers(name, lines)]
    made = {
        SEEDED: _seeded(seeded) if seeded else [],
        STRANGERS: out_of_sample,
        MECHANICAL: _mechanical(mechanical) if mechanical else [],
    }
    return "\n".join([HEAD, *(one for start, part in made.items() for one in part or _as_it_was(old, start))])


def _as_it_was(old: str, start: str) -> list[str]:
    """The part of the page whose heading begins so; nothing if it has none."""
    parts = ("\n" + old).split("\n## ")[1:]
    return ["## " + part.removesuffix("\n") + "\n" for part in parts if f"## {part}".startswith(start)]


def _seeded(lines: Sequence[Line]) -> list[str]:
    of_run = Counter(line.run["caught"] or "missed" for line in lines)
    noticed = sum(of_run[name] for name in AT_RUN_TIME)
    of_tests = sum(bool(line.tests["caught"]) for line in lines)
    kinds = len({line.kind for line in lines})
    shares = [
        f"{SEEDED}, in sample: {len(lines)} faults of {kinds} kinds\n",
        f"- caught by the run itself: {_share(noticed, lines)}; with crashes {_share(len(lines) - of_run['missed'], lines)}",
        f"- caught by the tests: {_share(of_tests, lines)}\n",
        RUN_TIME,
        f"Endings of runs: {', '.join(f'{name} {count}' for name, count in of_run.most_common())}.\n",
    ]
    rows = [[line.kind, line.name, line.place, line.exercise, _by(line.run), _by(line.tests)] for line in lines]
    return [*shares, _table(["kind", "fault", "file", "exercise", "run", "tests"], rows)]


def _strangers(name: str, lines: Sequence[Line]) -> list[str]:
    of_decision = [line for line in lines if line.kind == DECISION]
    rows = [[line.kind, line.name, line.place, line.exercise, _by(line.run), _by(line.tests)] for line in lines]
    shares = [["all", *_found(lines)], [f"of {DECISION}", *_found(of_decision)]]
    return [
        f"{STRANGERS}, {name} set: {len(lines)}, {len(of_decision)} of them faults of decision\n",
        OUT_OF_SAMPLE,
        *([f"{NOTES[name]}\n"] if name in NOTES else []),
        _table(["faults", "by the run alone", "by the tests alone", "by run or tests"], shares),
        _table(["kind", "fault", "file", "exercise", "run", "tests"], rows),
    ]


def _found(lines: Sequence[Line]) -> list[str]:
    """How many the run finds, the tests find, and either of them finds; a run that crashes finds it.

    Of the tests' shares are the faults that they were tried on.
    """
    tested = [line for line in lines if line.tests]
    of_run, of_tests, of_either = (
        sum(bool(line.run["caught"]) for line in lines),
        sum(bool(line.tests["caught"]) for line in tested),
        sum(bool(line.run["caught"] or line.tests["caught"]) for line in tested),
    )
    return [_share(of_run, lines), _share(of_tests, tested), _share(of_either, tested)]


def _mechanical(lines: Sequence[Line]) -> list[str]:
    survivors = [(line, verdict(line.place, line.text, line.name)) for line in lines if not line.tests["caught"]]
    left = [line for line, judged in survivors if judged.shows]
    rows = [[line.place, f"`{line.text}`", line.name, judged.text] for line, judged in survivors]
    by_kind = [
        [kind, str(len(of)), str(sum(bool(line.tests["caught"]) for line in of))]
        for kind, of in _grouped(lines, lambda line: line.kind).items()
    ]
    return [
        f"{MECHANICAL} of engine/ and interventions/: {len(lines)}, drawn at random from a seed\n",
        f"- killed by the tests of their file: {_share(len(lines) - len(survivors), lines)}",
        f"- survivors that change a visible number, or that nobody has judged yet: {len(left)}\n",
        _of_runs([line for line in lines if line.run and line.tests["caught"]]),
        _table(["kind", "mutants", "killed"], by_kind),
        "### Survivors\n",
        _table(["place", "line", "change", "verdict"], rows),
    ]


def _of_runs(lines: Sequence[Line]) -> str:
    """What runs with self-checks make of mutants that tests kill: nobody had these in mind when checks were written."""
    if not lines:
        return ""
    ended = Counter(line.run["caught"] or "missed" for line in lines)
    noticed = sum(ended[name] for name in AT_RUN_TIME)
    rows = [[line.place, f"`{line.text}`", line.name, line.tests["by"]] for line in lines if not line.run["caught"]]
    return (
        f"We also injected every fourth mutant outside the checks into a run of `gqa`. Of those that the tests kill, the "
        f"run catches {_share(noticed, lines)}; {ended['crash'] + ended['hang']} crash, and "
        f"{ended['missed']} end normally{':' if rows else '.'}\n\n"
        + (_table(["place", "line", "change", "test"], rows) if rows else "")
    )


def _grouped(lines: Sequence[Line], of: Callable[[Line], str]) -> dict[str, list[Line]]:
    groups: dict[str, list[Line]] = {}
    for line in lines:
        groups.setdefault(of(line), []).append(line)
    return groups


def _share(count: int, lines: Sequence[Any]) -> str:
    return f"{count} of {len(lines)} ({100 * count / len(lines):.1f}%)"


def _by(outcome: dict[str, str]) -> str:
    if not outcome:
        return "not tried"
    if not outcome["caught"]:
        return "**missed**"
    if outcome["caught"] in ("test", "self-check"):
        return outcome["by"]
    return f"{outcome['caught']}: {outcome['by']}"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def write(
    path: Path, seeded: Sequence[Line], strangers: Mapping[str, Sequence[Line]], mechanical: Sequence[Line]
) -> None:
    """Write the page."""
    path.write_text(page(path.read_text(), seeded, strangers, mechanical))
