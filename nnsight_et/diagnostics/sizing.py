"""Sizes of a plan's models and the layout of its prompts, from files on this machine; no weight is read for them.

And how fast this machine is at each kind of pass, from a few passes of the plan's own models: seconds, not minutes.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import torch

from nnsight_et.core.batch import Example, Pair, PromptBatch, Question, collate
from nnsight_et.core.circuit import Circuit, Head, HeadGroup
from nnsight_et.core.errors import ManifestError, NnsightEtError
from nnsight_et.diagnostics.costs import BYTES, Speeds, estimates, rows_of, rows_with_chunks
from nnsight_et.interventions import path_patching as paths
from nnsight_et.interventions.ablation import AblationValues, circuit_readouts, model_readouts
from nnsight_et.interventions.activation_patching import patched_readouts
from nnsight_et.interventions.dcm import Training, trained_masks
from nnsight_et.interventions.engine_checks import engine_errors
from nnsight_et.manifest import DCM, Manifest, parse
from nnsight_et.manifest.template import InitOptions, render_manifest
from nnsight_et.measuring.examples import task_of
from nnsight_et.measuring.memory import capacity
from nnsight_et.measuring.own_pairs import check_counts
from nnsight_et.models.catalog import Shape
from nnsight_et.models.files import describe_files, download_files
from nnsight_et.models.load import load_model, shape_of, tokenizer_of
from nnsight_et.models.model import Model
from nnsight_et.planning.cost import methods
from nnsight_et.planning.cost.methods import Count, Prompts, Rows
from nnsight_et.planning.cost.paths import path_patching
from nnsight_et.planning.plan import Job, ModelChoice, Plan, plan
from nnsight_et.runner.run import device_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SPLIT, MAX_OVERSAMPLING = "evaluation", 50  # prompts that are looked at
MINUTES = 15  # that a first study may take
SHARE = 0.3  # what passes get of the speed of large products of matrices


def read_rows(
    jobs: Plan, known: Mapping[str, Rows], memory: int | None
) -> tuple[Mapping[str, Rows], Mapping[str, str]]:
    """What is `known`, and the same of the plan's other models whose configuration and tokenizer are on this machine.

    Those are in folders, or in the hub's cache; nothing is downloaded. And of models that cannot be sized, why not.
    """
    check_files_of_pairs(jobs)
    rows, unknown = dict(known), dict[str, str]()
    for job, choice in choices(jobs):
        if choice.name in known:
            continue
        try:
            files = describe_files(choice.name, choice.spec, here=True)
            layouts = prompt_layouts(sample(job, tokenizer_of(files)))
            rows[choice.name] = rows_with_chunks(choice.shape or shape_of(files), choice.dtype, layouts, memory)
        except NnsightEtError as error:
            unknown[choice.name] = str(error)
    return rows, unknown


def check_files_of_pairs(jobs: Plan) -> None:
    """Raise TaskError if a line of a file of pairs is none, or an experiment asks for more pairs than its file has."""
    for job in jobs.jobs:
        check_counts(job)


def choices(jobs: Plan) -> Iterator[tuple[Job, ModelChoice]]:
    """The plan's models, each once, with the first job that has it."""
    seen = set[str]()
    for job in jobs.jobs:
        for choice in job.models:
            if choice.name not in seen:
                seen.add(choice.name)
                yield job, choice


def sample(job: Job, tokenizer: PreTrainedTokenizerBase) -> list[Example]:
    """A batch of the job's examples, or as many as a file has."""
    task = task_of(job.task)
    available = getattr(task, "available", None)
    count = min(MAX_OVERSAMPLING, available(job.seed, SPLIT)) if available else MAX_OVERSAMPLING
    return list(task.examples(tokenizer, count, job.seed, SPLIT))


