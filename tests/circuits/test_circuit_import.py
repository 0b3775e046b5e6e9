"""Circuits from elsewhere: the authors' files, score matrices in every format, results; and back out again."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

import nnsight_et as api
from nnsight_et.circuits import published
from nnsight_et.core.circuit import Circuit, Head, HeadGroup
from nnsight_et.core.errors import ManifestError, NnsightEtError, TaskError
from nnsight_et.manifest import load
from nnsight_et.planning.plan import plan
from nnsight_et.results.circuit_import import import_circuit
from nnsight_et.results.headers import folder_of
from nnsight_et.results.store import read_result
from nnsight_et.runner.run import run
from tests.helpers.commands import STUDY, et
from tests.helpers.published_results import GROUPS, heads, shared

KEEP = {"llama": (58, 10, 25, 5), "goat": (101, 30, 50, 40), "float": (102, 30, 50, 40)}  # Appendices D to F
SCORES = torch.tensor([[-0.5, 0.25, -0.125, 0.0], [-0.125, -1.0, -0.125, 2.0], [0.0, 0.0, -0.25, 0.0]])


def csv_text(scores: torch.Tensor) -> str:
    return "\n".join(",".join(repr(value) for value in row) for row in scores.tolist())


def tidy_text(scores: torch.Tensor) -> str:
    places = reversed(list(product(range(scores.shape[0]), range(scores.shape[1]))))
    return "layer,head,score\n" + "\n".join(f"{one},{two},{scores[one, two].item()!r}" for one, two in places)


WRITERS: dict[str, Callable[[torch.Tensor, Path], Any]] = {
    "npy": lambda scores, path: numpy.save(path, scores.numpy()),
    "pt": torch.save,
    "csv": lambda scores, path: path.write_text(csv_text(scores)),
    "tidy.csv": lambda scores, path: path.write_text(tidy_text(scores)),
    "safetensors": lambda scores, path: save_file({"any": scores}, path),
}


def lists(circuit: Circuit) -> dict[str, list[list[int]]]:
    """The circuit as the authors store one."""
    theirs = {ours: name for name, ours in GROUPS.items()}
    return {theirs[group.name]: [list(head) for head in group.heads] for group in circuit.groups}


@pytest.mark.parametrize("name", published.CIRCUITS)
def test_the_authors_circuits_are_read(name: str, tmp_path: Path):
    path = tmp_path / f"{name}_circuit.json"
    path.write_text(json.dumps(lists(published.circuit(name)), indent=4))
    found = import_circuit(path)
    assert found.circuit == published.circuit(name)
    assert found.notes == ("read as lists of [layer, head], as the paper's authors store them",)
    path.write_text(json.dumps(shared("circuits.json")[name]))
    assert import_circuit(path).circuit == published.circuit(name)


def test_the_names_of_the_authors_earlier_files_mean_the_same(tmp_path: Path):
    names = ("direct_logit_heads", "heads_affect_direct_logit", "head_at_query_box_token", "heads_at_prev_box_pos")
    earlier = dict(zip(names, lists(published.circuit("llama")).values(), strict=True))
    (tmp_path / "circuit_heads.json").write_text(json.dumps(earlier))
    assert import_circuit(tmp_path / "circuit_heads.json").circuit == published.circuit("llama")


@pytest.mark.parametrize("name", published.CIRCUITS)
def test_the_authors_scores_give_their_candidates(name: str, tmp_path: Path):
    for group, scores in published.scores(name).items():
        theirs = next(known for known, ours in GROUPS.items() if ours == group)
        torch.save(torch.tensor(scores), tmp_path / f"{theirs}.pt")
    found = import_circuit([tmp_path / f"{group}.pt" for group in GROUPS], keep=KEEP[name])
    assert [(group.name, group.at) for group in found.circuit.groups] == [
        (group.name, group.at) for group in published.circuit(name).groups
    ]
    assert found.notes[0] == "4 matrices of scores of 32 layers x 32 heads"
    for group, stored in shared("minimality.json")[name].items():
        assert found.circuit.group(GROUPS[group]).heads == heads(stored["heads"])


@pytest.mark.parametrize("form", WRITERS)
def test_every_format_gives_the_same_heads(form: str, tmp_path: Path):
    path = tmp_path / f"mine.{form}"
    WRITERS[form](SCORES, path)
    found = import_circuit(path, group="mine", at="subject", keep=4)
    order = (Head(1, 1), Head(0, 0), Head(2, 2), Head(0, 2))
    assert found.circuit == Circuit((HeadGroup("mine", "subject", order),))
    assert found.notes[1:] == (
        "mine: L1H0, L1H2 scored as L0H2, the last one kept; of equal scores the first in row-major order are kept",
    )
    most = import_circuit(path, group="mine", at="subject", keep=3, largest=True)
    assert most.circuit.groups[0].heads == (Head(1, 3), Head(0, 1), Head(0, 2))
    assert most.notes[2:] == ("mine: the score of L0H2 is negative",)
    with pytest.raises(TaskError, match="9 heads, but 8 of 12 in mine have a nonzero score; accepted: 1 to 8"):
        import_circuit(path, group="mine", at="subject", keep=9)


def test_several_matrices_make_one_circuit_and_a_head_is_in_the_last_group_at_a_position(tmp_path: Path):
    torch.save({"one": SCORES, "two": SCORES.flip(0), "three": SCORES}, tmp_path / "all.pt")
    found = import_circuit(tmp_path / "all.pt", at=["last", "last", "early"], keep=(3, 2, 1))
    assert {group.name: group.heads for group in found.circuit.groups} == {
        "one": (Head(0, 0), Head(2, 2)),
        "two": (Head(1, 1), Head(2, 0)),
        "three": (Head(1, 1),),
    }
    assert found.notes[-1] == "one: L1H1 left, to a later group at the same position"


@pytest.fixture(scope="module")
def finished(two_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small study's run."""
    folder = tmp_path_factory.mktemp("finished")
    for name in ("one", "two"):
        (folder / name).symlink_to(two_models / name)
    (folder / "study.yaml").write_text(STUDY)
    manifest = load(folder / "study.yaml")
    list(run(plan(manifest), folder / "runs"))
    return folder_of(folder / "runs", plan(manifest))


