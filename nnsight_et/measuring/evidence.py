"""All that a finished experiment says what it says from: what was asked of its models, and what they gave."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from random import Random
from typing import Any, Generic, cast

import torch
from torch import Tensor
from typing_extensions import TypeVar

from nnsight_et.circuits.circuit_files import KNOWN
from nnsight_et.core.batch import NO_TOKEN, Answers, Example, Pair, Prompt, PromptBatch, Question
from nnsight_et.core.circuit import Circuit, Component
from nnsight_et.core.errors import ExperimentError
from nnsight_et.core.named_metrics import METRICS
from nnsight_et.interventions.ablation import AblationValues
from nnsight_et.interventions.calls import Call
from nnsight_et.manifest import Experiment
from nnsight_et.manifest.written import is_shipped
from nnsight_et.measuring.audit import Finding, differences, finding, right_answers
from nnsight_et.measuring.context import Measured, RunContext
from nnsight_et.measuring.examples import task_of
from nnsight_et.measuring.reading import examples_findings, file_findings, prompts_findings, reader_of
from nnsight_et.measuring.steps import Batch, EvalSettings
from nnsight_et.planning.plan import Job, ModelChoice
from nnsight_et.results.headers import HEADER, read_header
from nnsight_et.results.summary import Summary
from nnsight_et.tasks.own_pairs import OwnPairs

M = TypeVar("M", bound=Experiment, default=Any)
S = TypeVar("S", bound=Summary, default=Any)
Heads = list[tuple[int, int]]
Groups = list[tuple[str, str, Heads]]
"""A circuit as plain data: each group's name, position, and heads by layer and index."""


