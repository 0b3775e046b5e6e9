"""A manifest's task of own pairs: from the file to results, what is refused, and where it is told to be wrong."""

from __future__ import annotations

import json
from hashlib import blake2b
from importlib import import_module
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from nnsight_et.core.batch import collate
from nnsight_et.core.errors import ExperimentError, TaskError
from nnsight_et.core.metrics import patching_score
from nnsight_et.manifest import PairsFile, load
from nnsight_et.manifest.written import Measured
from nnsight_et.measuring.own_pairs import splits
from nnsight_et.measuring.steps import data_digest
from nnsight_et.planning.plan import plan
from nnsight_et.results.headers import folder_of
from nnsight_et.results.store import Result
from nnsight_et.runner.run import run
from nnsight_et.tasks.own_pairs import OwnPairs
from tests.helpers import plain_hooks
from tests.helpers.closeness import assert_near
from tests.helpers.commands import et
from tests.helpers.own_pairs_study import EVERY, MANIFEST, lines, pair, results, written
from tests.helpers.tiny_model import PAD, tokenizer


@pytest.fixture(scope="module")
def every(two_models: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Result]]:
    """Every method that can be run on pairs, and what it finds."""
    path = written(tmp_path_factory.mktemp("every"), two_models, MANIFEST + EVERY)
    return path, results(path)


def drawn(path: Path, split: str, count: int):
    task = plan(load(path)).jobs[0].task
    assert isinstance(task, PairsFile)
    return OwnPairs.of(task.text, task.name, task.positions).examples(tokenizer(), count, 3, split)


def test_path_patching_agrees_with_plain_hooks(every: tuple[Path, dict[str, Result]]):
    path, found = every[0], every[1]["found"]
    module = AutoModelForCausalLM.from_pretrained(path.parent / "one")
    senders = [(layer, head) for layer in range(3) for head in range(4)]
    batch = collate(drawn(path, "discovery", 6), PAD)
    assert len({len(one.base.tokens) for one in drawn(path, "discovery", 6)}) > 1  # prompts of unequal length
    base, patched = plain_hooks.path_patching(module, batch, senders)
    expected = patching_score(patched, base).unflatten(0, (3, 4))
    assert expected.abs().max() > 0.01
    assert_near(found.scores["a.score"], expected, size=1, dtype=torch.float32)
    receivers = [(int(head[1]), int(head[3])) for head in found.header.summary["stages"][1]["receivers"]]
    below = [sender for sender in senders if sender[0] < max(layer for layer, _ in receivers)]
    base, patched = plain_hooks.path_patching(module, batch, below, receivers, "value", "asked")
    values = found.scores["b.score"].float()
    for sender, score in zip(below, patching_score(patched, base), strict=True):
        assert_near(values[sender], score, size=1, dtype=torch.float32)


def test_every_method_that_needs_no_desiderata_runs(every: tuple[Path, dict[str, Result]]):
    path, found = every
    assert set(found) == set(load(path).experiments)
    assert found["looks"].header.summary["columns"] == ["object", "label", "asked", "last", "first token", "other"]
    assert [row["to"] for row in found["blind"].header.summary["rows"]] == ["object", "label"]
    page = (folder_of(path.parent / "runs", plan(load(path))) / "result").parent
    assert et("report", path, "--out", path.parent / "runs").exit_code == 0
    assert "own pairs at object, label, asked, last" in (page / "report.html").read_text()


GIVEN = """\
from pathlib import Path
from nnsight_et.tasks.own_pairs import OwnPairs

class Given:
    positions = ("object", "label", "asked")
    def examples(self, tokenizer, count, seed, split):
        text = (Path(__file__).parent / "pairs.jsonl").read_text()
        return OwnPairs.of(text, "pairs.jsonl", self.positions).examples(tokenizer, count, seed, split)
"""


def test_the_same_pairs_from_a_class_are_ablated_alike(
    every: tuple[Path, dict[str, Result]], two_models: Path, tmp_path: Path
):
    """What heads output on average is taken from source prompts in both."""
    circuit = every[1]["found"].header.summary["circuit"]
    text = MANIFEST.partition("  found:")[0] + EVERY.partition("\n")[0].replace("found", "./circuit.json") + "\n"
    path = written(tmp_path, two_models, text)
    (tmp_path / "circuit.json").write_text(json.dumps(circuit))
    (tmp_path / "given.py").write_text(GIVEN)
    of_file = results(path)["table1"]
    of_class = results(path, "task={kind: 'given:Given'}")["table1"]
    assert of_file.header.job_id != of_class.header.job_id
    assert of_file.scores.keys() == of_class.scores.keys()
    assert all(torch.equal(values, of_class.scores[name]) for name, values in of_file.scores.items())
    cells = {read.read_bytes() for read in (tmp_path / "runs" / "store").rglob("*.safetensors")}
    assert len(cells) == len(list((tmp_path / "runs" / "store").rglob("*.safetensors")))  # all shared


