"""Why mechanical mutants survive: judged by hand, one by one."""

from __future__ import annotations

from typing import NamedTuple


class Verdict(NamedTuple):
    """What a surviving mutant changes, and whether that could be seen in a number."""

    text: str
    shows: bool


def verdict(place: str, line: str, change: str) -> Verdict:
    """The verdict on a change to a line at "file:number"."""
    return VERDICTS.get((place.partition(":")[0], line, change), Verdict("not judged", True))


VERDICTS: dict[tuple[str, str, str], Verdict] = {
    (
        "engine/budget.py",
        "tokens: int = 1 << 16  # of one pass: examples x variants x live tokens",
        "`16` -> `17`",
    ): Verdict("the size of a pass: no number depends on it", False),
    (
        "engine/capture.py",
        "width = int(columns[fixed.any(0)].max()) + 1 if fixed.any() else 0",
        "`1` -> `2`",
    ): Verdict("one column more, which nobody sees", False),
    (
        "engine/reference.py",
        "sees = ((order <= order[:, None]) & run.mask.bool()[:, None]) | (order == order[:, None])  # [batch, seq, seq]",
        "`order <= order[:, None]` -> `order < order[:, None]`",
    ): Verdict("the same: a token's own column is in the other half", False),
    (
        "engine/suffix.py",
        "return tokens.unflatten(0, (self.rows, self.batch)).unflatten(2, (self.branches, self.live)).transpose(1, 2)",
        "`tokens.unflatten(0, (self.rows, self.batch)).unflatten(2, (self.branches, self.live)).transpose(1, 2)` -> "
        "`tokens.unflatten(0, (self.rows, self.batch)).unflatten(2, (self.branches, self.live)).transpose(2, 1)`",
    ): Verdict("the same", False),
    (
        "interventions/attention_patterns.py",
        "layers.append(model.z(layer)[row, run.positions[at], :, 0])  # [batch, head]",
        "`0` -> `1`",
    ): Verdict("the same: all components of the values are alike", False),
    (
        "interventions/attribution.py",
        "mask = torch.ones(1, len(group.heads), dtype=model.dtype, device=model.device, requires_grad=True)",
        "`1` -> `2`",
    ): Verdict("a second variant that nobody reads", False),
    (
        "interventions/dcm.py",
        "first = torch.stack([base.positions[group.at] for group in groups]).min(0).values",
        "`0` -> `1`",
    ): Verdict("the same: the suffix begins at the smallest of all", False),
    (
        "interventions/engine_checks.py",
        "layer = max(1, model.n_layers // 2)",
        "`max(1, model.n_layers // 2)` -> `max(model.n_layers // 2, 1)`",
    ): Verdict("the same", False),
    ("interventions/engine_checks.py", "layer = max(1, model.n_layers // 2)", "`2` -> `3`"): Verdict(
        "another layer is looked at", False
    ),
    (
        "interventions/engine_checks.py",
        "receivers, found = (Head(layer, min(1, model.n_heads - 1)), Head(model.n_layers - 1, model.n_heads - 1)), {}",
        "`1` -> `2`",
    ): Verdict("another head is looked at", False),
    (
        "interventions/engine_checks.py",
        '(numbers[:, : len(names) + 1], names, [names.index("last")] * len(last)),',
        "`1` -> `2`",
    ): Verdict("one slot more, which nothing takes", False),
    (
        "interventions/engine_checks.py",
        "changed[:, :, -1] = 1 - 2 * changed[:, :, -1]  # of all tokens: the last may hardly attend to itself",
        "`2` -> `3`",
    ): Verdict("the head is changed by another amount", False),
}