@dataclass(frozen=True)
class Evidence(Generic[M, S]):
    """A job, its scores and summary, and the measurements they are from."""

    job: Job[M]
    scores: Mapping[str, Tensor]
    summary: S
    context: RunContext
    _calls: dict[tuple[int, Batch], Call] = field(default_factory=dict[tuple[int, Batch], Call], compare=False)
    _placed: dict[int, dict[str, Tensor]] = field(default_factory=dict[int, dict[str, Tensor]], compare=False)

    @property
    def choice(self) -> ModelChoice:
        """The first model."""
        return self.job.models[0]

    def steps(self, name: str) -> list[Measured]:
        """What was measured under a step's name."""
        return [one for one in self.context.measured.get(self.job.name, ()) if one.measurement.step.name == name]

    def step(self, name: str) -> Measured:
        """What was measured last under a step's name; ExperimentError if nothing was."""
        found = self.steps(name)
        if not found:
            text = f"self-check 'asked', step {name}: nothing was measured under this name"
            raise ExperimentError(f"experiments.{self.job.name}: {text}; the experiment's result was not written")
        return found[-1]

    def values(self, one: Measured) -> dict[str, Tensor]:
        """The tensors [..., example] of a measurement's cells, each batch put where its examples are."""
        if id(one) not in self._placed:
            placed = dict[str, Tensor]()
            for batch, key in one.keys.items():
                for name, tensor in self.context.cells.read(key).items():
                    shape = (*tensor.shape[:-1], len(one.measurement.step.examples))
                    placed.setdefault(name, tensor.new_zeros(shape))[..., list(batch)] = tensor
            self._placed[id(one)] = placed
        return self._placed[id(one)]

    def call(self, one: Measured, batch: Batch) -> Call:
        """What was asked of the model for a batch."""
        key = (id(one), batch)
        if key not in self._calls:
            if not any(other == id(one) for other, _ in self._calls):
                self._calls.clear()  # of one step at a time
            self._calls[key] = one.measurement.measure(batch, EvalSettings(self.job.engine))
        return self._calls[key]

    def right(self, one: Measured) -> Tensor:
        """[..., example]: 1 where a measurement's predictions are right, by its examples' own answers."""
        answers = [(example.answer, *example.also_right) for example in one.measurement.step.examples]
        return right_answers(self.values(one)["predicted"], answers)

    def answers(self, examples: Sequence[Example], prefix: str = "") -> dict[str, Tensor]:
        """The scores that say which tokens are right."""
        right = [(example.answer, *example.also_right) for example in examples]
        width = max(map(len, right))
        rows = torch.tensor([[*one, *[NO_TOKEN] * (width - len(one))] for one in right])
        return {f"{prefix}answer": rows[:, 0]} | ({f"{prefix}also_right": rows[:, 1:]} if width > 1 else {})

    def same_base(self, examples: Sequence[Example], one: Measured) -> Iterator[Finding]:
        """That a measurement is of these base prompts, in this order, and of these answers."""
        said = [[(each.base, each.right) for each in some]
                for some in (examples, one.measurement.step.examples)]  # fmt: skip
        yield finding("splits", said[0] == said[1], f"step {one.measurement.step.name}: its examples")

    def calls(
        self,
        one: Measured,
        function: str,
        told: Callable[[tuple[Any, ...]], Any],
        expected: Any,
        choice: ModelChoice | None = None,
    ) -> Iterator[Finding]:
        """That every example is in one batch, and each batch's call is of that function, on that model, by the job's
        engine, of just these examples, and `told` of its arguments what is expected.
        """
        step, where = one.measurement.step, f"step {one.measurement.step.name}"
        every = sorted(index for batch in step.batches for index in batch)
        yield finding("asked", every == list(range(len(step.examples))), f"{where}: which examples")
        yield finding("asked", step.choice == (choice or self.choice), f"{where}: the model")
        for batch in step.batches:
            call = self.call(one, batch)
            engines = [argument for argument in call.arguments if isinstance(argument, str)]
            yield finding("asked", call.function.__name__ == function, f"{where}: what is done")
            yield finding(
                "asked", not {"default", "reference"} - {self.job.engine} & {*engines}, f"{where}: the engine"
            )
            examples = [step.examples[index] for index in batch]
            right = all(_are_of(argument, examples) for argument in call.arguments)
            yield finding("asked", right, f"{where}: the prompts")
            for one_found in differences(told(call.arguments), expected, where):
                yield one_found._replace(check="asked")

    def drawn(
        self, examples: Sequence[Example], split: str, count: int, choice: ModelChoice, swapped: str | None = None
    ) -> Iterator[Finding]:
        """That these are as many examples of that split as were asked for, and say what they should."""
        if self.context.data.made:
            yield finding("splits", len(examples) == count, f"{split}: how many")
            yield from self.context.splits.findings(self.job, split, [one.base for one in examples])
            tokenizer = self.context.models.tokenizer(choice)
            seen = self.context.splits.read
            if not any(some is examples or some == examples for some in seen.get((split, swapped), ())):
                seen.setdefault((split, swapped), []).append(examples)
                resampled = getattr(self.job.spec, "ablation", "mean") == "resample"  # held against its own prompts
                if (reader := reader_of(self.job.task, tokenizer)) is not None:
                    yield from examples_findings(reader, examples, split, swapped, sources=not resampled)
                    yield from self.context.splits.draws(reader, examples, swapped)
            yield finding("examples", True, split)

    def selected(
        self, examples: Sequence[Example], split: str, count: int, choice: ModelChoice, only_correct: bool
    ) -> Iterator[Finding]:
        """The same of examples of which only those may count that the model answers right."""
        yield from self.drawn(examples, split, count, choice)
        if only_correct:
            right = False
            for one in self.steps(f"what {choice.name} answers"):
                answered = [bool(one_right) for one_right in self.right(one).tolist()]
                tried = zip(one.measurement.step.examples, answered, strict=True)
                right |= [example for example, good in tried if good][:count] == list(examples)
            yield finding("splits", right, f"{split}: the first that are answered right")

    def ablation(self, choice: ModelChoice, examples: Sequence[Example]) -> Iterator[Finding]:
        """That what heads output instead comes from as many prompts of a split of their own as were asked for."""
        prompts, spec = self.context.ablating[self.job.name, choice.name], cast(Any, self.job.spec)
        if self.context.data.made:
            yield finding("splits", len(prompts) == spec.ablation_examples, "ablation: how many")
            yield from self.context.splits.findings(self.job, "ablation", prompts)
            tokenizer = self.context.models.tokenizer(choice)
            if (reader := reader_of(self.job.task, tokenizer)) is not None:
                yield from prompts_findings(reader, prompts, "ablation")
            if isinstance(pairs := task_of(self.job.task), OwnPairs):
                yield from file_findings(pairs, tokenizer, examples, prompts)
        if spec.ablation == "resample":
            in_turn = [prompts[number % len(prompts)] for number in range(len(examples))]
            yield finding("asked", [one.source for one in examples] == in_turn, "ablation: which prompts")

    def fill(self, choice: ModelChoice, examples: Sequence[Example]) -> list[Any]:
        """What ablated heads must be told to output, as fill_of says it."""
        ablation = cast(Any, self.job.spec).ablation
        prompts = [*self.context.ablating[self.job.name, choice.name], *(one.base for one in examples)]
        alike = len({len(prompt.tokens) for prompt in prompts}) == 1
        names = None if alike else list(self.job.task.all_positions)
        return [ablation, names if ablation == "mean" else None]

    def earlier_summary(self, name: str) -> dict[str, Any]:
        """What an earlier experiment's result says, as its file has it; ResultError if that is damaged by now."""
        path = self.context.folder / name / HEADER
        if not path.exists():  # in memory alone
            return self.context.earlier.results[name].header.summary
        return read_header(path.parent).summary

    def circuit(self, name: str) -> Groups:
        """The circuit that the manifest names, from what it was written in."""
        written = self.job.written.get(name)
        if written is None:
            return plain_circuit(self.earlier_summary(name)["circuit"])
        if is_shipped(name):
            return plain_circuit(shipped(name.partition("/")[2], "circuit"))
        return plain_circuit(written.circuit if written.data is None else written.data)


