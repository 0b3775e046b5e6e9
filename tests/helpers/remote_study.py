"""The study of methods_study on a server: its manifest, the server's folders, quick questions, and what is heard."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nnsight_et.planning.plan import plan
from nnsight_et.remote.server import RetryPolicy, Waiting
from nnsight_et.results.headers import folder_of
from nnsight_et.results.store import Result, read_result
from nnsight_et.runner.run import Progress, Remote, RunOptions, run
from tests.helpers.loopback_client import TRUSTED
from tests.helpers.methods_study import manifest

QUICK = RetryPolicy(first=0.02, most=0.1, unsure=0.6, lost=1.5, silence=6.0)
NAMES = ("one", "two")


def folders(root: Path) -> dict[str, Path]:
    """The study's models by the names a server has for them."""
    return {f"test/{name}": root / name for name in NAMES}


@dataclass
class Remotely:
    """A study whose models are on a server."""

    root: Path
    address: str
    key: str = TRUSTED
    only: Sequence[str] = ()
    """Which experiments there are, if not all."""
    patience: RetryPolicy = QUICK
    heard: list[Waiting] = field(default_factory=list)
    jobs: dict[str, int] = field(default_factory=dict)
    """How many of them an experiment was."""
    on_first_word: Callable[[], None] | None = None
    """Called when the run waits for the first time."""
    on_running: Callable[[], None] | None = None
    """Called when it waits for a job that runs for the first time."""

    def manifest(self, experiments: str, *settings: str):
        served = [f"models.{name}.ndif=test/{name}" for name in NAMES]
        return manifest(self.root, experiments, "backend=ndif", *served, *settings)

    def steps(self, experiments: str, *settings: str, **options) -> list[Progress]:
        return list(self.each(experiments, *settings, **options))

    def each(self, experiments: str, *settings: str, **options) -> Iterator[Progress]:
        remote = Remote(self.hear, self.patience, self.address, self.key)
        return run(
            plan(self.manifest(experiments, *settings)), self.root / "away", options=RunOptions(remote), **options
        )

    def hear(self, waiting: Waiting) -> None:
        self.heard.append(waiting)
        if self.on_first_word is not None:
            act, self.on_first_word = self.on_first_word, None
            act()
        if self.on_running is not None and waiting.status == "RUNNING":
            act, self.on_running = self.on_running, None
            act()

    def results(self, experiments: str, *settings: str, **options) -> dict[str, Result]:
        """What the experiments find."""
        self.steps(experiments, *settings, **options)
        folder = folder_of(self.root / "away", plan(self.manifest(experiments, *settings)))
        return {path.parent.name: read_result(path.parent) for path in folder.glob("*/result.json")}
