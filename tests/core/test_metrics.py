"""Every metric on numbers worked out by hand."""

from __future__ import annotations

from math import inf, isnan, log, nan

import pytest
import torch

from nnsight_et.core.batch import NO_TOKEN
from nnsight_et.core.circuit import Circuit, Head, HeadGroup
from nnsight_et.core.errors import TaskError
from nnsight_et.core.metrics import (
    accuracy,
    causal_impact,
    circuit_overlap,
    completeness,
    contribution,
    faithfulness,
    greedy_set,
    greedy_ties,
    is_kept,
    is_right,
    kl_divergence,
    logit_difference,
    patching_ratio,
    patching_score,
    probability_difference,
)
from tests.helpers.closeness import assert_near

# F(C \ {v, w}) of a group of five; on the diagonal F(C \ {w}).
PAIRS = (
    (0.80, 0.50, 0.60, 0.70, 0.90),
    (0.50, 0.70, 0.65, 0.40, 0.75),
    (0.60, 0.65, 0.90, 0.80, 0.85),
    (0.70, 0.40, 0.80, 0.80, 0.80),
    (0.90, 0.75, 0.85, 0.80, 0.90),
)


def circuit(**groups: tuple[str, str]) -> Circuit:
    """name=(position, heads separated by spaces) -> the circuit."""
    return Circuit(
        tuple(HeadGroup(name, at, tuple(map(Head.parse, heads.split()))) for name, (at, heads) in groups.items())
    )


def test_the_ratio_is_per_sender_and_example():
    patched = torch.tensor([[0.25, 0.5], [0.75, 0.2]])
    ratio = patching_ratio(patched, torch.tensor([0.5, 0.8]))
    assert torch.allclose(ratio, torch.tensor([[-0.5, -0.375], [0.5, -0.75]]))


def test_the_patching_score_is_a_mean_of_ratios():
    assert patching_score(torch.tensor([[0.25, 0.5]]), torch.tensor([0.5, 0.5])).tolist() == [-0.25]
    score = patching_score(torch.tensor([[0.25, 0.5]]), torch.tensor([0.5, 0.25]))
    assert score.tolist() == [0.25]  # (-1/2 + 1) / 2; the ratio of the means would be 0


def test_the_logit_difference_is_the_answers_logit_minus_the_foils_mean():
    logits = torch.tensor([[[1.0, 5.0, 2.0, 0.0], [3.0, 1.0, -1.0, 2.0]]])
    foils = torch.tensor([[0, 2], [3, NO_TOKEN]])
    found = logit_difference(logits, torch.tensor([1, 0]), foils)
    assert found.tolist() == [[3.5, 1.0]]  # 5 - (1 + 2) / 2 and 3 - 2
    assert logit_difference(logits + 8, torch.tensor([1, 0]), foils).tolist() == [[3.5, 1.0]]


def test_the_probability_difference_is_of_all_right_tokens_and_all_foils():
    logits = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.25, 0.25, 0.4, 0.1]]).log()
    right, foils = torch.tensor([[3, 1], [2, NO_TOKEN]]), torch.tensor([[0, NO_TOKEN], [0, 1]])
    found = probability_difference(logits, right, foils)
    torch.testing.assert_close(found, torch.tensor([0.5, -0.1]))  # 0.4 + 0.2 - 0.1 and 0.4 - 0.25 - 0.25


def test_kl_is_of_the_base_from_the_patched_run_in_nats():
    base, patched = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()
    assert kl_divergence(base, patched).item() == pytest.approx(0.5 * log(4 / 3))  # the other way it is smaller:
    assert kl_divergence(patched, base).item() == pytest.approx(0.75 * log(1.5) - 0.25 * log(2))
    assert kl_divergence(base, torch.stack([patched + 3, base - 1])).tolist() == [
        [pytest.approx(0.5 * log(4 / 3))],
        [0],
    ]
    far = torch.tensor([[0.0, -200.0]])  # in fp32 e^-200 is 0
    assert kl_divergence(far, far.flip(-1)).item() == pytest.approx(200)
    assert kl_divergence(torch.tensor([[0.0, -inf]]), torch.tensor([[-1.0, -inf]])).item() == 0
    assert isnan(kl_divergence(torch.tensor([[0.0, nan]]), base).item())


