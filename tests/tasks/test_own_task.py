"""Tasks of one's own as Python classes: from the class to results, what identifies them, and what is refused."""

from __future__ import annotations

import json
import random
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from nnsight_et.core.batch import Example, collate
from nnsight_et.core.metrics import patching_score
from nnsight_et.manifest import MadeTask, load
from nnsight_et.planning.plan import plan
from nnsight_et.runner.run import run
from nnsight_et.tasks.marked import encoded_pair, marked_pair
from nnsight_et.tasks.own_task import OwnTask
from tests.helpers import plain_hooks
from tests.helpers.closeness import assert_near
from tests.helpers.commands import et, python
from tests.helpers.own_pairs_study import EVERY, lines, results
from tests.helpers.own_task_study import MODULE, module, written
from tests.helpers.tiny_model import PAD, tokenizer

WORDS = tokenizer()


def own(path: Path) -> OwnTask:
    task = plan(load(path)).jobs[0].task
    assert isinstance(task, MadeTask)
    return OwnTask(task)


def as_example(line: str) -> Example:
    pair = json.loads(line)
    return encoded_pair(marked_pair(pair["base"], pair["source"], pair["answer"], "x"), WORDS, "x")


def test_a_class_that_gives_texts_runs_and_agrees_with_plain_hooks(two_models: Path, tmp_path: Path):
    path = written(tmp_path, two_models)
    some = [line for line in EVERY.splitlines() if line.strip().startswith(("table1", "looks"))]
    path.write_text(path.read_text() + "\n".join(some).replace("examples: 5", "examples: 4"))
    every = results(path)
    found = every["found"]
    examples = own(path).examples(WORDS, 5, 3, "discovery")
    shuffled = lines()[::3]
    random.Random("3/discovery").shuffle(shuffled)
    assert examples == [as_example(line) for line in shuffled[:5]]
    batch = collate(examples, PAD)
    senders = [(0, 1), (1, 3), (2, 0)]
    base, patched = plain_hooks.path_patching(AutoModelForCausalLM.from_pretrained(tmp_path / "one"), batch, senders)
    expected = patching_score(patched, base).float()
    assert expected.abs().max() > 0.01
    measured = torch.stack([found.scores["a.score"][sender] for sender in senders]).float()
    assert_near(measured, expected, size=1, dtype=torch.float32)
    recorded = found.header.job.task.to_dict()
    assert recorded["kind"] == "my_pairs:Pairs"
    assert recorded["positions"] == ["object", "label", "asked"]
    assert set(recorded) == {"kind", "options", "positions", "source", "version"}
    assert every["table1"].header.summary["rows"][0]["examples"] == 4
    assert every["looks"].header.summary["columns"][:4] == ["object", "label", "asked", "last"]
    assert et("report", path, "--out", tmp_path / "runs").exit_code == 0
    (page,) = (tmp_path / "runs").rglob("report.html")
    assert "Task: my_pairs:Pairs." in page.read_text()


def test_texts_may_have_further_answers_and_token_ids_are_taken_as_they_are(two_models: Path, tmp_path: Path):
    texts = 'pair = dict(self.pairs[0], also_right=["car", "paper"], foils=["letter"])'
    path = written(tmp_path, two_models, MODULE.replace("mine = ", f"{texts}\n        return [pair]\n        mine = "))
    (one,) = own(path).examples(WORDS, 1, 0, "discovery")
    assert WORDS.convert_ids_to_tokens([one.answer, *one.also_right]) == ["book", "car", "paper"]
    assert WORDS.convert_ids_to_tokens(list(one.foils)) == ["letter"]
    (tmp_path / "my_pairs.py").write_text(
        module(
            "from nnsight_et.core.batch import Example, Prompt\n"
            'prompt = Prompt((0, 5, 9, 7), {"object": 2, "last": 3})\n'
            "return [Example(prompt, prompt, 8, foils=(3, 4))] * count"
        )
    )
    path.write_text(path.read_text().replace(", options: {file: pairs.jsonl}", "").replace("asked", "object"))
    given = own(path).examples(WORDS, 2, 0, "pruning")
    assert [one.foils for one in given] == [(3, 4), (3, 4)]
    assert own(path).prompts(WORDS, 1, 0, "ablation") == [given[0].source]


