"""Files of data as rows: which forms are read, where a row is said to be, and what is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from nnsight_et.core.errors import ManifestError, TaskError
from nnsight_et.rows import read
from nnsight_et.rows.read import Data, Row, each_of, read_dataset, read_file, rows_of

ROWS = [{"a": "one, two", "b": 'say "x"'}, {"a": "three\nfour", "b": ""}]
TABLE = 'a,b\n"one, two","say ""x"""\n\n"three\nfour",\n"five","six"\n'


def found(tmp_path: Path, name: str, text: str, key: str | None = None):
    (tmp_path / name).write_text(text, encoding="utf-8")
    return [(row.where, row.fields) for row in rows_of(read_file(tmp_path / name), key)]


def test_rows_of_a_table_are_at_the_line_where_they_begin(tmp_path: Path):
    rows = [*ROWS, {"a": "five", "b": "six"}]
    wanted = list(zip(("x.csv:2", "x.csv:4", "x.csv:6"), rows, strict=True))
    assert found(tmp_path, "x.csv", TABLE) == wanted
    assert found(tmp_path, "x.csv", "\ufeff" + TABLE.replace("\n", "\r\n")) == wanted
    assert [row for _, row in found(tmp_path, "x.csv", "a;b\n1,5;2\n")] == [{"a": "1,5", "b": "2"}]
    assert [row for _, row in found(tmp_path, "X.TSV", "a\tb\n1,5\t2\n")] == [{"a": "1,5", "b": "2"}]
    assert [row for _, row in found(tmp_path, "x.csv", ",a\n0,x\n1,y\n")] == [{"a": "x"}, {"a": "y"}]  # pandas' index


@pytest.mark.parametrize("indent", [None, 1])
def test_json_is_read_as_lines_as_a_list_and_as_an_object_with_one(tmp_path: Path, indent: int | None):
    lines = "\n\n".join(map(json.dumps, ROWS))
    assert found(tmp_path, "x.jsonl", lines) == [("x.jsonl:1", ROWS[0]), ("x.jsonl:3", ROWS[1])]
    numbered = [("x.json: row 1", ROWS[0]), ("x.json: row 2", ROWS[1])]
    assert found(tmp_path, "x.json", json.dumps(ROWS, indent=indent)) == numbered
    within = {"name": "n", "some": ROWS, "more": {"a": 1}, "numbers": [1, 2]}
    assert found(tmp_path, "x.json", json.dumps(within, indent=indent)) == numbered
    two = json.dumps(within | {"others": ROWS[:1]}, indent=indent)
    assert found(tmp_path, "x.json", two, "others") == numbered[:1]
    with pytest.raises(TaskError, match=r"x.json: lists of objects under some, others; accepted: rows: some or others"):
        found(tmp_path, "x.json", two)
    with pytest.raises(TaskError, match=r"x.json: rows: no list of objects 'other'; did you mean 'others'\?"):
        found(tmp_path, "x.json", two, "other")
    assert found(tmp_path, "x.jsonl", json.dumps(ROWS[0])) == [("x.jsonl:1", ROWS[0])]


def test_parquet_is_read_and_named_by_its_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    pandas.DataFrame({"a": ["x", "y"], "n": [1, 2], "several": [["p"], ["q", "r"]]}).to_parquet(tmp_path / "x.parquet")
    data = read_file(tmp_path / "x.parquet")
    assert data.digest
    assert data.form == "rows"
    assert [(row.where, row.fields) for row in rows_of(data)] == [
        ("x.parquet: row 1", {"a": "x", "n": 1, "several": ["p"]}),
        ("x.parquet: row 2", {"a": "y", "n": 2, "several": ["q", "r"]}),
    ]
    (tmp_path / "y.parquet").write_bytes(b"PAR1\x15\x04\xff")
    with pytest.raises(ManifestError, match=r"y.parquet: cannot be read \(.*\); accepted: a Parquet file"):
        read_file(tmp_path / "y.parquet")
    for package in ("pyarrow", "pyarrow.parquet", "pandas"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ManifestError, match=r"Parquet needs the package pyarrow.*nnsight-et\[export\]"):
        read_file(tmp_path / "x.parquet")


def test_a_dataset_is_read_from_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    made = datasets.Dataset.from_list([{"a": "x", "several": ["p"]}, {"a": "y", "several": []}])
    made.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": made, "test": made.select([1])}).save_to_disk(str(tmp_path / "split"))
    first = read_dataset("one", tmp_path, None, "train", None)
    assert rows_of(first)[0] == Row("one[train]: row 1", {"a": "x", "several": ["p"]})
    assert [row.fields["a"] for row in rows_of(read_dataset("split", tmp_path, None, "test", None))] == ["y"]
    with pytest.raises(ManifestError, match=r"split: no split 'tset'; did you mean 'test'\?"):
        read_dataset("split", tmp_path, None, "tset", None)
    monkeypatch.setattr(read, "ROWS_LIMIT", 1)
    with pytest.raises(ManifestError, match=r"one: 2 rows; accepted: at most 1, such as split: train\[:1000\]"):
        read_dataset("one", tmp_path, None, "train", None)


def test_a_dataset_without_its_package_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ManifestError, match=r"the package datasets; accepted: pip install 'nnsight-et\[datasets\]'"):
        read_dataset("org/name", tmp_path, None, "train", None)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.csv", "a,b\n1\n", "x.csv:2: 1 cell, but the columns are a, b; accepted: one cell per column"),
        ("x.csv", "a,b\n1,2,3\n", "x.csv:2: 3 cells, but the columns are a, b"),
        ("x.csv", 'a,b\n1,"2\n', "x.csv:2: not a table"),
        ("x.csv", "a,a\n1,2\n", "x.csv:1: the column 'a' appears twice"),
        ("x.csv", "a,b\n", "x.csv: no pairs"),
        ("x.json", "[]", "x.json: no pairs"),
        ("x.json", "[1]", "x.json: row 1: not an object"),
        ("x.json", '{\n"a": 1}', "x.json: an object with the keys 'a', none with a list of objects"),
        ("x.jsonl", '{"a": 1}\n{"a": \n', "x.jsonl:2: not JSON"),
        ("x.txt", "a,b\n1,2\n", "x.txt:1: a table with the columns a, b, in a file that is not called .csv or .tsv"),
    ],
)
def test_what_is_no_row_is_told_by_its_place(tmp_path: Path, name: str, text: str, message: str):
    with pytest.raises(TaskError) as error:
        found(tmp_path, name, text)
    assert str(error.value).startswith(message)
    assert "accepted: " in str(error.value)


def test_every_row_that_is_wrong_is_told_up_to_a_number():
    def refuse(number: int) -> int:
        if number % 2:
            raise TaskError(f"x:{number}")
        return number

    assert each_of([0, 2], refuse) == [0, 2]
    with pytest.raises(TaskError) as error:
        each_of(range(60), refuse)
    assert str(error.value).splitlines() == [*(f"x:{number}" for number in range(1, 41, 2)), "and 10 more rows"]
    with pytest.raises(TaskError, match=r"x\.jsonl:1: .*\nx\.jsonl:3: "):
        rows_of(Data("x.jsonl", '[1]\n{"a": 1}\n{'))
