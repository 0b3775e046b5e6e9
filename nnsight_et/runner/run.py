"""Manifest -> results: every job in order, every finished piece of work stored at once. Sees every layer."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path

import torch

from nnsight_et import __version__
from nnsight_et.core.errors import ManifestError, ResultError
from nnsight_et.core.notices import Notice
from nnsight_et.manifest import Manifest
from nnsight_et.measuring.mask_training import AUTOGRAD, DIFFERENCES
from nnsight_et.measuring.own_pairs import check_every_prompt, check_pairs
from nnsight_et.measuring.self_check import SelfCheck, check_outcome
from nnsight_et.measuring.tokens import tokens_of
from nnsight_et.measuring.work import ENGINE_VERSION, Outcome, Progress, Work
from nnsight_et.methods.activation_patching import experiment as activation_patching
from nnsight_et.methods.attention_patterns import experiment as attention_patterns
from nnsight_et.methods.attribution import experiment as attribution
from nnsight_et.methods.cmap import experiment as cmap
from nnsight_et.methods.comparison import experiment as comparison
from nnsight_et.methods.completeness import experiment as completeness
from nnsight_et.methods.dcm import experiment as dcm
from nnsight_et.methods.faithfulness import experiment as faithfulness
from nnsight_et.methods.knockout import experiment as knockout
from nnsight_et.methods.minimality import experiment as minimality
from nnsight_et.methods.path_patching import experiment as path_patching
from nnsight_et.models.files import Files
from nnsight_et.models.gguf_file import told
from nnsight_et.models.named import ModelSpec
from nnsight_et.planning.plan import Job, digest, plan
from nnsight_et.remote.backends import on_server, serving
from nnsight_et.remote.server import Remote
from nnsight_et.results.headers import ModelRecord, ResultHeader
from nnsight_et.results.store import Result, Store, read_result, write_result
from nnsight_et.runner.first_look import look_first
from nnsight_et.runner.float16 import try_first_prompts
from nnsight_et.runner.own_task import check_own_task
from nnsight_et.tasks.boxes import VERSION
from nnsight_et.workers.pool import check_workers, on_cluster, working

METHODS = {
    "path_patching": path_patching,
    "faithfulness": faithfulness,
    "minimality": minimality,
    "completeness": completeness,
    "comparison": comparison,
    "dcm": dcm,
    "activation_patching": activation_patching,
    "cmap": cmap,
    "knockout": knockout,
    "attention_patterns": attention_patterns,
    "attribution": attribution,
}
SMALLER_CHUNKS = "smaller_chunks"  # where memory ran out: model and dtype -> tokens of one pass; the same to rounding
PACKAGES = ("nnsight", "torch", "transformers")

__all__ = ["METHODS", "Means", "Progress", "Remote", "run", "run_folder"]


def run_folder(manifest: Manifest, root: Path) -> Path:
    """Where the manifest's results are, or will be."""
    return Store(root).folder(plan(manifest))


@dataclass(frozen=True)
class Means:
    """What a run is carried out with, beside its manifest; no number depends on it."""

    remote: Remote = field(default_factory=Remote)
    """How a server is used, where the manifest names one."""
    workers: str | None = None
    """Processes that the cells of an experiment are shared out to, such as ray:4."""
    on_layer: Callable[[int], None] | None = None
    """Hears of each layer that path patching in this process comes to, many times in one piece of work."""
    on_notice: Callable[[Notice], None] | None = None
    """Hears of what a user must be told first, each thing once; results have it too."""


def run(
    manifest: Manifest,
    root: Path,
    only: Sequence[str] = (),
    fresh: bool = False,
    means: Means | None = None,
) -> Iterator[Progress]:
    """Run the manifest's experiments, or those in `only` and what they need; yield after every piece of work.

    What is in the store is not measured again, unless `fresh`. Models, data and circuits are checked before any work,
    and models in float16 tried on a prompt.
    `means` says with what it is carried out; ManifestError if that cannot be.
    """
    means = means or Means()
    check_workers(means.workers, manifest.backend, manifest.device)
    whole = plan(manifest)
    jobs = on_server(manifest.backend, whole.chosen(only))
    store = Store(root)
    folder = store.folder(whole)
    device = device_of(manifest.device, on_cluster(means.workers)) if manifest.backend == "local" else manifest.backend
    serve = serving(manifest.backend, jobs, folder, means.remote)
    with store.writing(folder), serve as server, working(means.workers, device) as shared:
        store.sweep(folder)
        if server is not None:
            store.damaged.extend(server.journal.sweep())
        if fresh and server is not None:
            server.journal.clear()
        work = Work(
            store, folder, device, manifest.memory_bytes, fresh, server, shared, means.on_layer, means.on_notice
        )
        checked = manifest.self_check == "on"
        for job in jobs:
            check_pairs(work, job)
            METHODS[job.spec.method].check(work, job)
            check_every_prompt(work, job)
        check_own_task(work, jobs)
        try_first_prompts(work, jobs)
        work.self_check = SelfCheck(checked)
        for job in jobs:
            _take_earlier(work, job)
        look_first(work, jobs, manifest.probe == "on")
        for job in jobs:
            try:
                work.self_check = SelfCheck(checked)
                yield from (replace(step, damaged=tuple(store.damaged)) for step in _finished(work, job))
            except Exception as error:
                error.add_note(f"while running {job.name}")
                raise