def test_splits_of_the_file_are_apart_and_each_has_its_third():
    made = OwnPairs.of("\n".join([*lines(), *lines(8, answer="apple")]), "pairs.jsonl", ("object", "label", "asked"))
    parts = {}
    for split in ("discovery", "evaluation", "ablation"):
        parts[split] = made.examples(tokenizer(), made.available(3, split), 3, split)
        assert parts[split][:3] == made.examples(tokenizer(), 3, 3, split)
    bases = {split: {one.base.tokens for one in part} for split, part in parts.items()}
    assert sorted(map(len, bases.values())) == [5, 5, 6]  # of 16 different base prompts, 8 of them twice
    assert sum(map(len, parts.values())) == 24
    assert len(set.union(*bases.values())) == 16
    assert made.prompts(tokenizer(), 4, 3, "ablation") == [one.source for one in parts["ablation"][:4]]
    assert made.available(3, "pruning") == made.available(3, "discovery")
    assert made.examples(tokenizer(), 5, 4, "discovery") != parts["discovery"][:5]  # another seed, other pairs
    with pytest.raises(TaskError, match="split ablation: 99 pairs, but there are"):
        made.prompts(tokenizer(), 99, 3, "ablation")


def test_the_keys_that_take_pairs_are_told_with_the_splits_the_jobs_take(every: tuple[Path, dict[str, Result]]):
    for job in plan(load(every[0])).jobs:
        if job.spec.method == "comparison":
            continue
        found = dict(splits(job))
        assert found["examples"] == import_module(f"nnsight_et.methods.{job.spec.method}.experiment").SPLIT
        assert ("ablation_examples" in found) == isinstance(job.spec, Measured)
        assert set(found) == {key for key in type(job.spec).model_fields if key.endswith("examples")}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("experiments.found.examples=7", "experiments.found.examples: 7 pairs, but 6 of the 16 in pairs.jsonl are"),
        ("experiments.found.held_out_examples=6", "experiments.found.held_out_examples: 6 pairs, but 5 of the 16 in"),
        ("experiments.table1.ablation_examples=6", "experiments.table1.ablation_examples: 6 pairs, but 5 of the 16 in"),
        ("experiments.minimal.examples=7", "experiments.minimal.examples: 7 pairs, but 6 of the 16 in"),
    ],
)  # fmt: skip
def test_more_pairs_than_there_are_is_told_before_any_work(every, setting: str, message: str):
    with pytest.raises(TaskError) as error:
        next(run(plan(load(every[0], [setting])), every[0].parent / "other"))
    assert str(error.value).startswith(message)
    assert "accepted: 1 to " in str(error.value)
    for command in ("validate", "plan"):
        told = et(command, every[0], "--set", setting)
        assert told.exit_code == 2
        assert told.stderr.startswith(message)


def test_edges_are_tested_on_pairs_behind_those_of_the_search(two_models: Path, tmp_path: Path):
    start = MANIFEST.partition("experiments:")[0]
    graph = "experiments:\n  graph: {method: discovery, model: one, examples: 3, held_out_examples: 4}\n"
    told = et("validate", written(tmp_path, two_models, start + graph))
    assert told.exit_code == 2
    assert told.stderr.startswith("experiments.graph.held_out_examples: 4 pairs beside the 3 of examples")
    assert "accepted: 1 to 3, or" in told.stderr


def test_validate_reads_the_pairs(two_models: Path, tmp_path: Path):
    path = written(tmp_path, two_models, pairs="\n".join([*lines(), json.dumps({"clean": "a", "source": "b"})]))
    told = et("validate", path)
    assert told.exit_code == 2
    assert told.stderr.startswith("pairs.jsonl:17: ")


def test_only_correct_keeps_what_the_model_answers_and_ends_with_the_file(two_models: Path, tmp_path: Path):
    path = written(tmp_path, two_models)
    module = AutoModelForCausalLM.from_pretrained(two_models / "one")
    pairs = [pair(index) for index in range(16)]
    for one in pairs[:12]:  # most answers are what the model says, where that is a word
        only = OwnPairs.of(json.dumps(one), "x", ("object", "label", "asked"))
        base = only.examples(tokenizer(), 1, 0, "discovery")[0]
        said = tokenizer().convert_ids_to_tokens([says(module, base)])[0]
        one["answer"] = said if said and said.isalpha() else "book"
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    settings = ["experiments.found.only_correct=true", "experiments.found.held_out_examples=0"]
    right = [one for one in drawn(path, "discovery", 6) if says(module, one) == one.answer]
    assert 1 < len(right) < 6
    with pytest.raises(
        ExperimentError, match=rf"only_correct: one answers {len(right)} of 6 prompts correctly; accepted: fewer"
    ):
        results(path, *settings)
    found = results(path, *settings, f"experiments.found.examples={len(right) - 1}")["found"]
    assert found.header.data_digest == data_digest(right[:-1])


