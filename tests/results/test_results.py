"""Runs opened in Python, and exported."""

from __future__ import annotations

import csv
import importlib
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pandas
import pytest

from nnsight_et.api.runs import Run, TidyName, open_run
from nnsight_et.core.errors import ManifestError, ResultError
from nnsight_et.report.export import TABLES
from nnsight_et.results.store import Result
from tests.helpers.commands import ROOT, et, python
from tests.helpers.report_page import Parsed

exported = importlib.import_module("nnsight_et.report.export")


def test_a_run_lists_its_experiments_after_what_they_need(every: Run):
    names = list(every)
    assert len(every) == len(names) == 12
    assert names.index("found") < names.index("minimal") < names.index("overlap")
    assert repr(every).startswith("<run of small: ")
    assert repr(every["found"]) == "<found: path_patching on one>"
    with pytest.raises(KeyError, match="did you mean 'found'"):
        every["fond"]


def test_one_results_folder_is_a_run_of_one(every: Run):
    alone = open_run(str(every.folder / "minimal"))
    assert alone.experiments == ("minimal",)
    assert alone["minimal"].circuit == every["minimal"].circuit
    assert alone["minimal"].circuit.to_dict() == every["minimal"].summary["circuit"]
    with pytest.raises(ResultError, match="blind: knockout has no circuit"):
        every["blind"].circuit  # noqa: B018 - the property raises


def test_folders_without_results_are_refused_with_those_that_have_some(every: Run, tmp_path: Path):
    with pytest.raises(ManifestError, match="no result here; accepted: the folder that `et run` names"):
        open_run(tmp_path)
    with pytest.raises(ManifestError) as refused:
        open_run(every.folder.parent)
    assert str(every.folder) in str(refused.value)
    for command in ("diff", "export"):
        result = et(command, tmp_path, *([tmp_path] if command == "diff" else []))
        assert result.exit_code == 2
        assert "no result here" in result.stderr


def test_dataframes_have_the_values_and_one_type_per_column(every: Run):
    heads = every["found"].to_dataframe("heads")
    best = heads.query("metric == 'patching_score' and group == 'value_fetcher'").sort_values("value").head(3)
    kept = every["found"].summary["stages"][0]["kept"]
    assert list(best["head"]) == [one["head"] for one in kept]
    assert list(best["value"]) == [one["score"] for one in kept]
    assert list(best["kept"]) == [True] * 3

    metrics = every.to_dataframe()
    assert metrics["value"].dtype == metrics["low"].dtype == "float64"
    assert metrics["layer"].dtype == "Int64"
    assert set(metrics["experiment"]) == set(every) - {"looks"}
    experiments = every.to_dataframe("experiments").set_index("experiment")
    assert experiments.loc["found", "data"] == every["found"].header.data_digest
    with pytest.raises(ValueError, match="did you mean 'heads'"):
        every.to_dataframe("head")  # type: ignore[arg-type]


def test_the_lines_of_python_beside_the_commands_are_right(every: Run):
    every_code = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "commands.md").read_text(), re.DOTALL)
    (code,) = [code for code in every_code if "open_run" in code]
    assert "runs/my-study/0a1b2c3d4e5f" in code
    lines = code.replace("runs/my-study/0a1b2c3d4e5f", str(every.folder)).replace('circuit"]', 'found"]').splitlines()
    names: dict = {}
    exec("\n".join([*lines[:-1], f"shown = {lines[-1]}"]), names)
    assert names["shown"].equals(every.to_dataframe("heads"))


def test_notebooks_show_tables_with_names_escaped(every: Run):
    shown = every["found"]._repr_html_()
    assert "value_fetcher" in shown
    header = every["found"].header
    job = header.job.model_copy(update={"name": "<b>"})
    risky = replace(every["found"], result=Result(header.model_copy(update={"job": job}), every["found"].scores))
    assert "<b>:" not in risky._repr_html_()
    assert "&lt;b&gt;:" in risky._repr_html_()
    assert Parsed(risky._repr_html_()).wrong == []
    assert Parsed(risky._repr_html_()).of_class("m") > 12  # the circuit and a map per stage
    assert "found" in every._repr_html_()
    assert "faithfulness on one" in every._repr_html_()


def test_csv_files_hold_the_tables(every: Run, tmp_path: Path):
    result = et("export", every.folder, "--to", tmp_path / "tables", "--examples")
    assert result.exit_code == 0
    tables = ["experiments.csv", "metrics.csv", "heads.csv", "examples.csv"]
    paths = [Path(line) for line in result.stdout.splitlines()]
    written = [path for path in paths if path.name in tables]
    assert [path.name for path in written] == tables
    assert {path.name for path in paths} == {*tables, "graph.graph.json", "graph.graphml"}
    for path in written:
        table = TABLES[path.stem](every.study.results)
        with path.open(newline="", encoding="utf-8") as file:
            columns, *rows = csv.reader(file)
        assert tuple(columns) == table.columns
        assert rows == [["" if value is None else str(value) for value in row] for row in table.rows]


def test_parquet_files_hold_the_same_in_typed_columns(every: Run, tmp_path: Path):
    assert et("export", every.folder, "--format", "parquet", "--to", tmp_path).exit_code == 0
    assert not (tmp_path / "examples.parquet").exists()
    names: tuple[TidyName, ...] = ("experiments", "metrics", "heads")
    for name in names:
        read = pandas.read_parquet(tmp_path / f"{name}.parquet")
        expected = every.to_dataframe(name)
        pandas.testing.assert_frame_equal(read.astype(expected.dtypes.to_dict()), expected)
    alone = exported.export([every["blind"].result], tmp_path / "alone", "parquet")  # no rows in its heads
    assert list(pandas.read_parquet(alone[2]).columns) == list(TABLES["heads"]([]).columns)


def test_tables_go_beside_the_results_unless_another_folder_is_named(every: Run, tmp_path: Path):
    folder = shutil.copytree(every.folder / "blind", tmp_path / "blind")
    assert et("export", folder).exit_code == 0
    assert (folder / "tables" / "metrics.csv").exists()


def test_parquet_without_pyarrow_is_refused_with_what_to_install(every: Run, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(exported, "find_spec", lambda name: None)
    result = et("export", every.folder, "--format", "parquet", "--to", tmp_path / "none")
    assert result.exit_code == 2
    assert "pip install 'nnsight-et[export]'" in result.stderr
    assert not (tmp_path / "none").exists()


def test_opening_a_run_needs_no_pandas(every: Run, tmp_path: Path):
    code = "import sys; sys.modules['pandas'] = None\nfrom nnsight_et.api.runs import open_run\n"
    code += f"run = open_run({str(every.folder)!r}); print(len(run))\n"
    code += "try: run.to_dataframe()\nexcept ImportError as error: print(error.__notes__[0])"
    assert python(code, tmp_path).splitlines() == [
        "12", "DataFrames need pandas: pip install 'nnsight-et[export]'"
    ]  # fmt: skip
