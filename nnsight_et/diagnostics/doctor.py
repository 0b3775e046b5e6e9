"""What this machine has for a run: versions, devices, memory, and which models' files are there. Downloads nothing."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

import huggingface_hub
import psutil
import torch
from packaging.requirements import Requirement

from nnsight_et import __version__
from nnsight_et.core.errors import UnsupportedModel
from nnsight_et.models.adapters import check_no_adapter, read_settings
from nnsight_et.models.bos_here import bos_here
from nnsight_et.models.catalog import KNOWN_MODELS, ModelSpec, Shape, is_hub_id
from nnsight_et.models.files import WEIGHTS, describe_files

GIB = 1 << 30
LOW_DISK = 5 * GIB
EXTRAS = {
    "export": (("pandas", "pyarrow"), "et export --format parquet, to_dataframe()"),
    "figures": (("vl-convert-python",), "et report --figures"),
    "gguf": (("gguf",), "gguf: FILE.gguf of a model"),
}
"""Their packages, and what they are for."""
BYTES = 2  # of a weight in bfloat16


@dataclass(frozen=True)
class Diagnosis:
    """One thing that was looked at: what was found, whether that is well, and what to do about it if not."""

    subject: str
    found: str
    state: Literal["ok", "note", "mend"] = "ok"
    """note: runs work, but not all of them; mend: runs fail until it is mended."""
    do: str = ""


Models = Mapping[str, tuple[ModelSpec, Shape | None]]
"""Where the files of models are, and their sizes if they are known, by the models' names."""


def findings(folder: Path = Path(), models: Models | None = None) -> list[Diagnosis]:
    """Everything that is looked at; results would go under `folder`. `models`: those known by name unless given."""
    known = {name: (named.spec, named.shape) for name, named in KNOWN_MODELS.items()} if models is None else models
    return [*_versions(), *_extras(), _device(), _memory(), _disk(folder), *_models(known)]


def _versions() -> Iterator[Diagnosis]:
    yield Diagnosis("python", platform.python_version())
    yield Diagnosis("nnsight_et", __version__)
    for text in metadata.requires("nnsight-et") or ():
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        wanted = f"pip install '{requirement.name}{requirement.specifier}'"
        if (version := _version(requirement.name)) is None:
            yield Diagnosis(requirement.name, "not installed", "mend", wanted)
            continue
        fits = requirement.specifier.contains(version, prereleases=True)
        yield Diagnosis(requirement.name, version) if fits else Diagnosis(requirement.name, version, "mend", wanted)


