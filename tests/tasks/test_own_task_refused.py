"""Tasks of one's own that cannot be imported, made or used: one message, with the manifest's or the user's line."""

from __future__ import annotations

from pathlib import Path

import pytest

from nnsight_et.core.errors import ManifestError, TaskError
from nnsight_et.manifest import load
from nnsight_et.planning.plan import plan
from nnsight_et.runner.run import run
from nnsight_et.tasks.own_task import OwnTask
from tests.helpers.commands import et
from tests.helpers.own_pairs_study import MANIFEST, TASK
from tests.helpers.own_task_study import MODULE, module, written
from tests.helpers.tiny_model import tokenizer

WORDS = tokenizer()
PAIR = '{"base": "The {{object|book}} is", "source": "The {{object|car}} is", "answer": "in"}'
RAISES = "    @property\n    def version(self):\n        return {}[1]\n"
PROMPT = """\
from dataclasses import replace
from nnsight_et.core.batch import Example, Prompt
prompt = Prompt((0, 5, 9, 7), {"object": 2, "last": 3})
"""


def told(tmp_path: Path, text: str, task: str) -> str:
    """What et validate says of a manifest with this task, beside a module of this text; in one line."""
    (tmp_path / "broken.py").write_text(text)
    path = tmp_path / "own.yaml"
    path.write_text(MANIFEST.replace(TASK, f"task: {task}"))
    shown = et("validate", path)
    assert shown.exit_code == 2, shown.output
    return " ".join(shown.stderr.split())


