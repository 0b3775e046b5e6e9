"""The values of single examples, as scores.safetensors has them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from nnsight_et.results.headers import method_of, name_of
from nnsight_et.results.store import Result

PER_EXAMPLE = ("per_example", "base", "base_value", "probability", "predicted", "logit", "answer")
COLUMNS = ("experiment", "method", "score", "layer", "index", "variant", "example", "value")


def examples(result: Result) -> Iterator[tuple]:
    """Rows as in COLUMNS of every tensor [layer, head, example], [variant, example] or [example].

    A variant is one of what was tried, in the order of the result's rows; random draws come after what has a name.
    """
    experiment, method = name_of(result.header), method_of(result.header)
    for name in sorted(result.scores):
        tensor = result.scores[name]
        if name.rpartition(".")[2] not in PER_EXAMPLE:
            continue
        before = 3 - tensor.dim()
        for place, value in zip(product(*map(range, tensor.shape)), tensor.flatten().tolist(), strict=True):
            axes = (None,) * before + place
            where = (*axes[:2], None) if tensor.dim() == 3 else (None, None, axes[1])
            yield (experiment, method, name, *where, axes[2], value)
