"""`et demo` draws the circuit it finds, here and in a file, and says how faithful it is."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree.ElementTree import fromstring

from tests.helpers.commands import et


def test_the_demo_draws_a_circuit_and_says_how_faithful_it_is(tmp_path: Path):
    shown = et("demo", "--limit", 8, "--out", tmp_path).stdout
    drawn = shown[shown.index("logits") :].splitlines()
    assert [line.split(": ")[0] for line in drawn[:9]] == [
        "logits",
        "  ▲",
        "value_fetcher at last",
        "  ▲ query",
        "position_transmitter at last",
        "  ▲ value",
        "position_detector at query_label",
        "  ▲ value",
        "structure_reader at previous_query_label",
    ]
    (picture,) = re.findall(r"Circuit of llama-tiny: (.*\.svg)", shown)
    words = {text.strip() for text in fromstring(Path(picture).read_text(encoding="utf-8")).itertext()}
    for line in drawn[2:9:2]:
        heads = line.split(": ")[1]
        assert heads.startswith("L")
        assert any(heads.split(", ")[0] in word for word in words)
    assert re.search(r"answers \d+% of 8 prompts right\.", " ".join(shown.split()))
    assert Path(re.findall(r"Report: (.*)", shown)[0]).exists()