def test_kl_of_runs_that_all_but_agree_is_not_lost_in_rounding():
    generator = torch.Generator().manual_seed(0)
    base = 4 * torch.randn(5, 3000, generator=generator)
    for size in (1e-1, 1e-3, 1e-5):
        patched = base + size * torch.randn(5, 3000, generator=generator)
        exact = kl_divergence(base.double(), patched.double())
        plain = (base.double().softmax(-1) * (base.double().log_softmax(-1) - patched.double().log_softmax(-1))).sum(-1)
        assert_near(exact, plain, size=8)  # of the logarithms that it is a difference of
        torch.testing.assert_close(kl_divergence(base, patched).double(), exact, atol=1e-12, rtol=0.1)
        assert (kl_divergence(base, patched) >= 0).all()


def test_accuracy_is_the_share_of_right_tokens():
    assert accuracy(torch.tensor([3, 1, 4, 1]), torch.tensor([[3], [1], [4], [5]])) == 0.75


def test_a_prediction_is_right_if_it_is_the_answer_or_right_as_well():
    right = torch.tensor([[3, 9, -1], [1, -1, -1], [4, 7, 8]])  # -1: the row has fewer
    assert is_right(torch.tensor([[3, 2, 8], [9, 1, 5]]), right).tolist() == [[True, False, True], [True, True, False]]
    assert accuracy(torch.tensor([9, 1, 5]), right) == 2 / 3


def test_faithfulness_is_the_circuits_accuracy_over_the_models():
    assert faithfulness(0.33, 0.66) == 0.5
    assert faithfulness(0.9, 0.6) == pytest.approx(1.5)
    assert isnan(faithfulness(0.0, 0.0))


def test_completeness_is_the_distance_between_circuit_and_model():
    assert completeness(0.02, 0.22) == pytest.approx(0.2)
    assert completeness(0.22, 0.02) == pytest.approx(0.2)


def test_the_greedy_set_ranks_the_others_by_what_is_lost_with_the_head():
    # Without head 0 as well, 1 loses 0.7 - 0.5 = 0.2, 2 loses 0.9 - 0.6 = 0.3, 3 loses 0.1 and 4 nothing.
    assert greedy_set(PAIRS, head=0, fraction=0.6) == (2, 1, 3)
    assert greedy_set(PAIRS, head=0, fraction=0.3) == (2, 1)  # ceil(1.5)
    assert greedy_set(PAIRS, head=0, fraction=0.2) == (2,)
    assert greedy_set(PAIRS, head=0, fraction=0) == ()


def test_the_greedy_set_stops_at_the_first_head_that_loses_nothing():
    assert greedy_set(PAIRS, head=0, fraction=1) == (2, 1, 3)
    together = ((0.5, 0.75), (0.75, 0.75))
    assert greedy_set(together, head=0, fraction=1) == ()  # a loss of exactly 0
    assert greedy_set(((0.5, 0.9), (0.9, 0.75)), head=0, fraction=1) == ()  # better without


def test_heads_that_lose_the_same_stay_in_the_groups_order():
    # Without head 0: 0.9 - 0.8 and 0.8 - 0.7, of which the second is the larger in floating point.
    pairs = ((0.8, 0.8, 0.7), (0.8, 0.9, 0.75), (0.7, 0.75, 0.8))
    assert greedy_set(pairs, head=0, fraction=1) == (1, 2)
    assert greedy_set(torch.tensor(pairs, dtype=torch.float64), head=0, fraction=1) == (1, 2)


def test_heads_that_lose_as_much_as_the_last_one_taken_are_its_ties():
    # Without head 0 as well, 1 loses 0.2, and 2, 3 and 4 lose 0.1 each, by other roundings; 5 loses nothing.
    single, both = (0.8, 0.7, 0.8, 0.3, 0.5, 0.4), (0.0, 0.5, 0.7, 0.2, 0.4, 0.4)
    pairs = [[single[v] if v == w else both[v + w] if 0 in (v, w) else 0.0 for w in range(6)] for v in range(6)]
    for fraction, taken, ties in ((0.5, (1, 2, 3), (4,)), (0.3, (1, 2), (3, 4)), (0.15, (1,), ()), (0.0, (), ())):
        assert greedy_set(pairs, head=0, fraction=fraction) == taken
        assert greedy_ties(pairs, head=0, fraction=fraction) == ties
    assert greedy_ties(pairs, head=0, fraction=1) == ()
    useless = [[0.5] * 3] * 3  # what loses nothing is not taken, and ties with nothing
    assert greedy_ties(useless, head=0, fraction=0.3) == ()


