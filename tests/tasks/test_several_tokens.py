"""Answers of several tokens in a file, a class and a notebook: what is scored, all methods on it, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import nnsight_et as et
from nnsight_et.core.batch import Example, Prompt
from nnsight_et.core.errors import TaskError
from nnsight_et.manifest import PairsFile, load
from nnsight_et.measuring.steps import data_digest
from nnsight_et.planning.plan import plan
from nnsight_et.results.store import Result
from nnsight_et.rows.mapping import Entry
from nnsight_et.tasks.marked import encoded_pair, pair_of
from nnsight_et.tasks.own_pairs import OwnPairs
from nnsight_et.tasks.own_task import checked_example
from tests.helpers.commands import et as command
from tests.helpers.own_pairs_study import EVERY, MANIFEST, TASK, THINGS, pair, results, written
from tests.helpers.tiny_model import tokenizer

SEVERAL = TASK.replace("pairs,", "pairs, answer_tokens: several,")
TEXT = (
    MANIFEST.replace(TASK, SEVERAL).replace("receivers: 2", "receivers: 4")
    + EVERY
    + """\
  by_foils:
    method: path_patching
    model: one
    metric: logit_difference
    examples: 4
    stages: [{group: a, into: logits, at: last, keep: 4}]
  discovered: {method: discovery, model: one, examples: 3, held_out_examples: 3, branches: 2}
