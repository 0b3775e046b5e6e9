"""A method on models in memory: the computation of a manifest's experiment, on the pairs that a notebook has."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, TypeVar

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from nnsight_et.api.findings import SEED
from nnsight_et.api.models import LoadedModel
from nnsight_et.circuits.circuit_files import OURS, CircuitFile
from nnsight_et.core.batch import Example, Pair, Prompt
from nnsight_et.core.circuit import Circuit
from nnsight_et.core.errors import NnsightEtError
from nnsight_et.core.named_metrics import DEFAULT_METRIC, Metric
from nnsight_et.core.notices import Notice
from nnsight_et.manifest import Experiment, PairsFile
from nnsight_et.measuring.cells import measure_cells
from nnsight_et.measuring.checks import check_output
from nnsight_et.measuring.context import MethodOutput, Progress, RunContext
from nnsight_et.measuring.examples import Data
from nnsight_et.measuring.model_pool import ModelPool
from nnsight_et.measuring.self_check import SelfCheck
from nnsight_et.measuring.steps import Measurement, data_digest
from nnsight_et.methods import METHODS
from nnsight_et.models.catalog import ModelSpec, Shape
from nnsight_et.models.model import Model
from nnsight_et.planning.plan import Job, ModelChoice
from nnsight_et.results.headers import JobRecord, ModelRecord, ResultHeader
from nnsight_et.results.store import Result, Store, read_result, write_result

T = TypeVar("T")


class LoadedModels(ModelPool):
    """Models that are in memory, by the names a job has for them; none is loaded, and none leaves."""

    def __init__(self, models: Mapping[str, LoadedModel]) -> None:
        first = next(iter(models.values()), None)
        device = "cpu" if first is None else "balanced" if first.model.spread else str(first.model.device)
        super().__init__(device)
        self.loaded = models

    def fingerprint(self, choice: ModelChoice) -> str:
        """The model's name: its cells do not outlive it."""
        return choice.name

    def shape(self, choice: ModelChoice) -> Shape:
        """The model's sizes."""
        return self.loaded[choice.name].shape

    def tokenizer(self, choice: ModelChoice) -> PreTrainedTokenizerBase:
        """The model's tokenizer."""
        return self.loaded[choice.name].tokenizer

    def load(self, job: Job, choice: ModelChoice) -> Model:
        """The model as it is in memory."""
        model = self.loaded[choice.name].model
        self._in_memory = ((choice.name, choice.dtype, job.attention), model)
        return model

    @property
    def can_upcast(self) -> bool:
        """Whether a model can be had in fp32 as well as in its own dtype: not without its files."""
        return False


class GivenData(Data):
    """Examples that are there already, by split; a split without its own has those of ""."""

    made: ClassVar[bool] = False

    def __init__(
        self, models: ModelPool, given: Mapping[str, Sequence[Example]], metric: Callable[[Tensor, Any], Tensor] | None
    ) -> None:
        super().__init__(models)
        self.given, self.function = given, metric

    def pair(
        self,
        choice: ModelChoice,
        examples: Sequence[Example],
        batch: Sequence[int],
        metric: Metric = DEFAULT_METRIC,
    ) -> Pair:
        """Those of the examples that `batch` counts, scored by the function if there is one."""
        pair = super().pair(choice, examples, batch, metric)
        return replace(pair, metric="function", function=self.function) if self.function else pair

    def examples(self, job: Job, choice: ModelChoice, split: str, count: int) -> list[Example]:
        """The first of the split's examples."""
        return list(self.given.get(split, self.given.get("", ())))[:count]

    def swapped_pairs(
        self, job: Job, choice: ModelChoice, name: str, *, split: str, count: int, draw: int = 0
    ) -> list[Example]:
        """The same, whatever is swapped in them."""
        return self.examples(job, choice, split, count)

    def prompts(self, job: Job, choice: ModelChoice, split: str, count: int) -> list[Prompt]:
        """Their source prompts."""
        return [example.source for example in self.examples(job, choice, split, count)]

    def available(self, job: Job, split: str) -> float:
        """How many examples there are."""
        return len(self.examples(job, job.models[0], split, 1 << 60))