def prompt_layouts(examples: Sequence[Example]) -> tuple[Prompts, ...]:
    """How the examples' base prompts are laid out, alike ones together."""
    alike = Counter((len(one.base.tokens), tuple(sorted(one.base.positions.items()))) for one in examples)
    return tuple(Prompts(count, tokens, dict(places)) for (tokens, places), count in sorted(alike.items()))


@dataclass(frozen=True)
class FittedStudy:
    """The text of a first manifest, and about how many minutes a run of it takes here; or why that is not known."""

    text: str
    minutes: float | None = None
    unknown: str = ""


def fit_study(wishes: InitOptions, folder: Path, speed: float | None = None) -> FittedStudy:
    """The manifest the user asked for, with fewer examples where a run with the usual ones takes more than MINUTES.

    folder: where its relative paths start. speed: floating-point operations a second; measured on this machine if None.
    """
    usual = render_manifest(wishes)
    flops, unknown = _cost(usual, folder)
    if unknown:
        return FittedStudy(usual, unknown=unknown)
    speed = speed or flops_per_second(device_of("auto"))
    minutes = flops / speed / 60
    if minutes <= MINUTES:
        return FittedStudy(usual, minutes)
    text = render_manifest(replace(wishes, share=MINUTES / minutes))
    return FittedStudy(text, _cost(text, folder)[0] / speed / 60)


def _cost(text: str, folder: Path) -> tuple[float, str]:
    """The floating-point operations of a manifest's run; or why they are not known."""
    manifest = parse(text, "the manifest", lines=False, folder=folder)
    jobs = plan(manifest)
    rows, unknown = read_rows(jobs, rows_of(jobs, manifest.memory_bytes), manifest.memory_bytes)
    return sum(one.flops for one in estimates(jobs, rows, {}).values()), next(iter(unknown.values()), "")


def flops_per_second(device: str, size: int = 1024, seconds: float = 0.3) -> float:
    """About how many floating-point operations a second models get here: SHARE of what a product of matrices gets."""
    matrix = torch.ones(size, size, device=device)
    done, start = 0, time.perf_counter()
    while (took := time.perf_counter() - start) < seconds or not done:
        (matrix @ matrix).sum().item()
        done += 1
    return SHARE * done * 2 * size**3 / took


ROUNDS = 3
STEPS = 2  # of a training
VARIANTS = 10
SAMPLE = 2  # prompts of a self-check's sample
Timed = tuple[str, Callable[[], object], Count]
"""A speed, the passes that measure it, and their cost; earlier measurements explain the rest of that cost."""


def calibrate_models(manifest: Manifest, plan: Plan) -> tuple[dict[str, Rows], dict[str, Speeds]]:
    """Measure every model of the plan: prompts and sizes, and speeds, by model.

    Models of one shape and dtype share what the first of them takes.
    Reads weights, and raises what reading them raises; ManifestError for a run on a server.
    """
    if manifest.backend != "local":
        raise ManifestError(
            f"--calibrate: found backend: {manifest.backend}; accepted: local, where models run on this machine"
        )
    device = device_of(manifest.device)
    rows, speeds = dict[str, Rows](), dict[str, Speeds]()
    known = dict[tuple[Shape, str], str]()
    for job, choice in choices(plan):
        files = download_files(choice.name, choice.spec)
        same = known.setdefault((shape_of(files), choice.dtype), choice.name)
        if same != choice.name:
            rows[choice.name], speeds[choice.name] = rows[same], speeds[same]
            continue
        start = time.perf_counter()
        model = load_model(files, choice.dtype, device, job.attention)
        loading, tokenizer = time.perf_counter() - start, tokenizer_of(files)
        start = time.perf_counter()
        examples = sample(job, tokenizer)
        texts = (time.perf_counter() - start) / (2 * len(examples))
        shape = shape_of(files)
        budget = manifest.memory_bytes or capacity(device, shape.parameters * BYTES[choice.dtype])
        rows[choice.name] = rows_with_chunks(shape, choice.dtype, prompt_layouts(examples), budget)
        measured = speeds_of(model, rows[choice.name], examples)
        speeds[choice.name] = replace(measured, texts=texts, loading=loading)
    return rows, speeds