def test_the_limit_is_a_ceiling_without_rounding_errors():
    lost = [[0.5 if v == w else 0.1 for w in range(10)] for v in range(10)]
    assert len(greedy_set(lost, head=0, fraction=0.3)) == 3
    assert len(greedy_set(lost, head=0, fraction=0.1 + 0.2)) == 3  # 0.30000000000000004


def test_a_head_is_kept_from_the_threshold_on():
    assert contribution(0.33, 0.3) == 0.1
    assert is_kept(0.202, 0.2, threshold=0.01)  # exactly one percent
    assert is_kept(0.404, 0.4, threshold=0.01)
    assert not is_kept(0.2019, 0.2, threshold=0.01)
    assert is_kept(0.2, 0.2, threshold=0)
    assert not is_kept(0.19, 0.2, threshold=0)


def test_a_head_that_holds_all_accuracy_is_kept_and_one_beside_none_is_not():
    assert contribution(0.01, 0.0) == inf
    assert is_kept(0.01, 0.0, threshold=0.01)
    assert isnan(contribution(0.0, 0.0))
    assert not is_kept(0.0, 0.0, threshold=0.0)


def test_overlap_is_counted_per_group_and_in_total():
    first = circuit(a=("last", "L1H0 L1H1 L2H0 L2H1"), c=("query_label", "L0H0"))
    second = circuit(c=("query_label", "L0H0 L0H1 L1H1 L1H0 L1H2"), a=("last", "L2H0 L1H1 L3H3"), d=("last", "L1H0"))
    a, c, d, total = circuit_overlap(first, second)
    assert a == ("a", 4, 3, 2)
    assert (a.precision, a.recall) == (0.5, 2 / 3)
    assert c == ("c", 1, 5, 1)
    assert (c.precision, c.recall) == (1, 0.2)
    assert d == ("d", 0, 1, 0)  # L1H0 is in the first circuit, in another group
    assert isnan(d.precision)
    assert d.recall == 0
    assert total == ("total", 5, 9, 3)
    assert (total.precision, total.recall) == (0.6, 1 / 3)


def test_groups_at_different_positions_are_not_compared():
    with pytest.raises(TaskError, match="group a is at last and at query_label"):
        circuit_overlap(circuit(a=("last", "L0H0")), circuit(a=("query_label", "L0H0")))


def test_causal_impact_orders_the_union_by_the_largest_absolute_score():
    pretrained = circuit(a=("last", "L0H0 L1H1"), b=("last", "L0H1"))
    finetuned = circuit(a=("last", "L0H0"), b=("last", "L1H0"), c=("query_label", "L0H0 L1H1"))
    scores = {
        "a": ((-0.1, nan), (nan, -0.3)),
        "b": torch.tensor([[nan, 0.2], [-0.5, nan]], dtype=torch.float64),
        "c": ((0.4, nan), (nan, 0.05)),
    }
    assert causal_impact(pretrained, finetuned, scores) == (
        (Head(1, 0), 0.5, False, True),
        (Head(0, 0), 0.4, True, True),  # c's 0.4, not a's 0.1
        (Head(1, 1), 0.3, True, True),  # a's 0.3, not c's 0.05
        (Head(0, 1), 0.2, True, False),
    )


def test_heads_of_equal_impact_are_in_the_order_of_a_forward_pass():
    one = circuit(a=("last", "L1H0 L0H1 L0H0"))
    ranked = causal_impact(one, circuit(), {"a": ((-0.2, 0.2), (0.2, 0.0))})
    assert [str(impact.head) for impact in ranked] == ["L0H0", "L0H1", "L1H0"]


def test_a_group_without_scores_is_named():
    with pytest.raises(TaskError, match="no scores of group 'a'; accepted: b"):
        causal_impact(circuit(a=("last", "L0H0")), circuit(), {"b": ((0.0,),)})