"""
)


def several_lines() -> str:
    """Pairs whose answers are one to three words, with foils that begin as they do."""
    found = []
    for index in range(16):
        thing, other = THINGS[index], THINGS[(index + 3) % 16]
        answer = (f"{thing} . The", f"{thing} is", thing)[index % 3]
        foils = [f"{other} ."] if answer == thing else [f"{other} .", f"{thing} in"]
        found.append(
            pair(index, more=index % 3 == 0) | {"answer": answer, "foil": foils, "also_right": f"{other} is in"}
        )
    return "\n".join(map(json.dumps, found))


@pytest.fixture(scope="module")
def every(two_models: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Result]]:
    """Every method that can be run on pairs, and what it finds."""
    path = written(tmp_path_factory.mktemp("several"), two_models, TEXT, several_lines())
    return path, results(path)


def drawn(path: Path, split: str, count: int) -> list[Example]:
    task = plan(load(path)).jobs[0].task
    assert isinstance(task, PairsFile)
    return OwnPairs.of(task.text, task.name, task.positions, task.tokens_as).examples(tokenizer(), count, 3, split)


def test_every_method_runs_and_is_checked_against_the_reference_engine(every):
    path, found = every
    assert set(found) == set(load(path).experiments)
    for name, one in found.items():
        if name != "overlap":
            assert {check.check for check in one.header.self_check.checks} >= {"reference engine"}, name


def test_a_probability_is_that_of_the_whole_answer_by_plain_transformers(every):
    path, found = every
    module = AutoModelForCausalLM.from_pretrained(path.parent / "one")
    for number, one in enumerate(drawn(path, "discovery", 6)):
        (text,) = one.right[:1]
        logits = module(input_ids=torch.tensor([[*one.base.tokens, *text[:-1]]])).logits[0, one.base.length - 1 :]
        expected = logits.double().log_softmax(-1)[range(len(text)), text].sum().exp()
        base = found["found"].scores["a.base"][number].double()
        torch.testing.assert_close(base, expected, atol=0, rtol=1e-5)


def test_an_answer_is_right_where_generating_gives_all_of_it(every, two_models):
    module: Any = AutoModelForCausalLM.from_pretrained(two_models / "one")
    made = drawn(every[0], "evaluation", 3)
    said = []
    for one in made:
        given = torch.tensor([one.base.tokens])
        out = module.generate(
            given,
            attention_mask=torch.ones_like(given),
            max_new_tokens=3,
            do_sample=False,
            pad_token_id=1,
            eos_token_id=None,
        )
        said.append(tuple(out[0, one.base.length :].tolist()))
    asked = [
        Example.scored_by(made[0].base, made[0].source, [said[0]]),
        Example.scored_by(made[1].base, made[1].source, [(*said[1][:2], (said[1][2] + 1) % 100)]),
        Example.scored_by(made[2].base, made[2].source, [(said[2][0] + 1, 3), said[2][:2]]),
    ]  # fmt: skip
    loaded = et.load(module, tokenizer())
    from nnsight_et.api.pairs import predict_answers

    assert predict_answers(loaded, asked) == [True, False, True]


def test_one_token_stays_what_it_was(two_models, tmp_path):
    """The same file, allowed more tokens than it has: other jobs, the same cells."""
    short = "\n".join(json.dumps(pair(index, more=index % 3 == 0)) for index in range(16))
    path = written(tmp_path, two_models, MANIFEST, short)
    before = results(path)["found"]
    cells = {one.name for one in (tmp_path / "runs" / "store").rglob("*.safetensors")}
    after = results(path, "task.answer_tokens=several")["found"]
    assert {one.name for one in (tmp_path / "runs" / "store").rglob("*.safetensors")} == cells
    assert before.header.job_id != after.header.job_id
    assert all(torch.equal(one.nan_to_num(9), after.scores[name].nan_to_num(9)) for name, one in before.scores.items())


def test_a_result_says_which_tokens_were_scored(every):
    said = every[1]["found"].header.summary["tokens"]["one"]
    texts = {row["text"]: row for row in said["answer"]}
    several = next(row for row in texts.values() if isinstance(row["id"], list) and len(row["id"]) == 3)
    assert several["token"].split()[1:] == [".", "The"]
    assert {len(row["id"]) if isinstance(row["id"], list) else 1 for row in said["answer"]} == {1, 2, 3}
    assert said["foil"]
    assert said["also right"]


def test_the_commands_show_and_plan_it(every):
    path = every[0]
    assert command("validate", path).exit_code == 0
    assert command("plan", path, "--out", path.parent / "runs").exit_code == 0
    assert command("report", path, "--out", path.parent / "runs").exit_code == 0


def refused(changes: dict[str, object]) -> str:
    with pytest.raises(TaskError) as error:
        encoded_pair(pair_of(Entry("line", pair(0) | changes)), tokenizer(), "line")
    return str(error.value)


def test_what_does_not_fit_is_refused_with_what_would():
    assert "accepted: a single token, or answer_tokens: several" in refused({"answer": "book . The"})
    several: dict[str, object] = {"answer_tokens": "several"}
    assert "'zebra' is not one token" in refused(several | {"answer": "zebra"})
    assert "is not known" in refused(several | {"answer": "book zebra"})
    assert "begins with the answer" in refused(several | {"answer": "book .", "foil": "book . The"})
    assert "is already the answer" in refused(several | {"answer": "book .", "foil": "book ."})
    assert "answer_tokens: found 'two'; accepted: one or several" in refused({"answer_tokens": "two"})


def test_a_class_gives_texts_or_tokens_of_several():
    names, given = ("object", "label", "asked", "last"), pair(0) | {"answer_tokens": "several", "answer": "book . The"}
    made = checked_example(given | {"foils": ["car ."]}, names, tokenizer(), "here")
    assert [len(text) for text in (*made.right, *made.wrong)] == [3, 2]
    again = checked_example(made, names, tokenizer(), "here")
    assert again == made
    with pytest.raises(TaskError, match="further: found 1000"):
        checked_example(Example.scored_by(made.base, made.source, [(5, 1000)]), names, tokenizer(), "here")
    with pytest.raises(TaskError, match="foils: a token that appears twice"):
        checked_example(Example.scored_by(made.base, made.source, [(5, 6)], [(5, 6)]), names, tokenizer(), "here")


def test_digests_tell_further_tokens_apart_and_leave_others_alone():
    prompt = Prompt((0, 3), {"last": 1})
    one, two, three = (
        Example(prompt, prompt, 5),
        Example(prompt, prompt, 5, further=((6,),)),
        Example(prompt, prompt, 5, further=((7,),)),
    )
    assert len({data_digest([some]) for some in (one, two, three)}) == 3
    assert data_digest([one]) == "59239eea17749f773b46"  # as it was when there were no others


def test_a_notebook_measures_them_too(two_models):
    model = et.load(str(two_models / "one"), device="cpu")
    texts = [json.loads(line) for line in several_lines().splitlines()][:5]
    pairs = et.Pairs.of(texts, answer_tokens="several")
    assert {len(row["id"]) for row in pairs.tokens(model).rows if isinstance(row["id"], list)} == {2, 3}
    scores = et.path_patch(model, pairs.scored_by("logit_difference"), keep=2)
    exact = et.path_patch(model, pairs, into=scores.kept, via="query", at="last")
    assert exact.values.abs().max() > 0
    with pytest.raises(TaskError, match="accepted: a single token, or answer_tokens: several"):
        et.path_patch(model, et.Pairs.of(texts))