def speeds_of(model: Model, rows: Rows, examples: Sequence[Example]) -> Speeds:
    """The speeds of a model that is loaded, medians of ROUNDS; prompts are those of the most common layout."""
    prompts = max(rows.prompts, key=lambda one: one.count)
    alike = [one for one in examples if one.base.positions == prompts.places and len(one.base.tokens) == prompts.tokens]
    batch = [alike[i % len(alike)] for i in range(min(rows.sizes.chunks.examples, len(examples)))]
    pair = collate(batch).to(model.device)
    alone = Rows(rows.sizes, (replace(prompts, count=len(batch), batches=1),))
    speeds = Speeds()
    for kind, run, count in _time_passes(model, pair, alone):
        run()
        took = median(_seconds(run, model) for _ in range(ROUNDS))
        left = took - speeds.of(replace(count, **{kind: 0.0}))
        speeds = replace(speeds, **{kind: max(left, 0.0) / getattr(count, kind)})
    few = collate(batch[:SAMPLE]).to(model.device)
    checks = _seconds(lambda: engine_errors(model, few), model)
    single = collate(batch[:1]).to(model.device)
    exact = _seconds(lambda: patched_readouts(model, single, _sets(alone), "reference", rows.sizes.chunks), model)
    return replace(speeds, checks=checks, sample=SAMPLE * exact)


def _time_passes(model: Model, pair: Pair, rows: Rows) -> Iterator[Timed]:
    """What tells each speed, in an order in which every one needs only those before it."""
    chunks, (prompts,), count = rows.sizes.chunks, rows.prompts, len(pair.base.tokens)
    token = torch.zeros(1, 1, dtype=torch.long)
    one = Question(PromptBatch(token, torch.ones_like(token), {"last": token[0]}), token[0])
    yield "passes", lambda: model_readouts(model, one.to(model.device), "default"), Count(passes=1)
    yield "whole", lambda: model_readouts(model, pair.question, "default"), methods.plain(rows, count)
    first = min(prompts.places, key=lambda name: prompts.places[name])
    names = tuple(dict.fromkeys((first, "last")))
    circuits = [Circuit(tuple(HeadGroup(at, at, (Head(0, 0),)) for at in names))] * VARIANTS
    sets = _sets(rows) * (VARIANTS // 2)

    def repeat_patching() -> None:
        circuit_readouts(model, pair.question, AblationValues(), circuits, "default", chunks)
        patched_readouts(model, pair, sets, "default", chunks)

    both = methods.circuit_work(rows, count, VARIANTS, names) + methods.patching_work(rows, count, [sets])
    yield "again", repeat_patching, both
    senders = [Head(0, index) for index in range(model.n_heads)]
    path = paths.Path("last")
    direct = path_patching(rows.sizes, prompts, path, senders)
    yield "mlp", lambda: paths.path_probabilities(model, pair, path, senders, "default", chunks), direct
    group = HeadGroup(first, first, (Head(0, 0), Head(model.n_layers - 1, 0)))
    training = Training(epochs=STEPS, validate_every=STEPS)
    spec = DCM(
        method="dcm", circuit="circuit", epochs=STEPS, validate_every=STEPS,
        training_examples=count, validation_examples=count, batch=count,
    )  # fmt: skip
    steps = methods.masks(rows, spec, [group])
    yield "trained", lambda: trained_masks(model, [group], training, [pair], [pair], chunks), steps


def _sets(rows: Rows) -> list[Circuit]:
    """One head of the first layer, patched at the first position and at the last token."""
    places = rows.prompts[0].places
    first = min(places, key=lambda name: places[name])
    return [Circuit((HeadGroup(at, at, (Head(0, 0),)),)) for at in dict.fromkeys((first, "last"))]


def _seconds(run: Callable[[], object], model: Model) -> float:
    start = time.perf_counter()
    run()
    if model.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start
