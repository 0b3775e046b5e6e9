"""Desiderata (Fig. 2, App. G and J): pairs of prompts, and the answer that swapping one variable should give.

object: the content of the queried box. label: which label is asked for. position: where in the context the answer is;
its 11 variants write the source in another way, to see what "where" means to the model.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from transformers import PreTrainedTokenizerBase

from nnsight_et.core.batch import Example
from nnsight_et.core.errors import TaskError, accepted_names
from nnsight_et.tasks.boxes import LABELS, Boxes, Context
from nnsight_et.tasks.encoding import MarkedPair, MarkedText, encoded_prompt


@dataclass(frozen=True)
class Variant:
    """A way of writing a source prompt, and the base segment that its queried segment then points to."""

    segment: str = "the {thing} is in Box {label}"
    queried: str | None = None
    """The segment that is asked for, where it is written otherwise than the rest."""
    separator: str = ", "
    before: str = ""
    after: str = ""
    added: Literal["start", "end"] | None = None
    """Where one segment more goes; the segments are still counted without it."""
    shift: int = 0
    """The target is in base segment j + shift (the first follows the last) when the source asks for its segment j."""


PLAIN = Variant()
VARIANTS = {
    "text_at_start": Variant(before="there are a bunch of boxes containing objects, "),
    "text_at_end": Variant(after=", these are a bunch of boxes containing objects"),
    "tokens_between": Variant(queried="the {thing} is contained in the Box {label}"),
    "segment_at_start": Variant(added="start"),
    "segment_at_end": Variant(added="end"),
    "boxes_before": Variant(
        queried="there are three additional boxes, Box PP, Box BB and Box AA, the {thing} is in Box {label}"
    ),
    "incorrect_segment": Variant(shift=1),
    "altered_order": Variant(queried="Box {label} contains the {thing}"),
    "altered_association": Variant(queried="the {thing} is not in Box {label}"),
    "no_comma": Variant(separator=" "),
    "comma_after_object": Variant(segment="the {thing}, is in Box {label}"),
}
"""The 11 variants by name, in the order of Tables A11 to A13."""


def variant_prompt(context: Context, segment: int, variant: Variant = PLAIN) -> MarkedText:
    """The prompt that asks for the box of `segment`, written the variant's way; PLAIN gives Context.query's prompt."""
    text, spans = variant.before, {}
    for place, (thing, label) in enumerate(zip(context.objects, context.labels, strict=True)):
        form = variant.queried if variant.queried and place == segment else variant.segment
        text += variant.separator if place else ""
        if place == segment:
            spans = {
                "correct_object": _span(form, "{thing}", thing, label, len(text)),
                "previous_query_label": _span(form, "{label}", thing, label, len(text)),
            }
        text += form.format(thing=thing, label=label)
    label = context.labels[segment]
    text += f"{variant.after}. Box "
    spans["query_label"] = len(text), len(text) + len(label)
    text += f"{label} contains the"
    return MarkedText(text[0].upper() + text[1:], spans)


def longer(context: Context, thing: str, label: str, at: Literal["start", "end"]) -> Context:
    """The context with one segment more, at its start or end."""
    if at == "start":
        return Context((thing, *context.objects), (label, *context.labels))
    return Context((*context.objects, thing), (*context.labels, label))


def _span(form: str, field: str, thing: str, label: str, offset: int) -> tuple[int, int]:
    """Where in the prompt the word that replaces `field` is, for a segment written from `offset` on."""
    start = offset + len(form[: form.index(field)].format(thing=thing, label=label))
    return start, start + len(field.format(thing=thing, label=label))


VERSION = 1  # of the generator: part of what a result was computed from
DESIDERATA: tuple[str, ...] = ("object", "label", "position", *VARIANTS)


@dataclass(frozen=True)
class Scene:
    """What all desiderata of one seed share: the base context and its queried segment, and the source context."""

    base: Context
    queried: int
    source: Context


Swap = tuple[MarkedText, MarkedText]
"""A source prompt, and a prompt whose correct object is the target."""


def desideratum(
    task: Boxes, name: str, tokenizer: PreTrainedTokenizerBase, count: int, seed: int, split: str
) -> list[Example]:
    """`count` pairs of the desideratum `name`; `answer` is the target token, not the base's own answer.

    Base and source contexts share no object and no label, and are the same for every desideratum of a seed and split.
    Both prompts name correct_object, previous_query_label, query_label and last. The source of `label` asks for a box
    that it does not mention: its first two positions are those of one of its segments, drawn once per example.
    """
    task.check_tokens(tokenizer)
    examples = []
    for base, (source, other) in _swaps(task, name, count, seed, split):
        target = encoded_prompt(other, tokenizer)
        answer = target.tokens[target.positions["correct_object"]]
        examples.append(Example(encoded_prompt(base, tokenizer), encoded_prompt(source, tokenizer), answer))
    return examples


def desideratum_pairs(task: Boxes, name: str, count: int, seed: int, split: str) -> list[MarkedPair]:
    """The texts of the desideratum's examples of the same count, seed and split; `answer` is the target."""
    return [
        MarkedPair(base, source, target.text[slice(*target.spans["correct_object"])], space=True)
        for base, (source, target) in _swaps(task, name, count, seed, split)
    ]


