"""The figures of README.md, drawn from a run of the manifest that it shows: `make pictures`."""

from __future__ import annotations

import re
from pathlib import Path
from tempfile import TemporaryDirectory

from nnsight_et_cli import app
from typer.testing import CliRunner

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs" / "pictures"
DRAWN = {"circuit-circuit.svg": "circuit.svg", "circuit-scores.svg": "scores.svg"}


def draw_pictures(folder: Path) -> None:
    """Run the first experiment of the manifest in README.md, and write its figures into `folder`."""
    (text,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    with TemporaryDirectory() as place:
        manifest, runs = Path(place, "study.yaml"), Path(place, "runs")
        manifest.write_text(text, encoding="utf-8")
        _run_command("run", manifest, "--only", "circuit", "--out", runs, "--quiet")
        _run_command("report", manifest, "--out", runs, "--figures", Path(place, "figures"), "--formats", "svg")
        folder.mkdir(exist_ok=True)
        for source, name in DRAWN.items():
            (folder / name).write_bytes(Path(place, "figures", source).read_bytes())


def _run_command(*words: object) -> None:
    result = CliRunner().invoke(app, [str(word) for word in words])
    if result.exit_code:
        raise RuntimeError(result.output)


if __name__ == "__main__":
    draw_pictures(PICTURES)