@pytest.mark.parametrize(
    ("text", "task", "place", "message"),
    [
        ("", "{kind: 'missing_one:Pairs'}", "kind", "no module 'missing_one'; accepted: a module in the"),
        ("", "{kind: 'broken.inner:Pairs'}", "kind", "no module 'broken.inner'; accepted"),
        ("class Pears: pass", "{kind: 'broken:Pairs'}", "kind", "no class 'Pairs' in broken; did you mean 'Pears'? ac"),
        ("Pairs = 3", "{kind: 'broken:Pairs'}", "kind", "no class 'Pairs' in broken; accepted: none"),
        ("import nothing_here", "{kind: 'broken:Pairs'}", "kind", "No module named 'nothing_here' (broken.py:1)"),
        ("\n\n1 / 0", "{kind: 'broken:Pairs'}", "kind", "importing broken: ZeroDivisionError: division by zero (broke"),
        ("x = 1\nclass :", "{kind: 'broken:Pairs'}", "kind", "importing broken: SyntaxError: invalid syntax (broken.p"),
        (MODULE, "{kind: 'broken:Pairs', options: {fil: a}}", "options", "Pairs(fil='a'): TypeError: Pairs.__init__()"),
        (MODULE, "{kind: 'broken:Pairs'}", "kind", "Pairs(): TypeError: Pairs.__init__() missing 1 required positiona"),
        (MODULE, "{kind: 'broken:Pairs', options: {file: nowhere}}", "options", "nowhere' (broken.py:14)"),
        (module(positions="['object', 'last']"), "{kind: 'broken:Pairs'}", "kind", "Pairs.positions: found 'last'; ac"),
        (module(positions="('a', 'a')"), "{kind: 'broken:Pairs'}", "kind", "Pairs.positions: found 'a'; accepted: a t"),
        (module(positions="'object'"), "{kind: 'broken:Pairs'}", "kind", "Pairs.positions: found 'object'; accepted:"),
        (module(positions="('2a',)"), "{kind: 'broken:Pairs'}", "kind", "Pairs.positions: found '2a'; accepted: a tup"),
        ("class Pairs: positions = ()", "{kind: 'broken:Pairs'}", "kind", "Pairs has no method examples; accepted: ex"),
        (module(more="    version = 1.5"), "{kind: 'broken:Pairs'}", "kind", "Pairs.version is 1.5; accepted: text or"),
        ("raise SystemExit(3)", "{kind: 'broken:Pairs'}", "kind", "importing broken: SystemExit: 3 (broken.py:1)"),
        (module(more=RAISES), "{kind: 'broken:Pairs'}", "kind", "Pairs(): KeyError: 1 (broken.py:8)"),
        (module(), "{kind: 'broken:Pairs', optoins: 1}", "optoins", "no key 'optoins' here; did you mean 'options'?"),
        (module(), "{kind: 'broken Pairs:x'}", "kind", "accepted: a module and a class in it, such as my_package.modu"),
        (module(), "{kind: 'broken:Pairs'}", None, "experiments.found.stages.1.at: no position 'asked'; accepted: obj"),
    ],
)  # fmt: skip
def test_a_class_that_cannot_be_made_is_told_by_the_manifests_line(
    text: str, task: str, place: str | None, message: str, tmp_path: Path
):
    found = told(tmp_path, text, task)
    assert message in found, found
    with pytest.raises(ManifestError):
        plan(load(tmp_path / "own.yaml"))
    assert found.startswith(f"own.yaml:3: task.{place}: " if place else "own.yaml:14: experiments"), found


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return {}[split]", "examples of discovery: KeyError: 'discovery' (my_pairs.py:8)"),
        (f"yield {PAIR}\nraise ValueError('no more')", "examples of discovery: ValueError: no more (my_pairs.py:9)"),
        (f"return [{PAIR}] * 2", "examples of discovery: found 2; accepted: 3, as requested"),
        (f"return [{PAIR}] * 2 + ['text']", "example 3: found str; accepted: an Example, or base, source, answer as t"),
        (f"return [{PAIR}] * 2 + [dict({PAIR}, ansver='in')]", "example 3: no key 'ansver' here; did you mean 'answer"),
        (f"return [{PAIR}] * 2 + [dict({PAIR}, answer=3)]", "example 3: answer: found 3; accepted: a text"),
        (f"return [dict({PAIR}, answer='a b')] * 3", "example 1: answer: 'a b' is not one token"),
        (f"return [dict({PAIR}, base='The {{{{object|book')] * 3", "example 1: base, character 5: '{{' is not closed"),
        (f"return [dict({PAIR}, base='The book is')] * 3", "example 1: position 'object' is marked only in the source"),
        (f"return [dict({PAIR}, base='A is', source='B is')] * 3", "base: positions last; accepted: object, last"),
        (f"return [dict({PAIR}, foils='in')] * 3", "example 1: foils: found 'in'; accepted: a list of texts"),
        (f"return [dict({PAIR}, foils=['in'])] * 3", "example 1: foils: a token that appears twice or counts"),
        (f"return [dict({PAIR}, also_right=['in'])] * 3", "also_right: a token that appears twice or counts"),
        (f"return [dict({PAIR}, foils=['zebra'])] * 3", "example 1: foils: answer: 'zebra' is not one token"),
        (f"{PROMPT}return [Example(prompt, None, 4)] * 3", "example 1: source: found NoneType; accepted: a Prompt of"),
        (f"{PROMPT}return [Example(prompt, prompt, 400)] * 3", "example 1: answer: found 400; accepted: token ids, wh"),
        (f"{PROMPT}return [Example(prompt, prompt, True)] * 3", "example 1: answer: found True; accepted: token ids"),
        (f"{PROMPT}return [Example(prompt, prompt, 4, foils=[3])] * 3", "foils: found [3]; accepted: a tuple of token"),
        (f"{PROMPT}prompt.positions['last'] = 1\nreturn [Example(prompt, prompt, 4)] * 3", "base: 'last' is 1; accept"),
        (f"{PROMPT}prompt.positions['object'] = 3\nreturn [Example(prompt, prompt, 4)] * 3", "'object' and 'last' are"),
        (f"{PROMPT}prompt.positions['object'] = 4\nreturn [Example(prompt, prompt, 4)] * 3", "'object' is 4; accepted"),
        (f"{PROMPT}prompt.positions['x'] = 1\nreturn [Example(prompt, prompt, 4)] * 3", "positions object, last, x; a"),
        (f"{PROMPT}p = replace(prompt, tokens=(0, 5, 9, 999))\nreturn [Example(p, p, 4)] * 3", "found 999; accepted"),
        (f"{PROMPT}p = replace(prompt, tokens=[0, 5, 9, 7])\nreturn [Example(p, p, 4)] * 3", "tokens: found [0, 5, 9,"),
    ],
)  # fmt: skip
def test_what_a_task_gives_is_told_by_experiment_and_example(body: str, message: str, tmp_path: Path):
    (tmp_path / "my_pairs.py").write_text(module(body))
    text = "name: x\ntask: {kind: 'my_pairs:Pairs'}\nexperiments: {a: {method: attribution, model: llama-tiny}}\n"
    (tmp_path / "own.yaml").write_text(text)
    task = OwnTask(plan(load(tmp_path / "own.yaml")).jobs[0].task)  # type: ignore[arg-type]
    with pytest.raises(TaskError) as error:
        task.examples(WORDS, 3, 0, "discovery")
    assert str(error.value).startswith("task my_pairs:Pairs: examples of discovery: ")
    assert message in str(error.value), error.value


