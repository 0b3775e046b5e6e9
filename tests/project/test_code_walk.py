"""The code itself: nothing of ours turns text or bytes into a program, but what is named here with its reason."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.commands import ROOT

FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib", "yaml"}
FORBIDDEN_CALLS = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "numpy.load", "np.load", "tempfile.mktemp",
    "pickle.load", "pickle.loads", "yaml.load", "yaml.unsafe_load", "yaml.full_load",
}  # fmt: skip
ALLOWED = {
    (
        "nnsight_et/results/score_files.py",
        "from pickle",
    ): "the name of the error torch.load raises; nothing is unpickled",
    ("nnsight_et/results/score_files.py", "numpy.load()"): "with allow_pickle=False",
    ("nnsight_et/models/failures.py", "from pickle"): "the names of errors torch.load raises; nothing is unpickled",
    ("nnsight_et/remote/server.py", "from pickle"): "the name of the error torch.load raises; nothing is unpickled",
    ("nnsight_et/loopback/worker.py", "nnsight.intervention.serialization"): "a server runs what its clients send",
}


def named(node: ast.expr) -> str:
    """A dotted name as it is written; empty for anything else."""
    if isinstance(node, ast.Attribute):
        return f"{named(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def says(call: ast.Call, option: str, value: object) -> bool:
    """Whether a call has option=value, written so."""
    return any(
        word.arg == option and isinstance(word.value, ast.Constant) and word.value.value is value
        for word in call.keywords
    )


def risks(text: str) -> Iterator[str]:
    """What in a module's text could run what it is given."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (f"import {one.name}" for one in node.names if one.name.split(".")[0] in FORBIDDEN_MODULES)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if module.split(".")[0] in FORBIDDEN_MODULES:
                yield f"from {module}"
            if module == "nnsight.intervention.serialization":
                yield module
        elif isinstance(node, ast.Call):
            name = named(node.func)
            if name in FORBIDDEN_CALLS:
                yield f"{name}()"
            if name == "torch.load" and not says(node, "weights_only", True):
                yield "torch.load() without weights_only=True"
            if name.endswith("YAML") and not any(
                word.arg == "typ" and isinstance(word.value, ast.Constant) and word.value.value == "safe"
                for word in node.keywords
            ):
                yield "YAML() that is not safe"
            if any(word.arg == "shell" for word in node.keywords):
                yield f"{name}(shell=)"
            of_auto = name.startswith("Auto") and name.endswith((".from_pretrained", ".from_config"))
            asked = of_auto or any(word.arg == "trust_remote_code" for word in node.keywords)
            if asked and not says(node, "trust_remote_code", False):
                yield f"{name}() without trust_remote_code=False"


def files() -> list[Path]:
    return [path for folder in ("nnsight_et", "cli") for path in sorted((ROOT / folder).rglob("*.py"))]


def test_nothing_of_ours_runs_what_it_reads():
    found = {(path.relative_to(ROOT).as_posix(), risk) for path in files() for risk in risks(path.read_text())}
    assert found == set(ALLOWED)
    assert len(files()) > 150


@pytest.mark.parametrize(
    ("text", "risk"),
    [
        ("import pickle", "import pickle"),
        ("from yaml import load", "from yaml"),
        ("import torch\ntorch.load(path)", "torch.load() without weights_only=True"),
        ("torch.load(path, weights_only=False)", "torch.load() without weights_only=True"),
        ("YAML().load(text)", "YAML() that is not safe"),
        ("YAML(typ='unsafe')", "YAML() that is not safe"),
        ("eval(text)", "eval()"),
        ("os.system(text)", "os.system()"),
        ("subprocess.run(text, shell=True)", "subprocess.run(shell=)"),
        ("load(name, trust_remote_code=True)", "load() without trust_remote_code=False"),
        ("AutoConfig.from_pretrained(name)", "AutoConfig.from_pretrained() without trust_remote_code=False"),
        ("AutoModel.from_config(x, trust_remote_code=y)", "AutoModel.from_config() without trust_remote_code=False"),
    ],
)
def test_each_of_them_would_be_found(text, risk):
    assert list(risks(text)) == [risk]


def test_what_is_harmless_is_not_found():
    assert not list(
        risks(
            "model.eval()\ntorch.load(path, weights_only=True)\nYAML(typ='safe', pure=True)\nre.compile('x')\n"
            "AutoTokenizer.from_pretrained(name, trust_remote_code=False)"
        )
    )
