"""Indirect object identification and greater-than: their texts, tokens, splits, and tokenizers they do not fit."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tokenizers import Regex, normalizers, pre_tokenizers
from transformers import AutoTokenizer

from nnsight_et.core.batch import Example, Prompt
from nnsight_et.core.errors import ManifestError, TaskError
from nnsight_et.manifest import GreaterThanTask, IOITask, parse
from nnsight_et.manifest.tasks import IOI_DESIDERATA
from nnsight_et.measuring.circuits import AblationSetup
from nnsight_et.measuring.examples import task_of
from nnsight_et.planning.plan import plan
from nnsight_et.tasks.colored_objects import COLORS, ColoredObjects
from nnsight_et.tasks.greater_than import NOUNS, GreaterThan, years_of
from nnsight_et.tasks.ioi import DESIDERATA, FEWEST_NAMES, IOI, NAMES, PLACES, TEMPLATES, THINGS, WANG
from nnsight_et.tasks.splits import MASK_SPLITS, SPLITS
from tests.helpers.gpt2_study import tokenizer

WORDS = tokenizer()
SHARED = Path(__file__).parents[3] / "shared/llama_tokenizer"
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


def test_the_desiderata_of_ioi_swap_one_variable_each_in_the_same_base_prompts():
    assert DESIDERATA == IOI_DESIDERATA
    made = {name: IOI().desideratum(name, WORDS, 60, 3, "mask_test") for name in DESIDERATA}
    for name, object_, duplicate in zip(made["position"], made["name"], made["duplicate"], strict=True):
        assert name.base == object_.base == duplicate.base
    for name, examples in made.items():
        for one in examples:
            base, source = at(one.base), at(one.source)
            first = [
                one.base.positions["io"] < one.base.positions["s1"],
                one.source.positions["io"] < one.source.positions["s1"],
            ]
            assert source["s1"] == source["s2"]
            assert others(one.base) == others(one.source)
            assert (first[0] == first[1]) == (name != "position")
            shared = {base["io"], base["s1"]} & {source["io"], source["s1"]}
            assert shared == ({base["io"]} if name == "duplicate" else set())
            assert (source["s2"] == base["io"]) == (name == "duplicate")
            assert WORDS.convert_ids_to_tokens(one.answer) == (source["io"] if name == "name" else base["s2"])
            assert one.foils == one.also_right == ()
    with pytest.raises(TaskError, match="no desideratum 'names'; did you mean 'name'"):
        IOI().desideratum("names", WORDS, 1, 0, "mask_test")


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


@pytest.mark.parametrize("task", [IOI(), GreaterThan(), ColoredObjects()], ids=["ioi", "greater_than", "colored"])
def test_splits_share_no_prompt_whatever_the_seed_and_a_seed_always_gives_the_same(task: Any):
    seen: dict[Any, str] = {}
    for split in SPLITS:
        for seed in (0, 1):
            examples = task.examples(WORDS, 60, seed, split)
            assert examples[:20] == task.examples(WORDS, 20, seed, split)
            assert len({one.base.tokens for one in examples}) == 60
            for one in examples:  # as a bag of words: the two orders of a scene are in one split
                key = one.base.tokens if isinstance(task, ColoredObjects) else tuple(sorted(set(one.base.tokens)))
                assert seen.setdefault(key, split) == split
    masks = [one.base.tokens for split in MASK_SPLITS for one in task.examples(WORDS, 20, 0, split)]
    assert len(set(masks)) == 60
    assert {seen.get(tuple(sorted(set(tokens))), "ablation") for tokens in masks} == {"ablation"}
    assert task.examples(WORDS, 5, 0, "discovery") != task.examples(WORDS, 5, 1, "discovery")
    assert task.prompts(WORDS, 5, 0, "ablation") == [one.source for one in task.examples(WORDS, 5, 0, "ablation")]
    with pytest.raises(
        TaskError, match="no split 'tests'; accepted: discovery, pruning, evaluation, ablation, mask_tr"
    ):
        task.examples(WORDS, 1, 0, "tests")


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


def test_where_digits_are_told_one_by_one_the_last_one_is_asked_for():
    apart = digits_apart()
    years = years_of(apart)
    assert (years.width, list(years.tokens)) == (1, list(range(10)))
    assert set(years.starts) == set(range(110, 180))
    assert set(years.starts.values()) == {tuple(range(1, 9))}
    form = re.compile(r"The \w+ lasted from the year 1 [1-7] \d (\d) to the year 1 [1-7] \d")
    for one in GreaterThan().examples(apart, 60, 2, "pruning"):
        base, source = (" ".join(apart.convert_ids_to_tokens(list(side.tokens))) for side in (one.base, one.source))
        found = form.fullmatch(base)
        assert found is not None, base
        start = int(found[1])
        assert apart.convert_ids_to_tokens(one.base.tokens[one.base.positions["start_year"]]) == str(start)
        assert source == base.replace(f" {start} to", " 0 to")
        right, wrong = (apart.convert_ids_to_tokens(list(some)) for some in ((one.answer, *one.also_right), one.foils))
        assert (right, wrong) == ([*map(str, range(start + 1, 10))], [*map(str, range(start + 1))])


@pytest.mark.skipif(not SHARED.is_dir(), reason="no tokenizer of Llama's here")
def test_llamas_tokenizer_has_all_tasks():
    llama = AutoTokenizer.from_pretrained(SHARED)
    for task in (GreaterThan(), IOI(wang=True, templates=15), ColoredObjects()):
        for one in task.examples(llama, 20, 0, "discovery"):
            assert one.base.tokens[0] == llama.bos_token_id
            assert one.answer not in one.foils


def test_wangs_sentences_are_used_whole_and_those_without_a_place_are_there_once():
    every = IOI(wang=True, templates=15)
    made = tokenizer(more=" ".join(WANG))
    examples = every.examples(made, 400, 0, "discovery")
    assert len({one.base.tokens for one in examples}) == 400
    texts = {" ".join(made.convert_ids_to_tokens(list(one.base.tokens))) for one in examples}
    kinds = {re.sub(r"\b[A-Z]\w+ and [A-Z]\w+\b|\b(gave|went|said)\b.*", "", text)[:30] for text in texts}
    assert len(kinds) > 8
    assert len(WANG) == 15
    assert {field for template in WANG for field in re.findall(r"{(\w+)}", template)} == {
        "first", "second", "subject", "place", "thing",
    }  # fmt: skip
    (base,) = IOI(wang=True).examples(made, 1, 5, "discovery")
    assert base.base != IOI().examples(made, 1, 5, "discovery")[0].base


@pytest.mark.parametrize("order", ["ABBA", "BABA", "mixed"])
def test_the_symmetric_source_is_the_base_in_which_the_other_one_gives(order: Any):
    for one in IOI(order, symmetric=True).examples(WORDS, 30, 1, "discovery"):
        base, source = at(one.base), at(one.source)
        assert source == base | {"s2": base["io"]}
        assert one.base.positions == one.source.positions
        assert others(one.base) == others(one.source)
        assert WORDS.convert_ids_to_tokens([one.answer, *one.foils]) == [base["io"], base["s2"]]
        differ = [i for i, (a, b) in enumerate(zip(one.base.tokens, one.source.tokens, strict=True)) if a != b]
        assert differ == [one.base.positions["s2"]]


def test_keys_that_came_later_leave_the_names_of_jobs():
    head = "name: x\nexperiments: {a: {method: attribution, model: gpt2/x}}\ntask: {kind: ioi"
    plain, wang, same = (
        parse(f"{head}{more}}}\n", "x.yaml") for more in ("", ", sentences: wang", ", sources: symmetric")
    )
    assert plain.task_data().identity == {
        "kind": "ioi", "order": "mixed", "templates": 8, "names": None, "version": 1,
    }  # fmt: skip
    assert len({plan(one).jobs[0].id for one in (plain, wang, same)}) == 3
    assert wang.task_data().identity["templates"] == len(WANG)
    assert parse(f"{head}, sentences: wang, templates: 1}}\n", "x.yaml").task_data().identity["templates"] == 1


COLORED = re.compile(
    r"Q : On the table , I see a (\w+) (\w+) , a (\w+) (\w+) , and a (\w+) (\w+) . What color is the (\w+) ? A :"
    .replace(" . ", r" \. ").replace(" ? ", r" \? ")
)  # fmt: skip


def test_colored_objects_ask_for_one_of_three_and_the_source_for_another():
    answered, asked_at = set[str](), set[int]()
    for one in ColoredObjects().examples(WORDS, 60, 0, "discovery"):
        text, other = words(one.base), words(one.source)
        first, second = COLORED.finditer(text)
        told, things = (
            dict(zip(match.groups()[1:6:2], match.groups()[0:6:2], strict=True)) for match in (first, second)
        )
        assert text[first.end() :].split()[0] == told[first[7]]
        assert len({*told, *things}) == len({*told.values(), *things.values()}) == 6
        right = things[second[7]]
        assert at(one.base) == {"color": right, "object": second[7], "asked": second[7], "last": ":"}
        assert WORDS.convert_ids_to_tokens(one.answer) == right
        assert set(WORDS.convert_ids_to_tokens(list(one.foils))) == {*things.values()} - {right}
        (_, swapped) = COLORED.finditer(other)
        assert swapped[7] != second[7]
        assert other == text[: second.start(7)] + swapped[7] + text[second.end(7) :]
        assert at(one.source) == {"color": things[swapped[7]], "object": swapped[7], "asked": swapped[7], "last": ":"}
        assert len(one.base.tokens) == len(one.source.tokens)
        answered.add(first[7])
        asked_at.add([*things].index(second[7]))
    assert asked_at == {0, 1, 2}
    assert len(answered) > 3


def words_alone():
    """A tokenizer without colors."""
    made = tokenizer()
    made.backend_tokenizer.normalizer = normalizers.Sequence([normalizers.Replace(color, "zebra") for color in COLORS])
    return made


@pytest.mark.parametrize(
    ("made", "task", "message"),
    [
        (lambda: tokenizer(years=range(0)), GreaterThan(), r"no such years \('the year 1732': 'the', 'year', '<unk>'"),
        (words_alone, ColoredObjects(), "0 of 12 colors are single tokens of this tokenizer; accepted: at least 6"),
        (lambda: tokenizer(names=4), IOI(), "4 of 152 names are single tokens of this tokenizer; accepted: at least 5"),
        (tokenizer, IOI(names=("Mary", "Zebulon", "John", "James", "Robert")), "task.names: 'Zebulon' is not one tok"),
    ],
)  # fmt: skip
def test_a_tokenizer_that_does_not_fit_is_refused_with_what_is_there(made, task: Any, message: str):
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
    with pytest.raises(TaskError, match=r"task ioi: found only \d+ different prompts of the split pruning; accepted"):
        task.examples(WORDS, 161, 0, "pruning")
    assert set(PLACES).isdisjoint(THINGS)


@pytest.mark.parametrize(
    ("task", "experiment", "message"),
    [
        ("{kind: ioi}", "{into: logits, at: io}", "senders at io, but the logits are read at last"),
        ("{kind: ioi}", "[io, s1]", "senders at s1 and receivers at io have no fixed order with order: mixed; acc"),
        ("{kind: ioi}", "[s1_plus_1, io]", "senders at io and receivers at s1_plus_1 have no fixed order"),
        ("{kind: ioi, order: ABBA}", "[io, s1]", "senders at s1, which comes after b at io; accepted: io"),
        ("{kind: ioi, order: BABA}", "[s1, io]", "senders at io, which comes after b at s1; accepted: s1"),
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
        ("{method: dcm, circuit: c.json, model: a/b}", "desiderata: missing; its default is for the boxes"),
        ("{method: knockout, model: a/b}", "edges: missing; the default (App. A) is for the boxes task"),
        ("{method: knockout, model: a/b, edges: [{blind: s1, to: io}]}", "s1 and io have no fixed order"),
        ("{method: faithfulness, circuit: published/llama, models: [a/b]}", "published/llama is for the boxes task"),
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
        ("{kind: ioi, templates: 9}", "task.templates", "found 9; accepted: 1 to 8, or up to 15 with sentences: wang"),
        ("{kind: ioi, sentence: 9}", "task.sentence", "found 9; accepted: 1 to 8, or up to 15 with sentences: wang"),
        ("{kind: ioi, names: [a, b, c, d, a]}", "task.names.4", "'a' appears twice"),
        ("{kind: ioi, names: [a, b, c, d]}", "task.names", "accepted: 5 or more entries"),
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
    tasks += [IOITask(kind="ioi", names=NAMES[:6]), IOITask(kind="ioi", sentence=3)]
    made = [task_of(task).examples(WORDS, 12, 0, "discovery") for task in tasks]
    assert all(made[0] != other for other in made[1:])
    assert len({str(task.identity) for task in tasks}) == len(tasks)
    assert {words(example.base).split()[0] for example in made[-1]} == {TEMPLATES[2].split()[0]}
    assert tasks[0].identity["version"] == 1
    assert len(TEMPLATES) == IOITask(kind="ioi").templates
    with pytest.raises(ValueError, match="less than or equal to 15"):
        IOITask(kind="ioi", templates=len(WANG) + 1)


@pytest.mark.parametrize(("templates", "names"), [(1, None), (8, ("io", "s1", "s1_plus_1", "s2", "last"))])
def test_means_are_token_by_token_where_prompts_have_one_length_and_else_by_named_position(templates: int, names):
    task = IOI(templates=templates)
    examples: list[Example] = task.examples(WORDS, 20, 0, "evaluation")
    job: Any = SimpleNamespace(task=IOITask(kind="ioi", templates=templates))
    nothing: Any = None
    trial = AblationSetup(nothing, job, nothing, examples, task.prompts(WORDS, 20, 0, "ablation"), "mean")
    assert trial.names == names
