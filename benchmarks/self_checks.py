"""`python -m benchmarks.self_checks`: what the checks inside a run cost, with them and without, side by side.

Counted: tokens times layers of a whole manifest, each where a layer's MLP puts them out, of models whose MLPs are
modules called so, as Llama's are. Measured: processor seconds of this process. Both runs begin with nothing; the
folders of their results are removed again.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from benchmarks.setting import written
from nnsight_et.manifest import load
from nnsight_et.planning.plan import plan
from nnsight_et.runner.run import run

MLPS = ("MLP", "MLPBlock")
"""How transformers ends the names of modules that a layer has one of."""


def main(words: Sequence[str] | None = None) -> None:
    """Run the manifest both ways, and write what each cost."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.self_checks", description=__doc__)
    parser.add_argument("manifest", nargs="?", default="experiments.yaml")
    parser.add_argument("--limit", type=int, help="no more examples of each kind than this")
    parser.add_argument("--only", nargs="*", default=(), help="these experiments, and what they need")
    options = parser.parse_args(words)
    rows = {on: _row(options, on) for on in ("off", "on")}
    share = {what: rows["on"][what] / rows["off"][what] - 1 for what in ("token_layers", "seconds")}
    print(f"self-checks cost {share['token_layers']:.1%} of token-layers, {share['seconds']:.1%} of processor seconds")
    written("self_checks", {"manifest": Path(options.manifest).name, **rows, "share": share})


def _row(options: argparse.Namespace, on: str) -> dict[str, Any]:
    manifest = load(Path(options.manifest), [f"self_check={on}"])
    manifest = manifest.with_limit(options.limit) if options.limit else manifest
    counts = {"token_layers": 0}

    def count(module: nn.Module, _: Any, output: Any) -> None:
        if type(module).__name__.endswith(MLPS) and isinstance(output, Tensor):
            counts["token_layers"] += output.shape[:-1].numel()

    hook, start = register_module_forward_hook(count), time.process_time()
    try:
        with TemporaryDirectory() as folder:
            for _ in run(plan(manifest), Path(folder), options.only):
                pass
    finally:
        hook.remove()
    return counts | {"seconds": round(time.process_time() - start, 1)}


if __name__ == "__main__":
    main()