def test_a_result_and_its_exported_scores_give_its_circuit_again(finished: Path, tmp_path: Path):
    circuit = Circuit.from_dict(read_result(finished / "found").header.summary["circuit"])
    assert import_circuit(finished / "found").circuit == circuit
    assert et("export", finished / "found", "--to", tmp_path).exit_code == 0
    for source in (finished / "found", tmp_path / "heads.csv"):
        assert import_circuit(source, keep=(3, 2)).circuit == circuit
        wider = import_circuit(source, keep=(4, 2)).circuit
        assert set(wider.groups[0].heads) > set(circuit.groups[0].heads)
    assert et("export", finished, "--to", tmp_path / "all").exit_code == 0
    assert import_circuit(tmp_path / "all" / "heads.csv", keep=(3, 2)).circuit == circuit


def test_what_comes_in_goes_out_again_byte_by_byte(finished: Path, tmp_path: Path):
    text = published.circuit("goat").to_json()
    (tmp_path / "goat.json").write_text(text)
    assert et("circuit", "import", tmp_path / "goat.json").stdout == text
    assert et("circuit", "import", tmp_path / "goat.json", "--to", tmp_path / "again.json").exit_code == 0
    assert (tmp_path / "again.json").read_text() == text
    assert et("circuit", "export", finished, "found", "--to", tmp_path / "found.json").exit_code == 0
    assert api.import_circuit(tmp_path / "found.json").circuit == api.open_run(finished)["found"].circuit
    refused = et("circuit", "export", finished, "found", "--to", tmp_path / "found.json")
    assert (refused.exit_code, "it exists already" in refused.stderr) == (2, True)


def test_a_circuit_is_shown(tmp_path: Path):
    (tmp_path / "c.json").write_text('{"struct_reader": [[8, 21], [12, 23]]}')
    shown = et("circuit", "show", tmp_path / "c.json").stdout
    assert "structure_reader  previous_query_label      2  L8H21 L12H23" in shown
    assert "read as lists of [layer, head]" in shown
    assert "40  L15H13 L21H3" in et("circuit", "show", "published/llama").stdout
    for place, told in (("published/lama", "did you mean"), (tmp_path / "no.json", "no file")):
        result = et("circuit", "show", place)
        assert (result.exit_code, told in result.stderr) == (2, True), result.stderr


def test_a_manifest_takes_the_authors_file_and_its_result_says_so(two_models: Path, tmp_path: Path):
    for name in ("one", "two"):
        (tmp_path / name).symlink_to(two_models / name)
    manifest = STUDY.replace("circuit: found", "circuit: ./theirs.json")
    ours = Circuit((HeadGroup("value_fetcher", "last", (Head(2, 1), Head(0, 3))),))
    (tmp_path / "theirs.json").write_text('{"value_fetcher": [[2, 1], [0, 3]]}')
    (tmp_path / "ours.json").write_text(ours.to_json())
    (tmp_path / "study.yaml").write_text(manifest)
    read = load(tmp_path / "study.yaml")
    list(run(plan(read), tmp_path / "runs", only=["table1"]))
    job = read_result(folder_of(tmp_path / "runs", plan(read)) / "table1").header.job
    assert job.circuits_read_as == {"./theirs.json": "lists of [layer, head], as the paper's authors store them"}
    assert [one and one.to_circuit() for one in job.circuits] == [ours]
    (tmp_path / "study.yaml").write_text(manifest.replace("theirs", "ours"))
    same = plan(load(tmp_path / "study.yaml")).job("table1")
    assert "circuits_read_as" not in same.to_dict()
    assert same.id == plan(read).job("table1").id
    (tmp_path / "theirs.json").write_text('{"mine": [[2, 1], [0, 3]]}')
    with pytest.raises(
        TaskError, match=r"table1.circuit: ./theirs.json: .*the position of 'mine' is not known; accepted"
    ):
        plan(read)
    assert import_circuit(tmp_path / "theirs.json", at="last").circuit.group("mine").at == "last"


