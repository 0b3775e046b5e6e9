"""The documents' fenced blocks, and a shell just large enough to run their commands in this process."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import typer

from tests.helpers.commands import ROOT, et

DOCUMENTS = ("README.md", *sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("docs/**/*.md")))
PARSED = "parsed only"
FENCE = re.compile(
    r"^(?:<!-- (?P<said>[^>]*) -->\n)?```(?P<language>\w*)(?P<more>[^\n]*)\n(?P<text>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
ASSIGNED = re.compile(r"(\w+)=\$\((.*)\)")


@dataclass(frozen=True)
class Block:
    """A fenced block; `parsed`: a comment above says that it is not run."""

    language: str
    text: str
    title: str | None
    parsed: bool


def blocks(document: str) -> Iterator[Block]:
    """The document's fenced blocks."""
    for match in FENCE.finditer((ROOT / document).read_text()):
        title = re.search(r'title="([^"]+)"', match["more"])
        parsed = (match["said"] or "").startswith(PARSED)
        yield Block(match["language"], match["text"], title[1] if title else None, parsed)


def commands(text: str) -> Iterator[tuple[str | None, list[str]]]:
    """The command lines of a block, comments left out, each with the variable that gets what it prints."""
    for line in text.splitlines():
        if words := shlex.split(line, comments=True):
            assigned = ASSIGNED.fullmatch(line.strip())
            yield (assigned[1], shlex.split(assigned[2])) if assigned else (None, words)


def check_command(words: list[str]) -> None:
    """Fail unless it is a command there is, its options and arguments are known, and files it names are there."""
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), words
    elif words[0] == "pip":
        named = {extra for word in words for extra in re.findall(r"\[(\w+)\]", word)}
        assert named <= set(re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)), words
    else:
        assert words[0] == "et", f"{words[0]}: what a document shows is et, make or pip"
        import nnsight_et_cli

        command = typer.main.get_command(nnsight_et_cli.app).get_command(None, words[1])  # type: ignore[attr-defined]
        assert command is not None, f"no command et {words[1]}"
        command.make_context(words[1], list(words[2:]))
        if words[1] in ("run", "plan", "validate") and words[2] not in ("tiny", "paper"):
            assert (ROOT / words[2]).exists() or words[2] == "study.yaml", f"{words[2]} is no file of the repository"


@dataclass
class Reader:
    """Somebody who follows a document, in one folder and one Python."""

    names: dict = field(default_factory=dict)

    def follow(self, block: Block) -> None:
        """Save, run or check what the block shows."""
        if block.language == "sh":
            for variable, words in commands(block.text):
                self._command(variable, words, block.parsed)
        elif block.language == "python" and not block.title:
            code = compile(block.text, "document", "exec")
            if not block.parsed:
                exec(code, self.names)
        elif block.title:  # Python too: a module that is imported later
            Path(block.title).write_text(block.text)

    def _command(self, variable: str | None, words: list[str], parsed: bool) -> None:
        check_command(words)
        if parsed or words[0] != "et":
            return
        given = [re.sub(r"\$(\w+)", lambda match: self.names[match[1]], word) for word in words[1:]]
        result = et(*given)
        assert result.exit_code == 0, (words, result.output)
        if variable:
            self.names[variable] = result.stdout.strip()