def plain_circuit(circuit: Circuit | Mapping[str, Any]) -> Groups:
    """A circuit, or its JSON, as plain data."""
    if isinstance(circuit, Circuit):
        return [(one.name, one.at, [(head.layer, head.index) for head in one.heads]) for one in circuit.groups]
    if "summary" in circuit:
        return plain_circuit(circuit["summary"]["circuit"])
    if "groups" not in circuit:
        return [(*KNOWN[name], [(layer, index) for layer, index in heads]) for name, heads in circuit.items()]
    return [(one["name"], one["at"], [place(head) for head in one["heads"]]) for one in circuit["groups"]]


def shipped(name: str, what: str) -> Any:
    """The circuit, selections or scores that come with the package under a model's name, as plain data."""
    folder = files("nnsight_et.circuits.published")
    embedded = json.loads(folder.joinpath("embedded.json").read_bytes())
    if name in embedded:
        return embedded[name][what]
    return json.loads(folder.joinpath({"circuit": "circuits"}.get(what, what) + ".json").read_bytes())[name]


def places(parts: Iterable[Component]) -> Heads:
    """Layer and index of each."""
    return [(one.layer, one.index) for one in parts]


def place(name: str) -> tuple[int, int]:
    """Layer and index of a head by its name; of an MLP its layer and 0."""
    layer, _, index = name.removeprefix("L").removesuffix("MLP").partition("H")
    return int(layer), int(index or 0)


def name_of(head: tuple[int, int], mlp: bool = False) -> str:
    """The name of a head, or of a layer's MLP."""
    return f"L{head[0]}MLP" if mlp else f"L{head[0]}H{head[1]}"


def circuit_json(groups: Groups) -> dict[str, Any]:
    """A circuit in the form of its JSON."""
    return {
        "schema": 1,
        "groups": [{"name": name, "at": at, "heads": list(map(name_of, heads))} for name, at, heads in groups],
    }


def fill_of(fill: AblationValues) -> list[Any]:
    """What ablated heads output in a call, and the positions that means are by; None: by their places."""
    means = fill.means is not None or fill.runs
    kind = "resample" if fill.resampled is not None else "mean" if means else "zero"
    return [kind, list(fill.names) if fill.names is not None else None]