def refused_files(folder: Path) -> dict[str, tuple[Callable[[], Any], str]]:
    """What is wrong -> a call, and what is told."""
    nan = SCORES.clone()
    nan[1, 2] = float("nan")
    numpy.save(folder / "python2.npy", SCORES.numpy())
    python_2 = (folder / "python2.npy").read_bytes().replace(b"(3, 4), }  ", b"(3L, 4L), }")
    contents: dict[str, tuple[Any, str]] = {
        "nan.npy": (nan, "L1H2 is nan"),
        "one.npy": (SCORES[0], r"shape \[4\]"),
        "none.npy": (SCORES[:0], r"shape \[0, 4\]"),
        "bits.npy": (SCORES > 0, "not an array of numbers"),
        "wide.npy": (torch.zeros(1025, 1025), "not an array of numbers"),
        "one.pt": ([SCORES], "found list"),
        "complex.pt": (SCORES.to(torch.complex64), "accepted: real numbers"),
        "sparse.pt": (SCORES.to_sparse(), r"accepted: scores \[layer, head\]"),
        "some.pt": ({"a": SCORES, "b": 3}, "some.pt: b: found int"),
        "empty.pt": ({}, "it has no tensors"),
        "ragged.csv": ("1,2\n3\n", "rows of unequal length"),
        "words.csv": ("1,2\n3,x\n", "row 2: found 'x'; accepted: a number"),
        "nothing.csv": ("", "rows of unequal length"),
        "missing.csv": ("layer,head,score\n0,0,1\n1,1,2\n", "2 heads; accepted: every head of 2 layers of 2 heads"),
        "twice.csv": ("layer,head,score\n0,0,1\n0,0,2\n", "row 3: L0H0 appears twice"),
        "short.csv": ("layer,head,score\n0,0\n", "row 2: 2 columns; accepted: 3"),
        "names.csv": ("layer,head,score\n0,L0H0,1\n", "row 2: found 'L0H0'"),
        "columns.csv": ("layer,value\n0,1\n", "accepted: layer, head, score"),
        "other.csv": ("layer,index,metric,value\n0,0,mask,1\n", "no row with a patching_score"),
        "runs.csv": ("layer,head,score,group,experiment\n0,0,1,a,x\n0,0,1,a,y\n", "the scores of one experiment"),
        "latin.csv": (b"\xff\xfe,1", "not CSV"),
        "text.npy": ("1,2", "no .npy header"),
        "python2.npy": (python_2, "Save the file again"),
        "text.pt": ("1,2", "not tensors as torch.save writes them"),
        "text.safetensors": ("1,2", "not safetensors"),
        "scores.pkl": ("1,2", r"found \.pkl; accepted: scores"),
        "big.csv": (b"1," * (1 << 23) + b"1", "accepted: at most"),
    }
    found = {}
    for name, (content, told) in contents.items():
        path = folder / name
        if isinstance(content, (str, bytes)):
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        elif path.suffix == ".npy":
            numpy.save(path, content.numpy())
        else:
            torch.save(content, path)
        found[name] = (lambda path=path: import_circuit(path, keep=1, at="last"), told)
    numpy.save(folder / "a.npy", SCORES.numpy())
    numpy.save(folder / "b.npy", SCORES[:2].numpy())
    numpy.save(folder / "my scores.npy", SCORES.numpy())
    two = [folder / "a.npy", folder / "b.npy"]
    return found | {
        "shapes": (lambda: import_circuit(two, keep=1, at="last"), r"different shapes: a \[3, 4\], b \[2, 4\]"),
        "keep": (lambda: import_circuit(two, at="last"), "keep is missing; accepted"),
        "keeps": (lambda: import_circuit([two[0]] * 2, ("a", "b"), "last", (1, 2, 3)), "keep: 3 given for the groups"),
        "zero": (lambda: import_circuit(two[0], at="last", keep=0), "keep: 0 heads"),
        "at": (lambda: import_circuit(two[0], keep=1), "at: missing for the group a"),
        "place": (lambda: import_circuit(two[0], keep=1, at="the end"), "at: found 'the end' for the group a"),
        "group": (lambda: import_circuit(two, "x", "last", 1), "group: 1 given for the groups 'a, b'; accepted: one"),
        "same": (lambda: import_circuit(two, ("x", "x"), "last", 1), "a name appears twice among x, x"),
        "name": (lambda: import_circuit(folder / "my scores.npy", at="last", keep=1), "group: 'my scores'"),
        "nothing": (lambda: import_circuit([]), "files: none"),
        "no file": (lambda: import_circuit(folder / "no.npy", keep=1), "cannot be read"),
        "a circuit with keep": (lambda: import_circuit(folder / "c.json", keep=1), r"found \.json"),
        "no result": (lambda: import_circuit(folder, keep=1), "result.json: cannot be read"),
    }


