"""Pictures of the report in docs/live/, in a real browser at two widths: `make screenshots`. Needs Chromium.

docs/live/report.html is made by `make gallery`. The tutorial and the page on reports show these.
"""

from __future__ import annotations

import base64
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.helpers.browser import Page, chromium

DOCS = Path(__file__).parents[1] / "docs"
REPORT = DOCS / "live" / "report.html"
PICTURES = DOCS / "pictures" / "report"
SHOTS = {"wide": (1280, 1000, None), "narrow": (420, 900, None), "scores": (1280, 760, "path_patching-scores")}
"""Name -> width and height of the window, and what is scrolled to; None: the beginning."""


def take_screenshots(folder: Path) -> None:
    """Write every picture into `folder` as PNG."""
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as profile, chromium(Path(profile)) as page:
        for name, (width, height, place) in SHOTS.items():
            page.events.clear()
            page.open(REPORT, width, "light")
            page.send(
                "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
            )
            if place:
                _point_at_a_mark(page, place)
            (folder / f"{name}.png").write_bytes(base64.b64decode(page.send("Page.captureScreenshot")["data"]))


def _point_at_a_mark(page: Page, place: str) -> None:
    """Scroll to a figure, and let the pointer rest on its strongest mark, so that its numbers show."""
    page.value(f"document.getElementById('{place}').scrollIntoView({{behavior: 'instant'}})")
    x, y = page.value(
        "(box => [box.x + box.width / 2, box.y + box.height / 2])"
        f"(document.querySelector('#{place} .m.d0, #{place} .m').getBoundingClientRect())"
    )
    page.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)


if __name__ == "__main__":
    take_screenshots(PICTURES)
