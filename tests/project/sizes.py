"""`python -m tests.project.sizes` names files and functions that are longer than they should be; it fails for none."""

from __future__ import annotations

import ast
from pathlib import Path

FILE_LINES, FUNCTION_LINES = 400, 60


def main() -> None:
    """Print a line for each of them."""
    for path in sorted(path for room in ("nnsight_et", "cli") for path in Path(room).rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if len(text.splitlines()) > FILE_LINES:
            print(f"{path}: more than {FILE_LINES} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > FUNCTION_LINES:
                    print(f"{path}:{node.lineno}: {node.name} has {length} lines, more than {FUNCTION_LINES}")


if __name__ == "__main__":
    main()
