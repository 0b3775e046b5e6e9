"""What a forked process does in a mutated copy: run an exercise with its self-checks, or some of the tests."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest


def run(job: dict[str, Any]) -> dict[str, str]:
    """How the fault was caught ("" if it was not), by what, and a detail."""
    import nnsight_et

    assert nnsight_et.__file__
    if not Path(nnsight_et.__file__).is_relative_to(job["copy"]):
        return {"caught": "broken", "by": "import", "detail": f"{nnsight_et.__file__} is not the copy"}
    return _exercised(job["exercise"]) if "exercise" in job else _tested(job["tests"])


def _exercised(name: str) -> dict[str, str]:
    from nnsight_et.core.errors import ExperimentError, UnsupportedModel
    from tests.mutation import exercise

    with tempfile.TemporaryDirectory() as folder:
        try:
            exercise.run_exercise(name, Path(folder))
        except ExperimentError as error:
            message = str(error)
            if "self-check '" in message:
                return {"caught": "self-check", "by": message.split("self-check '")[1].split("'")[0], "detail": message}
            return {"caught": "refusal", "by": type(error).__name__, "detail": message}
        except UnsupportedModel as error:
            return {"caught": "load check", "by": "parts", "detail": str(error)}
    return {"caught": "", "by": "", "detail": ""}


class _First:
    """The first test that fails."""

    def __init__(self) -> None:
        self.name, self.detail = "", ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and not self.name:
            self.name, self.detail = report.nodeid, str(report.longreprtext)[-300:]

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed and not self.name:
            self.name, self.detail = f"{report.nodeid} (import)", str(report.longreprtext)[-300:]


def _tested(tests: list[str]) -> dict[str, str]:
    first = _First()
    loaded = "ignore:Module already imported:pytest.PytestAssertRewriteWarning"  # by the process this one is a fork of
    options = ["-x", "-q", "--no-header", "-p", "no:cacheprovider", "-p", "no:anyio", "-W", loaded, "--rootdir", "."]
    code = int(pytest.main([*options, *tests], plugins=[first]))
    if code == 0:
        return {"caught": "", "by": "", "detail": ""}
    if not first.name:
        raise AssertionError(f"pytest ended with {code} and no test that fails: {tests}")
    return {"caught": "test", "by": first.name.removeprefix("tests/"), "detail": first.detail}
