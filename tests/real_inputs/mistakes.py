"""Small mistakes in Python: each is an error of the package that says what is accepted, or means what it seems to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, pipeline

from .case import APPLES, Given, case
from .plain import EMBEDDED, base_model, base_tokenizer, probabilities

AREA = "mistakes in Python"
ENTRIES = [line.entry for line in APPLES]
TUPLE = (APPLES[0].base, APPLES[0].source, "apple")


def mistake(name: str, call: Callable[[Any, Any], Any], reason: str, meant: bool = False) -> None:
    """A case: `call` is given nnsight_et and the embedded model, or None where it loads one.

    With `meant` it may as well be done as it is meant.
    """

    @case(AREA, name)
    def make(folder: Path) -> Given:
        def load() -> Any:
            import nnsight_et as et

            return et.load("llama-tiny")

        def run(model: Any) -> Any:
            import nnsight_et as et

            return call(et, model)

        expected = probabilities(base_model(), base_tokenizer()) if meant else ()
        return Given({}, expected, reason=reason, load=load, call=run, commands=False)


def pairs(et: Any) -> Any:
    """The two pairs of the cases."""
    return et.Pairs.of(ENTRIES)


def patch(et: Any, model: Any, **how: Any) -> Any:
    """Path patching of them."""
    return et.path_patch(model, pairs(et), **how)


def group(et: Any, *heads: Any, at: str = "last") -> Any:
    """A circuit of one group."""
    return et.circuit_of(et.HeadGroup("a", at, heads))


mistake("into: a list of lists [[4, 0]]", lambda et, m: patch(et, m, into=[[4, 0]], via="query"), "into|head", True)
mistake("into: a list of tuples [(4, 0)]", lambda et, m: patch(et, m, into=[(4, 0)], via="query"), "into|head", True)
mistake("into: one head, not in a list", lambda et, m: patch(et, m, into=et.Head(4, 0), via="query"), "into|head", True)
mistake("into: a number", lambda et, m: patch(et, m, into=4, via="query"), "into")
mistake("into: a head below layer 0", lambda et, m: patch(et, m, into=[et.Head(-1, 0)], via="query"), "into|layer|L-1")
mistake("into: None", lambda et, m: patch(et, m, into=None), "into", True)
mistake("via: 'q'", lambda et, m: patch(et, m, into=["L4H0"], via="q"), "via")
mistake("at: -1", lambda et, m: patch(et, m, at=-1), "at")
mistake("at: a list of positions", lambda et, m: patch(et, m, at=["last"]), "at", True)
mistake("at: a position that is not marked", lambda et, m: patch(et, m, at="label"), "label")
mistake("keep: 0", lambda et, m: patch(et, m, keep=0), "keep")
mistake("keep: -1", lambda et, m: patch(et, m, keep=-1), "keep")
mistake("keep: 2.5", lambda et, m: patch(et, m, keep=2.5), "keep")
mistake("pairs: a list of dictionaries", lambda et, m: et.path_patch(m, ENTRIES), "[Pp]airs", True)
mistake("pairs: the file's name", lambda et, m: et.path_patch(m, "pairs.jsonl"), "[Pp]airs")
mistake("model: its name", lambda et, m: et.path_patch("llama-tiny", pairs(et)), "model|load")
mistake("model and pairs exchanged", lambda et, m: et.path_patch(pairs(et), m), "model|pairs")
mistake("Pairs.of: a tuple of four", lambda et, m: et.Pairs.of([(*TUPLE, "hat")]), r"pairs\[0\]")
mistake("Pairs.of: a tuple of two", lambda et, m: et.Pairs.of([TUPLE[:2]]), r"pairs\[0\]")
mistake("Pairs.of: one pair, not in a list", lambda et, m: et.Pairs.of(TUPLE), r"pairs")
mistake("Pairs.of: one dictionary, not in a list", lambda et, m: et.Pairs.of(ENTRIES[0]), "pairs")
mistake("Pairs.of: a text", lambda et, m: et.Pairs.of("pairs.jsonl"), "pairs")
mistake("Pairs.of: an empty list", lambda et, m: et.Pairs.of([]), "pairs")
mistake("Pairs.of: numbers", lambda et, m: et.Pairs.of([1, 2]), r"pairs")
mistake("Pairs.of: None among them", lambda et, m: et.Pairs.of([*ENTRIES, None]), r"pairs\[2\]")
mistake("Pairs.of: a key too many", lambda et, m: et.Pairs.of([{**ENTRIES[0], "id": 3}]), "id")
mistake("Pairs.of: an answer that is None", lambda et, m: et.Pairs.of([{**ENTRIES[0], "answer": None}]), "answer")
mistake("Pairs.read: a file that is not there", lambda et, m: et.Pairs.read("nowhere.jsonl"), "nowhere")
mistake("Pairs.read: a folder", lambda et, m: et.Pairs.read(EMBEDDED), "embedded|file")
mistake("Pairs.boxes(0)", lambda et, m: et.Pairs.boxes(0), "0|pairs|count")
mistake("Pairs.boxes(-2)", lambda et, m: et.Pairs.boxes(-2), "-2|pairs|count")
mistake("Pairs.boxes(5, boxes=1)", lambda et, m: et.Pairs.boxes(5, boxes=1), "box")
mistake("Pairs.boxes(5, boxes=40)", lambda et, m: et.Pairs.boxes(5, boxes=40), "box")
mistake("Pairs.boxes(5, split='train')", lambda et, m: et.Pairs.boxes(5, split="train"), "split|train")
mistake("Pairs.desideratum of an unknown name", lambda et, m: et.Pairs.desideratum("colour", 3), "colour")
mistake("pairs[0], an index where a slice belongs", lambda et, m: pairs(et)[0], "slice|pairs", True)
mistake("pairs[5:], a slice with none in it", lambda et, m: pairs(et)[5:], "none|pairs")
mistake("scored_by an unknown metric", lambda et, m: pairs(et).scored_by("logit_diff"), "logit_diff")
mistake("scored_by logit_difference without foils", lambda et, m: pairs(et).scored_by("logit_difference"), "foil")
mistake("evaluate: a circuit of no heads", lambda et, m: et.evaluate(m, pairs(et), et.circuit_of()), "head|groups")
mistake(
    "evaluate: a head that is not there",
    lambda et, m: et.evaluate(m, pairs(et), group(et, et.Head(9, 0))),
    "L9H0|layer",
)
mistake(
    "evaluate: a position that is not marked",
    lambda et, m: et.evaluate(m, pairs(et), group(et, et.Head(1, 0), at="label")),
    "label",
)
mistake("evaluate: a list of heads", lambda et, m: et.evaluate(m, pairs(et), [et.Head(4, 0)]), "[Cc]ircuit", True)
mistake("evaluate: a dictionary as circuit", lambda et, m: et.evaluate(m, pairs(et), {"a": ["L4H0"]}), "[Cc]ircuit")
mistake(
    "evaluate: scores of MLPs as circuit",
    lambda et, m: et.evaluate(m, pairs(et), et.path_patch_mlps(m, pairs(et), keep=1)),
    "accepted: heads",
)
mistake(
    "evaluate: one group as circuit",
    lambda et, m: et.evaluate(m, pairs(et), et.HeadGroup("a", "last", (et.Head(4, 0),))),
    "[Cc]ircuit",
    True,
)
mistake(
    "evaluate: heads as texts in a group", lambda et, m: et.evaluate(m, pairs(et), group(et, "L4H0")), "[Hh]ead", True
)
mistake(
    "evaluate: heads as lists in a group", lambda et, m: et.evaluate(m, pairs(et), group(et, [4, 0])), "[Hh]ead", True
)
mistake("evaluate: random=-1", lambda et, m: et.evaluate(m, pairs(et), group(et, et.Head(4, 0)), random=-1), "random")
mistake(
    "evaluate: ablation='noise'",
    lambda et, m: et.evaluate(m, pairs(et), group(et, et.Head(4, 0)), ablation="noise"),
    "ablation|noise",
)
mistake("knockout: to the position itself", lambda et, m: et.knockout(m, pairs(et), blind="last", to="last"), "last")
mistake("knockout: backwards", lambda et, m: et.knockout(m, pairs(et), blind="object", to="last"), "object|last|after")
mistake(
    "knockout: a position that is not marked",
    lambda et, m: et.knockout(m, pairs(et), blind="last", to="label"),
    "label",
)
mistake(
    "cmap: models of other sizes",
    lambda et, m: et.cmap(m, et.load(small(), base_tokenizer()), pairs(et), group(et, et.Head(1, 0))),
    "layers|heads|size|shape",
)
mistake(
    "load: a Path",
    lambda et, m: patch(et, et.load(EMBEDDED / "llama-tiny", tokenizer=str(EMBEDDED / "tokenizer"))),
    "str|text|folder|path",
    True,
)
mistake(
    "load: the tokenizer's folder as a Path",
    lambda et, m: patch(et, et.load(str(EMBEDDED / "llama-tiny"), tokenizer=EMBEDDED / "tokenizer")),
    "tokenizer",
    True,
)
mistake("load: dtype=torch.float32", lambda et, m: patch(et, et.load("llama-tiny", dtype=torch.float32)), "dtype", True)
mistake("load: dtype='fp16'", lambda et, m: et.load("llama-tiny", dtype="fp16"), "dtype|fp16")
mistake("load: dtype='int8'", lambda et, m: et.load("llama-tiny", dtype="int8"), "dtype|int8")
mistake("load: device='gpu'", lambda et, m: et.load("llama-tiny", device="gpu"), "gpu|device")
mistake("load: device='cuda:7', which is not there", lambda et, m: et.load("llama-tiny", device="cuda:7"), "cuda")
mistake("load: attention='flash'", lambda et, m: et.load("llama-tiny", attention="flash"), "attention|flash")
mistake("load: a name with a typing error", lambda et, m: et.load("lama-tiny"), "lama-tiny")
mistake("load: an empty name", lambda et, m: et.load(""), "folder|name|hub")
mistake("load: None", lambda et, m: et.load(None), "None|model")
mistake("load: a model in memory without a tokenizer", lambda et, m: et.load(base_model()), "tokenizer")
mistake(
    "load: a model in memory with the tokenizer's name",
    lambda et, m: et.load(base_model(), str(EMBEDDED / "tokenizer")),
    "tokenizer",
)
mistake(
    "load: the inner model, without its head",
    lambda et, m: et.load(base_model().model, base_tokenizer()),
    "head|LlamaModel|causal",
)
mistake("load: a pipeline", lambda et, m: et.load(whole_pipeline(), base_tokenizer()), "[Pp]ipeline|transformers model")
mistake("load: a model on the meta device", lambda et, m: et.load(without_weights(), base_tokenizer()), "meta|weights")
mistake("load: model and tokenizer exchanged", lambda et, m: et.load(base_tokenizer(), base_model()), "model|tokenizer")
mistake(
    "load: a tokenizer of the tokenizers library",
    lambda et, m: et.load(base_model(), base_tokenizer().backend_tokenizer),
    "tokenizer",
)
mistake(
    "load: an adapter for a model in memory",
    lambda et, m: et.load(base_model(), base_tokenizer(), adapter=str(EMBEDDED / "goat-tiny")),
    "adapter",
)
mistake(
    "load: another dtype for a model in memory",
    lambda et, m: et.load(base_model(), base_tokenizer(), dtype="bfloat16"),
    "dtype",
)
mistake("open_run: a folder without a run", lambda et, m: et.open_run(EMBEDDED), "no result|result")
mistake("group: more heads than were measured", lambda et, m: patch(et, m).group("a", 500), "500|heads|count")
mistake("top(-1)", lambda et, m: patch(et, m).top(-1), "-1|count")


def small() -> Any:
    """A model of other sizes on the same tokenizer."""
    from .plain import llama

    return llama(base_tokenizer())


def whole_pipeline() -> Any:
    """A pipeline around the model."""
    return pipeline("text-generation", model=base_model(), tokenizer=base_tokenizer())


def without_weights() -> Any:
    """The model without its weights."""
    config = base_model().config
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)