def _take_earlier(work: Work, job: Job) -> None:
    """Put the job's earlier result among the work's results, if there is one, and tell again what it says first."""
    if job.name in work.finished or not all(need in work.finished for need in job.needs):
        return
    result = None if work.fresh else _earlier(work, job)
    if result is not None:
        work.finished[job.name] = result
        for notice in result.header.notices:
            work.tell(job, notice)


def _finished(work: Work, job: Job) -> Iterator[Progress]:
    """Read the job's result, or measure and write it; afterwards it is among the work's results."""
    _take_earlier(work, job)
    if job.name in work.finished:
        yield Progress(job.name, job.spec.method, 1, 1, 1)
        return
    place, start = work.folder / job.name, time.monotonic()
    outcome = yield from METHODS[job.spec.method].measure(work, job)
    check_outcome(work, job, outcome)
    write_result(place, Result(_header(work, job, outcome, time.monotonic() - start), outcome.scores))
    work.finished[job.name] = read_result(place)
    if work.server is not None:
        work.server.journal.clear(job.name)


def _earlier(work: Work, job: Job) -> Result | None:
    """The job's result, if it is there, whole, of the same work, and checked where it is to be."""
    place, identities = work.folder / job.name, [_identity(work, job, gradient) for gradient in gradients(work)]
    try:
        result = read_result(place)
    except ResultError:
        return work.store.missing(place)
    unchecked = work.self_check.on and not result.header.self_check["on"]
    return result if result.header.identity in identities and not unchecked else None


def _identity(work: Work, job: Job, gradient: str) -> str:
    """Digest of what is computed: the job, its models' files, its circuits, the gradient, and the versions of data and
    engine."""
    prints = [work.files(choice).fingerprint for choice in job.models]
    needs = [work.finished[name].header.identity for name in job.needs]
    parts = {"job": job.id, "models": prints, "needs": needs, "data": VERSION, "engine": ENGINE_VERSION}
    return digest(parts if gradient == AUTOGRAD else parts | {"gradient": gradient})


def _header(work: Work, job: Job, outcome: Outcome, seconds: float) -> ResultHeader:
    smaller = work.smaller.of(job)
    kinds = {row.get("gradient", AUTOGRAD) for row in outcome.summary.get("rows", ())}
    identity = _identity(work, job, DIFFERENCES if DIFFERENCES in kinds else AUTOGRAD)
    records = [
        ModelRecord(
            name=one.name, fingerprint=work.files(one).fingerprint, description=_source(work.files(one), one.spec)
        )
        for one in job.models
    ]
    return ResultHeader(
        job=job.to_dict(),
        job_id=job.id,
        identity=identity,
        models=records,
        data_digest=outcome.data_digest,
        versions={"python": platform.python_version(), "nnsight_et": __version__}
        | {name: version(name) for name in PACKAGES},
        device=work.device,
        seconds=round(seconds, 3),
        summary=outcome.summary | ({SMALLER_CHUNKS: smaller} if smaller else {}) | tokens_of(work, job),
        self_check=work.self_check.to_dict(),
        notices=tuple(work.notices.get(job.name, ())),
    )


def gradients(work: Work) -> tuple[str, ...]:
    """How the derivatives of an earlier result may have been taken, for it to be one of this run."""
    return (AUTOGRAD,) if work.server is None else (AUTOGRAD, DIFFERENCES)


def _source(files: Files, spec: ModelSpec) -> str:
    """A hub id as it is; of a folder its name, not where this machine has it; of a GGUF file how its weights were."""
    place = Path(spec.path).name if Path(spec.path).is_dir() else spec.path
    return f"{place}/{spec.gguf}: {told(files.name, files.gguf)}" if files.gguf else place


def device_of(wanted: str, elsewhere: bool = False) -> str:
    """The device a manifest asks for, here or `elsewhere`; ManifestError if it is not here."""
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted != "cpu" and not elsewhere and not torch.cuda.is_available():
        raise ManifestError(f"device: {wanted}, and there is no CUDA device here; accepted: cpu, auto")
    return wanted
