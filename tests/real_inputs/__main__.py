"""`python -m tests.real_inputs`: every case, and docs/real_inputs.md; or those with these parts in their names."""

from __future__ import annotations

import argparse
import sys
import time

import torch

from .measure import Row, measure
from .table import DOCUMENT, chosen, document


def main() -> None:
    """Try the cases, one line each, and write the page if they were all."""
    parser = argparse.ArgumentParser(prog="python -m tests.real_inputs", description=__doc__)
    parser.add_argument("parts", nargs="*", help="parts of names: try these cases, write nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [tried(case) for case in chosen(options.parts)]
    bad = [row for row in rows if row.bad]
    print(f"{len(rows)} cases, {len(bad)} of them wrong")
    if not options.parts:
        DOCUMENT.write_text(document(DOCUMENT.read_text(), rows))
    sys.exit(bool(bad))


def tried(case) -> Row:
    """The case's row, printed."""
    start = time.monotonic()
    row = measure(case)
    took = time.monotonic() - start
    print(f"{'BAD ' if row.bad else 'ok  '}{case.area}: {case.name} ({took:.1f} s); right: {row.plain}")
    for name, answer in (("run", row.run), ("inspect", row.inspect), ("python", row.python)):
        print(f"      {name:8}{answer}", flush=True)
    return row


if __name__ == "__main__":
    main()
