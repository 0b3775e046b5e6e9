"""A case given to `et run`, `et models inspect` and to Python, and what came of each."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil, isnan, log
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from safetensors.torch import load_file
from transformers.utils import logging
from typer.testing import CliRunner

from .case import Case, Differs, Given
from .plain import EMBEDDED

Verdict = Literal["equal", "done", "refused", "not for it", "WRONG", "UNTRUE", "NOT TOLD", "TRACEBACK"]
BAD = ("WRONG", "UNTRUE", "NOT TOLD", "TRACEBACK")
LINES = 6  # of a message at most
NOWHERE = "above report"  # of another library, which the user does not see


@dataclass(frozen=True)
class Answer:
    """What came of one way in: a verdict, and the difference, message or exception it is for."""

    verdict: Verdict
    said: str = ""

    @property
    def bad(self) -> bool:
        """Whether a user was misled."""
        return self.verdict in BAD

    def __str__(self) -> str:
        return f"{self.verdict}: {self.said}" if self.said else self.verdict


@dataclass(frozen=True)
class Row:
    """A case and what came of it."""

    case: Case
    plain: str
    run: Answer
    inspect: Answer
    python: Answer

    @property
    def bad(self) -> bool:
        """Whether one of them misled the user."""
        return any(one.bad for one in (self.run, self.inspect, self.python))


@contextmanager
def as_outside() -> Iterator[None]:
    """Warnings of libraries are no errors, and libraries are quiet."""
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)


def measure(case: Case) -> Row:
    """Make the case in a folder of its own, and try it every way."""
    with TemporaryDirectory() as place, as_outside():
        folder = Path(place).resolve()
        (folder / "files").mkdir()
        torch.manual_seed(0)
        given = case.make(folder / "files")
        file = folder / f"pairs.{given.suffix}"
        file.write_bytes(content(given))
        none = Answer("not for it")
        run, inspected = (by_run(given, folder), by_inspect(given, folder)) if given.commands else (none, none)
        row = Row(case, told(given), run, inspected, by_python(given, file))
    return cleaned(row, str(folder))


def content(given: Given) -> bytes:
    """The file of pairs."""
    if given.file is not None:
        return given.file
    return "".join(json.dumps(line.entry, ensure_ascii=False) + "\n" for line in given.lines).encode()


def told(given: Given) -> str:
    """What is right, in a few words."""
    texts = sorted({f"{one:.4g}" for one in given.expected})
    values = f"p = {', '.join(texts[:3])}{', ...' if len(texts) > 3 else ''}" if texts else ""
    refusal = "to be refused" if given.reason and not values else "or refused by name" if given.reason else ""
    return " ".join(filter(None, (values, refusal))) or ("a notice" if given.notice else "")


def manifest(given: Given, folder: Path) -> Path:
    """The smallest manifest with the case in it."""
    bases = [line.prompt for line in given.lines]
    many = ceil(len(set(bases)) / 3) * (len(bases) // len(set(bases)))  # for discovery, a third of the different ones
    positions = list(dict.fromkeys(re.findall(r"\{\{(\w+)\|", given.lines[0].base)))
    task = {"kind": "pairs", "file": f"pairs.{given.suffix}", "positions": positions}
    stages = [{"group": "a", "into": "logits", "at": "last", "keep": 2}]
    patching = {"method": "path_patching", "model": "mine", "examples": many, "stages": stages}
    own = given.experiment
    written = {
        "name": "case",
        "models": {"mine": dict(given.model)},
        "task": dict(given.task) if "kind" in given.task else task | dict(given.task),
        "experiments": {"found": dict(own) if "method" in own else patching | dict(own)},
    }
    path = folder / "case.yaml"
    path.write_text(json.dumps(written, indent=1))
    return path


def command(*arguments: object) -> tuple[int | None, str, str, BaseException | None]:
    """Exit code, output, errors, and an exception that is no exit."""
    from nnsight_et_cli import app

    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    escaped = None if isinstance(result.exception, (SystemExit, type(None))) else result.exception
    return result.exit_code, result.stdout, result.stderr, escaped


def by_run(given: Given, folder: Path) -> Answer:
    """What `et run` gives."""
    code, out, errors, escaped = command("run", manifest(given, folder), "--out", folder / "runs", "--quiet")
    if escaped is not None:
        return traceback(escaped)
    if code:
        return refusal(given, errors)
    report = next(iter(folder.glob("runs/*/*/report.html")), None)
    words = " ".join((out + errors + (report.read_text() if report else "")).split())
    if given.notice and not re.search(given.notice, words):
        return Answer("NOT TOLD", given.notice)
    if not given.expected:
        return Answer("WRONG", "a result, exit code 0") if given.reason else Answer("done", given.notice or "")
    (scores,) = folder.glob("runs/case/*/found/scores.safetensors")
    return compared(given, load_file(scores)["a.base"].tolist(), ordered=False)


def by_inspect(given: Given, folder: Path) -> Answer:
    """What `et models inspect` gives."""
    code, out, errors, escaped = command("models", "inspect", "mine", "--manifest", folder / "case.yaml")
    if escaped is not None:
        return traceback(escaped)
    if code:
        return refusal(given, errors)
    told = given.reason and re.search(given.reason, " ".join(out.split()))
    return Answer("WRONG", "not a word of it") if given.early and not told else Answer("done")


def by_python(given: Given, file: Path) -> Answer:
    """What it gives in Python."""
    import nnsight_et as et
    from nnsight_et.core.errors import NnsightEtError

    try:
        model = given.load() if given.load else loaded(given)
        found = given.call(model) if given.call else et.path_patch(model, et.Pairs.read(file), keep=1)
    except NnsightEtError as error:
        return refusal(given, str(error), given.in_python)
    except Differs as error:
        return Answer("WRONG", str(error))
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what a user sees
        return traceback(error)
    if given.reason and not given.expected:
        return Answer("done") if given.call and given.task else Answer("WRONG", "no error")
    if not given.expected or not hasattr(found, "scores") or "base" not in found.scores:
        return Answer("done")
    return compared(given, found.scores["base"].tolist(), ordered=True)


def loaded(given: Given) -> Any:
    """The model's entry as et.load takes it."""
    import nnsight_et as et

    entry = dict(given.model)
    return et.load(entry.pop("path"), **entry)


