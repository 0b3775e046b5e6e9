"""Manifests, circuits and result folders as somebody careless or ill-meaning would write them."""

from __future__ import annotations

import io
import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from copy import deepcopy
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import typer

from nnsight_et.manifest.document import KeyPath

KEYS = (
    "name",
    "path",
    "circuit",
    "examples",
    "../up",
    "a.b",
    "",
    " ",
    "é",
    "__proto__",
    "<b>x</b>",
    "x" * 5000,
    "\x1b[2J",
    "\u202egnp.exe",
    "\U0001f600",
    "a\u200db",
    "e\u0301",
    "\ud800",
    "CON",
    "-rf",
)
VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1, 3.5, 10**9, 10**17, 10**18, -(10**18), 1e308, -1e308, float("inf"), float("nan"), "",
    "one", "../../outside", "/etc/passwd", "~", "a/b", "a\\b", ".", "..", "nul\0l", "line\nbreak",
    "<script>alert(1)</script>", "é", "\u202e", "\U0001f600", "\ud800", "L" + "9" * 5000 + "H0", "L١H٢", "1GiB",
    "9" * 400 + "GiB", "1e400GiB", "x" * 5000, [], {}, [[]], {"": {}}, ["one", "one"], ["found", "table"], [None],
    {"path": "one"}, {"kind": "boxes", "boxes": 10**17}, list(range(400)), ["../x"] * 50,
    {"method": "path_patching"}, {"method": 3}, {"method": "dcm", "circuit": {}},
)  # fmt: skip
PIECES = (
    "", ":", ": ", "- ", "{", "}", "[", "]", "[" * 60, "{a: " * 60, "'", '"', "*a", "&a ", "!x ",
    "!!python/object:os.system ", "<<: *a", "~", "9" * 30, "9" * 5000, "-1", ".nan", "-.inf", "1e999", "0x1F",
    "0o7", "1_000", "\t", "\r", "\x00", "\x07", "\x85", "\u2028", "\ufeff", "\ufffe", "é", "\ud800", '"\\ud800"',
    '"\\x00"', '"\\U0001F600"', "|\n", ">-\n  ", "---\n", "...\n", "%YAML 1.1\n", "# ", "? ", "@", "`", "..", "../",
    "null", "true", "2001-01-01", "x" * 3000, "\n" * 40, "${HOME}", "{{7*7}}",
)  # fmt: skip
BOMB = "a: &a [x, x, x]\nb: &b [*a, *a, *a]\nc: &c [*b, *b, *b]\nd: [*c, *c, *c]\n"


WAIT = 300.0  # seconds, of a hang: a manifest takes 0.02, a report 0.2, on a machine that is busy a hundred times that


class TooSlow(BaseException):
    """Something took longer than anybody waits."""


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Stop what is inside by TooSlow, which nothing catches, after so many seconds."""

    def late(*_: object) -> None:
        raise TooSlow(f"not done after {seconds} s")

    earlier = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, earlier)


def paths(data: Any, here: KeyPath = ()) -> list[KeyPath]:
    """Where every value of plain data is, the whole of it excepted."""
    entries = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [path for key, value in entries for path in ((*here, key), *paths(value, (*here, key)))]


def parent_of(data: Any, path: KeyPath) -> Any:
    for part in path[:-1]:
        data = data[part]
    return data


def mangled(data: Any, random: Random, values: tuple[Any, ...] = VALUES) -> Any:
    """Plain data with one key or value changed, taken away, repeated, moved, wrapped or put in deeper."""
    places, value = paths(data), deepcopy(random.choice(values))  # it may be changed in its turn
    if not places:
        return value
    path, other = random.choice(places), random.choice(places)
    inside, key = parent_of(data, path), path[-1]
    match random.choice(("value", "value", "value", "gone", "renamed", "moved", "wrapped", "deep", "more")):
        case "value":
            inside[key] = value
        case "gone":
            del inside[key]
        case "renamed" if isinstance(inside, dict):
            inside[random.choice(KEYS)] = inside.pop(key)
        case "moved":
            inside[key] = json.loads(json.dumps(parent_of(data, other)[other[-1]]))
        case "wrapped":
            inside[key] = random.choice(([inside[key]], {"x": inside[key]}, [inside[key]] * 3))
        case "deep":
            for _ in range(random.choice((3, 29, 40, 120))):
                inside[key] = [inside[key]]
        case _ if isinstance(inside, dict):
            inside[random.choice(KEYS)] = value
        case _:
            inside.append(value)
    return data


def scribbled(text: str, random: Random) -> str:
    """Text with a piece put in, a stretch taken out, doubled or moved, or a line indented otherwise."""
    start = random.randrange(len(text) + 1)
    end = min(len(text), start + random.choice((0, 1, 3, 20, 200)))
    lines = text.split("\n")
    line = random.randrange(len(lines))
    match random.choice(("piece", "piece", "piece", "out", "double", "indent", "swap", "bomb")):
        case "piece":
            return text[:start] + random.choice(PIECES) + text[end:]
        case "out":
            return text[:start] + text[end:]
        case "double":
            return text[:end] + text[start:end] * random.choice((1, 2, 50)) + text[end:]
        case "indent":
            lines[line] = random.choice((" ", "  ", "\t", "- ")) + lines[line]
        case "swap":
            other = random.randrange(len(lines))
            lines[line], lines[other] = lines[other], lines[line]
        case _:
            lines[line:line] = BOMB.split("\n")
    return "\n".join(lines)


def damaged(content: bytes, random: Random) -> bytes | None:
    """A file's bytes cut off, with bits flipped, emptied, of another kind, or None: no file."""
    if not content:
        return random.choice((None, b"{}"))
    match random.choice(("cut", "flip", "flip", "empty", "foreign", "gone", "longer")):
        case "cut":
            return content[: random.randrange(len(content))]
        case "flip":
            changed = bytearray(content)
            for _ in range(random.choice((1, 2, 30))):
                changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
            return bytes(changed)
        case "empty":
            return b""
        case "foreign":
            return random.choice(
                (b"PK\x03\x04", b"\x80\x04.", b"\xff" * 64, b"[" * 200_000, b"9" * 6000, b"{}", b"null", b'"\\ud800"')
            )
        case "gone":
            return None
    return content + random.randbytes(40)


def bytes_in(folder: Path) -> dict[Path, bytes]:
    """Every file below a folder."""
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


class Answer(NamedTuple):
    """What a command said, and its exit code."""

    code: int
    out: str
    err: str


@cache
def command() -> Any:
    """The `et` command, built once: that takes longer than to plan a manifest."""
    import nnsight_et_cli

    return typer.main.get_command(nnsight_et_cli.app)


def said(*arguments: object) -> Answer:
    """The command in this process, its output in UTF-8; any exception but its exit is raised here."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
    with within(WAIT), redirect_stdout(out), redirect_stderr(err):
        try:
            command().main([str(argument) for argument in arguments], prog_name="et")
            code = 0
        except SystemExit as end:
            code = end.code
    texts = []
    for stream in (out, err):
        stream.flush()
        texts.append(stream.buffer.getvalue().decode())  # type: ignore[attr-defined]
    assert isinstance(code, int)
    return Answer(code, *texts)
