"""Chat models: prompts as turns of a template, what is sent, where positions are, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import nnsight_et as et
from nnsight_et.core.errors import ManifestError, TaskError, UnsupportedModel
from nnsight_et.core.turns import make_turns
from nnsight_et.manifest import PairsFile, load
from nnsight_et.planning.plan import plan
from nnsight_et.rows.mapping import Entry
from nnsight_et.tasks.marked import encoded_pair, pair_of
from nnsight_et.tasks.own_pairs import OwnPairs
from nnsight_et.tasks.own_task import checked_example
from tests.helpers.chat_tokenizer import CHANGING, REFUSING, SPACED, SYSTEM, TEMPLATE, TWICE, chat_tokenizer, written
from tests.helpers.commands import et as command
from tests.helpers.own_pairs_study import lines, pair, results
from tests.helpers.tiny_model import hf_llama

STUDY = """\
name: chat
seed: 3
task: {kind: pairs, file: pairs.jsonl, positions: [object, label, asked], chat: true}
models: {one: {path: one}}
experiments:
  found:
    method: path_patching
    model: one
    examples: 5
    stages: [{group: a, into: logits, at: last, keep: 4, receivers: 4}]
  table1: {method: faithfulness, circuit: found, models: [one], examples: 4, ablation_examples: 4, random_circuits: 1}