def test_positions_in_another_order_are_told(tmp_path: Path):
    pair = '{"base": "{{b|The}} {{a|book}} is", "source": "{{b|The}} {{a|car}} is", "answer": "in"}'
    (tmp_path / "my_pairs.py").write_text(module(f"return [{pair}]", positions='("a", "b")'))
    text = "name: x\ntask: {kind: 'my_pairs:Pairs'}\nexperiments: {a: {method: attribution, model: llama-tiny}}\n"
    (tmp_path / "own.yaml").write_text(text)
    task = OwnTask(plan(load(tmp_path / "own.yaml")).jobs[0].task)  # type: ignore[arg-type]
    with pytest.raises(TaskError, match="example 1: base: positions in the order b, a, last; accepted: a, b, last"):
        task.examples(WORDS, 1, 0, "discovery")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("mine[:count]", "mine[: min(count, 4)]"), "experiments.found: task my_pairs:Pairs: examples of discovery: f"),
        (("return mine[:count]", "return mine[:count - 1] + [mine[-1] | {'answer': 'a b'}]"),
         "experiments.found: task my_pairs:Pairs: examples of discovery: example 1: answer: 'a b' is not one token"),
        (("random.Random(f\"{seed}/{split}\").shuffle(mine)", "random.shuffle(mine)"),
         "experiments.found.examples: a second call gave other examples of discovery; accepted: the same"),
        (("[PARTS[split] :: 3]", "[:]"), "experiments.found.held_out_examples: example "),
        (("    def examples", "    def available(self, seed, split):\n        return 4\n\n    def examples"),
         "experiments.found.examples: 5 examples, but the task has 4 of discovery; accepted: 1 to 4"),
        (("    def examples", "    def available(self, seed, split):\n        return '4'\n\n    def examples"),
         "task my_pairs:Pairs: available of discovery: found '4'; accepted: a whole number from 0"),
    ],
)  # fmt: skip
def test_a_task_that_an_experiment_cannot_use_is_told_before_any_work(
    change: tuple[str, str], message: str, two_models: Path, tmp_path: Path
):
    assert change[0] in MODULE
    path = written(tmp_path, two_models, MODULE.replace(*change))
    with pytest.raises(TaskError) as error:
        next(run(plan(load(path)), tmp_path / "runs"))
    assert message in str(error.value)
    assert str(error.value).startswith(message) or "available" in message
    assert not list((tmp_path / "runs").rglob("*.safetensors"))


def test_a_base_prompt_that_selects_and_measures_is_told_with_both_places(two_models: Path, tmp_path: Path):
    path = written(tmp_path, two_models, MODULE.replace("[PARTS[split] :: 3]", "[:]"))
    shown = et("run", path, "--set", "task.options.shuffled=false", "--out", tmp_path / "runs")
    assert shown.exit_code == 2
    found = " ".join(shown.stderr.split())
    place = (
        "experiments.found.held_out_examples: example 1 of evaluation has the base prompt of experiments.found.examples"
    )
    assert f"{place}: example 1 of discovery; accepted: different prompts to select with and to measure on" in found


@pytest.mark.parametrize(
    ("experiment", "message"),
    [
        ("{method: dcm, circuit: found}", "dcm needs a task with desiderata, such as boxes or ioi; accepted for my_"),
        ("{method: knockout, model: one}", "edges: missing; the default (App. A) is for the boxes task; accepted"),
        ("{method: knockout, model: one, edges: [{blind: last, to: random}]}", "edges.0.to: random means a token"),
        ("{method: cmap, donor: one, recipient: two, circuit: published/goat}", "published/goat is for the boxes"),
    ],
)  # fmt: skip
def test_what_only_the_boxes_task_has_is_refused(experiment: str, message: str, two_models: Path, tmp_path: Path):
    path = written(tmp_path, two_models)
    path.write_text(path.read_text() + f"  more: {experiment}\n")
    shown = et("validate", path)
    assert shown.exit_code == 2
    assert message in " ".join(shown.stderr.split())
