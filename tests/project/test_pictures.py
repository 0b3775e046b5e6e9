"""The figures of README.md are those of the run that it shows."""

from __future__ import annotations

from pathlib import Path
from xml.etree.ElementTree import fromstring

import pytest

from tools.pictures import DRAWN, PICTURES, draw_pictures

SVG = "{http://www.w3.org/2000/svg}"


def described(path: Path) -> tuple[list[str], list[str]]:
    """The words of a figure, and the kinds of its marks."""
    svg = fromstring(path.read_text(encoding="utf-8"))
    texts = [one.text or "" for one in svg.iter(f"{SVG}text")]
    marks = [one.get("class", "") for one in svg.iter() if "frame" in one.get("class", "")]
    return texts, marks


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    draw_pictures(folder)
    return folder


@pytest.mark.parametrize("name", DRAWN.values())
def test_a_figure_of_the_readme_is_that_of_its_manifest(name: str, drawn: Path):
    assert {path.name for path in PICTURES.iterdir() if path.is_file()} == set(DRAWN.values())
    assert described(PICTURES / name) == described(drawn / name)
