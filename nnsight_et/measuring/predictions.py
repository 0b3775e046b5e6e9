"""What models answer when nothing is done to them, and the examples of a job that they answer right."""

from __future__ import annotations

from collections.abc import Generator, Sequence

from torch import Tensor

from nnsight_et.core.batch import Example, right_tokens
from nnsight_et.core.errors import ExperimentError
from nnsight_et.core.metrics import is_right
from nnsight_et.interventions.ablation import model_readouts
from nnsight_et.interventions.calls import Call
from nnsight_et.measuring.cells import measure_cells
from nnsight_et.measuring.context import Progress, RunContext
from nnsight_et.measuring.steps import Batch, EvalSettings, Measurement, whole_prompts
from nnsight_et.planning.plan import Job, ModelChoice

MAX_OVERSAMPLING = 32  # times as many as wanted are drawn, if there are, before a model counts as unable to answer


def plain_model(
    context: RunContext, job: Job, choice: ModelChoice, examples: Sequence[Example], name: str
) -> Measurement:
    """Of the plain model: readouts, by name, [example]."""
    chunks = context.chunk_sizes.of(choice, examples)

    def measure(batch: Batch, settings: EvalSettings) -> Call:
        return Call(model_readouts, (context.data.pair(choice, examples, batch).question, settings.engine))

    return Measurement(whole_prompts(job, choice, name, examples, chunks.examples), {"plain": True}, measure)


def select_examples(
    context: RunContext, job: Job, choice: ModelChoice, split: str, count: int, only_correct: bool
) -> Generator[Progress, None, list[Example]]:
    """The first `count` examples of a split, or with only_correct the first that `choice` answers right.

    ExperimentError if too few of them are.
    """
    drawn, most = count, min(MAX_OVERSAMPLING * count, context.data.available(job, split))
    while True:
        examples = context.data.examples(job, choice, split, drawn)
        if not only_correct:
            return examples
        plain = plain_model(context, job, choice, examples, f"what {choice.name} answers")
        yield from measure_cells(context, [plain])
        answered = is_right(context.cells.values(plain)["predicted"], right_tokens(examples)).tolist()
        right = [example for example, one in zip(examples, answered, strict=True) if one]
        if len(right) >= count:
            return right[:count]
        if drawn >= most:
            found_right = f"{choice.name} answers {len(right)} of {drawn} prompts correctly"
            raise ExperimentError(f"experiments.{job.name}.only_correct: {found_right}; accepted: fewer examples")
        drawn = int(min(2 * drawn, most))


def answer_scores(right: Tensor) -> dict[str, Tensor]:
    """What a result keeps of right tokens [example, 1 + n]: answer [example], and also_right [example, n] if any."""
    more = {"also_right": right[:, 1:]} if right.shape[1] > 1 else {}
    return {"answer": right[:, 0]} | more
