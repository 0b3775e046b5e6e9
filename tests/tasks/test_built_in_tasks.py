"""Indirect object identification and greater-than: their texts, tokens, splits, and tokenizers they do not fit."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tokenizers import Regex, pre_tokenizers

from nnsight_et.core.batch import Example, Prompt
from nnsight_et.core.errors import ManifestError, TaskError
from nnsight_et.manifest import GreaterThanTask, IOITask, parse
from nnsight_et.measuring.circuits import AblationSetup
from nnsight_et.measuring.examples import task_of
from nnsight_et.tasks.greater_than import NOUNS, GreaterThan, years_of
from nnsight_et.tasks.ioi import FEWEST_NAMES, IOI, NAMES, PLACES, TEMPLATES, THINGS
from nnsight_et.tasks.splits import SPLITS
from tests.helpers.gpt2_study import tokenizer

WORDS = tokenizer()
ABBA = re.compile(r" (?P<io>[A-Z]\w+) and (?P<s1>[A-Z]\w+) (?P<next>\w+) .* (?P<s2>[A-Z]\w+) \w+ .*to$")
BABA = re.compile(r" (?P<s1>[A-Z]\w+) (?P<next>and) (?P<io>[A-Z]\w+) \w+ .* (?P<s2>[A-Z]\w+) \w+ .*to$")


def words(prompt: Prompt) -> str:
    return " ".join(WORDS.convert_ids_to_tokens(list(prompt.tokens)))


def at(prompt: Prompt) -> dict[str, str]:
    return {name: cast(str, WORDS.convert_ids_to_tokens(prompt.tokens[i])) for name, i in prompt.positions.items()}


def others(prompt: Prompt) -> list[int]:
    """The tokens that are no name."""
    names = {prompt.positions[name] for name in ("io", "s1", "s2")}
    return [token for index, token in enumerate(prompt.tokens) if index not in names]


@pytest.mark.parametrize(("order", "form"), [("ABBA", ABBA), ("BABA", BABA)], ids=["ABBA", "BABA"])
def test_ioi_marks_who_is_who_and_the_source_has_three_other_names(order: Any, form: re.Pattern[str]):
    examples = IOI(order).examples(WORDS, 40, 3, "discovery")
    assert len({len(one.base.tokens) for one in examples}) > 1
    for one in examples:
        found = form.search(words(one.base))
        assert found is not None, words(one.base)
        assert found["s1"] == found["s2"] != found["io"]
        expected = {"s1_plus_1": found["next"], "last": "to"} | {key: found[key] for key in ("io", "s1", "s2")}
        assert at(one.base) == expected
        assert WORDS.convert_ids_to_tokens([one.answer, *one.foils]) == [found["io"], found["s2"]]
        assert one.also_right == ()
        assert one.base.positions == one.source.positions
        assert others(one.base) == others(one.source)
        three = [at(one.source)[name] for name in ("io", "s1", "s2")]
        assert len({*three, found["io"], found["s1"]}) == 5


def test_ioi_mixed_has_both_orders_about_as_often_and_names_the_answer_first_or_second():
    examples = IOI().examples(WORDS, 200, 0, "evaluation")
    first = sum(one.base.positions["io"] < one.base.positions["s1"] for one in examples)
    assert 70 < first < 130
    scenes = {tuple(sorted(at(one.base)[name] for name in ("io", "s1"))) for one in examples}
    answers = {(tuple(sorted(at(one.base)[n] for n in ("io", "s1"))), one.answer) for one in examples}
    assert len(answers) > len(scenes)  # of some two names now one and now the other is the answer


def test_ioi_templates_of_one_have_one_length_and_each_of_the_eight_is_used():
    one = {len(example.base.tokens) for example in IOI(templates=1).examples(WORDS, 30, 0, "discovery")}
    assert len(one) == 1
    starts = {words(example.base).split()[0] for example in IOI().examples(WORDS, 100, 0, "discovery")}
    assert starts == {template.split()[0].strip(",") for template in TEMPLATES}


@pytest.mark.parametrize("task", [IOI(), GreaterThan()], ids=["ioi", "greater_than"])
def test_splits_share_no_prompt_whatever_the_seed_and_a_seed_always_gives_the_same(task: IOI | GreaterThan):
    seen: dict[Any, str] = {}
    for split in SPLITS:
        for seed in (0, 1):
            examples = task.examples(WORDS, 60, seed, split)
            assert examples[:20] == task.examples(WORDS, 20, seed, split)
            assert len({one.base.tokens for one in examples}) == 60
            for one in examples:  # as a bag of words: the two orders of a scene are in one split
                assert seen.setdefault(tuple(sorted(set(one.base.tokens))), split) == split
    assert task.examples(WORDS, 5, 0, "discovery") != task.examples(WORDS, 5, 1, "discovery")
    assert task.prompts(WORDS, 5, 0, "ablation") == [one.source for one in task.examples(WORDS, 5, 0, "ablation")]
    with pytest.raises(TaskError, match="no split 'test'; accepted: discovery, pruning, evaluation, ablation"):
        task.examples(WORDS, 1, 0, "test")


def test_the_texts_of_this_version_are_what_they_were():
    """If this fails on purpose, raise `version` in manifest/tasks.py: results of before are of other texts."""
    assert (IOITask.version, GreaterThanTask.version) == (1, 1)
    (ioi,) = IOI().examples(WORDS, 1, 5, "discovery")
    (year,) = GreaterThan().examples(WORDS, 1, 5, "discovery")
    assert words(ioi.base) == IOI_TEXT
    assert words(year.base) == YEAR_TEXT


IOI_TEXT = "After Charles and Thomas had met near the station for the first time , Thomas gave a drink to"
YEAR_TEXT = "The siege lasted from the year 12 44 to the year 12"


def test_greater_than_answers_are_the_years_after_and_foils_the_rest():
    number = {WORDS.convert_tokens_to_ids(f"{year:02}"): year for year in range(100)}
    form = re.compile(r"The (\w+) lasted from the year (1[1-7]) (\d\d) to the year (1[1-7])")
    starts = set()
    for one in GreaterThan().examples(WORDS, 100, 2, "pruning"):
        found = form.fullmatch(words(one.base))
        assert found is not None
        assert found[1] in NOUNS
        assert found[2] == found[4]
        start = int(found[3])
        assert at(one.base) == {"start_year": found[3], "last": found[2]}
        assert words(one.source) == words(one.base).replace(f" {found[3]} to", " 01 to")
        assert one.source.positions == one.base.positions
        right, wrong = [number[token] for token in (one.answer, *one.also_right)], [number[x] for x in one.foils]
        assert right == list(range(start + 1, 100))
        assert wrong == list(range(start + 1))
        starts.add(start)
    assert 2 <= min(starts) <= max(starts) <= 98


def test_years_without_a_token_are_no_answers_and_the_last_one_is_no_start():
    years = years_of(tokenizer(years=range(61)))
    assert list(years.tokens) == list(range(61))
    assert years.starts[17] == tuple(range(2, 60))
    assert set(years.starts) == set(range(11, 18))


def digits_apart():
    """A tokenizer that knows digits one by one, as Llama's."""
    made = tokenizer(more="0 1 2 3 4 5 6 7 8 9", years=range(0))
    apart = [pre_tokenizers.Whitespace(), pre_tokenizers.Split(Regex(r"\d"), "isolated")]
    made.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(apart)
    return made


