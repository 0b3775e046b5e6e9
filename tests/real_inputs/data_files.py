"""Data files as they are shared: each is read, or refused with what it is and what is wanted."""

from __future__ import annotations

import json
from pathlib import Path

from .case import APPLES, Given, Line, case
from .plain import base_folder, base_model, base_tokenizer, of_folder, probabilities

AREA = "data files"
LINES = [json.dumps(line.entry) for line in APPLES]


def data(name: str, content: bytes | str, reason: str | None, suffix: str = "jsonl", wanted: bool = False) -> None:
    """A case of a file with that content, on the embedded model."""

    @case(AREA, name)
    def make(folder: Path) -> Given:
        made = base_folder(folder)
        raw = content.encode() if isinstance(content, str) else content
        expected = () if reason and not wanted else probabilities(base_model(), base_tokenizer())
        return Given({"path": str(made)}, expected, reason=reason, file=raw, suffix=suffix)


CSV = (
    "clean,corrupted,answer,foil,template\n"
    '"Then, Laura and Peter went to the market. Peter gave a pen to","Then, Laura and Peter went. Simon gave a pen to",'
    '" Laura"," Peter",0\n'
)
data("a CSV of clean and corrupted prompts", CSV, r"CSV|columns|JSON lines|JSON object per line|one JSON object", "csv")
data("a table with tabs", CSV.replace('",', '"\t'), "TSV|tab|columns|JSON lines|one JSON object", "tsv")
CAPITALS = {
    "name": "capitals",
    "prompts": [{"clean": "The capital of Norway is", "corrupt": "The capital of Japan is", "answers": [" Oslo"]}],
}
WHOLE = r"one (JSON )?object|per line|JSON lines|a line|several lines|whole"
data("one JSON object over several lines, prompts inside", json.dumps(CAPITALS, indent=2), "keys.*columns", "json")
data("one JSON object on one line, prompts inside", json.dumps(CAPITALS), "prompts|keys", "json")
data(
    "a JSON list of right pairs, over several lines",
    json.dumps([line.entry for line in APPLES], indent=1),
    f"list|{WHOLE}",
    "json",
    wanted=True,
)
data(
    "a JSON list of right pairs, on one line",
    json.dumps([line.entry for line in APPLES]),
    f"list|{WHOLE}",
    "json",
    wanted=True,
)
MASKED = {
    "sentence_masked": "Box 0 contains the lamp, Box 1 contains the coat. Box 1 contains the <extra_id_0> .",
    "masked_content": "<extra_id_0> coat",
    "sample_id": 0,
    "numops": 0,
}
data("masked sentences", json.dumps(MASKED), "sentence_masked")
OTHER = {"clean": APPLES[0].base, "corrupted": APPLES[0].source, "answer": "apple"}
data("lines with other keys: clean and corrupted", json.dumps(OTHER), "clean")
data("lines with a further key", json.dumps({**APPLES[0].entry, "id": 7}), "'?id'?")
data("an answer that is a number", json.dumps({**APPLES[0].entry, "answer": 7}), "answer")
data("an answer that is a list", json.dumps({**APPLES[0].entry, "answer": ["apple"]}), "answer")
data("an empty answer", json.dumps({**APPLES[0].entry, "answer": " "}), "answer")
data("line ends of Windows and a byte order mark", b"\xef\xbb\xbf" + "\r\n".join(LINES).encode() + b"\r\n", None)
data("empty lines between the pairs", "\n\n".join([*LINES, "", ""]), None)
data("UTF-16, as PowerShell writes", "\n".join(LINES).encode("utf-16"), "UTF-8")
data("an empty file", "", "no pairs|empty")
data("Parquet", b"PAR1\x15\x04\x15\xff\xfe" + bytes(range(200, 256)), "Parquet|UTF-8|text", "parquet")
data("a gzip file", b"\x1f\x8b\x08\x00\xff\xff\xfe\xfa", "gzip|UTF-8|text", "jsonl.gz")
data("YAML", "- base: x\n  source: y\n  answer: z\n", r"not JSON|JSON", "yaml")
data("an HTML page in place of the file", "<!DOCTYPE html>\n<html><body>Sign in</body></html>\n", "not JSON|HTML")
data(
    "the pointer of Git LFS in place of the file",
    "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
    "not JSON|LFS",
)
data("half of a surrogate pair in a text", LINES[0].replace("computer", "\\ud83d"), "half of a character")
data("NaN among the values", LINES[0].replace('"apple"}', "NaN}"), "answer")


@case(AREA, "a line whose prompts have other marks than the line before")
def other_marks(folder: Path) -> Given:
    lines = (
        APPLES[0],
        Line(
            "The apple is in {{object|Box}} F. Box {{label|F}} contains the",
            "The hat is in {{object|Box}} C. Box {{label|Y}} contains the",
            "apple",
        ),
    )
    return Given({"path": str(base_folder(folder))}, (), lines, reason="label")


@case(AREA, "base and source are the same text")
def same(folder: Path) -> Given:
    made = base_folder(folder)
    lines = (Line(APPLES[0].base, APPLES[0].base, "apple"),)
    return Given({"path": str(made)}, of_folder(made, lines), lines, reason="same")


@case(AREA, "the same pair twice")
def twice(folder: Path) -> Given:
    made = base_folder(folder)
    return Given({"path": str(made)}, of_folder(made, (APPLES[0], APPLES[0])), (APPLES[0], APPLES[0]), reason="twice")
