"""What this machine has for a run: versions, devices, memory, and which models' files are there. Downloads nothing."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import huggingface_hub
import psutil
import torch
from packaging.requirements import Requirement

from nnsight_et import __version__
from nnsight_et.models.files import WEIGHTS
from nnsight_et.models.named import NAMED, ModelSpec, NamedModel

GIB = 1 << 30
LOW_DISK = 5 * GIB
EXTRAS = {"export": ("pandas", "pyarrow"), "figures": ("matplotlib",)}
BYTES = 2  # of a weight in bfloat16


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: what was found, whether that is well, and what to do about it if not."""

    subject: str
    found: str
    state: Literal["ok", "note", "mend"] = "ok"
    """note: runs work, but not all of them; mend: runs fail until it is mended."""
    do: str = ""


def findings(folder: Path = Path()) -> list[Finding]:
    """Everything that is looked at; results would go under `folder`."""
    return [*_versions(), *_extras(), _device(), _memory(), _disk(folder), *_models()]


def _versions() -> Iterator[Finding]:
    yield Finding("python", platform.python_version())
    yield Finding("nnsight_et", __version__)
    for text in metadata.requires("nnsight-et") or ():
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        wanted = f"pip install '{requirement.name}{requirement.specifier}'"
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            yield Finding(requirement.name, "not installed", "mend", wanted)
            continue
        fits = requirement.specifier.contains(version, prereleases=True)
        yield Finding(requirement.name, version) if fits else Finding(requirement.name, version, "mend", wanted)


def _extras() -> Iterator[Finding]:
    purposes = {"export": "et export --format parquet, to_dataframe()", "figures": "et report --figures"}
    for extra, packages in EXTRAS.items():
        missing = [name for name in packages if find_spec(name) is None]
        if missing:
            do = f"for {purposes[extra]}: pip install 'nnsight-et[{extra}]'"
            yield Finding(f"extra {extra}", f"no {', '.join(missing)}", "note", do)
        else:
            yield Finding(f"extra {extra}", ", ".join(f"{name} {metadata.version(name)}" for name in packages))


def _device() -> Finding:
    if not torch.cuda.is_available():
        found = f"cpu, {torch.get_num_threads()} threads; no CUDA device"
        return Finding("device", found, "note", "fine for the embedded models; 7B models want a CUDA build and a GPU")
    free, total = torch.cuda.mem_get_info()
    return Finding("device", f"{torch.cuda.get_device_name()}, {free / GIB:.0f} of {total / GIB:.0f} GiB free")


def _memory() -> Finding:
    memory = psutil.virtual_memory()
    found = f"{memory.available / GIB:.1f} of {memory.total / GIB:.1f} GiB available"
    if memory.available < GIB:
        return Finding("memory", found, "note", "close other programs, or set memory: 256MiB in the manifest")
    return Finding("memory", found)


def _disk(folder: Path) -> Finding:
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    found = f"{free / GIB:.0f} GiB free"
    if not os.access(folder, os.W_OK):
        return Finding("results", f"{folder.resolve()} cannot be written", "mend", "--out DIR: a folder you can write")
    if free < LOW_DISK:
        return Finding("results", found, "note", "--out DIR: a folder on a larger disk")
    return Finding("results", found)


def _models() -> Iterator[Finding]:
    for name, named in NAMED.items():
        missing = [place for place in _places(named.spec) if not _here(place)]
        size = f"{named.shape.parameters * BYTES / GIB:.0f} GiB in bfloat16" if _large(named) else "embedded"
        if not missing:
            yield Finding(name, f"files are here; {size}")
        elif _large(named):
            fetch = " and ".join(f"hf download {place}" for place in missing)
            do = f"{fetch}; or models: {{{name}: {{path: FOLDER}}}} in the manifest; {name}-tiny runs now"
            yield Finding(name, f"not here: {', '.join(missing)}; {size}", "note", do)
        else:
            yield Finding(name, "its files are gone", "mend", "install nnsight-et again")


def _places(spec: ModelSpec) -> list[str]:
    return [place for place in (spec.path, spec.adapter) if place]


def _large(named: NamedModel) -> bool:
    return not Path(named.spec.path).is_absolute()


def _here(place: str) -> bool:
    """Whether a folder or hub id has a configuration and weights on this machine."""
    folder = Path(place)
    if not folder.is_absolute():
        configs = ("config.json", "adapter_config.json")
        cached = [huggingface_hub.try_to_load_from_cache(place, config) for config in configs]
        paths = [Path(path) for path in cached if isinstance(path, str)]
        if not paths:
            return False
        folder = paths[0].parent
    return any(path.exists() for pattern in WEIGHTS for path in folder.glob(pattern))
