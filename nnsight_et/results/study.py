"""A run's folder -> the results that are complete, and what is missing and why. Nothing is run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nnsight_et.core.errors import ManifestError, ResultError
from nnsight_et.core.notices import Notice
from nnsight_et.planning.plan import Job, Plan
from nnsight_et.results.headers import name_of
from nnsight_et.results.store import HEADER, Result, read_result
from nnsight_et.results.summary import circuit_in


@dataclass(frozen=True)
class Missing:
    """An experiment without a result that can be used."""

    experiment: str
    method: str
    why: str


@dataclass(frozen=True)
class Study:
    """The finished experiments of one run, each after those it needs, and the others."""

    name: str
    results: tuple[Result, ...]
    missing: tuple[Missing, ...]
    planned: bool = True
    """Whether all experiments of its manifest are known: in `results` or in `missing`."""

    def result(self, name: str) -> Result | None:
        """The result of the experiment called `name`; None if it is missing."""
        return next((result for result in self.results if name_of(result.header) == name), None)

    @property
    def notices(self) -> dict[Notice, list[str]]:
        """What is to be known first, each thing with the experiments it is about."""
        found: dict[Notice, list[str]] = {}
        for result in self.results:
            for notice in result.header.notices:
                found.setdefault(notice, []).append(name_of(result.header))
        return found


def notice_text(notice: Notice, experiments: Sequence[str]) -> str:
    """The notice and the experiments it is about, as people read it."""
    return f"{notice}. In {', '.join(experiments)}."


def study_of(plan: Plan, folder: Path) -> Study:
    """The study of a plan whose results are in `folder`; what another process is still writing there is missing."""
    results: dict[str, Result] = {}
    missing: dict[str, Missing] = {}
    for job in plan.jobs:
        found = _read(folder, job.name)
        if isinstance(found, Result) and found.header.job_id != job.id:
            found = "its result is from another version of the experiment; run the manifest again"
        if isinstance(found, Result):
            results[job.name] = _as_headed_now(found, job)
        else:
            empty = [need for need in job.needs if need in results and _found_no_heads(results[need])]
            why = f"{found}; {' and '.join(empty)}, whose heads it needs, found none" if empty else found
            missing[job.name] = Missing(job.name, job.spec.method, _with_needs(why, job.needs, missing))
    return Study(plan.name, tuple(results.values()), tuple(missing.values()))


def study_in(folder: Path) -> Study:
    """The study in a run's folder, without its manifest: what is there and what that needs; ManifestError if none."""
    names = sorted(path.name for path in folder.glob("*") if path.is_dir() and not path.name.startswith("."))
    read = {name: _read(folder, name) for name in names if (folder / name / HEADER).exists()}
    results = {name: found for name, found in read.items() if isinstance(found, Result)}
    if not results:
        found = next((why for why in read.values() if isinstance(why, str)), "no result")
        raise ManifestError(f"{folder}: {found}; accepted: a manifest, or the folder that `et run` names at its end")
    missing = {name: Missing(name, "–", found) for name, found in read.items() if isinstance(found, str)}
    for name, result in results.items():
        for need in result.header.job.needs:
            if need not in results and need not in missing:
                missing[need] = Missing(need, "–", f"no result, although {name} was made from it")
    return Study(folder.resolve().parent.name, _in_order(results), tuple(missing.values()), planned=False)


def _as_headed_now(result: Result, job: Job) -> Result:
    """The result with the title and the paper's tables that the manifest gives it now: no result is made for them."""
    now = {"title": job.spec.title, "reproduces": job.spec.reproduces}
    record = result.header.job.model_copy(update={"spec": result.header.job.spec.model_copy(update=now)})
    return replace(result, header=result.header.model_copy(update={"job": record}))


def _read(folder: Path, name: str) -> Result | str:
    """The experiment's result, or why there is none."""
    if not (folder / name / HEADER).exists():
        return "no result yet"
    try:
        return read_result(folder / name)
    except ResultError as error:
        return str(error).replace(f"{folder}/", "")


def _found_no_heads(result: Result) -> bool:
    try:
        circuit = circuit_in(result.header)
    except ResultError:  # where it is shown it says what is wrong
        return False
    return circuit is not None and not circuit.size


def _with_needs(why: str, needs: tuple[str, ...], missing: Mapping[str, Missing]) -> str:
    """The reason, and which missing experiments this one waits for."""
    waiting = [need for need in needs if need in missing]
    return f"{why}; it needs {' and '.join(waiting)}, also missing" if waiting else why


def _in_order(results: Mapping[str, Result]) -> tuple[Result, ...]:
    """The results, each after those it needs."""
    ordered: dict[str, Result] = {}

    def add(name: str, above: tuple[str, ...] = ()) -> None:
        for need in results[name].header.job.needs:
            if need in results and need not in (*above, name):
                add(need, (*above, name))
        ordered.setdefault(name, results[name])

    for name in results:
        add(name)
    return tuple(ordered.values())