"""


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chat") / "one"
    hf_llama(vocab_size=128).save_pretrained(folder)
    return written(folder)


@pytest.fixture
def study(model_folder: Path, tmp_path: Path) -> Path:
    (tmp_path / "one").symlink_to(model_folder)
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines()))
    (tmp_path / "chat.yaml").write_text(STUDY)
    return tmp_path / "chat.yaml"


def turning(template: str = TEMPLATE) -> Any:
    tokenizer = chat_tokenizer()
    make_turns(tokenizer, template)
    return tokenizer


def as_sent(tokenizer, text: str) -> list[int]:
    """By transformers alone."""
    turn = [{"role": "user", "content": text}]
    return tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_dict=False)


@pytest.mark.parametrize("template", [TEMPLATE, SYSTEM, SPACED], ids=["plain", "system", "space"])
def test_prompts_are_what_transformers_makes_of_a_message_and_positions_are_found_in_it(template):
    tokenizer, written_pair = turning(template), pair_of(Entry("line", pair(0)))
    made = encoded_pair(written_pair, tokenizer, "line")
    for prompt, text in ((made.base, written_pair.base.text), (made.source, written_pair.source.text)):
        assert list(prompt.tokens) == as_sent(tokenizer, text)
        assert prompt.tokens.count(tokenizer.bos_token_id) == 1
        assert prompt.tokens[-1] == tokenizer.convert_tokens_to_ids("<a>")
        assert prompt.positions["last"] == len(prompt.tokens) - 1
    said = [
        tokenizer.convert_ids_to_tokens(made.base.tokens[made.base.positions[name]])
        for name in ("object", "label", "asked")
    ]
    assert said == ["book", "A", "A"]
    assert made.answer == tokenizer.convert_tokens_to_ids("book")


def test_a_prompt_that_the_template_strips_keeps_its_positions():
    spaced = pair(0) | {"base": "  " + pair(0)["base"] + " \n"}
    made, plain = (encoded_pair(pair_of(Entry("line", one)), turning(), "line") for one in (spaced, pair(0)))
    assert made == plain


def test_answers_of_several_tokens_begin_the_reply():
    made = encoded_pair(
        pair_of(Entry("line", pair(0) | {"answer": "The book .", "answer_tokens": "several"})), turning(), "line"
    )
    assert turning().convert_ids_to_tokens(list(made.right[0])) == ["The", "book", "."]


def test_a_space_goes_before_the_answer_where_the_template_has_one():
    from nnsight_et.tasks.turns import as_turns

    assert as_turns(pair_of(Entry("line", pair(0))), turning(SPACED)).space is True
    assert as_turns(pair_of(Entry("line", pair(0))), turning()).space is False
    assert as_turns(pair_of(Entry("line", pair(0) | {"space": "yes"})), turning()).space is True


@pytest.mark.parametrize(
    ("template", "text"),
    [(TWICE, "begins with <s> twice"), (CHANGING, "the chat template turns"), (REFUSING, "turns must alternate")],
    ids=["two BOS", "changes the text", "refuses"],
)
def test_a_template_that_does_not_take_a_prompt_as_it_is_is_refused(template, text):
    with pytest.raises(TaskError, match=text):
        encoded_pair(pair_of(Entry("line", pair(0))), turning(template), "line")


def test_prompts_with_special_tokens_of_their_own_are_no_turns():
    with pytest.raises(TaskError, match="line: special_tokens: text, but the chat template"):
        encoded_pair(pair_of(Entry("line", pair(0) | {"special_tokens": "text"})), turning(), "line")


def test_a_manifest_runs_and_says_what_was_sent(study: Path):
    found = results(study)
    tokenizer = chat_tokenizer()
    sent = found["found"].header.summary["sent"]["one"]
    assert sent.replace(" ", "").startswith("<s><u>The")
    assert sent.replace(" ", "").endswith("containsthe</t><a>")
    assert found["table1"].header.summary["sent"]["one"]
    task = plan(load(study)).jobs[0].task
    assert isinstance(task, PairsFile)
    drawn = OwnPairs.of(task.text, task.name, task.positions).examples(turning(), 5, 3, "discovery")
    assert sent == tokenizer.decode(list(drawn[0].base.tokens))
    shown = command("models", "inspect", "one", "--manifest", study)
    assert shown.exit_code == 0
    assert "sent, as a chat" in shown.output
    assert command("report", study, "--out", study.parent / "runs").exit_code == 0


def test_a_template_is_part_of_what_is_computed(study: Path, model_folder: Path):
    plain = load(study, ["task.chat=false"])
    jobs = {name: plan(one).jobs[0] for name, one in (("plain", plain), ("chat", load(study)))}
    assert (
        plan(plain).jobs[0].id
        == plan(load(study, ["task={kind: pairs, file: pairs.jsonl, positions: [object, label, asked]}"])).jobs[0].id
    )
    (study.parent / "mine.jinja").write_text(SYSTEM)
    jobs["file"] = plan(load(study, ["task.chat=mine.jinja"])).jobs[0]
    (study.parent / "mine.jinja").write_text(SYSTEM + " ")
    jobs["edited file"] = plan(load(study, ["task.chat=mine.jinja"])).jobs[0]
    jobs["model"] = plan(load(study, ["task.chat=false", "models.one.chat=true"])).jobs[0]
    jobs["not the model"] = plan(load(study, ["models.one.chat=false"])).jobs[0]
    assert len({job.id for job in jobs.values()}) == len(jobs)
    assert [bool(jobs[name].models[0].spec.chat) for name in ("plain", "chat", "model", "not the model")] == [
        False,
        True,
        True,
        False,
    ]
    from nnsight_et.measuring.model_pool import ModelPool

    prints = {name: ModelPool("cpu").fingerprint(job.models[0]) for name, job in jobs.items()}
    assert prints["plain"] == prints["not the model"] != prints["chat"]
    assert prints["chat"] == prints["model"]
    assert len({prints["plain"], prints["chat"], prints["file"], prints["edited file"]}) == 4


def test_an_edited_template_beside_the_weights_measures_again(study: Path, model_folder: Path, tmp_path: Path):
    own = tmp_path / "two"
    own.mkdir()
    for file in model_folder.iterdir():
        (own / file.name).write_bytes(file.read_bytes())
    before = results(study, "models.one.path=two")["found"]
    (own / "chat_template.jinja").write_text(SYSTEM)
    from nnsight_et.models.tokenizing import read_tokenizer

    read_tokenizer.cache_clear()
    after = results(study, "models.one.path=two")["found"]
    assert before.header.job_id == after.header.job_id
    assert before.header.identity != after.header.identity
    assert before.header.data_digest != after.header.data_digest


def refused(study: Path, *settings: str) -> str:
    with pytest.raises((ManifestError, UnsupportedModel, TaskError)) as error:
        results(study, *settings)
    return str(error.value)


def test_what_cannot_be_is_refused_in_one_sentence(study: Path, tmp_path: Path, model_folder: Path):
    bare = tmp_path / "bare"
    hf_llama(vocab_size=128).save_pretrained(bare)
    written(bare, None)
    assert "one: chat: true, but its tokenizer has no chat template; accepted: a file" in refused(
        study, "models.one.path=bare"
    )
    assert "chat: tool, but its tokenizer has no such template, but default" in refused(study, "task.chat=tool")
    assert "with chat, whose template decides how prompts begin" in refused(study, "models.one.bos=add")
    assert "found text, but the chat template already has the special tokens" in refused(
        study, "task.special_tokens=text"
    )
    (tmp_path / "none.txt").write_text("no template")
    assert "none.txt has no template" in refused(study, "task.chat=none.txt")
    assert "task.chat" in refused(study, "task.chat=3")
    boxes = refused(study, "task={kind: boxes}", "models.one.chat=true")
    assert "models.one.chat: the prompts of task boxes are unfinished sentences" in boxes


def test_a_template_is_chosen_by_its_name():
    from nnsight_et.models.tokenizing import set_chat

    for chat, text in ((True, TEMPLATE), ("rag", SYSTEM), (SPACED, SPACED)):
        tokenizer = chat_tokenizer({"default": TEMPLATE, "rag": SYSTEM})
        set_chat(tokenizer, chat, "one")
        assert tokenizer.chat_template == text
    with pytest.raises(UnsupportedModel, match="but default, rag; accepted: true, default, rag, or a file"):
        set_chat(chat_tokenizer({"default": TEMPLATE, "rag": SYSTEM}), "other", "one")


def test_a_class_gives_texts_not_tokens():
    names = ("object", "label", "asked", "last")
    made = checked_example(pair(0) | {"foils": ["car"]}, names, turning(), "here")
    assert list(made.base.tokens) == as_sent(turning(), pair_of(Entry("line", pair(0))).base.text)
    with pytest.raises(TaskError, match="an Example of tokens, but chat prompts must be text"):
        checked_example(made, names, turning(), "here")


def test_a_notebook_chats_too(model_folder: Path):
    model = et.load(str(model_folder), device="cpu", chat=True)
    pairs = et.Pairs.of([pair(index) for index in range(4)])
    sent = pairs.sent(model).rows
    assert [row["as"] for row in sent[:2]] == ["base", "source"]
    assert sent[0]["text"].replace(" ", "").startswith("<s><u>The")
    assert et.path_patch(model, pairs, keep=2).values.abs().max() > 0
    in_memory = et.load(hf_llama(vocab_size=128), chat_tokenizer(), chat=True)
    assert pairs.sent(in_memory).rows == sent
    plain = pairs.sent(et.load(str(model_folder), device="cpu")).rows
    assert "<u>" not in plain[0]["text"]
    with pytest.raises(ManifestError, match="bos: add with chat"):
        et.load(hf_llama(vocab_size=128), chat_tokenizer(), chat=True, bos="add")