@pytest.mark.parametrize(
    ("made", "task", "message"),
    [
        (digits_apart, GreaterThan(), r"no years of two tokens \('the year 1732': 'the', 'year', '1', '7', '3', '2'\)"),
        (lambda: tokenizer(names=4), IOI(), "4 of 152 names are single tokens of this tokenizer; accepted: at least 5"),
        (tokenizer, IOI(names=("Mary", "Zebulon", "John", "James", "Robert")), "task.names: 'Zebulon' is not one tok"),
    ],
)  # fmt: skip
def test_a_tokenizer_that_does_not_fit_is_refused_with_what_is_there(made, task: IOI | GreaterThan, message: str):
    with pytest.raises(TaskError, match=message):
        task.examples(made(), 3, 0, "discovery")


def test_a_word_of_a_template_that_is_not_known_is_told():
    made = tokenizer()
    vocabulary = made.get_vocab()
    inner = made.backend_tokenizer
    inner.model = type(inner.model)({word: i for word, i in vocabulary.items() if word != "went"}, unk_token="<unk>")
    with pytest.raises(TaskError, match="does not know 'went'; accepted: words it knows"):
        IOI().examples(made, 1, 0, "discovery")
    assert IOI(names=NAMES[:5]).words(WORDS).names == NAMES[:5]
    assert IOI().words(WORDS).names == NAMES[:20]
    assert (len(NAMES), FEWEST_NAMES) == (152, 5)


def test_more_prompts_than_there_are_end_with_a_message():
    task = IOI("ABBA", templates=1, names=NAMES[:5])  # 10 pairs of names x 4 places x 4 things
    assert (len(IOI().words(WORDS).places), len(IOI().words(WORDS).things)) == (4, 4)
    with pytest.raises(TaskError, match=r"task ioi: only \d+ different prompts of the split pruning found; accepted"):
        task.examples(WORDS, 161, 0, "pruning")
    assert set(PLACES).isdisjoint(THINGS)


