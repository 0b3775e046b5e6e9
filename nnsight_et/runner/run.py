"""Plan -> results: every job in order, every finished piece of work stored at once. Sees every layer."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path

import torch

from nnsight_et import __version__
from nnsight_et.core.errors import ManifestError, NothingFound, ResultError
from nnsight_et.core.notices import Notice
from nnsight_et.measuring.cell_cache import ENGINE_VERSION
from nnsight_et.measuring.checks import check_output
from nnsight_et.measuring.context import MethodOutput, Progress, RunContext
from nnsight_et.measuring.mask_training import AUTOGRAD, DIFFERENCES
from nnsight_et.measuring.model_pool import ModelPool
from nnsight_et.measuring.own_pairs import check_every_prompt, check_pairs
from nnsight_et.measuring.self_check import SelfCheck
from nnsight_et.measuring.tokens import tokens_of
from nnsight_et.methods import METHODS
from nnsight_et.models.catalog import ModelSpec
from nnsight_et.models.files import Files
from nnsight_et.models.gguf_file import quantization_note
from nnsight_et.planning.plan import Job, Plan, digest
from nnsight_et.remote.server import Remote, Server, name_on_server, open_server
from nnsight_et.results.headers import JobRecord, ModelRecord, ResultHeader, folder_of
from nnsight_et.results.store import Result, Store, read_result, write_result
from nnsight_et.results.summary import Summary
from nnsight_et.runner.preflight import check_own_task, look_first, try_first_prompts
from nnsight_et.tasks.boxes import VERSION
from nnsight_et.workers.pool import check_workers, on_cluster, start_workers

SMALLER_CHUNKS = "smaller_chunks"  # where memory ran out: model and dtype -> tokens of one pass; the same to rounding
PACKAGES = ("nnsight", "torch", "transformers")

__all__ = ["Progress", "Remote", "RunOptions", "run"]


@dataclass(frozen=True)
class RunOptions:
    """Options beside the manifest: they change where and how fast a run computes, never what it finds."""

    remote: Remote = field(default_factory=Remote)
    """How a server is used, where the manifest names one."""
    workers: str | None = None
    """Processes that the cells of an experiment are shared out to, such as ray:4."""
    on_layer: Callable[[int], None] | None = None
    """Hears of each layer that path patching in this process comes to, many times in one piece of work."""
    on_notice: Callable[[Notice], None] | None = None
    """Hears of what a user must be told first, each thing once; results have it too."""


def run(
    plan: Plan,
    root: Path,
    only: Sequence[str] = (),
    fresh: bool = False,
    options: RunOptions | None = None,
) -> Iterator[Progress]:
    """Run the plan's experiments, or those in `only` and what they need; yield after every piece of work,
    and once more when an experiment's result is written.

    What is in the store is not measured again, unless `fresh`. Models, data and circuits are checked before any work,
    and models in float16 tried on a prompt. ManifestError if it cannot be run with these options. Where an experiment
    finds no circuit, those that need one are left out: NothingFound says so when all others are done.
    """
    options = options or RunOptions()
    check_workers(options.workers, plan.backend, plan.device)
    jobs = name_on_server(plan.backend, plan.selected_jobs(only))
    store, folder = Store(root), folder_of(root, plan)
    device = device_of(plan.device, on_cluster(options.workers)) if plan.backend == "local" else plan.backend
    serve = open_server(plan.backend, jobs, folder, options.remote)
    with store.writing(folder), serve as server, start_workers(options.workers, device) as workers:
        _clear_up(store, folder, server, fresh)
        models = ModelPool(device, server is not None, options.on_layer)
        checks, on_notice = SelfCheck(plan.self_check), options.on_notice
        context = RunContext(store, folder, models, plan.memory, fresh, server, workers, on_notice, plan.probe, checks)
        _check_first(context, jobs)
        skipped = dict[str, str]()
        for job in jobs:
            try:
                if gone := [need for need in job.needs if need in skipped]:
                    raise NothingFound(f"it needs {' and '.join(gone)}, skipped too")
                context.self_check = SelfCheck(plan.self_check)
                if _take_earlier(context, job):
                    yield replace(context.progress(job, job.spec.method, 1, 1, 1), finished=True)
                    continue
                start = time.monotonic()
                output = yield from METHODS[job.spec.method].experiment().measure(context, job)
                context.executor.look_at(job)
                _write_result(context, job, output, start)
                yield replace(context.progress(job, job.spec.method, 0, 0, 0), finished=True)
            except NothingFound as error:
                skipped[job.name] = str(error)
            except Exception as error:
                error.add_note(f"while running {job.name}")
                raise
    if skipped:
        told = (f"experiments.{name}: skipped: {why}" for name, why in skipped.items())
        raise NothingFound("\n".join(told), skipped)


def _clear_up(store: Store, folder: Path, server: Server | None, fresh: bool) -> None:
    """Remove what killed runs left half-written; of a fresh run also what earlier ones sent to the server."""
    store.sweep(folder)
    if server is not None:
        store.damaged.extend(server.journal.sweep())
        if fresh:
            server.journal.clear()


def _check_first(context: RunContext, jobs: Sequence[Job]) -> None:
    """Check before any work that models, data and circuits fit together, and give notices about models."""
    for job in jobs:
        check_pairs(context, job)
        METHODS[job.spec.method].experiment().check(context, job)
        check_every_prompt(context, job)
    check_own_task(context, jobs)
    try_first_prompts(context, jobs)
    for job in jobs:
        _take_earlier(context, job)
    look_first(context, jobs)


def _take_earlier(context: RunContext, job: Job) -> bool:
    """Whether the job's result is among the run's: from now on if there was one, and then what it says first is told
    again."""
    if job.name in context.earlier.results:
        return True
    if context.fresh or not all(need in context.earlier.results for need in job.needs):
        return False
    result = _earlier_result(context, job)
    if result is None:
        return False
    context.earlier.results[job.name] = result
    for notice in result.header.notices:
        context.tell(job, notice)
    return True


def _earlier_result(context: RunContext, job: Job) -> Result | None:
    """The job's result, if it is there, whole, as its method writes it now, of the same work, and checked and its
    models looked at where they are to be."""
    place, identities = context.folder / job.name, [_identity(context, job, one) for one in _gradients(context)]
    try:
        result = read_result(place)
        METHODS[job.spec.method].summary.read(result.header)
    except ResultError:
        return context.store.missing(place)
    unchecked = context.self_check.on and not result.header.self_check.on
    unseen = context.probed and result.header.probe == "off"
    return result if result.header.identity in identities and not unchecked and not unseen else None


def _write_result(context: RunContext, job: Job, output: MethodOutput[Summary], start: float) -> None:
    """Check the method's output against itself, and put it in the run's folder and among the run's results."""
    place = context.folder / job.name
    check_output(context, job, output, METHODS[job.spec.method].experiment().audit)
    write_result(place, Result(_header(context, job, output, time.monotonic() - start), output.scores))
    context.earlier.results[job.name] = read_result(place)
    if context.server is not None:
        context.server.journal.clear(job.name)


