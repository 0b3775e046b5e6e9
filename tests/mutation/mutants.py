"""Mechanical mutants of engine/ and interventions/: small changes to the syntax tree, drawn by seed.

Changes that cannot show are left out: annotations, messages, assertions of what no user causes, strict= and device= on
one machine, and calls that only save work.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import blake2b

from .runner import ROOT, Change

FOLDERS = ("nnsight_et/engine", "nnsight_et/interventions")
COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip
COST_ONLY = ("model.skip_unembedding", ".new_zeros(1, 1, 1, 1)")  # what is not computed, and numbers nobody reads
UNSEEN_KEYWORDS = ("device", "strict")  # one device; lengths that always agree


@dataclass(frozen=True)
class Mutant:
    """One change: where, of which kind, and both texts of the expression or statement."""

    file: str
    line: int
    kind: str
    before: str
    after: str
    column: int
    text: str  # the whole line it begins on
    change: Change

    @property
    def place(self) -> str:
        """File in the package, and line."""
        return f"{self.file.removeprefix('nnsight_et/')}:{self.line}"

    @property
    def name(self) -> str:
        """Both texts."""
        return f"`{self.before}` -> `{self.after}`"

    def __str__(self) -> str:
        return f"{self.place} {self.kind}: {self.name}"


def drawn(count: int, seed: int) -> list[Mutant]:
    """`count` of all mutants, in the order of the files; a quarter with swapped arguments, of which there are most.

    Drawn by a digest of seed and change, so that the others stay the same when a file changes.
    """
    every = mutants()
    order = sorted(range(len(every)), key=lambda index: _digest(every[index], seed))
    swapped = [index for index in order if every[index].kind == "swapped arguments"][: count // 4]
    others = [index for index in order if every[index].kind != "swapped arguments"][: count - count // 4]
    return [every[index] for index in sorted(swapped + others)]


def _digest(mutant: Mutant, seed: int) -> bytes:
    return blake2b(f"{seed}/{mutant.file}/{mutant.kind}/{mutant.column} {mutant.text}/{mutant.name}".encode()).digest()


def mutants() -> list[Mutant]:
    """All mutants there are."""
    paths = sorted(path for folder in FOLDERS for path in (ROOT / folder).glob("*.py"))
    return [mutant for path in paths for mutant in of_text(path.relative_to(ROOT).as_posix(), path.read_text())]


def of_text(file: str, text: str) -> Iterator[Mutant]:
    """All mutants of a file's text."""
    lines = text.encode().splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    for node in _mutable(ast.parse(text)):
        for kind, after in _changes(node):
            where = node.test if isinstance(node, ast.If | ast.While) else node
            first = starts[where.lineno - 1] + where.col_offset
            last = starts[(where.end_lineno or 0) - 1] + (where.end_col_offset or 0)
            encoded = text.encode()
            before, new = encoded[first:last].decode(), f"({after})" if isinstance(where, ast.expr) else after
            changed = (encoded[:first] + new.encode() + encoded[last:]).decode()
            short = before if "\n" not in before else " ".join(before.split())
            whole = text.splitlines()[where.lineno - 1]
            yield Mutant(file, where.lineno, kind, short, after, where.col_offset, whole, Change(file, changed))


def _mutable(tree: ast.AST) -> Iterator[ast.expr | ast.stmt]:
    """The nodes that run and matter: no annotations, docstrings, messages, assertions, imports or type aliases."""
    for name, value in ast.iter_fields(tree):
        if name in ("annotation", "returns", "decorator_list", "bases") or isinstance(tree, ast.Raise | ast.Assert):
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or isinstance(child, ast.Import | ast.ImportFrom | ast.JoinedStr):
                continue
            if isinstance(child, ast.keyword) and child.arg in UNSEEN_KEYWORDS:
                continue
            if isinstance(tree, ast.Module) and isinstance(child, ast.Assign):  # a type alias or a literal
                continue
            if isinstance(child, ast.Expr | ast.Call) and any(name in ast.unparse(child)[:40] for name in COST_ONLY):
                continue
            if isinstance(child, ast.expr | ast.stmt):
                yield child
            yield from _mutable(child)


def _changes(node: ast.AST) -> Iterator[tuple[str, str]]:
    """(kind, new text) of every change to this node alone."""
    for kind, change in (
        ("comparison", _comparison), ("arithmetic", _arithmetic), ("boolean", _boolean), ("constant", _constant),
        ("condition", _condition), ("swapped arguments", _swapped), ("dropped keyword", _dropped),
        ("deleted statement", _deleted),
    ):  # fmt: skip
        yield from ((kind, after) for after in change(node) if after != ast.unparse(node))


def _comparison(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Compare) and type(node.ops[0]) in COMPARISONS:
        yield _with(node, lambda new: setattr(new, "ops", [COMPARISONS[type(node.ops[0])](), *node.ops[1:]]))


def _arithmetic(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC:
        yield _with(node, lambda new: setattr(new, "op", ARITHMETIC[type(node.op)]()))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and not isinstance(node.operand, ast.Constant):
        yield ast.unparse(node.operand)


def _boolean(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.BoolOp):
        other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield _with(node, lambda new: setattr(new, "op", other))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.Invert):
        yield ast.unparse(node.operand)


def _constant(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield str(not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, int):
        yield str(node.value + 1)
    elif isinstance(node, ast.Constant) and isinstance(node.value, float):
        yield str(node.value * 2 + 1)


def _condition(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.IfExp):
        yield _with(node, lambda new: (setattr(new, "body", node.orelse), setattr(new, "orelse", node.body)))
    if isinstance(node, ast.If | ast.While) and not isinstance(node.test, ast.Compare | ast.BoolOp | ast.UnaryOp):
        yield f"not ({ast.unparse(node.test)})"


def _swapped(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Call):
        for first in range(len(node.args) - 1):
            pair = node.args[first : first + 2]
            if not any(isinstance(one, ast.Starred) for one in pair):
                arguments = [*node.args[:first], pair[1], pair[0], *node.args[first + 2 :]]
                yield _with(node, lambda new, arguments=arguments: setattr(new, "args", arguments))


def _dropped(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Call):
        for index, keyword in enumerate(node.keywords):
            if keyword.arg not in (None, *UNSEEN_KEYWORDS):
                fewer = [*node.keywords[:index], *node.keywords[index + 1 :]]
                yield _with(node, lambda new, fewer=fewer: setattr(new, "keywords", fewer))


def _deleted(node: ast.AST) -> Iterator[str]:
    """Statements without which the others still run: calls, and writes to what is there already."""
    call = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    places = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AugAssign) else []
    written = bool(places) and isinstance(places[0], ast.Subscript | ast.Attribute)
    if call or written or isinstance(node, ast.AugAssign | ast.Continue | ast.Break):
        yield "pass"


def _with(node: ast.AST, change: Callable[[ast.AST], object]) -> str:
    new = copy.deepcopy(node)
    change(new)
    return ast.unparse(ast.fix_missing_locations(new))