@dataclass(frozen=True)
class Experimenting:
    """A job on models in memory, while its cells are there."""

    context: RunContext
    job: Job[Any]

    def result(self, notices: Sequence[Notice] = ()) -> Result:
        """The job done by its method, and read as a manifest's result is."""
        experiment, folder = METHODS[self.job.spec.method].experiment(), self.context.folder / "result"
        output = _finish(experiment.measure(self.context, self.job))
        check_output(self.context, self.job, output, experiment.audit)
        write_result(folder, Result(_header(self.context, self.job, output, notices), output.scores))
        return read_result(folder)

    def values(self, measurement: Measurement) -> dict[str, Tensor]:
        """What is measured, checked, or read where it was measured before: tensors [..., example] by name."""
        _finish(measure_cells(self.context, [measurement]))
        return self.context.cells.values(measurement)

    @property
    def self_check(self) -> dict[str, Any]:
        """What was checked so far."""
        return self.context.self_check.to_record().to_dict()


@contextmanager
def experimenting(
    name: str,
    spec: Experiment,
    models: Sequence[LoadedModel] = (),
    examples: Mapping[str, Sequence[Example]] | None = None,
    *,
    circuits: Mapping[str, Circuit] | None = None,
    scores: Mapping[str, Tensor] | None = None,
    metric: Callable[[Tensor, Any], Tensor] | None = None,
) -> Iterator[Experimenting]:
    """The job of `spec` on these models and examples, which messages call et.`name`.

    examples: by split, for the tokenizer that all models have. circuits: by the names that `spec` has for them. scores:
    patching scores by group, for a `spec` that names some. metric: a function that scores, in place of spec's.
    """
    given = examples or {}
    job = _job(name, spec, models, given, circuits or {})
    pool = LoadedModels(dict(zip((choice.name for choice in job.models), models, strict=True)))
    memory = min((model.memory for model in models if model.memory is not None), default=None)
    checks = SelfCheck(all(model.self_check == "on" for model in models))
    with TemporaryDirectory() as place, ExitStack() as attention:
        for model in models if spec.attention else ():
            attention.enter_context(attending(model, job.attention))
        context = RunContext(Store(Path(place)), Path(place), pool, memory, self_check=checks)
        context.data = GivenData(pool, given, metric)
        context.earlier.scores = scores
        try:
            yield Experimenting(context, job)
        except NnsightEtError as error:
            error.args = (str(error).replace(f"experiments.{name}", f"et.{name}"),)
            raise


def _finish(steps: Generator[Progress, None, T]) -> T:
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def _job(
    name: str,
    spec: Experiment,
    models: Sequence[LoadedModel],
    given: Mapping[str, Sequence[Example]],
    circuits: Mapping[str, Circuit],
) -> Job[Any]:
    examples = [example for some in given.values() for example in some]
    positions = tuple(examples[0].base.positions) if examples else ("last",)
    names = [model.name for model in models]
    alone = len(set(names)) == len(names)
    return Job(
        name=name,
        spec=spec,
        task=PairsFile("pairs", data_digest(examples), tuple(name for name in positions if name != "last")),
        seed=SEED,
        engine=models[0].engine if models else "default",
        dtype=_dtype(models[0]) if models else "float32",
        attention=spec.attention or (_attention_of(models[0]) if models else "sdpa"),
        models=tuple(
            _choice(one.name if alone else f"{one.name} ({index})", one) for index, one in enumerate(models, start=1)
        ),
        needs=(),
        need_ids=(),
        written={key: CircuitFile(circuit, OURS) for key, circuit in circuits.items()},
    )


def _choice(name: str, model: LoadedModel) -> ModelChoice:
    return ModelChoice(name, ModelSpec(model.name), _dtype(model), model.shape, {"name": name})


def _dtype(model: LoadedModel) -> str:
    return str(model.model.dtype).removeprefix("torch.")


def _attention_of(model: LoadedModel) -> str:
    return model.model.nn.config._attn_implementation


@contextmanager
def attending(model: LoadedModel, attention: str) -> Iterator[None]:
    """While open, the model attends by that implementation."""
    own, module = _attention_of(model), model.model.nn._module
    if own != attention:
        module.set_attn_implementation(attention)
    try:
        yield
    finally:
        if own != attention:
            module.set_attn_implementation(own)


def _header(context: RunContext, job: Job[Any], output: MethodOutput, notices: Sequence[Notice]) -> ResultHeader:
    records = [ModelRecord(name=one.name, fingerprint="", description="in memory") for one in job.models]
    return ResultHeader(
        job=JobRecord.of(job),
        job_id=job.id,
        identity=job.id,
        models=records,
        data_digest=output.data_digest,
        versions={},
        device=context.models.device,
        seconds=0.0,
        summary=output.summary.to_dict(),
        self_check=context.self_check.to_record(),
        notices=tuple(notices),
    )
