"""How the sources of the positional desiderata are written: one line of data per row of Table A11 (App. J)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nnsight_et.tasks.boxes import Context
from nnsight_et.tasks.encoding import MarkedText


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