def test_what_cannot_be_imported_is_told_in_one_message(tmp_path: Path):
    for name, (call, told) in refused_files(tmp_path).items():
        with pytest.raises(NnsightEtError, match=told) as error:
            call()
        assert isinstance(error.value, (ManifestError, TaskError)) or name == "no result"
        assert "accepted: " in str(error.value), name


LISTED = {
    '[["a", 1]]': "not a circuit",
    "{}": "not a circuit",
    '{"a": {"b": []}}': "not a circuit",
    '{"value_fetcher": [[1, 2, 3]]}': r"'value_fetcher'\[0\]: found \[1, 2, 3\]",
    '{"value_fetcher": [[0, 1], [1, -2]]}': r"'value_fetcher'\[1\]: found \[1, -2\]",
    '{"value_fetcher": [[true, 1]]}': "accepted: .layer, head., both from 0",
    '{"value_fetcher": [[1.0, 1]]}': "accepted: .layer, head., both from 0",
    '{"value_fetcher": [[1, 1], [1, 1]]}': "L1H1 appears twice",
    '{"pos_detector": [[1, 1]], "head_at_query_box_token": []}': "two groups have the same name",
    '{"schema": 1, "groups": [{"name": "a\\ud800", "at": "last", "heads": []}]}': r"groups\[0\]: accepted",
}


@pytest.mark.parametrize("text", LISTED)
def test_lists_that_are_no_circuit_are_told(text: str, tmp_path: Path):
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(TaskError, match=LISTED[text]):
        import_circuit(tmp_path / "c.json")
    assert et("circuit", "show", tmp_path / "c.json").exit_code == 2


class Harmful:
    """What an unpickler would call."""

    def __reduce__(self):
        return (Path.touch, (Path("touched"),))


def test_nothing_in_a_torch_file_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    torch.save(Harmful(), "scores.pt")
    numpy.save("scores.npy", numpy.array([Harmful()]), allow_pickle=True)
    for name in ("scores.pt", "scores.npy"):
        found = et("circuit", "import", name, "--at", "last", "--keep", 1)
        assert (found.exit_code, found.stderr.startswith(f"{name}: not ")) == (2, True)
    assert not Path("touched").exists()


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A good file of each format."""
    folder = tmp_path_factory.mktemp("corpora")
    made = {}
    for form, write in WRITERS.items():
        write(SCORES, folder / f"good.{form}")
        made[form] = (folder / f"good.{form}").read_bytes()
    made["ours.json"] = published.circuit("llama").to_json().encode()
    made["theirs.json"] = json.dumps(lists(published.circuit("llama"))).encode()
    return made


SNIPPETS = [
    b"",
    b"0",
    b"-1",
    b"9" * 20,
    b"nan",
    b"\xff",
    b"\0",
    b",",
    b"\n",
    b"[",
    b"]]",
    b'"',
    b"{}",
    b"'<f8'",
    b"'|O'",
]
EDIT = st.tuples(st.floats(0, 1), st.integers(0, 12), st.sampled_from(SNIPPETS) | st.binary(max_size=4))


@pytest.mark.parametrize("form", [*WRITERS, "ours.json", "theirs.json"])
def test_a_mutated_file_gives_a_circuit_or_one_message(
    form: str, corpora: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory
):
    path = tmp_path_factory.mktemp("mutated") / f"some.{form}"

    @settings(max_examples=150, deadline=None, database=None)
    @given(st.lists(EDIT, min_size=1, max_size=4))
    def mutated(edits: list[tuple[float, int, bytes]]) -> None:
        content = corpora[form]
        for at, length, new in edits:
            start = int(at * len(content))
            content = content[:start] + new + content[start + length :]
        path.write_bytes(content)
        options = {} if path.suffix == ".json" else {"at": "last", "group": "a", "keep": 1}
        told = ""
        try:
            circuit = import_circuit(path, **options).circuit
            assert Circuit.from_json(circuit.to_json()) == circuit
        except NnsightEtError as error:
            told = str(error)
        assert "\n" not in told
        assert len(told) < 2000

    mutated()
