"""In half precision the default engine is as near to the truth as the reference engine is."""

from __future__ import annotations

import pytest
import torch

from benchmarks import half_precision
from nnsight_et.core.circuit import Head
from nnsight_et.interventions.path_patching import Path
from tests.helpers.tiny_model import few_examples, hf_llama, tiny_model

PATHS = (
    Path("last"),
    Path("last", "query", (Head(1, 1), Head(2, 3))),
    Path("query_label", "value", (Head(1, 0), Head(2, 2))),
)


@pytest.mark.parametrize("path", PATHS, ids=("logits", "query", "value"))
def test_the_default_engine_is_no_further_from_the_truth_than_the_reference(path):
    truth, half = (tiny_model(hf_llama(dtype=dtype)) for dtype in (torch.float32, torch.bfloat16))
    found = half_precision.errors(truth, half, few_examples((2, 3, 2, 3)), path)
    assert 0 < found["default"]["mean"] <= 1.5 * found["reference"]["mean"]
    assert 0 < found["default"]["max"] <= 1.5 * found["reference"]["max"]


def test_the_error_of_the_truth_itself_is_rounding():
    model = tiny_model(hf_llama())
    found = half_precision.errors(model, model, few_examples((2, 3)), PATHS[1])
    assert found["reference"] == {"mean": 0.0, "max": 0.0}
    assert 0 < found["default"]["max"] < 1e-4