def told_circuits(arguments: tuple[Any, ...]) -> dict[str, Any]:
    """Which circuits a call ablates, or keeps, and what heads then output."""
    return {"fill": fill_of(arguments[1]), "circuits": [plain_circuit(one) for one in arguments[2]]}


def random_groups(circuit: Groups, layers: int, heads: int, count: int, seed: int) -> list[Groups]:
    """The random circuits of a seed: at each position as many heads as the circuit has there, none of them twice."""
    draw, every = (
        Random(f"{seed}/random circuits"),
        [(layer, index) for layer in range(layers) for index in range(heads)],
    )
    sizes = dict[str, set[tuple[int, int]]]()
    for _, at, some in circuit:
        sizes.setdefault(at, set()).update(some)
    return [[(at, at, sorted(draw.sample(every, len(some)))) for at, some in sizes.items()] for _ in range(count)]


def without(circuit: Groups, gone: Mapping[str, Sequence[tuple[int, int]]]) -> Groups:
    """The circuit whose groups have lost some heads, by the groups' names."""
    return [(name, at, [head for head in heads if head not in gone.get(name, ())]) for name, at, heads in circuit]


def _are_of(argument: Any, examples: Sequence[Example]) -> bool:
    """Whether what a call is given, if it is prompts, are those of these examples."""
    if isinstance(argument, Pair):
        if isinstance(argument.answer, Answers):
            sources = same_prompts(argument.source, [example.source for example in examples])
            right = same_answers(argument.answer, examples, METRICS[argument.metric].needs_foils)
            return right and sources and _are_of(argument.base, examples)
        more = [(argument.also_right, "also_right"), (argument.foils, "foils")]
        listed = [[[token for token in row if token != NO_TOKEN] for row in one.tolist()] if one is not None else
                  [[]] * len(examples) for one, _ in more]  # fmt: skip
        right = listed == [[list(getattr(example, name)) for example in examples] for _, name in more]
        sources = same_prompts(argument.source, [example.source for example in examples])
        return right and sources and _are_of(argument.question, examples)
    if isinstance(argument, Question):
        return same_answers(argument.answer, examples) and _are_of(argument.run, examples)
    if isinstance(argument, AblationValues) and argument.resampled is not None:
        return same_prompts(argument.resampled, [example.source for example in examples])
    if isinstance(argument, PromptBatch):
        return same_prompts(argument, [example.base for example in examples])
    return True


def same_answers(answer: Tensor | Answers, examples: Sequence[Example], foils: bool = False) -> bool:
    """Whether a batch's answers are the examples' own; of several tokens with what is right as well, and the foils."""
    if isinstance(answer, Tensor):
        return answer.tolist() == [example.answer for example in examples] and not any(one.further for one in examples)
    texts = [tuple(token for token in row if token != NO_TOKEN) for row in answer.tokens.tolist()]
    owners = answer.example.tolist()
    for rows, wanted in ((answer.right, "right"), (answer.foils, "wrong" if foils else "")):
        listed = [[]] * len(examples) if rows is None else rows.tolist()
        for number, (some, example) in enumerate(zip(listed, examples, strict=True)):
            own = [row for row in some if row != NO_TOKEN]
            if tuple(texts[row] for row in own) != (getattr(example, wanted) if wanted else ()):
                return False
            if any(owners[row] != number for row in own):
                return False
    return True


def same_prompts(run: PromptBatch, prompts: Sequence[Prompt]) -> bool:
    """Whether a batch's rows are these prompts, each with its positions, and padding beside them."""
    rows, masks = run.tokens.tolist(), run.mask.tolist()
    positions = {name: tensor.tolist() for name, tensor in run.positions.items()}
    if len(rows) != len(prompts):
        return False
    for number, (row, mask, prompt) in enumerate(zip(rows, masks, prompts, strict=True)):
        first = mask.index(1)
        end = first + len(prompt.tokens)
        if sum(mask) != len(prompt.tokens) or not all(mask[first:end]) or row[first:end] != list(prompt.tokens):
            return False
        if {name: index[number] - first for name, index in positions.items()} != prompt.positions:
            return False
    return True
