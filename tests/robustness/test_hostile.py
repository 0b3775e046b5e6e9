"""Hostile input is used, or refused by a message and an exit code; nothing is written where it does not belong."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from math import isfinite
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from nnsight_et.core.circuit import Circuit, Head
from nnsight_et.core.errors import ManifestError, TaskError
from nnsight_et.manifest import load, parse
from nnsight_et.manifest.document import read
from nnsight_et.planning.plan import digest, plan
from tests.helpers.commands import ROOT
from tests.helpers.hostile import VALUES, WAIT, bytes_in, damaged, mangled, said, scribbled, within
from tests.helpers.methods_study import CIRCUIT, EVERYTHING, STUDY

SHORT, LONG = 300, int(os.environ.get("HOSTILE", "10000"))
"""How many are tried in the default suite, and in the slow tests."""
FORGED = tuple(value for value in VALUES if not isinstance(value, float) or isfinite(value))
SEEDS = st.integers(0, 2**48)
REFUSAL = re.compile(
    r"(\S*/)?study\.yaml(:\d+: |: (and \d+ more problems|no manifest|\d+ (characters|bytes)|not text|experiments))"
    r"|experiments\.\w+: "
)
"""A line of a message: the manifest's line, its file where it is none as a whole, or the key."""
SAID = re.compile(r"its result\.json is not one of|not a result|accepted: |more than one")
TEXTS = (STUDY + EVERYTHING, STUDY + EVERYTHING, STUDY + EVERYTHING, (ROOT / "experiments.yaml").read_text())
DATA = [read(text, "study.yaml").data for text in TEXTS]


def tried(count: int) -> Callable:
    """A test on so many random seeds, each shown where it fails."""
    quiet = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    phases = [Phase.generate]  # a seed does not become simpler by becoming smaller
    options = settings(max_examples=count, deadline=None, suppress_health_check=quiet, database=None, phases=phases)
    return lambda test: options(given(seed=SEEDS)(test))


def manifest_of(random: Random) -> str:
    """One of the two studies with a few faults, in its data or in its text."""
    which = random.randrange(len(TEXTS))
    if random.random() < 0.5:
        data = json.loads(json.dumps(DATA[which]))
        for _ in range(random.choice((1, 1, 1, 2, 4))):
            data = mangled(data, random)
        return json.dumps(data, indent=1, ensure_ascii=random.random() < 0.5)
    text = TEXTS[which]
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        text = scribbled(text, random)
    return text


def planned(folder: Path, text: str) -> None:
    """`et plan` on the text says what it would do, or where the text is wrong; it writes nothing."""
    path = folder / "study.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    answer = said("plan", path, "--out", folder / "runs")
    assert sorted(one.name for one in folder.iterdir()) == ["circuit.json", "study.yaml"]
    if answer.code == 0:
        jobs = plan(load(path))
        for job in jobs.jobs:
            place = Path(os.path.normpath(folder / "runs" / jobs.name / jobs.digest / job.name))
            assert place.parent.parent.parent == folder / "runs", job.name
    else:
        assert answer.code == 2, answer
        for line in answer.err.splitlines():
            assert REFUSAL.match(line), line


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder for a manifest, with the circuit it names."""
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "circuit.json").write_text(CIRCUIT)
    return folder


@tried(SHORT)
def test_a_mutated_manifest_is_planned_or_refused_by_line_or_key(place, seed):
    planned(place, manifest_of(Random(seed)))


@pytest.mark.slow
@tried(LONG)
def test_ten_thousand_mutated_manifests_are_planned_or_refused_by_line_or_key(place, seed):
    planned(place, manifest_of(Random(seed)))


@pytest.mark.parametrize("place", ["./" + "9" * 5000, "./a\0b", "~nobody-of-that-name/one", "./circuit.json/x", "."])
def test_a_path_that_cannot_be_one_is_no_traceback(tmp_path, place):
    (tmp_path / "circuit.json").write_text(CIRCUIT)
    changed = (STUDY + EVERYTHING).replace("./circuit.json", json.dumps(place))
    (tmp_path / "circuits.yaml").write_text(changed)
    assert said("plan", tmp_path / "circuits.yaml", "--out", tmp_path / "runs").code == 2
    (tmp_path / "models.yaml").write_text((STUDY + EVERYTHING).replace("path: one", f"path: {json.dumps(place)}"))
    for command in ("plan", "run"):
        assert said(command, tmp_path / "models.yaml", "--out", tmp_path / "runs").code == 2


def read_circuit(random: Random) -> None:
    """A circuit of some data or text is read, and comes back as it is; or it is refused by its file's name."""
    if random.random() < 0.6:
        text = json.dumps(mangled(mangled(json.loads(CIRCUIT), random), random))
    else:
        text = scribbled(CIRCUIT, random)
    try:
        with within(WAIT):
            circuit = Circuit.from_json(text, "circuit.json")
    except TaskError as error:
        refusal = str(error)
    else:
        assert Circuit.from_json(circuit.to_json()) == circuit
        return
    assert refusal.startswith("circuit.json")


