"""Attention patterns: Hugging Face's own attention weights, by hand, and the heads of a circuit in a job."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from nnsight_et.interventions.attention_patterns import attention_from
from nnsight_et.tasks.boxes import POSITIONS
from tests.helpers import plain_methods
from tests.helpers.closeness import assert_near, tolerance
from tests.helpers.methods_study import MODELS, circuit, models_in, pairs, results
from tests.helpers.tiny_model import few_pairs, hf_llama, tiny_model

TO = ("correct_object", "previous_query_label", "query_label", "last")


@pytest.mark.parametrize("at", TO)
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_weights_are_those_of_output_attentions(kv_heads, side, at):
    module, run = hf_llama(kv_heads=kv_heads), few_pairs(side=side).base
    found = attention_from(tiny_model(module, "eager"), run, at, TO[:3], "default")["weights"]
    assert found.shape == (3, 4, 5, 3)
    weights, row = plain_methods.attention(module, run), torch.arange(3)
    here = weights[:, row, :, run.positions[at]]  # [batch, layer, head, seq]
    for column, place in enumerate([*(run.positions[name] for name in TO[:3]), run.mask.argmax(-1)]):
        expected = here[row, :, :, place].permute(1, 2, 0)
        assert_near(found[:, :, column], expected, size=1)
    named = torch.zeros(run.tokens.shape, dtype=torch.bool)
    for place in [*(run.positions[name] for name in TO[:3]), run.mask.argmax(-1)]:
        named[row, place] = True
    other = (here * ~named[:, None, None]).sum(-1).permute(1, 2, 0)
    assert_near(found[:, :, 4], other, size=1)


@pytest.mark.parametrize("at", TO)
def test_named_positions_the_first_token_and_all_others_sum_to_1(at):
    found = attention_from(tiny_model(hf_llama(), "eager"), few_pairs().base, at, TO, "default")["weights"]
    torch.testing.assert_close(found.sum(2), torch.ones(3, 4, 3))
    assert (found > -tolerance()).all()
    assert found[:, :, 5].std(1).min() > 0  # heads differ


def test_heads_without_queries_look_at_every_token_alike_by_hand():
    """With queries of zero the weights are 1 / (tokens so far); later tokens and padding get none."""
    module, run = hf_llama(), few_pairs((2, 3)).base
    for block in module.model.layers:
        block.self_attn.q_proj.weight.zero_()
    found = attention_from(tiny_model(module, "eager"), run, "query_label", TO, "default")["weights"]
    seen = run.position_ids[torch.arange(2), run.positions["query_label"]] + 1.0
    assert seen.tolist() == [17, 24]  # BOS, 7 tokens a segment with its comma or full stop, Box, the label
    for column in (0, 1, 2, 4):
        torch.testing.assert_close(found[:, :, column], (1 / seen).expand(3, 4, -1))
    assert not found[:, :, 3].any()
    torch.testing.assert_close(found[:, :, 5], (1 - 4 / seen).expand(3, 4, -1))


LOOKS = "  x: {method: attention_patterns, model: two, circuit: ./circuit.json, examples: 11}\n"


def test_a_job_has_the_mean_of_each_circuit_head_from_its_own_position(tmp_path):
    """Models are loaded with eager attention whatever the manifest says: no other one gives its weights."""
    result = results(models_in(tmp_path), LOOKS, "attention=sdpa")["x"]
    summary: dict[str, Any] = result.header.summary
    run, row = pairs(11, "evaluation").base, torch.arange(11)
    weights, expected = plain_methods.attention(MODELS["two"](), run), []
    for group in circuit().groups:
        for head in group.heads:
            one = weights[head.layer, row, head.index, run.positions[group.at]]  # [batch, seq]
            columns = {name: one[row, run.positions[name]].mean().item() for name in TO}
            columns["first token"] = one[:, 0].mean().item()
            columns["other"] = 1 - sum(columns.values())
            expected.append({"group": group.name, "at": group.at, "head": str(head)} | columns)
    assert POSITIONS == TO
    assert [row["head"] for row in summary["rows"]] == [row["head"] for row in expected]
    for found, wanted in zip(summary["rows"], expected, strict=True):
        assert found == pytest.approx(wanted, abs=1e-5)
    assert result.scores["last.weights"].shape == (3, 4, 6)
