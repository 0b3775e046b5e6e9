"""Roles: what DCM jobs select and try, and functionality jobs that patch it in every model."""

from __future__ import annotations

import pytest
import torch

from nnsight_et.core.errors import TaskError
from nnsight_et.interventions.activation_patching import patched_readouts_by_source
from nnsight_et.interventions.dcm import trained_masks
from nnsight_et.measuring import mask_training
from nnsight_et.measuring.executor import Executor
from nnsight_et.measuring.roles import SelectedHeads
from nnsight_et.results.store import Result
from tests.helpers import plain_methods
from tests.helpers.methods_study import MODELS, accuracy_of, circuit, models_in, results, swaps

VALIDATIONS = 2  # of 5 steps: after the fourth and the last
DECREED = """\
  masks:
    {method: dcm, circuit: ./circuit.json, model: one, desiderata: [object, position], training_examples: 1,
     validation_examples: 12, test_examples: 15, epochs: 5}
  roles:
    {method: activation_patching, roles: masks, desiderata: [object, no_comma], models: [one, two], examples: 9,
     draws: 2}
"""


@pytest.fixture(scope="module")
def decreed(tmp_path_factory) -> dict[str, Result]:
    """Jobs whose training finds a mask that is given: for `object` without a group's last head, then without its first.

    Random models seldom have heads worth selecting.
    """
    given = []

    def decree(_model, groups, *_rest):
        masks = [torch.zeros(len(group.heads)) for group in groups]
        for mask in masks:
            mask[0 if given else -1] = 1
        given.extend(masks)
        course = ("masks", "course", "gradients")
        return [
            {"mask": mask, "accuracies": torch.ones(VALIDATIONS), "autograd": torch.tensor(True)}
            | {name: mask.repeat(VALIDATIONS, 1) for name in course}
            for mask in masks
        ]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mask_training, "trained_masks", decree)
        return results(models_in(tmp_path_factory.mktemp("decreed")), DECREED)


def test_selected_heads_are_tried_on_fresh_examples_beside_doing_nothing(decreed):
    module, found = MODELS["one"](), decreed["masks"].header.summary["rows"]
    groups = [(name, group) for name in ("object", "position") for group in circuit().groups]
    assert [(row["desideratum"], row["group"]) for row in found] == [(name, group.name) for name, group in groups]
    for row, (name, group) in zip(found, groups, strict=True):
        heads = group.heads[:-1] if name == "object" else group.heads[1:]
        assert row["selected"] == [str(head) for head in heads]
        assert row["heads"] == len(group.heads)
        tried = swaps(name, 15, "mask_test")
        logits = plain_methods.patched_logits(module, tried, {group.at: heads})
        nothing = accuracy_of(plain_methods.plain_logits(module, tried.base), tried.answer)
        assert (row["accuracy"], row["do_nothing"]) == (pytest.approx(accuracy_of(logits, tried.answer)), nothing)
        validated = swaps(name, 12, "mask_validation")
        every = plain_methods.patched_logits(module, validated, {group.at: group.heads})
        none = plain_methods.plain_logits(module, validated.base)
        assert row["ceiling"] == pytest.approx(accuracy_of(every, validated.answer))
        assert row["floor"] == pytest.approx(accuracy_of(none, validated.answer))
        assert row["validated"] == 1  # as was decreed
    assert any(row["accuracy"] != row["do_nothing"] for row in found)
    assert any(row["ceiling"] != row["floor"] for row in found)


def test_functionality_is_the_mean_over_draws_of_the_selected_heads_patched_in_every_model(decreed):
    """Variants of position that no heads were selected for patch the heads for position."""
    found = {(row["model"], row["desideratum"], row["group"]): row for row in decreed["roles"].header.summary["rows"]}
    for model, made in MODELS.items():
        module = made()
        for name in ("object", "no_comma"):
            draws = [swaps(name, 9, "evaluation", draw) for draw in (0, 1)]
            nothing = [accuracy_of(plain_methods.plain_logits(module, one.base), one.answer) for one in draws]
            for group in circuit().groups:
                heads = {group.at: group.heads[:-1] if name == "object" else group.heads[1:]}
                logits = [plain_methods.patched_logits(module, one, heads) for one in draws]
                patched = [accuracy_of(one, draw.answer) for one, draw in zip(logits, draws, strict=True)]
                row = found.pop((model, name, group.name))
                assert row["mean"] == pytest.approx(sum(patched) / 2)
                assert row["std"] == pytest.approx(abs(patched[0] - patched[1]) / 2)
                assert row["do_nothing"] == pytest.approx(sum(nothing) / 2)
                assert row["heads"] == len(group.heads) - 1
    assert not found
    assert len({(row["mean"], row["do_nothing"]) for row in decreed["roles"].header.summary["rows"]}) > 4


def test_draws_are_different_examples_and_disjoint_from_those_that_trained():
    draws = [swaps("object", 20, "evaluation", draw).base.tokens.tolist() for draw in (0, 1)]
    assert not any(prompt in draws[1] for prompt in draws[0])
    training = [swaps("object", 20, split).base.tokens.tolist() for split in ("mask_training", "mask_validation")]
    assert not any(prompt in draws[0] + draws[1] for prompt in training[0] + training[1])


def test_roles_of_a_variant_are_its_own_where_it_was_trained_and_those_of_position_elsewhere():
    group = circuit().group("value_fetcher")
    trained = {"position": group.heads[:1], "no_comma": group.heads[1:3]}
    roles = SelectedHeads(circuit(), {"value_fetcher": trained})
    assert roles.desiderata == ("position", "no_comma")
    assert roles.heads(group, "no_comma") == group.heads[1:3]
    assert roles.heads(group, "altered_order") == group.heads[:1]
    assert [one.groups[0].name for one in roles.sets("position")] == ["value_fetcher"]
    with pytest.raises(TaskError, match="no heads of value_fetcher were selected for object; accepted: position, no_c"):
        roles.heads(group, "object")


def test_trainings_and_draws_that_need_nothing_of_each_other_are_asked_for_together(tmp_path, monkeypatch):
    """So that workers need not wait for each other, and a server has one job of them."""
    streams, results_of = [], Executor.results

    def recorded(self, job, choice, calls):
        stream = []
        streams.append((job.name, stream))
        return results_of(self, job, choice, (stream.append(call.function) or call for call in calls))

    monkeypatch.setattr(Executor, "results", recorded)
    results(models_in(tmp_path), DECREED)
    assert [stream.count(trained_masks) for _, stream in streams if trained_masks in stream] == [2]  # desiderata
    drawn = [stream.count(patched_readouts_by_source) for name, stream in streams if name == "roles"]
    assert drawn.count(2 * 2) == len(MODELS)  # two draws of two batches; fewer are checks