@tried(SHORT)
def test_a_mutated_circuit_is_read_or_refused(seed):
    read_circuit(Random(seed))


@pytest.mark.slow
@tried(LONG)
def test_ten_thousand_mutated_circuits_are_read_or_refused(seed):
    read_circuit(Random(seed))


@pytest.mark.parametrize("head", ["L" + "9" * 5000 + "H0", "L\u0661H\u0662", "L1H1\n"])
def test_a_head_is_two_short_numbers_in_plain_digits(head):
    with pytest.raises(TaskError, match="is not the name of a head"):
        Head.parse(head)


def test_a_number_of_too_many_digits_is_a_message():
    with pytest.raises(TaskError, match=r"circuit\.json: not JSON"):
        Circuit.from_json('{"schema": ' + "9" * 5000 + "}", "circuit.json")


def test_a_character_yaml_does_not_have_is_named_by_its_line():
    with pytest.raises(ManifestError, match=r"^study\.yaml:3: not YAML: special characters"):
        parse("name: x\r\nseed: 1\r\n# \x07\r\n", "study.yaml")


@pytest.fixture(scope="module")
def finished_run(every) -> Path:
    """The folder of a run with every method; only read."""
    return every.folder


def damage(run: Path, random: Random) -> None:
    """One to three files of a run's folder damaged."""
    files = [path for path in bytes_in(run) if path.suffix != ".html"]
    for path in random.sample(files, random.choice((1, 1, 3))):
        content = damaged(path.read_bytes(), random)
        path.unlink()
        if content is not None:
            path.write_bytes(content)


def forge(run: Path, random: Random) -> None:
    """One result.json with other values and a digest that fits, as only its method would write it."""
    path = random.choice(sorted(run.glob("*/result.json")))
    header = json.loads(path.read_text())
    del header["digest"]
    for _ in range(random.choice((1, 1, 2))):
        part = random.choice(("summary", "summary", "summary", "job", "self_check"))
        header[part] = mangled(header[part], random, FORGED) if isinstance(header[part], dict) else header[part]
    path.write_text(json.dumps(header | {"digest": digest(header)}))


def shown(finished: Path, run: Path, harm: Callable[[Path, Random], None], seed: int) -> list[int]:
    """The exit codes of report, diff and export on a copy of a run that came to harm; they write below it alone."""
    shutil.rmtree(run.parent, ignore_errors=True)
    shutil.copytree(finished, run, ignore=shutil.ignore_patterns("report.html", "tables"))
    harm(run, Random(seed))
    before, codes = bytes_in(finished), []
    for command in (("report", run), ("diff", finished, run), ("export", run, "--examples")):
        answer = said(*command)
        assert answer.code in (0, 2), answer
        assert answer.code == 0 or SAID.search(answer.err), answer
        codes.append(answer.code)
    assert bytes_in(finished) == before
    assert [path.name for path in run.parent.iterdir()] == [run.name]
    page = run / "report.html"
    assert not page.exists() or "<script>alert" not in page.read_text()
    return codes


@tried(12)
def test_a_damaged_result_is_left_out_of_what_is_shown(finished_run, tmp_path_factory, seed):
    assert shown(finished_run, tmp_path_factory.getbasetemp() / "damaged" / "run", damage, seed) == [0, 0, 0]


@tried(12)
def test_a_forged_result_is_shown_or_refused_and_is_no_markup(finished_run, tmp_path_factory, seed):
    shown(finished_run, tmp_path_factory.getbasetemp() / "forged" / "run", forge, seed)


@pytest.mark.slow
@tried(LONG // 20)
def test_five_hundred_damaged_runs_are_shown_without_what_is_damaged(finished_run, tmp_path_factory, seed):
    assert shown(finished_run, tmp_path_factory.getbasetemp() / "damaged" / "run", damage, seed) == [0, 0, 0]


@pytest.mark.slow
@tried(LONG // 20)
def test_five_hundred_forged_runs_are_shown_or_refused_and_are_no_markup(finished_run, tmp_path_factory, seed):
    shown(finished_run, tmp_path_factory.getbasetemp() / "forged" / "run", forge, seed)