@pytest.mark.parametrize(
    ("task", "experiment", "message"),
    [
        ("{kind: ioi}", "{into: logits, at: io}", "senders at io, but the logits are read at last"),
        ("{kind: ioi}", "[io, s1]", "senders at s1, receivers at io: with order: mixed either comes first; acc"),
        ("{kind: ioi}", "[s1_plus_1, io]", "senders at io, receivers at s1_plus_1: with order: mixed either"),
        ("{kind: ioi, order: ABBA}", "[io, s1]", "senders at s1, after b at io; accepted: io"),
        ("{kind: ioi, order: BABA}", "[s1, io]", "senders at io, after b at s1; accepted: s1"),
        ("{kind: ioi, order: ABBA}", "[s1, io]", ""),
        ("{kind: ioi, order: BABA}", "[io, s1]", ""),
        ("{kind: ioi}", "[s2, io]", ""),
        ("{kind: ioi}", "[s2, s1_plus_1]", ""),
        ("{kind: greater_than}", "[start_year, start_year]", ""),
        ("{kind: greater_than}", "[start_year, s2]", "no position 's2'; accepted: start_year, last"),
    ],
)  # fmt: skip
def test_paths_follow_the_order_of_the_positions_in_every_prompt(task: str, experiment: str, message: str):
    stages = f"[{{group: a, {experiment[1:-1]}, keep: 2}}]"
    if experiment[0] == "[":
        first, second = experiment[1:-1].split(", ")
        stages = f"""
      - {{group: a, into: logits, at: last, keep: 4, receivers: 2}}
      - {{group: b, into: a, via: value, at: {first}, keep: 4, receivers: 2}}
      - {{group: c, into: b, via: value, at: {second}, keep: 2}}"""
    text = (
        f"name: x\ntask: {task}\nexperiments:\n  f:\n    method: path_patching\n    model: a/b\n    stages: {stages}\n"
    )
    told = ""
    try:
        parse(text, "x.yaml")
    except ManifestError as error:
        told = str(error)
    assert message in told
    assert bool(told) == bool(message), told


@pytest.mark.parametrize(
    ("experiment", "message"),
    [
        ("{method: dcm, circuit: c.json, model: a/b}", "x.method: dcm needs the desiderata of the boxes task; acc"),
        ("{method: knockout, model: a/b}", "edges: missing, and the sweeps of App. A are of the boxes task"),
        ("{method: knockout, model: a/b, edges: [{blind: s1, to: io}]}", "from s1 to io: with order: mixed either"),
        ("{method: faithfulness, circuit: published/llama, models: [a/b]}", "published/llama is of the boxes task"),
        ("{method: attribution, model: a/b, reproduces: [Table 1]}", "accepted for ioi: none"),
    ],
)  # fmt: skip
def test_what_only_the_boxes_task_has_is_refused(experiment: str, message: str):
    with pytest.raises(ManifestError) as error:
        parse(f"name: x\ntask: {{kind: ioi}}\nexperiments:\n  x: {experiment}\n", "x.yaml")
    assert message in str(error.value)
    assert str(error.value).startswith("x.yaml:4: experiments.x.")


@pytest.mark.parametrize(
    ("task", "place", "message"),
    [
        ("{kind: ioi, order: BAAB}", "task.order", "found 'BAAB'; did you mean 'BABA'? accepted: mixed, ABBA, BABA"),
        ("{kind: ioi, templates: 9}", "task.templates", "found 9; accepted: less than or equal to 8"),
        ("{kind: ioi, names: [a, b, c, d, a]}", "task.names.4", "'a' is there twice"),
        ("{kind: ioi, names: [a, b, c, d]}", "task.names", "accepted: have at least 5 items"),
        ("{kind: ioi, boxes: 3}", "task.boxes", "no key 'boxes' here; accepted: kind, order, templates, names"),
        ("{kind: greater_then}", "task.kind", "did you mean 'greater_than'? accepted: boxes, pairs, ioi, greater_than"),
    ],
)  # fmt: skip
def test_a_task_that_is_written_wrong_is_told_by_its_line(task: str, place: str, message: str):
    with pytest.raises(ManifestError) as error:
        parse(f"name: x\ntask: {task}\nexperiments:\n  x: {{method: attribution, model: a/b}}\n", "x.yaml")
    assert str(error.value).startswith(f"x.yaml:2: {place}: ")
    assert message in str(error.value)


def test_every_option_of_a_task_reaches_its_generator_and_what_is_computed():
    tasks = [IOITask(kind="ioi"), IOITask(kind="ioi", order="ABBA"), IOITask(kind="ioi", templates=2)]
    tasks.append(IOITask(kind="ioi", names=NAMES[:6]))
    made = [task_of(task).examples(WORDS, 12, 0, "discovery") for task in tasks]
    assert all(made[0] != other for other in made[1:])
    assert len({str(task.identity) for task in tasks}) == 4
    assert tasks[0].identity["version"] == 1
    assert len(TEMPLATES) == IOITask(kind="ioi").templates
    with pytest.raises(ValueError, match="less than or equal"):
        IOITask(kind="ioi", templates=len(TEMPLATES) + 1)


@pytest.mark.parametrize(("templates", "names"), [(1, None), (8, ("io", "s1", "s1_plus_1", "s2", "last"))])
def test_means_are_token_by_token_where_prompts_have_one_length_and_else_by_named_position(templates: int, names):
    task = IOI(templates=templates)
    examples: list[Example] = task.examples(WORDS, 20, 0, "evaluation")
    job: Any = SimpleNamespace(task=IOITask(kind="ioi", templates=templates))
    nothing: Any = None
    trial = AblationSetup(nothing, job, nothing, examples, task.prompts(WORDS, 20, 0, "ablation"), "mean")
    assert trial.names == names
