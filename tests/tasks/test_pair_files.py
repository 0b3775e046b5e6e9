"""Files of pairs as people have them, by a mapping of columns: from the file to a result, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import nnsight_et as et
from nnsight_et.core.errors import ManifestError, TaskError
from nnsight_et.manifest import load, parse
from nnsight_et.measuring.examples import task_of
from nnsight_et.planning.plan import Plan, plan
from nnsight_et.rows.mapping import mapping_of
from nnsight_et.rows.read import Form
from nnsight_et.runner.run import run
from nnsight_et.tasks.own_pairs import OwnPairs
from tests.helpers.commands import et as command
from tests.helpers.own_pairs_study import results
from tests.helpers.pair_files import CSV, CSV_ROWS, FILES, KEYS, MASKED, PROMPTS, manifest, word_tokenizer, written

SHARED = Path(__file__).parents[3] / "shared/cases/data"
WORDS = word_tokenizer()
FIND = {"place": "differing"}
COLUMNS = {"base": "clean", "source": "corrupted", "answer": "answer", "foil": "foil"}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    path = written(folder, "x.csv")
    for name, text in FILES.items():
        (folder / name).write_text(text)
    return path


@pytest.mark.parametrize("file", [*FILES])
def test_each_file_runs_from_a_manifest_of_ten_lines_as_its_pairs_in_json_lines_do(study: Path, file: str):
    """The same pairs, with marks, in the form that needs no mapping, give the same numbers."""
    text = manifest(file)
    assert len(text.splitlines()) <= 10
    (study.parent / "some.yaml").write_text(text)
    found = results(study.parent / "some.yaml")["found"]
    made = _pairs(plan(load(study.parent / "some.yaml")))
    (study.parent / "plain.jsonl").write_text("\n".join(json.dumps(_marked(pair)) for _, pair in made.pairs))
    (study.parent / "some.yaml").write_text(
        manifest(file, "space: 'yes'").replace(f"file: {file}", "file: plain.jsonl")
    )
    plain = results(study.parent / "some.yaml")["found"]
    assert found.header.job_id != plain.header.job_id
    assert all(
        torch.equal(values.nan_to_num(), plain.scores[name].nan_to_num()) for name, values in found.scores.items()
    )
    assert found.scores["a.score"].abs().max() > 0


def _pairs(planned: Plan) -> OwnPairs:
    made = task_of(planned.jobs[0].task)
    assert isinstance(made, OwnPairs)
    return made


def _marked(pair) -> dict:
    def text(side) -> str:
        start, end = side.spans["place"]
        return f"{side.text[:start]}{{{{place|{side.text[start:end]}}}}}{side.text[end:]}"

    more = {"foil": list(pair.foils)} if pair.foils else {}
    return {"base": text(pair.base), "source": text(pair.source), "answer": pair.answer.strip()} | more


def test_one_pair_to_select_on_and_one_held_out_are_reported_without_intervals(study: Path):
    (study.parent / "few.yaml").write_text(manifest("x.csv", count=1))
    done = command("run", study.parent / "few.yaml", "--out", study.parent / "runs", "--quiet")
    assert done.exit_code == 0, done.output
    assert "on held-out examples" in (Path(done.output.strip()) / "report.html").read_text()


@pytest.mark.skipif(not SHARED.is_dir(), reason="no cases here")
@pytest.mark.parametrize(
    ("file", "keys", "first"),
    [
        ("clean_corrupted.csv", KEYS["x.csv"], ("Peter gave a pen to", "Simon gave a pen to", " Laura", (" Peter",))),
        ("one_object_with_prompts.json", KEYS["x.json"], ("Norway is", "Japan is", " Oslo", (" Tokyo",))),
        ("masked_sentences.jsonl", KEYS["x.jsonl"], ("Box 1 contains the", "Box 2 contains the", " coat", ())),
    ],
)
def test_the_files_of_the_cases_are_read_as_they_are(file: str, keys: str, first: tuple, tmp_path: Path):
    text = manifest("x.csv", keys, count=1).replace("file: x.csv", f"file: {SHARED / file}")
    assert len(text.splitlines()) <= 10
    made = _pairs(plan(parse(text, "x.yaml")))
    pair = made.pairs[0][1]
    assert pair.base.text.endswith(first[0])
    assert pair.source.text.endswith(first[1])
    assert (pair.answer, pair.foils) == first[2:]
    words = word_tokenizer((SHARED / file).read_text().split())
    assert made.longest(words)[1].base.positions.keys() == {"place", "last"}


def test_a_jobs_id_changes_with_the_mapping_and_the_files_content_alone(study: Path):
    def ids(keys: str = KEYS["x.csv"]) -> str:
        return plan(parse(manifest("x.csv", keys), "x.yaml", folder=study.parent)).jobs[0].id

    first = ids()
    (study.parent / "y.csv").write_text(CSV)
    renamed = parse(manifest("x.csv").replace("x.csv", "y.csv"), "x.yaml", folder=study.parent)
    assert plan(renamed).jobs[0].id == first
    others = [
        KEYS["x.csv"].replace("foil: foil", "foil: answer"),
        KEYS["x.csv"].replace("differing", "'(\\w+) gave'"),
        f"{KEYS['x.csv']}, group: template",
        f"{KEYS['x.csv']}, answers: token_ids",
        KEYS["x.csv"].replace("source: corrupted, ", "") + ", sources: next_row",
    ]
    assert len({first, *map(ids, others)}) == 6
    (study.parent / "x.csv").write_text(CSV + "\n")
    changed = ids()
    (study.parent / "x.csv").write_text(CSV)
    assert changed != first == ids()


def test_a_table_with_tabs_has_the_pairs_of_the_one_with_commas():
    forms: tuple[tuple[str, Form], ...] = (("x.csv", "commas"), ("x.tsv", "tabs"))
    one, other = (
        OwnPairs.of(FILES[name], name, ("place",), form=form, mapping=mapping_of(columns=COLUMNS, find=FIND))
        for name, form in forms
    )
    assert [pair for _, pair in one.pairs] == [pair for _, pair in other.pairs]
    assert [pair.metadata for _, pair in one.pairs] == [{"template": str(row[3])} for row in CSV_ROWS]


def test_a_masked_sentence_has_the_next_one_with_another_answer_as_its_source(tmp_path: Path):
    (tmp_path / "x.jsonl").write_text(FILES["x.jsonl"])
    pairs = et.Pairs.read(tmp_path / "x.jsonl", layout="masked_sentences", find={"asked": r"Box (\d) contains the$"})
    assert [pair.answer for pair in pairs] == [" lamp", " coat", " drum"] * 2
    bases = [pair.base for pair in pairs]
    assert [pair.source for pair in pairs] == [*bases[1:], bases[0]]
    assert bases[1].text == MASKED[1]["sentence_masked"].partition(" <")[0]
    assert bases[1].text[slice(*bases[1].spans["asked"])] == "1"
    with pytest.raises(TaskError, match=r"pairs\[0\]: sources: no row has another answer"):
        et.Pairs.of([{"base": "a", "answer": "b"}] * 2, sources="next_row")


def test_ids_of_tokens_are_answers():
    rows = [{"base": "Then, Laura", "source": "Then, Peter", "answer": 7, "foil": [3, "4"], "also_right": "5"}]
    example = et.Pairs.of(rows, answers="token_ids").examples(WORDS)[0]
    assert (example.answer, example.foils, example.also_right) == (7, (3, 4), (5,))
    assert repr(et.Pairs.of(rows, answers="token_ids")) == "<1 pair at last: 'Then, Laura' -> token 7>"
    for answer, message in (
        (len(WORDS), "token .*; accepted: ids of this tokenizer"),
        (5, "also_right: 5 is already the answer"),
    ):
        with pytest.raises(TaskError, match=message):
            et.Pairs.of([rows[0] | {"answer": answer}], answers="token_ids").examples(WORDS)
    for value in ("Laura", -1, True, 1.5, None):
        with pytest.raises(TaskError, match=r"answer: found .*; accepted: a token id"):
            et.Pairs.of([rows[0] | {"answer": value}], answers="token_ids")
    with pytest.raises(TaskError, match="answer: found 7; accepted: a text, or answers: token_ids"):
        et.Pairs.of(rows)


def test_several_columns_and_lists_give_several_foils_and_right_answers():
    row = {"q": "Then,", "c": "Then", "a": [" Laura", " Peter"], "w1": " Oscar", "w2": "", "w3": [" Emma", " Simon"]}
    columns = {"base": "q", "source": "c", "answer": "a", "foil": ["w1", "w2", "w3"]}
    (pair,) = et.Pairs.of([row], columns=columns)
    assert (pair.answer, pair.also_right, pair.foils) == (" Laura", (" Peter",), (" Oscar", " Emma", " Simon"))


def test_rows_of_a_group_are_dealt_to_one_part():
    mapping = mapping_of(columns=COLUMNS, find=FIND, group="template")
    made = OwnPairs.of(CSV, "x.csv", ("place",), form="commas", mapping=mapping)
    parts = {split: made.available(0, split) for split in ("discovery", "evaluation", "ablation")}
    assert sorted(parts.values()) == [0, 3, 3]  # two groups of three rows
    text = CSV + "\n" + CSV.splitlines()[1][:-1] + "1"
    with pytest.raises(TaskError, match=r"x.csv:8: group '1', but the same base prompt is in group '0' \(x.csv:2\)"):
        OwnPairs.of(text, "x.csv", ("place",), form="commas", mapping=mapping)


def test_a_notebook_takes_the_same_mapping_and_sorts_by_group(tmp_path: Path):
    (tmp_path / "x.csv").write_text(CSV)
    pairs = et.Pairs.read(tmp_path / "x.csv", columns=COLUMNS, find=FIND, group="template")
    assert [len(some) for some in pairs.by_group().values()] == [3, 3]
    names: list[str] = ["clean", "corrupted", "answer", "foil"]
    rows = [dict(zip(names, row, strict=True)) for row in _texts()]
    assert et.Pairs.of(rows, columns=COLUMNS, find=FIND).texts == tuple(
        pair for pair in et.Pairs.read(tmp_path / "x.csv", columns=COLUMNS, find=FIND)
    )
    with pytest.raises(TaskError, match=r"pairs\[0\]: no group; accepted: pairs made with group="):
        et.Pairs.boxes(2).by_group()
    assert len(et.Pairs.read(_json(tmp_path), columns={"base": "clean", "source": "corrupt", "answer": "answers"})) == 6


def _json(folder: Path) -> Path:
    (folder / "x.json").write_text(json.dumps(PROMPTS))
    return folder / "x.json"


def _texts() -> list[tuple[str, str, str, str]]:
    return [
        (f"Then, {io} and {s} went. {s} gave to", f"Then, {io} and {s} went. {other} gave to", f" {io}", f" {s}")
        for io, s, other, _ in CSV_ROWS
    ]


BY_NAME = KEYS["x.csv"]


@pytest.mark.parametrize(
    ("text", "keys", "messages"),
    [
        (CSV.replace('" Laura"', '" Laura Peter"'), BY_NAME, ["x.csv:2: answer: ' Laura Peter' is not one token"]),
        (CSV.replace(" gave", " zebra"), BY_NAME,
         ["x.csv:2: clean: this tokenizer does not know 'zebra'; accepted: words it knows (also in 5 more rows: 3,"]),
        (CSV.replace("Simon gave", "{{x|Simon gave", 1), BY_NAME, ["x.csv:", "corrupted, character", "is not closed"]),
        (CSV, BY_NAME.replace("corrupted", "corupted"),
         ["x.csv:2: no column 'corupted', which source should come from; did you mean 'corrupted'? accepted: clean,"]),
        (CSV, BY_NAME.replace("source: corrupted, ", ""),
         ["no column 'source'", "accepted: clean, corrupted, answer, foil, template, or sources: next_row"]),
        (CSV, "find: {place: differing}", ["x.csv:2: the keys 'clean', '", "accepted: columns that say"]),
        (CSV, BY_NAME.replace("differing", "'(zebra)'"),
         ["x.csv:2: clean: place: '(zebra)' is found 0 times in 'Then, Laura",
          "accepted: an expression that matches once, such as '.*(word)' for the last one (also in 5 more rows: 3"]),
        (CSV, BY_NAME.replace("differing", r"'\bno\s'"), [r"clean: place: '\bno\s' is found 0 times in"]),
        (CSV, BY_NAME.replace("differing", "went|gave"), ["x.csv:2: clean: place: 'went|gave' is found 2 times"]),
        (CSV, BY_NAME.replace("differing", "'(x?)went'"), ["'(x?)went' matches an empty text"]),
        (CSV.replace("Then, Laura and Peter went. Emma", "Then, Laura or Peter went. Emma"), BY_NAME,
         ["x.csv:2: place: base and source differ in 2 places ('and' and 'or', 'Peter' and 'Emma'); accepted: one"]),
        (CSV.replace(",0", ",").replace(",1", ""), BY_NAME, ["x.csv:3: 4 cells, but the columns are clean, "]),
    ],
)  # fmt: skip
def test_every_wrong_row_is_told_with_its_line_and_column(study: Path, text: str, keys: str, messages: list[str]):
    (study.parent / "x.csv").write_text(text)
    (study.parent / "wrong.yaml").write_text(manifest("x.csv", keys))
    shown = command("run", study.parent / "wrong.yaml", "--out", study.parent / "runs")
    (study.parent / "x.csv").write_text(CSV)
    told = " ".join(shown.output.split())
    assert shown.exit_code == 2
    assert all(message in told for message in messages), told
    assert "accepted: " in told
    assert told.count("is found 0 times") <= 1  # the same mistake in every row is one


@pytest.mark.parametrize(
    ("task", "place", "message"),
    [
        ("{kind: pairs, file: a, dataset: {path: b}}", "task.dataset", "given together with file; accepted: one of"),
        ("{kind: pairs, file: a, layout: masked_sentences, columns: {base: b}}", "task.layout", "given together"),
        ("{kind: pairs, file: a, layout: masked}", "task.layout", "found 'masked'; "),
        ("{kind: pairs, file: a, columns: {bass: b}}", "task.columns.bass", "no key 'bass' here; did you mean 'base'?"),
        ("{kind: pairs, file: a, columns: {source: b}, sources: next_row}", "task.columns.source", "given together"),
        ("{kind: pairs, file: a, find: {x: y}}", "task.find.x", "task.positions does not list 'x'; accepted: none"),
        ("{kind: pairs, file: a, positions: [x], find: {x: '('}}", "task.find", "x: '(' is not a regular expression"),
        ("{kind: pairs, file: a, columns: {foil: []}}", "task.columns.foil", "found a list of 0; accepted: "),
        ("{kind: pairs, dataset: {split: b}}", "task.dataset.path", "missing"),
    ],
)  # fmt: skip
def test_a_mapping_that_cannot_be_is_told_by_its_line(task: str, place: str, message: str):
    text = manifest("x.csv")
    lines = [f"task: {task}" if line.startswith("task:") else line for line in text.splitlines()]
    with pytest.raises(ManifestError) as error:
        parse("\n".join(lines), "own.yaml")
    found = str(error.value).splitlines()[0]
    assert found.startswith(f"own.yaml:2: {place}: ")
    assert message in found


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"columns": {"bass": "x"}}, "columns: no key 'bass'; did you mean 'base'?"),
        ({"columns": {"base": ["x", "y"]}}, "columns: base: found a list; accepted: the name of a column"),
        ({"columns": "clean"}, "columns: found 'clean'; accepted: a mapping from base"),
        ({"sources": "next"}, "sources: found 'next'; did you mean 'next_row'?"),
        ({"answers": "ids"}, "answers: found 'ids'; "),
        ({"find": {"x": "("}}, "find: x: '(' is not a regular expression"),
        ({"group": "kind"}, "pairs[0]: no column 'kind', which group names; "),
    ],
)
def test_wrong_keywords_of_a_mapping_are_named(keywords: dict, message: str):
    with pytest.raises(TaskError) as error:
        et.Pairs.of([{"base": "a", "source": "b", "answer": "c"}], **keywords)
    assert str(error.value).startswith(message)
    assert "accepted: " in str(error.value)


def test_check_shows_what_is_understood(study: Path):
    shown = command("pairs", "check", study)
    assert shown.exit_code == 0, shown.output
    assert "x.csv:6" in shown.output  # five pairs of six
    assert "x.csv:7" not in shown.output
    assert "  base     10 Then|,|Laura|and|Peter|went|.|Peter{place}|gave|to{last}" in shown.output
    assert "answer: ' Laura' (token " in shown.output
    for line in ("6, 6 different base prompts", "place, last", "template", "10 to 10 tokens", "6 of 6"):
        assert line in shown.output


@pytest.mark.parametrize("file", ["x.csv", "x.json", "x.jsonl"])
def test_check_guesses_columns_and_says_them_as_a_manifest_does(study: Path, file: str):
    shown = command("pairs", "check", study.parent / file)
    assert shown.exit_code == 0, shown.output
    assert "These columns are a guess." in shown.output
    line = next(line for line in shown.output.splitlines() if line.startswith("task: "))
    lines = manifest(file).replace("at: place", "at: last").splitlines()
    text = "\n".join(line if one.startswith("task:") else one for one in lines)
    assert plan(parse(text, "x", folder=study.parent)).jobs


def test_check_names_wrong_rows_and_other_tasks(study: Path, tmp_path: Path):
    (tmp_path / "x.csv").write_text("clean,answer\na,b\n,c\n")
    shown = command("pairs", "check", tmp_path / "x.csv")
    assert (shown.exit_code, "x.csv:" in shown.output, "is empty" in shown.output) == (2, True, True)
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    shown = command("pairs", "check", tmp_path / "x.csv")
    assert (shown.exit_code, "x.csv:2: the keys 'a', 'b'; accepted: " in " ".join(shown.output.split())) == (2, True)
    (tmp_path / "x.yaml").write_text("name: x\nexperiments: {a: {method: attribution, model: llama-tiny}}\n")
    shown = command("pairs", "check", tmp_path / "x.yaml")
    assert (shown.exit_code, "task.kind: found boxes; accepted: pairs" in " ".join(shown.output.split())) == (2, True)


def test_a_dataset_runs_as_its_rows_do(study: Path):
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_list(PROMPTS).save_to_disk(str(study.parent / "capitals"))
    text = manifest("x.json").replace("file: x.json", "dataset: {path: capitals}")
    (study.parent / "data.yaml").write_text(text)
    (study.parent / "file.yaml").write_text(manifest("x.json"))
    found, other = results(study.parent / "data.yaml")["found"], results(study.parent / "file.yaml")["found"]
    assert torch.equal(found.scores["a.score"], other.scores["a.score"])
    assert found.header.job.task.mapping["columns"]["named"][0] == ["base", ["clean"]]
    first = plan(load(study.parent / "data.yaml")).jobs[0].id
    datasets.Dataset.from_list(PROMPTS[1:]).save_to_disk(str(study.parent / "capitals"))
    assert plan(load(study.parent / "data.yaml")).jobs[0].id != first


def test_a_run_keeps_what_was_planned(study: Path):
    planned = plan(load(study))
    (study.parent / "x.csv").write_text("")
    assert len(_pairs(planned).pairs) == 6
    (study.parent / "x.csv").write_text(CSV)
    next(run(plan(load(study)), study.parent / "runs"))


def test_foils_have_their_own_name_where_columns_say_no_other(tmp_path: Path):
    (tmp_path / "x.csv").write_text(CSV)
    without = {key: name for key, name in COLUMNS.items() if key != "foil"}
    read = et.Pairs.read(tmp_path / "x.csv", columns=without, find=FIND)
    assert read.texts[0].foils
    assert read.texts == et.Pairs.read(tmp_path / "x.csv", columns=COLUMNS, find=FIND).texts
