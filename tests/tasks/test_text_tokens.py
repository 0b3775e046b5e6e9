"""The token that an answer is, the tokens that a text is, and what results, reports and pairs show of them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, LlamaConfig

import nnsight_et as et
from nnsight_et.core.batch import Example, Prompt
from nnsight_et.core.errors import NnsightEtError, TaskError
from nnsight_et.diagnostics.inspection import inspect_model
from nnsight_et.manifest import load, parse
from nnsight_et.models.tokenizing import set_bos
from nnsight_et.planning.plan import plan
from nnsight_et.report.html.page import report_html
from nnsight_et.results.headers import folder_of
from nnsight_et.results.store import read_result, tensor_digest
from nnsight_et.results.study import study_in
from nnsight_et.runner.run import run
from nnsight_et.tasks.boxes import Boxes
from nnsight_et.tasks.desiderata import DESIDERATA, desideratum
from nnsight_et.tasks.encoding import encode, trailing_tokens
from nnsight_et.tasks.greater_than import GreaterThan
from nnsight_et.tasks.ioi import IOI
from nnsight_et.tasks.joins import space_before
from nnsight_et.tasks.marked import marked_text
from nnsight_et.tasks.own_task import checked_example
from tests.helpers import gpt2_study
from tests.helpers.own_pairs_study import MANIFEST, THINGS, lines
from tests.helpers.own_pairs_study import written as written_pairs
from tests.helpers.small_study import STUDY
from tests.helpers.text_tokenizers import byte_level, pieces, with_end
from tests.helpers.tiny_model import hf_llama
from tests.helpers.tiny_model import tokenizer as words

SHARED = Path(__file__).parents[3] / "shared"
PACKAGE = Path(et.__file__).parent
KINDS = {"bytes": byte_level(), "pieces": pieces(), "prefixed": pieces("first")}
BOXES = "The apple is in Box F. Box F contains the"
UNKIND = "kind: unkind. kind: un"


def answer(base: str, text: str, kind: Any = "pieces", **more: str) -> str:
    """What the vocabulary calls the token that is scored."""
    tokenizer: Any = KINDS.get(kind, kind)
    (made,) = et.Pairs.of([{"base": base, "source": base, "answer": text} | more]).examples(tokenizer)
    return tokenizer.convert_ids_to_tokens(made.answer)


@pytest.mark.parametrize(
    ("base", "text", "whole"),
    [
        ("contains the", "apple", "contains the apple"), ("the", " apple", "the apple"), ("the ", "apple", "the apple"),
        ("The capital of Norway is", "Oslo", "The capital of Norway is Oslo"), ("gave to", "Mary", "gave to Mary"),
        ("The sky is", "blue", "The sky is blue"), ("was born in", "Paris", "was born in Paris"),
        ("was born in", "1945", "was born in 1945"), ("[(1, 2)] in the", "box", "[(1, 2)] in the box"),
        ("in Box F. The car is in Box", "F", "car is in Box F"), ("in A 1, is in A", "1", "is in A 1"),
        ("Q: x\nA: no\nQ: y\nA:", "yes", "Q: x\nA: no\nQ: y\nA: yes"), ("A:b\nA:", "c", "A:b\nA:c"),
        (UNKIND, "kind", "kind: unkind. kind: unkind"), ("return self.x, self.y. return self.", "x", "self.x"),
        ("the “", "cat", "the “cat"),
        ("The", "car", "The car"), ("f(", "x", "f(x"), ("x = [", "1", "x = [1"), ('He said "', "Go", 'He said "Go'),
        ('"No" and "', "yes", '"No" and "yes'), ("3+5=", " 8", "3+5= 8"), ("¿", "Qué", "¿Qué"),
        ("it", "'s", "it's"), ("the end", ".", "the end."), ("(the end", ")", "(the end)"), ("(a) b (c)", ",", "(c),"),
        ("法国的首都是", "巴黎", "法国的首都是巴黎"), ("答案：", "A", "答案：A"), ("りんごは", "赤い", "りんごは赤い"),
        ("เมืองหลวงคือ", "กรุงเทพ", "เมืองหลวงคือกรุงเทพ"), ("Hello\n", "World", "Hello\nWorld"), ("好", "。", "好。"),
    ],
)  # fmt: skip
def test_a_space_goes_between_prompt_and_answer_where_the_texts_have_one(base: str, text: str, whole: str):
    space = space_before(text, base, base)
    assert space is not None
    assert (base + (" " if space else "") + text).endswith(whole)


@pytest.mark.parametrize(
    ("base", "text"),
    [
        ("The opposite of kind is un", "kind"), ("from the year 1732 to the year 17", "52"), ("The sun", "flower"),
        ("x = a.", "b"), ("def add(a,", "b"), ("[1,2,", "3"), ("12:", "30"), ("3 + 5 =", "8"), ("return", "x"),
        ("var user = 5; get", "Name"), ('a "cat"', "is"), ("The word is", "苹果"), ("他有", "3"), ("답은", "서울"),
        ("unkind is not un kind, but un", "kind"), ("a , b", ","), ("call", "("), ("I have 3", "apples"), (":", "a"),
        ("is in Box F. It is 3.", "52"), ("Question: fish\nAnswer: 10:", "52"), ("in Norway, is 1,", "52"),
        ('"An apple. It is big."\n    return self.', "x"), ("in Box F. Answer hello.", "ab"), ("is in A", "1"),
        ("1. e4 e5 2. Nf3 a", "6"), ("The fish has a method get", "Box"), ("has a method to", "String"),
        ("Question: not fair\nAnswer: in", "fair"), ("starts with over", "fair"), ("Question: is", "land"),
        ("**Answer:**", "yes"), ("Answer:", "yes"), ("10: 3\n10:", "52"), ("A:b\nA: c\nA:", "d"), ("for x in", "y"),
        ("Join un kind: un", "kind"), ("Split unkind: un", "kind"), ("He is the", "me"), ("She loves", "pizza"),
        ("The file ends in", ".txt"), ("The mark is", "."), ("hello", ".txt"), ("Ça va", "?"), ("5", "%"), ("x", "}"),
        ("the end", ")"), ("( the end", ")"), ("f( a ) g(", "b"), ("Sad :(", "she"), ("{", "x"), ("5 $", "and"),
        ("#", "x"), ("3+5=", "8"), ("A->", "B"), ("pre-", "and"), ("„Ja“", "sagt"), ("dit «", "Oui"), ('5"', "x"),
        ("' a ' and '", "b"), ("法国 的 首都 是", "巴黎"), ("答案： 乙 答案：", "甲"), ("The capital", "Oslo"),
        ("The gas is SO", "2"), ("It Is The", "end"),
    ],
)  # fmt: skip
def test_an_uncertain_space_is_asked_for(base: str, text: str):
    assert space_before(text, base, base) is None


@pytest.mark.parametrize("kind", KINDS)
def test_the_texts_own_token_is_scored(kind: str):
    gap = "Ġ" if kind == "bytes" else "▁"
    assert answer(BOXES, "apple", kind) == f"{gap}apple"
    assert answer(BOXES, " apple", kind) == answer(BOXES, " apple", kind, space="no") == f"{gap}apple"
    assert answer(BOXES, "apple", kind, space="no") == "apple"
    assert answer("foo(", "bar", kind) == answer("foo(", "bar", kind, space="no") == "bar"
    assert answer("foo(", "bar", kind, space="yes") == answer("foo(", " bar", kind) == f"{gap}bar"
    assert answer("The un", "kind", kind, space="yes") == f"{gap}kind"
    assert answer("year 17", "5", kind, space="no") == "5"
    assert answer("The capital of Norway is", "Oslo", kind) == f"{gap}Oslo"


@pytest.mark.parametrize("kind", KINDS)
def test_the_second_half_of_a_word_keeps_the_prompts_own_tokens(kind: str):
    made = et.Pairs.of([(UNKIND, UNKIND, "kind")]).examples(KINDS[kind])[0]
    assert KINDS[kind].convert_ids_to_tokens(made.answer) == "kind"  # pieces have one token for " unkind"
    assert made.base.tokens == encode(UNKIND, KINDS[kind]).ids


def test_chinese_is_scored_without_a_space():
    assert [answer("法国的首都是", "巴黎", kind) for kind in ("pieces", "prefixed")] == ["巴黎"] * 2


@pytest.mark.parametrize("kind", KINDS)
def test_the_question_names_both_tokens_and_how_to_decide(kind: str):
    gap = "Ġ" if kind == "bytes" else "▁"
    with pytest.raises(TaskError) as error:
        answer("The opposite of kind is un", "kind", kind)
    found = f"with a space (found '{gap}kind') or without (found 'kind'); accepted: space: yes or no, in the task or"
    assert str(error.value).startswith("pairs[0]: answer: 'kind' could follow ")
    assert found in str(error.value)


def test_no_question_where_a_tokenizer_makes_one_token_of_both():
    assert answer("The book", "is", words()) == "is"
    assert space_before("is", "The book", "The book") is None


def test_a_word_of_the_tokenizer_that_both_make_is_a_reason_to_ask():
    assert space_before("kind", "He is the", "") is True
    with pytest.raises(TaskError, match="answer: 'flower' could follow 'the word is: sun' with a space"):
        answer("the word is: sun", "flower")
    made = pieces(alone=["thekind"])
    assert answer("He is the", "kind", pieces()) == "▁kind"
    with pytest.raises(TaskError, match="space: yes or no"):
        answer("He is the", "kind", made)


def test_an_answer_of_several_tokens_is_told_with_both_readings():
    with pytest.raises(
        TaskError, match=r"'52' is not one token \(found '▁', '5', '2' with a space before it, '5', '2' w"
    ):
        answer("to the year 17", "52")
    with pytest.raises(TaskError, match=r"answer: '52' is not one token \(found '5', '2'\)"):
        answer("to the year 17", "52", space="no")


@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_that_ends_with_a_space_is_told_so(kind: str):
    with pytest.raises(TaskError) as error:
        answer("Box F contains the ", "apple", kind)
    assert (
        "answer: the prompt ends with ' ', which makes one token with what follows; accepted: the prompt with"
        in str(error.value)
    )
    assert answer("Box contains the ", "apple", words()) == "apple"
    assert answer("Box F contains the\n", "apple", kind) == "apple"


def test_foils_and_right_tokens_are_their_own():
    more = {"foil": ["hat", " hat"], "also_right": "bar"}
    (made,) = et.Pairs.of([{"base": "foo(", "source": "foo(", "answer": "apple"} | more]).examples(KINDS["pieces"])
    name = KINDS["pieces"].convert_ids_to_tokens
    assert (name(made.answer), name(list(made.also_right)), name(list(made.foils))) == (
        "apple",
        ["bar"],
        ["hat", "▁hat"],
    )
    with pytest.raises(TaskError, match="foil: 'flower' could follow"):
        answer("The sun", " hat", foil="flower")


def test_a_foil_has_a_space_where_the_answer_has_one():
    pairs = [
        ("She loves pizza. She loves", "pizza", "hat", ["▁pizza", "▁hat"]),
        (UNKIND, "kind", "hat", ["kind", "hat"]),
    ]
    for base, text, foil, tokens in pairs:
        given = {"base": base, "source": base, "answer": text}
        made = et.Pairs.of([given | {"foil": foil}]).examples(KINDS["pieces"])[0]
        task = checked_example(given | {"foils": [foil]}, ("last",), KINDS["pieces"], "x")
        assert task == made
        assert KINDS["pieces"].convert_ids_to_tokens([made.answer, *made.foils]) == tokens
    with pytest.raises(TaskError, match="x: foils: answer: 'flower' could follow"):
        checked_example(
            {"base": "The sun", "source": "The", "answer": " hat", "foils": ["flower"]}, ("last",), KINDS["pieces"], "x"
        )


def test_space_is_said_of_all_pairs_and_of_one():
    texts = [{"base": "The un", "source": "The un", "answer": "kind"}]
    made = [*et.Pairs.of(texts, space="no"), *et.Pairs.of([texts[0] | {"space": "yes"}], space="no")]
    assert [pair.space for pair in made] == [False, True]
    for wrong in (True, "maybe", ["yes"]):
        with pytest.raises(TaskError, match=r"pairs\[0\]: space: found .*; accepted: yes or no"):
            et.Pairs.of([texts[0] | {"space": wrong}])


def test_a_file_is_read_with_its_space(tmp_path: Path):
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps({"base": "The un", "source": "The un", "answer": "kind"}))
    assert (
        KINDS["pieces"].convert_ids_to_tokens(et.Pairs.read(path, space="no").examples(KINDS["pieces"])[0].answer)
        == "kind"
    )
    with pytest.raises(TaskError, match="space: yes or no"):
        et.Pairs.read(path).examples(KINDS["pieces"])


def test_an_old_manifest_keeps_its_name_and_a_space_gives_another(two_models: Path, tmp_path: Path):
    path = written_pairs(tmp_path, two_models)
    old = plan(load(path)).jobs[0]
    assert set(old.task.identity) == {"kind", "positions", "pairs", "version"}
    for key, value in (("space", "yes"), ("special_tokens", "text")):
        changed = plan(load(path, [f"task.{key}={value}"])).jobs[0]
        assert changed.task.identity == old.task.identity | {key: value}
        assert changed.id != old.id
    with pytest.raises(NnsightEtError, match=r"task.space: found 'maybe'"):
        parse(MANIFEST.replace("file: pairs.jsonl", "file: pairs.jsonl, space: maybe"), "own.yaml")


@pytest.mark.parametrize(
    ("text", "plain", "spans"),
    [
        ('{{{{"a": "{{x|b}}"}}}} c', '{{"a": "b"}} c', {"x": (8, 9)}),
        ('{"a": {"F": "{{x|b}}"}}}} c', '{"a": {"F": "b"}} c', {"x": (13, 14)}),
        ("{{{{{{x|b}}}}}}", "{{b}}", {"x": (2, 3)}), ("{{{x|b}}}", "{b}", {"x": (1, 2)}), ("a {b} }", "a {b} }", {}),
    ],
)  # fmt: skip
def test_four_braces_are_two_of_the_text(text: str, plain: str, spans: dict[str, tuple[int, int]]):
    assert (marked_text(text, "x").text, marked_text(text, "x").spans) == (plain, spans)


@pytest.mark.parametrize("text", ['{"a": {"F": "b"}} c', "{{object apple}}", "{{a|{{{{b}}"])
def test_two_braces_that_are_no_mark_are_told_with_the_escape(text: str):
    with pytest.raises(TaskError, match=r"accepted: .*\{\{\{\{ or \}\}\}\} for two braces of the text"):
        marked_text(text, "x")


def test_a_special_token_that_is_the_unknown_one_is_known():
    made = et.Pairs.of([("<|end|>" + BOXES, "<|end|>" + BOXES, "apple")]).examples(KINDS["bytes"])[0]
    assert made.base.tokens[:2] == (0, KINDS["bytes"].convert_tokens_to_ids("The"))
    with pytest.raises(TaskError, match="does not know 'zebra'"):
        et.Pairs.of([("The zebra is in the", BOXES, "apple")]).examples(words())
    assert et.Pairs.of([("The <unk> is in the", BOXES, "apple")]).examples(words())


def test_a_doubled_first_token_is_refused_and_a_text_can_bring_its_own():
    texts = [("<s>" + BOXES, "<s>" + BOXES, "apple")]
    with pytest.raises(TaskError) as error:
        et.Pairs.of(texts).examples(KINDS["pieces"])
    found = "the text begins with '<s>', and the tokenizer adds one as well; accepted: the text without it, or spec"
    assert found in str(error.value)
    made = et.Pairs.of(texts, special_tokens="text").examples(KINDS["pieces"])[0]
    assert made.base.tokens == encode(BOXES, KINDS["pieces"]).ids
    bare = et.Pairs.of([(BOXES, BOXES, "apple")], special_tokens="text").examples(KINDS["pieces"])[0]
    assert (bare.base.tokens, bare.base.positions) == (made.base.tokens[1:], {"last": len(made.base.tokens) - 2})


ENDS = with_end(words(), "<s>", "<pad>")
SPELLED = {"base": BOXES, "source": BOXES, "answer": "apple"}
TASKS: dict[str, Any] = {
    "boxes": lambda tokenizer: Boxes(2, foils=True).examples(tokenizer, 5, 0, "discovery"),
    "ablation": lambda tokenizer: Boxes(2).prompts(tokenizer, 5, 0, "ablation"),
    "labels": lambda tokenizer: Boxes(2).label_tokens(tokenizer),
    "pairs": lambda tokenizer: et.Pairs.boxes(4, 2).examples(tokenizer),
    "desiderata": lambda tokenizer: [
        desideratum(Boxes(3), name, tokenizer, 3, 0, "evaluation") for name in DESIDERATA[:3]
    ],
    "python": lambda tokenizer: checked_example(SPELLED, ("last",), tokenizer, "x"),
}  # fmt: skip


@pytest.mark.parametrize("task", TASKS)
def test_an_end_that_the_tokenizer_appends_is_in_no_prompt(task: str):
    assert TASKS[task](ENDS) == TASKS[task](words())
    assert (trailing_tokens(ENDS), trailing_tokens(words())) == ("<pad>", "")


@pytest.mark.parametrize("task", [IOI(), GreaterThan()])
def test_an_appended_end_is_in_no_prompt_of_the_built_in_tasks(task: Any):
    ends = with_end(gpt2_study.tokenizer(), "", gpt2_study.END)
    for made in (task.examples, task.prompts):
        assert made(ends, 5, 0, "discovery") == made(gpt2_study.tokenizer(), 5, 0, "discovery")


def test_an_end_is_left_off_where_a_beginning_was_added_later():
    tokenizer = with_end(words(), "", "<pad>")
    set_bos(tokenizer, "add", "one", LlamaConfig())
    whole: Any = tokenizer("The book")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(whole) == ["<s>", "The", "book", "<pad>"]
    assert encode("The book", tokenizer).ids == tuple(whole[:-1])


def test_an_end_that_a_text_has_itself_stays():
    ids = encode("The book<pad>", ENDS).ids
    assert ENDS.convert_ids_to_tokens(list(ids)) == ["<s>", "The", "book", "<pad>"]
    assert encode("The book", ENDS, "text").ids == ids[1:3]


def test_an_example_that_a_class_has_encoded_with_the_end_or_two_beginnings_is_refused():
    def given(tokens: list[int]) -> Example:
        prompt = Prompt(tuple(tokens), {"last": len(tokens) - 1})
        return Example(prompt, prompt, 9)

    whole: list[int] = ENDS("The book is")["input_ids"]  # type: ignore[assignment]
    assert checked_example(given(whole[:-1]), ("last",), ENDS, "x").base.tokens == tuple(whole[:-1])
    with pytest.raises(
        TaskError, match="x: base: the tokens end with <pad>, which the tokenizer appends to every text"
    ):
        checked_example(given(whole), ("last",), ENDS, "x")
    with pytest.raises(TaskError, match="x: base: the tokens begin with <s> twice"):
        checked_example(given([whole[0], *whole[:-1]]), ("last",), ENDS, "x")


def test_a_run_on_such_a_tokenizer_has_the_numbers_of_one_without_and_says_so(tmp_path: Path):
    found = {}
    for name, tokenizer in (("plain", words()), ("ends", ENDS)):
        root = tmp_path / name
        hf_llama().save_pretrained(root / "model")
        tokenizer.save_pretrained(root / "model")
        text = re.sub(r"  table1:[\s\S]*", "", STUDY.replace(", two: {path: other}", ""))
        (root / "study.yaml").write_text(text)
        manifest = load(root / "study.yaml")
        list(run(plan(manifest), root / "runs"))
        folder = folder_of(root / "runs", plan(manifest))
        found[name] = read_result(folder / "found"), report_html(study_in(folder))
    (plain, page), (ends, other) = found["plain"], found["ends"]
    assert ends.header.data_digest == plain.header.data_digest
    assert tensor_digest(ends.scores) == tensor_digest(plain.scores)
    said = "one: its tokenizer puts <pad> behind every text; prompts are made without it"
    assert [str(notice) for notice in ends.header.notices if notice.kind == "end"] == [said]
    assert [notice for notice in plain.header.notices if notice.kind == "end"] == []
    said = said.replace("<pad>", "&lt;pad&gt;")
    assert (said in page, said in other) == (False, True)
    assert "without the <pad> that the tokenizer appends" in str(
        inspect_model(str(tmp_path / "ends" / "model")).support
    )


def test_the_chosen_tokens_stand_in_the_result_and_the_report(two_models: Path, tmp_path: Path):
    path = written_pairs(tmp_path, two_models, pairs="\n".join(lines(foil="magnet")))
    manifest = load(path)
    list(run(plan(manifest), tmp_path / "runs"))
    folder = folder_of(tmp_path / "runs", plan(manifest))
    result = read_result(folder / "found")
    said = result.header.summary["tokens"]["one"]
    magnet = words().convert_tokens_to_ids("magnet")
    assert said["foil"] == [{"text": "' magnet'", "token": "magnet", "id": magnet}]
    assert 6 <= len(said["answer"]) <= 10  # of 6 examples that find and 4 held out
    assert {one["token"] for one in said["answer"]} <= set(THINGS)
    page = report_html(study_in(folder))
    assert "Tokens that are scored" in page
    assert f"<td>magnet</td><td>{magnet}</td>" in re.sub(r"\s+(?=<)| class=\"[^\"]*\"", "", page)


def test_a_model_in_python_says_so_too():
    model = et.load(hf_llama(), with_end(words(), "<s>", "<pad>"))
    said = "LlamaForCausalLM: its tokenizer puts <pad> behind every text; prompts are made without it"
    assert [str(notice) for notice in model.notices] == [said]
    assert [str(notice) for notice in et.Pairs.boxes(2, 2).tokens(model).notices] == [said]
    assert et.load(hf_llama(), words()).notices == ()


def test_pairs_show_the_text_that_is_scored_and_their_tokens():
    pairs = et.Pairs.of([{"base": BOXES, "source": BOXES, "answer": "apple", "foil": " hat"}])
    assert repr(pairs).endswith("contains the' -> ' apple'>")
    assert '<td style="text-align:left">&#x27; apple&#x27;</td>' in pairs._repr_html_()
    assert "'kind'>" in repr(et.Pairs.of([(UNKIND, UNKIND, "kind")]))
    assert "'kind' (with a space or without)>" in repr(et.Pairs.of([("The un", "The un", "kind")]))
    model = et.load(hf_llama(), words())
    pairs = et.Pairs.of(
        [{"base": "The book is in Box B", "source": "The car is in Box B", "answer": ".", "foil": ["car", ","]}]
    )
    rows = pairs.tokens(model).rows
    assert [(row["pair"], row["as"], row["token"]) for row in rows] == [
        (0, "answer", "."),
        (0, "foil", "car"),
        (0, "foil", ","),
    ]
    assert [row["id"] for row in rows] == words().convert_tokens_to_ids([".", "car", ","])


@pytest.mark.parametrize("kind", KINDS)
def test_pairs_tokens_say_whether_a_space_is_part_of_one(kind: str):
    from nnsight_et.tasks.answers import token_description

    made = et.Pairs.of([{"base": BOXES, "source": BOXES, "answer": " apple", "foil": "apple", "space": "no"}])
    example = made.examples(KINDS[kind])[0]
    assert [token_description(token, KINDS[kind])["text"] for token in (example.answer, *example.foils)] == [
        "' apple'",
        "'apple'",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('clean,corrupted,answer\n"a, b",c,d\n', ":1: a table with the columns clean, corrupted, answer, in a file"),
        ('{\n "name": "capitals",\n "prompts": []\n}', ": an object with the keys 'name', 'prompts', none with a list"),
        ('[\n {"a": "a"},\n {"b": "b"}\n]', ": row 1: the keys 'a'; accepted: columns that say which"),
        ('[{"base": "a"}]', ": row 1: the keys 'base'"), ("[[1]]", ": row 1: not an object"),
        ("The apple, the hat", ":1: not JSON"),
        ('{"masked": "a", "word": "b"}', ":1: the keys 'masked', 'word'"),
    ],
)  # fmt: skip
def test_a_file_of_another_form_is_told_by_what_it_is(tmp_path: Path, text: str, message: str):
    (tmp_path / "x.jsonl").write_text(text)
    with pytest.raises(TaskError) as error:
        et.Pairs.read(tmp_path / "x.jsonl")
    assert str(error.value).startswith(f"x.jsonl{message}")
    assert "accepted: " in str(error.value)


MADE_INTO_TOKENS = r"(?<!models\.)(?<!def )\btokenizer\((?!\)|choice\))|tokenizer\.(encode|tokenize)\("
"""A tokenizer that is called; that of a model is had by models.tokenizer(choice)."""


def test_prompts_are_made_into_tokens_in_one_place_only():
    """Apart from texts that are no prompts of a task: lessons of the embedded models, and what a model is tried on; and
    from the self-check that reads prompts by code of its own."""
    calls = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if path.relative_to(PACKAGE).parts[0] not in ("zoo", "models") and re.search(MADE_INTO_TOKENS, path.read_text())
    }
    assert calls == {"tasks/encoding.py", "measuring/reading.py"}


@pytest.mark.skipif(not (SHARED / "llama_tokenizer").is_dir(), reason="no tokenizer of Llama's here")
def test_llamas_tokenizer_scores_the_texts_own_tokens():
    llama = AutoTokenizer.from_pretrained(SHARED / "llama_tokenizer")
    made = {
        text: answer(base, text, llama) for base, text in ((BOXES, "apple"), ("foo(", "bar"), ("法国的首都是", "巴"))
    }
    assert made == {"apple": "▁apple", "bar": "bar", "巴": "巴"}
    first = et.Pairs.read(SHARED / "cases/data/answers_without_space.jsonl")[:1]
    assert llama.convert_ids_to_tokens(first.examples(llama)[0].answer) == "kind"
    with pytest.raises(TaskError, match="the text begins with '<s>'"):
        answer("<s>" + BOXES, "apple", llama)
    assert answer("<s>" + BOXES, "apple", llama, special_tokens="text") == "▁apple"