def test_foils_of_the_file_are_compared_with_and_all_right_tokens_count(two_models: Path, tmp_path: Path):
    """The model's own answers are made right as well, for every second pair."""
    module, pairs = AutoModelForCausalLM.from_pretrained(two_models / "one"), [pair(index) for index in range(16)]
    for index, one in enumerate(pairs):
        only = OwnPairs.of(json.dumps(one), "x", ("object", "label", "asked")).examples(tokenizer(), 1, 0, "discovery")
        said = tokenizer().convert_ids_to_tokens([says(module, only[0])])[0]
        one |= {"foil": ["magnet", "bell"][: 1 + index % 2]}
        if index % 2 and said.isalpha() and said not in (one["answer"], "magnet", "bell"):
            one |= {"also_right": [said, "watch"] if said != "watch" else said}
    text = (
        MANIFEST.replace("examples: 6", "examples: 6\n    metric: logit_difference", 1) + EVERY.splitlines()[0] + "\n"
    )
    path = written(tmp_path, two_models, text, pairs="\n".join(map(json.dumps, pairs)))
    found = results(path)
    some = drawn(path, "discovery", 6)
    assert {len(one.foils) for one in some} == {1, 2}
    score, senders = torch.zeros(12, dtype=torch.float64), [(layer, head) for layer in range(3) for head in range(4)]
    for one in some:
        alone = collate([one], PAD)
        z = plain_hooks.head_outputs(module, alone.base), plain_hooks.head_outputs(module, alone.source)
        logits = plain_hooks.patched_logits(module, alone, z, senders, ((), None, "last"))[:, -1].double()
        base = plain_hooks.run_model(module, alone.base.tokens, alone.base.mask)[0, -1].double()
        foils = list(one.foils)
        score += (logits[:, one.answer] - logits[:, foils].mean(-1)) - (base[one.answer] - base[foils].mean())
    assert_near(found["found"].scores["a.score"].flatten(), score / 6, size=1, dtype=torch.float32)
    tested, table = drawn(path, "evaluation", 5), found["table1"]
    answered = [says(module, one) in (one.answer, *one.also_right) for one in tested]
    assert sum(answered) > sum(says(module, one) == one.answer for one in tested)
    assert table.header.summary["rows"][0]["full"] == sum(answered) / 5
    assert table.scores["one.also_right"].shape == (5, 2)


def says(module, example) -> int:
    return int(module(torch.tensor([example.base.tokens])).logits[0, -1].argmax())


def test_a_job_is_named_by_what_the_file_says_not_by_what_it_is_called(two_models: Path, tmp_path: Path):
    path = written(tmp_path, two_models, MANIFEST.rpartition("      - ")[0])  # one stage
    before = results(path)["found"]
    (tmp_path / "pairs.jsonl").rename(tmp_path / "others.jsonl")
    renamed = load(path, ["task.file=others.jsonl"])
    assert plan(renamed).job("found").id == before.header.job_id
    assert [step.reused for step in run(plan(renamed), tmp_path / "runs")] == [1]  # the result itself
    assert before.header.job.task.to_dict() == {
        "kind": "pairs", "positions": ["object", "label", "asked"], "version": 2,
        "pairs": blake2b((tmp_path / "others.jsonl").read_bytes(), digest_size=10).hexdigest(),
    }  # fmt: skip
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines(answer="apple")))
    after = results(path)["found"]
    assert after.header.job_id != before.header.job_id
    assert not torch.equal(after.scores["a.score"], before.scores["a.score"])


def test_jobs_run_on_the_pairs_they_were_planned_for(two_models: Path, tmp_path: Path):
    path = written(tmp_path, two_models)
    job = plan(load(path)).jobs[0]
    (tmp_path / "pairs.jsonl").write_text("")
    assert isinstance(job.task, PairsFile)
    assert len(OwnPairs.of(job.task.text, "pairs.jsonl", job.task.positions).pairs) == 16


def test_a_source_may_be_the_base_of_another_pair_in_whatever_part(two_models: Path, tmp_path: Path):
    pairs = [pair(index) for index in range(12)]
    turned = [one | {"source": other["base"]} for one, other in zip(pairs, [*pairs[1:], pairs[0]], strict=True)]
    one_stage = MANIFEST.partition("      - {group: b")[0].replace("examples: 6", "examples: 4")
    text = one_stage + EVERY.splitlines()[0].replace("examples: 5", "examples: 4")
    found = results(written(tmp_path, two_models, text, "\n".join(map(json.dumps, turned))))
    assert all(check.passed for check in found["table1"].header.self_check.checks)