def _swaps(task: Boxes, name: str, count: int, seed: int, split: str) -> Iterator[tuple[MarkedText, Swap]]:
    """Base texts, each with its swap."""
    if name not in DESIDERATA:
        raise TaskError(f"no desideratum {name!r}; {accepted_names(name, DESIDERATA)}")
    bases = task.contexts(random.Random(f"{seed}/{split}/desiderata"), split)
    for number, base in enumerate(islice(bases, count)):
        draw = random.Random(f"{seed}/{split}/desiderata/{number}")
        scene = Scene(base, draw.randrange(task.boxes), task.context(draw, split, apart_from=base))
        yield base.query(base.labels[scene.queried], scene.queried), _swap(task, name, scene, draw)


def _swap(task: Boxes, name: str, scene: Scene, draw: random.Random) -> Swap:
    if name == "object":  # the source asks for any of its boxes; the target is its own answer
        source = variant_prompt(scene.source, draw.randrange(len(scene.source.objects)))
        return source, source
    if name == "label":
        return _label_swap(scene, draw)
    return _position_swap(task, scene, VARIANTS.get(name, PLAIN), draw)


def _label_swap(scene: Scene, draw: random.Random) -> Swap:
    """The source asks for a box of the base, not the one the base asks for; the target is what that box holds."""
    asked = draw.choice(_other_segments(scene))
    label = scene.base.labels[asked]
    source = scene.source.query(label, draw.randrange(len(scene.source.objects)))
    return source, scene.base.query(label, asked)


def _position_swap(task: Boxes, scene: Scene, variant: Variant, draw: random.Random) -> Swap:
    """The source asks for another segment than the base; the target is what the base has there."""
    segments = len(scene.base.objects)
    targets = {asked: (asked + variant.shift) % segments for asked in _other_segments(scene)}
    targets = {asked: target for asked, target in targets.items() if target != scene.queried}
    if not targets:
        raise TaskError(
            f"task.boxes: {segments} boxes leave no target other than the base's own answer; accepted: 3 to 12"
        )
    asked = draw.choice(list(targets))
    target = scene.base.query(scene.base.labels[targets[asked]], targets[asked])
    if variant.added is None:
        return variant_prompt(scene.source, asked, variant), target
    source = longer(scene.source, *_draw_unused(task, scene, draw), variant.added)
    return variant_prompt(source, asked + (variant.added == "start"), variant), target


def _other_segments(scene: Scene) -> list[int]:
    return [segment for segment in range(len(scene.base.objects)) if segment != scene.queried]


def _draw_unused(task: Boxes, scene: Scene, draw: random.Random) -> tuple[str, str]:
    """An object and a label that are neither in the base nor in the source."""
    objects = [thing for thing in task.objects if thing not in scene.base.objects + scene.source.objects]
    labels = [label for label in LABELS if label not in scene.base.labels + scene.source.labels]
    if not objects:
        need = 2 * task.boxes + 1
        found = len(set(task.objects))
        raise TaskError(f"task.objects: {found} different objects; accepted: at least {need} for an additional segment")
    return draw.choice(objects), draw.choice(labels)
