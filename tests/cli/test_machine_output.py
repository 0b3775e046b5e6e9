"""What scripts read of a run: `--json` and `--quiet`."""

from __future__ import annotations

import json
from pathlib import Path

from nnsight_et.results.headers import read_header
from tests.helpers.commands import et


def test_json_prints_objects_alone_and_ends_with_every_result(written: Path):
    result = et("run", "study.yaml", "--only", "found", "--json")
    assert result.exit_code == 0
    assert result.stderr == ""
    objects = [json.loads(line) for line in result.stdout.splitlines()]
    events = [one["event"] for one in objects]
    assert events[:2] == ["notice", "started"]  # a random model answers by chance
    assert (objects[0]["kind"], objects[0]["where"]) == ("chance", "one")
    assert events[-3:] == ["finished", "result", "end"]
    (folder,) = written.parent.glob("runs/small/*")
    assert objects[-1] == {"event": "end", "folder": str(folder.relative_to(written.parent)), "computed": 2}
    header = read_header(folder / "found")
    assert objects[-2]["summary"] == header.summary
    finished = objects[-3]
    assert (finished["seconds"], finished["self_checks"]) == (header.seconds, len(header.self_check.checks))

    again = [json.loads(line) for line in et("run", "study.yaml", "--only", "found", "--json").stdout.splitlines()]
    assert again[-1]["computed"] == 0
    assert again[-2] == objects[-2]


def test_errors_are_an_object_and_a_message(written: Path):
    written.write_text(written.read_text().replace("path: two", "path: ./three"))
    result = et("run", "study.yaml", "--json")
    assert result.exit_code == 2
    (error,) = [json.loads(line) for line in result.stdout.splitlines()]
    assert (error["event"], error["exit_code"]) == ("error", 2)
    assert error["message"] in result.stderr


def test_quiet_prints_the_folder_alone(written: Path):
    result = et("run", "study.yaml", "--only", "found", "-q")
    assert (result.exit_code, result.stderr) == (0, "")
    (line,) = result.stdout.splitlines()
    assert (Path(line) / "found" / "result.json").exists()
    both = et("run", "study.yaml", "--quiet", "--json")
    assert both.exit_code == 2
    assert "--quiet and --json" in both.stderr


def test_commands_of_one_method_have_both_too(written: Path):
    assert et("compare", "published/llama", "published/goat", "--quiet").stdout.startswith("runs/compare/")
    lines = et("compare", "published/llama", "published/goat", "--json").stdout.splitlines()
    assert json.loads(lines[-2])["summary"]["rows"][-1]["shared"] == 54
