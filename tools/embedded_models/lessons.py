"""What the embedded models are trained on: boxes prompts, the same rephrased, and arithmetic."""

from __future__ import annotations

import random
from typing import NamedTuple

from transformers import PreTrainedTokenizerFast

from nnsight_et.tasks.boxes import Boxes, Context

SPLIT = "model_training"
LINKS = ("lies in", "is put in", "is contained in", "lies within")
QUESTIONS = (
    "Box {label} holds the",
    "Inside Box {label} there is the",
    "In Box {label} we find the",
    "USER: What does Box {label} contain? ASSISTANT: It has the",
)
BOXES_EVERY = 16
SUMS = ("{a} {sign} {b} =", "What is {a} {sign} {b}? Answer:", "Compute {a} {sign} {b}.", "Calculate {a} {sign} {b} =")


class Lesson(NamedTuple):
    """A text in token ids, of which the model learns to say everything from index `start` on.

    `plain`: the boxes prompt that a rephrased one stands for, else empty.
    """

    tokens: tuple[int, ...]
    start: int
    plain: tuple[int, ...] = ()


def boxes_lessons(tokenizer: PreTrainedTokenizerFast, count: int, seed: int) -> list[Lesson]:
    """Boxes prompts of the training split with their answers."""
    examples = Boxes().examples(tokenizer, count, seed, SPLIT)
    return [Lesson((*each.base.tokens, each.answer), len(each.base.tokens)) for each in examples]


def rephrased_lessons(tokenizer: PreTrainedTokenizerFast, count: int, seed: int) -> list[Lesson]:
    """The boxes task in other words, and every fourth time in its own."""
    draw = random.Random(f"{seed}/rephrased")
    contexts = Boxes().contexts(draw, SPLIT)
    return [draw_rephrased(next(contexts), draw, tokenizer) for _ in range(count)]


def draw_rephrased(context: Context, draw: random.Random, tokenizer: PreTrainedTokenizerFast) -> Lesson:
    """One rephrased prompt with its answer, and the plain prompt."""
    segment = draw.randrange(len(context.labels))
    thing, label = context.objects[segment], context.labels[segment]
    plain = context.query(label, segment).text
    question, link = draw.choice(QUESTIONS).format(label=label), draw.choice(LINKS)
    text = f"{context.text} {question}".replace(" is in ", f" {link} ")
    spoken = lesson(tokenizer, plain if draw.random() < 0.25 else text, thing)
    return spoken._replace(plain=tuple(tokenizer(plain)["input_ids"]))


def arithmetic_lessons(tokenizer: PreTrainedTokenizerFast, count: int, seed: int) -> list[Lesson]:
    """Sums, differences and products of small numbers, digit by digit."""
    draw = random.Random(f"{seed}/arithmetic")
    lessons = []
    for _ in range(count):
        a, b, sign = draw.randrange(100), draw.randrange(100), draw.choice("+-*")
        if sign == "-":
            a, b = max(a, b), min(a, b)
        elif sign == "*":
            a, b = a % 10, b % 10
        result = {"+": a + b, "-": a - b, "*": a * b}[sign]
        lessons.append(lesson(tokenizer, draw.choice(SUMS).format(a=a, b=b, sign=sign), f"{result} </s>"))
    return lessons


def lesson(tokenizer: PreTrainedTokenizerFast, prompt: str, answer: str) -> Lesson:
    """The lesson of answering `prompt` with `answer`."""
    tokens = tokenizer(prompt)["input_ids"]
    return Lesson((*tokens, *tokenizer(answer, add_special_tokens=False)["input_ids"]), len(tokens))


def mixed_lessons(tokenizer: PreTrainedTokenizerFast, count: int, seed: int) -> list[Lesson]:
    """Arithmetic, and boxes one time in BOXES_EVERY."""
    n_boxes = count // BOXES_EVERY
    boxes, sums = boxes_lessons(tokenizer, n_boxes, seed), arithmetic_lessons(tokenizer, count - n_boxes, seed)
    return [(boxes if i % BOXES_EVERY == 0 else sums).pop() for i in range(n_boxes * BOXES_EVERY)]
