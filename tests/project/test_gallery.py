"""The gallery shows every method as the code has it; `make gallery` makes it, and a slow test holds its pictures."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree.ElementTree import fromstring

import pytest

from nnsight_et.manifest import load
from nnsight_et.methods import METHODS
from tests.helpers.report_page import Parsed
from tools import gallery

SVG = "{http://www.w3.org/2000/svg}"


def test_every_method_has_a_page_with_its_picture_its_formula_and_its_manifest():
    experiments = load(gallery.MANIFEST).experiments
    assert list(gallery.DEFINED) == list(dict.fromkeys(gallery.DEFINED))
    assert set(gallery.DEFINED) == set(METHODS) == set(experiments)
    overview = (gallery.DOCS / "gallery.md").read_text()
    for method, (title, module, _) in gallery.DEFINED.items():
        assert experiments[method].method == method
        page = (gallery.DOCS / "gallery" / f"{method}.md").read_text()
        assert f"# {title}\n" in page
        assert f"```text\n{gallery.formula(method, module)}\n```" in page
        assert f"```yaml\n{gallery.manifest_of(method)}\n```" in page
        assert f"](../{gallery.picture_of(method)})" in page
        assert f"]({gallery.picture_of(method)})](gallery/{method}.md)" in overview
        assert fromstring((gallery.DOCS / gallery.picture_of(method)).read_text()).find(f"{SVG}title") is not None


def test_the_report_to_click_on_has_every_method_and_is_whole():
    report = Parsed((gallery.DOCS / "live" / "report.html").read_text())
    assert report.wrong == []
    assert {f"x-{method}" for method in METHODS} <= set(report.values("id"))


def masked(text: str) -> str:
    """The text without what another processor may round otherwise."""
    return re.sub(r"[-+\u2212]?\d+(?:\.\d+)?(?:e-?\d+)?", "0", text)


@pytest.mark.slow
def test_the_pages_are_those_of_a_run(tmp_path: Path):
    gallery.write_gallery(tmp_path)
    for path in tmp_path.rglob("*.md"):
        assert masked(path.read_text()) == masked((gallery.DOCS / path.relative_to(tmp_path)).read_text()), path.name
    for method in gallery.DEFINED:
        drawn, shown = (
            [
                masked(one.text or "")
                for one in fromstring((place / gallery.picture_of(method)).read_text()).iter(f"{SVG}text")
            ]
            for place in (tmp_path, gallery.DOCS)
        )
        assert drawn == shown, method
