"""The commands that check the methods themselves, on models whose circuit is known."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Optional

import typer
from rich.console import Console

from nnsight_et.core.errors import ManifestError

from .progress import follow
from .render import output, show
from .shell import INTERRUPTED

if TYPE_CHECKING:
    from nnsight_et.truth import Benchmark

selfcheck_commands = typer.Typer()

Seeds = Annotated[int, typer.Option(min=1, max=100, help="Number of seeds. Each gives other weights and prompts.")]
File = Annotated[
    Optional[Path], typer.Option("--out", metavar="FILE", help="Also save every check with its numbers as JSON.")
]


@selfcheck_commands.command()
def selfcheck() -> None:
    """Test this installation: run every method on small models whose circuit is known."""
    from nnsight_et.truth import Benchmark, by_method, quick_trials

    benchmark = _run_benchmark(Benchmark(quick_trials()))
    show(output(), by_method(benchmark))
    _leave(benchmark)


@selfcheck_commands.command("benchmark-truth")
def benchmark_truth(seeds: Seeds = 1, out: File = None) -> None:
    """Benchmark every method and both engines on models whose circuit is known."""
    if out is not None and (out.is_dir() or not out.parent.is_dir()):
        raise ManifestError(f"--out {out}: not a file in an existing folder; accepted: a name such as truth.json")
    from nnsight_et.truth import Benchmark, by_method, hard, hard_trials, heads, whole_trials, write_json

    benchmark = _run_benchmark(Benchmark((*whole_trials(range(seeds)), *hard_trials(range(seeds)))))
    if out is not None:
        write_json(benchmark, out)
    show(output(), heads(benchmark))
    show(output(), hard(benchmark))
    show(output(), by_method(benchmark))
    _leave(benchmark)


def _run_benchmark(benchmark: Benchmark) -> Benchmark:
    """The benchmark, run in a folder that is gone afterwards: nothing of an earlier run is taken for a finding."""
    try:
        with TemporaryDirectory(prefix="nnsight-et-") as folder:
            follow(benchmark.steps(Path(folder)), Console(stderr=True))
    except KeyboardInterrupt:
        typer.echo("\nInterrupted. Nothing was kept.", err=True)
        raise typer.Exit(INTERRUPTED) from None
    return benchmark


def _leave(benchmark: Benchmark) -> None:
    """Show what is wrong, if anything is, and end with exit code 1."""
    if benchmark.wrong:
        from nnsight_et.truth import wrong

        show(output(), wrong(benchmark))
        raise typer.Exit(1)