def ids(path: Path, *settings: str) -> dict[str, str]:
    return {job.name: job.id for job in plan(load(path, settings)).jobs}


def test_what_is_computed_is_the_class_its_options_and_its_file(two_models: Path, tmp_path: Path):
    path = written(tmp_path, two_models)
    before = ids(path)
    assert ids(path) == before
    assert ids(path, "task.options.shuffled=true")["found"] != before["found"]
    (tmp_path / "elsewhere").mkdir()
    moved = written(tmp_path / "elsewhere", two_models)
    moved.write_text(path.read_text())
    assert ids(moved) == before  # the same text in another folder
    file = tmp_path / "my_pairs.py"
    file.write_text(MODULE.replace("class Pairs", "class Other(object):\n    pass\n\n\nclass Pairs"))
    assert ids(path) != before
    file.write_text(MODULE.replace("positions =", "version = 2\n    positions ="))
    assert ids(path) != before
    file.write_text(MODULE)
    assert ids(path) == before
    assert not (tmp_path / "__pycache__").exists()
    first, second = ("positions = ('a',)", "positions = ('b',)")  # as long, and written in the same second
    path.write_text("name: x\ntask: {kind: 'short:T'}\nexperiments: {a: {method: attribution, model: llama-tiny}}\n")
    for text in (first, second):
        (tmp_path / "short.py").write_text(f"class T:\n    {text}\n    def examples(self, *_): ...\n")
        assert load(path).positions[0] == text[-4]


def test_a_changed_task_is_run_again_and_an_unchanged_one_is_not(two_models: Path, tmp_path: Path):
    path = written(tmp_path, two_models)
    path.write_text(path.read_text().rpartition("      - ")[0].replace("held_out_examples: 4", "held_out_examples: 0"))
    before = results(path)["found"]
    assert [step.reused for step in run(plan(load(path)), tmp_path / "runs")] == [1]  # the result itself
    (tmp_path / "my_pairs.py").write_text(MODULE.replace("[PARTS[split] :: 3]", "[2 - PARTS[split] :: 3]"))
    after = results(path)["found"]
    assert after.header.job_id != before.header.job_id
    assert not torch.equal(after.scores["a.score"], before.scores["a.score"])


def test_modules_of_one_name_in_two_folders_are_not_taken_for_each_other(tmp_path: Path):
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "my_pairs.py").write_text(module(positions=f"('{name}',)"))
        (tmp_path / name / "own.yaml").write_text(
            "name: x\ntask: {kind: 'my_pairs:Pairs'}\nexperiments: {a: {method: attribution, model: llama-tiny}}\n"
        )
    names = ("first", "second", "first")
    assert [load(tmp_path / name / "own.yaml").positions for name in names] == [(name, "last") for name in names]


def test_a_module_may_import_its_neighbours_also_while_it_makes_examples(two_models: Path, tmp_path: Path):
    body = MODULE.replace("mine = self", "from neighbour import PARTS\n\n        mine = self").replace(
        "PARTS = {", "OLD = {"
    )
    (tmp_path / "neighbour.py").write_text('PARTS = {"discovery": 0, "pruning": 0, "evaluation": 1, "ablation": 2}')
    path = written(tmp_path, two_models, body)
    assert len(own(path).examples(WORDS, 3, 0, "evaluation")) == 3


def test_validating_and_planning_import_the_module_and_no_torch(two_models: Path, tmp_path: Path):
    path = written(tmp_path, two_models)
    code = "import sys; from pathlib import Path; from nnsight_et_cli import app\n"
    code += "from nnsight_et.manifest import load; from nnsight_et.planning.plan import plan\n"
    code += f"plan(load(Path({str(path)!r})))\n"
    code += f"try: app(['validate', {str(path)!r}])\nexcept SystemExit as end: print(end.code)\n"
    code += "print(sorted({'torch', 'nnsight', 'transformers'} & set(sys.modules)), 'my_pairs' in sys.modules)\n"
    code += f"print({str(tmp_path)!r} in sys.path)"
    assert python(code, tmp_path).splitlines()[-3:] == ["0", "[] True", "False"]
