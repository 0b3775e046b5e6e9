"""Batches: padding on either side, positions that move with it, and shapes that are refused."""

from __future__ import annotations

import pytest
import torch

from nnsight_et.core.batch import Example, Pair, Prompt, PromptBatch, check_tokens, collate, padded_batch
from nnsight_et.core.errors import TaskError

SHORT = Prompt((5, 6, 7), {"last": 2, "label": 1})
LONG = Prompt((8, 9, 10, 11, 12), {"last": 4, "label": 0})


def test_left_padding_moves_tokens_and_positions_to_the_right():
    run = padded_batch([SHORT, LONG], pad=1, side="left")
    assert run.tokens.tolist() == [[1, 1, 5, 6, 7], [8, 9, 10, 11, 12]]
    assert run.mask.tolist() == [[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]]
    assert run.positions["last"].tolist() == [4, 4]
    assert run.positions["label"].tolist() == [3, 0]
    assert run.position_ids.tolist() == [[0, 0, 0, 1, 2], [0, 1, 2, 3, 4]]


def test_right_padding_leaves_them_where_they_are():
    run = padded_batch([SHORT, LONG], pad=1, side="right")
    assert run.tokens.tolist() == [[5, 6, 7, 1, 1], [8, 9, 10, 11, 12]]
    assert run.mask.tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert run.positions["last"].tolist() == [2, 4]
    assert run.positions["label"].tolist() == [1, 0]
    assert run.position_ids[0, :3].tolist() == [0, 1, 2]


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_position_names_the_same_token_whatever_the_padding(side):
    run, row = padded_batch([SHORT, LONG], side=side), torch.arange(2)
    assert run.tokens[row, run.positions["label"]].tolist() == [6, 8]
    assert run.tokens[row, run.positions["last"]].tolist() == [7, 12]


def test_examples_become_a_pair_whose_runs_have_their_own_lengths():
    pair = collate([Example(SHORT, LONG, 6), Example(SHORT, SHORT, 7)], pad=1)
    assert pair.base.tokens.tolist() == [[5, 6, 7], [5, 6, 7]]
    assert pair.source.tokens.tolist() == [[8, 9, 10, 11, 12], [1, 1, 5, 6, 7]]
    assert pair.source.positions["label"].tolist() == [0, 3]
    assert pair.answer.tolist() == [6, 7]


@pytest.mark.parametrize(
    "example",
    [Example(LONG, SHORT, 5), Example(SHORT, LONG, 5), Example(SHORT, SHORT, 12),
     Example(SHORT, SHORT, 5, also_right=(12,)), Example(SHORT, SHORT, 5, foils=(12,))],
    ids=["base", "source", "answer", "also right", "foil"],
)  # fmt: skip
def test_a_token_beyond_the_models_rows_is_named_wherever_it_is(example):
    check_tokens([example], 13, "pairs", "m")
    with pytest.raises(
        TaskError, match=r"pairs: a prompt or an answer has token 12, but m embeds only tokens 0 to 11; accepted: "
    ):
        check_tokens([example], 12, "pairs", "m")


def test_a_prompt_and_no_prompts_are_checked_too():
    check_tokens([], 1, "pairs", "m")
    with pytest.raises(TaskError, match="token 12"):
        check_tokens([SHORT, LONG], 12, "pairs", "m")


def test_shapes_that_do_not_fit_are_refused():
    tokens, mask = torch.zeros(2, 3, dtype=torch.long), torch.ones(2, 3, dtype=torch.long)
    with pytest.raises(ValueError, match=r"not \[batch, seq\]"):
        PromptBatch(tokens, mask[:, :2], {})
    with pytest.raises(ValueError, match=r"not \[batch, seq\]"):
        PromptBatch(tokens[0], mask[0], {})
    with pytest.raises(ValueError, match=r"position last: \(3,\), not \[batch\]"):
        PromptBatch(tokens, mask, {"last": torch.zeros(3, dtype=torch.long)})
    run = PromptBatch(tokens, mask, {})
    with pytest.raises(ValueError, match="differ in batch size"):
        Pair(run, run, torch.zeros(3, dtype=torch.long))


def test_a_position_on_padding_is_refused():
    tokens, mask = torch.zeros(2, 3, dtype=torch.long), torch.tensor([[0, 1, 1], [1, 1, 1]])
    PromptBatch(tokens, mask, {"last": torch.tensor([1, 0])})
    with pytest.raises(ValueError, match="position last lies on padding"):
        PromptBatch(tokens, mask, {"last": torch.tensor([0, 0])})