def compared(given: Given, found: Sequence[float], ordered: bool) -> Answer:
    """Whether the probabilities are right; unless in order, each has to be one of those that are."""
    expected = list(given.expected)
    if ordered and len(found) != len(expected):
        return Answer("WRONG", f"{len(found)} numbers for {len(expected)} lines")
    gaps = []
    for index, one in enumerate(found):
        rights = [expected[index]] if ordered else expected
        gaps.append(min(apart(one, right) for right in rights))
    if not gaps:
        return Answer("WRONG", "no number")
    worst = max(gaps)
    if not worst <= given.tolerance:
        near = ", ".join(f"{one:.4g}" for one in found[:3])
        return Answer("WRONG", f"p = {near}; log p is {worst:.2g} from what is right")
    return Answer("equal", f"{worst:.0e}")


def apart(one: float, other: float) -> float:
    """How far the logarithms are apart; infinite where one is no probability."""
    if isnan(one) or min(one, other) <= 0:
        return 0.0 if one == other else float("inf")
    return abs(log(one) - log(other))


def refusal(given: Given, errors: str, reason: str | None = None) -> Answer:
    """A message, held against what the case says is the reason."""
    lines = [line for line in errors.strip().splitlines() if line.strip()]
    text = " / ".join(lines)
    wanted = reason or given.reason
    if wanted is None:
        return Answer("WRONG", f"refused: {text}")
    untrue = re.search(given.untrue or NOWHERE, text)
    if untrue or not re.search(wanted, text, re.DOTALL) or len(lines) > LINES or "Traceback" in text:
        return Answer("UNTRUE", text)
    return Answer("refused", text)


def traceback(error: BaseException) -> Answer:
    """An exception that no user should see."""
    first = (str(error).strip().splitlines() or [""])[0]
    return Answer("TRACEBACK", f"{type(error).__name__}: {first}"[:300])


def cleaned(row: Row, folder: str) -> Row:
    """The same without the names of this machine's folders."""

    def clean(answer: Answer) -> Answer:
        said = answer.said.replace(f"{folder}/files/", "").replace(f"{folder}/", "")
        return Answer(answer.verdict, said.replace(f"{EMBEDDED}/", "").replace(str(EMBEDDED), EMBEDDED.name))

    return Row(row.case, row.plain, clean(row.run), clean(row.inspect), clean(row.python))
