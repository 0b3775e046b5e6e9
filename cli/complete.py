"""What the shell completes: names of models, shipped manifests, and manifests' files. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from nnsight_et.models.named import NAMED


def model_names(incomplete: str) -> list[str]:
    """The models known by name that begin so."""
    return [name for name in NAMED if name.startswith(incomplete)]


def model_lists(incomplete: str) -> list[str]:
    """Lists of models, separated by commas, with the last one completed."""
    earlier, comma, last = incomplete.rpartition(",")
    taken = earlier.split(",")
    return [f"{earlier}{comma}{name}" for name in model_names(last) if name not in taken]


def circuits(incomplete: str) -> list[str]:
    """The shipped circuits that begin so, and circuits' files."""
    from nnsight_et.manifest.written import SHIPPED

    return [*(name for name in SHIPPED if name.startswith(incomplete)), *_paths(incomplete, (".json",))]


def manifests(incomplete: str) -> list[str]:
    """The shipped manifests that begin so, and manifests' files."""
    from nnsight_et.manifest.load import SHIPPED

    return [*(name for name in SHIPPED if name.startswith(incomplete)), *_paths(incomplete, (".yaml", ".yml"))]


def names_of(text: str) -> list[str]:
    """The names in a list separated by commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def _paths(incomplete: str, endings: tuple[str, ...]) -> list[str]:
    """Files of these endings, and folders, whose path begins so."""
    folder, slash, beginning = incomplete.rpartition("/")
    try:
        found = sorted(Path(f"{folder}{slash}" or ".").iterdir())
    except OSError:
        return []
    hidden = beginning.startswith(".")
    named = [path for path in found if path.name.startswith(beginning) and (hidden or not path.name.startswith("."))]
    return [
        f"{folder}{slash}{path.name}{'/' if path.is_dir() else ''}"
        for path in named
        if path.is_dir() or path.name.endswith(endings)
    ]