def _version(package: str) -> str | None:
    """The version that is installed, if one is."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _extras() -> Iterator[Diagnosis]:
    for extra, (packages, purpose) in EXTRAS.items():
        versions = {name: _version(name) for name in packages}
        if missing := [name for name, version in versions.items() if version is None]:
            do = f"for {purpose}: pip install 'nnsight-et[{extra}]'"
            yield Diagnosis(f"extra {extra}", f"no {', '.join(missing)}", "note", do)
        else:
            yield Diagnosis(f"extra {extra}", ", ".join(f"{name} {version}" for name, version in versions.items()))


def _device() -> Diagnosis:
    if not torch.cuda.is_available():
        found = f"cpu, {torch.get_num_threads()} threads; no CUDA device"
        return Diagnosis("device", found, "note", "fine for the embedded models; 7B models need a CUDA build and a GPU")
    free, total = torch.cuda.mem_get_info()
    first = f"{torch.cuda.get_device_name()}, {free / GIB:.0f} of {total / GIB:.0f} GiB free"
    if (count := torch.cuda.device_count()) == 1:
        return Diagnosis("device", first)
    do = f"device: balanced for models larger than one; --workers ray:{count} for all at a time"
    return Diagnosis("device", f"{count} GPUs, the first {first}", do=do)


def _memory() -> Diagnosis:
    memory = psutil.virtual_memory()
    found = f"{memory.available / GIB:.1f} of {memory.total / GIB:.1f} GiB available"
    if memory.available < GIB:
        return Diagnosis("memory", found, "note", "close other programs, or set memory: 256MiB in the manifest")
    return Diagnosis("memory", found)


def _disk(folder: Path) -> Diagnosis:
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    found = f"{free / GIB:.0f} GiB free"
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        return Diagnosis(
            "results", f"{folder.resolve()} cannot be written", "mend", "--out DIR: a folder that you can write to"
        )
    if free < LOW_DISK:
        return Diagnosis("results", found, "note", "--out DIR: a folder on a larger disk")
    return Diagnosis("results", found)


def _models(models: Models) -> Iterator[Diagnosis]:
    for name, (spec, shape) in models.items():
        weights = (spec.gguf,) if spec.gguf else WEIGHTS
        places = ((spec.path, weights), (spec.adapter, WEIGHTS))
        missing = [place for place, patterns in places if place and not _find_weights(place, patterns)]
        size = f"; {shape.parameters * BYTES / GIB:.0f} GiB in bfloat16" if shape and is_hub_id(spec.path) else ""
        embedded = "; embedded" if name in KNOWN_MODELS and spec == KNOWN_MODELS[name].spec and not size else ""
        if not missing and (trouble := _adapter_trouble(name, spec)):
            found, _, do = trouble.removeprefix(f"{name}: ").partition("; accepted: ")
            yield Diagnosis(name, found, "mend", do)
        elif not missing:
            yield Diagnosis(name, f"files are here{size}{embedded}")
            if name not in KNOWN_MODELS or spec != KNOWN_MODELS[name].spec:
                yield from _beginning(name, spec)
        elif embedded:
            yield Diagnosis(name, "its files are gone", "mend", "install nnsight-et again")
        elif gone := [place for place in missing if not is_hub_id(place)]:
            yield Diagnosis(name, f"no model in {', '.join(gone)}", "mend", "a folder with a configuration and weights")
        else:
            fetch = " and ".join(f"hf download {place}" for place in missing)
            instead = f"; {name}-tiny runs now" if f"{name}-tiny" in KNOWN_MODELS else ""
            do = f"{fetch}; or models: {{{name}: {{path: FOLDER}}}} in the manifest{instead}"
            yield Diagnosis(name, f"not here: {', '.join(missing)}{size}", "note", do)


def _beginning(name: str, spec: ModelSpec) -> Iterator[Diagnosis]:
    """That the model needs a BOS which its prompts lack, where that is so."""
    try:
        found = bos_here(describe_files(name, spec, here=True), "float32")
    except UnsupportedModel as error:
        yield Diagnosis(f"{name}: beginning of text", str(error), "note", "et models inspect says more")
        return
    for notice in found.notices:
        yield Diagnosis(f"{name}: beginning of text", notice.text, "note", f"models: {{{name}: {{..., bos: add}}}}")


def _adapter_trouble(name: str, spec: ModelSpec) -> str:
    """Why the files that are here cannot be what they are to be, a model and an adapter; nothing if they can."""
    model = _find_weights(spec.path, (spec.gguf,) if spec.gguf else WEIGHTS)
    adapter = _find_weights(spec.adapter) if spec.adapter else None
    try:
        if model:
            check_no_adapter(model, name)
        if adapter:
            read_settings(adapter, name)
    except UnsupportedModel as error:
        return str(error)
    return ""


def _find_weights(place: str, weights: Sequence[str] = WEIGHTS) -> Path | None:
    """Where a folder or hub id has such weights and, unless they are a GGUF file, a configuration; None if nowhere."""
    folder = Path(place).expanduser()
    if not folder.is_dir():
        if not is_hub_id(place):
            return None
        configs = ("config.json", "adapter_config.json", *weights)
        cached = [huggingface_hub.try_to_load_from_cache(place, config) for config in configs]
        paths = [Path(path) for path in cached if isinstance(path, str)]
        if not paths:
            return None
        folder = paths[0].parent
    return folder if any(path.exists() for pattern in weights for path in folder.glob(pattern)) else None