def _identity(context: RunContext, job: Job, gradient: str) -> str:
    """Digest of what is computed: the job, its models' files, its circuits, the gradient, and the versions of data and
    engine."""
    prints = [context.models.files(choice).fingerprint for choice in job.models]
    needs = [context.earlier.results[name].header.identity for name in job.needs]
    parts = {"job": job.id, "models": prints, "needs": needs, "data": VERSION, "engine": ENGINE_VERSION}
    return digest(parts if gradient == AUTOGRAD else parts | {"gradient": gradient})


def _header(context: RunContext, job: Job, output: MethodOutput[Summary], seconds: float) -> ResultHeader:
    smaller = context.executor.backoff.of(job)
    identity = _identity(context, job, DIFFERENCES if DIFFERENCES in output.summary.gradients else AUTOGRAD)
    records = list[ModelRecord]()
    for one in job.models:
        files = context.models.files(one)
        record = ModelRecord(name=one.name, fingerprint=files.fingerprint, description=_source(files, one.spec))
        records.append(record)
    return ResultHeader(
        job=JobRecord.of(job),
        job_id=job.id,
        identity=identity,
        models=records,
        data_digest=output.data_digest,
        versions={"python": platform.python_version(), "nnsight_et": __version__}
        | {name: version(name) for name in PACKAGES},
        device=context.models.device,
        seconds=round(seconds, 3),
        summary=output.summary.to_dict() | ({SMALLER_CHUNKS: smaller} if smaller else {}) | tokens_of(context, job),
        self_check=context.self_check.to_record(),
        probe="on" if context.probed else "off",
        notices=tuple(context.notices.get(job.name, ())),
    )


def _gradients(context: RunContext) -> tuple[str, ...]:
    """How the derivatives of an earlier result may have been taken, for it to be one of this run."""
    return (AUTOGRAD,) if not context.models.on_server else (AUTOGRAD, DIFFERENCES)


def _source(files: Files, spec: ModelSpec) -> str:
    """A hub id as it is; of a folder its name, not where this machine has it; of a GGUF file how its weights were."""
    place = Path(spec.path).name if Path(spec.path).is_dir() else spec.path
    return f"{place}/{spec.gguf}: {quantization_note(files.name, files.gguf)}" if files.gguf else place


def device_of(wanted: str, elsewhere: bool = False) -> str:
    """The device a manifest asks for, here or `elsewhere`; ManifestError if it is not here."""
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted != "cpu" and not elsewhere and not torch.cuda.is_available():
        raise ManifestError(f"device: {wanted}, but there is no CUDA device here; accepted: cpu, auto")
    return wanted
