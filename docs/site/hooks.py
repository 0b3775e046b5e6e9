"""What mkdocs asks for while it builds the site: pages made from the code, a nav without pages that are not there."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).parent))

import reference


def on_config(config: Any) -> Any:
    """Leave out pages of the nav that neither exist nor are made here."""
    there = {path.relative_to(config.docs_dir).as_posix() for path in Path(config.docs_dir).rglob("*.md")}
    config.nav = list(_existing(config.nav, there | set(reference.PAGES)))
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the pages made from the code."""
    for uri, made in reference.PAGES.items():
        files.append(File.generated(config, uri, content=made()))
    return files


def _existing(entries: list[Any], there: set[str]) -> Iterator[Any]:
    for entry in entries:
        if isinstance(entry, Mapping):
            ((title, value),) = entry.items()
            if isinstance(value, list):
                yield {title: list(_existing(value, there))}
            elif value in there:
                yield entry
