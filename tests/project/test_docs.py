"""The documents: every command and snippet is run or, where a comment says so, parsed; the site has no warnings."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer
from ruamel.yaml import YAML

from nnsight_et.manifest import load
from nnsight_et.manifest.schema import json_schema
from nnsight_et.methods import METHODS
from nnsight_et.planning.plan import plan
from nnsight_et.results.headers import ResultHeader
from tests.helpers.commands import ROOT
from tests.helpers.documents import DOCUMENTS, Block, Reader, blocks, check_command, commands

sys.path.insert(0, str(ROOT / "docs" / "site"))
RUN = [name for name in DOCUMENTS if any(block.language in ("sh", "python") for block in blocks(name))]


@pytest.mark.parametrize("document", RUN)
def test_a_reader_can_follow_the_document(document: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    reader = Reader()
    for block in blocks(document):
        reader.follow(block)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_block_says_what_it_is_and_manifests_can_be_planned(document: str, tmp_path: Path):
    for index, block in enumerate(blocks(document)):
        assert block.language in ("sh", "python", "yaml", "json", "text"), block
        if block.language == "json":
            assert all(json.loads(line) for line in block.text.splitlines())
        if block.title:
            (tmp_path / block.title).write_text(block.text)
        if block.language == "yaml":
            path = tmp_path / f"{index}.yaml"
            path.write_text(block.text)
            assert plan(load(path)).jobs


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_to_files_that_are_there(document: str):
    made = importlib.import_module("reference").PAGES
    folder = (ROOT / document).parent
    text = (ROOT / document).read_text()
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text) + re.findall(r'<img src="([^"]+)"', text):
        if "://" not in target:
            there = (folder / target).resolve()
            assert there.exists() or there.relative_to(ROOT / "docs").as_posix() in made, target


def test_what_only_is_parsed_is_marked_and_little():
    parsed = [(name, block.text) for name in DOCUMENTS for block in blocks(name) if block.parsed]
    known = {"docs/commands.md", "docs/report.md"}
    known |= {f"docs/howto/{name}.md" for name in ("own_model", "several_devices", "other_tools")}
    assert {name for name, _ in parsed} <= known, parsed


@pytest.mark.parametrize(
    "line",
    ["et ruin tiny", "et run tiny --fast", "et run missing.yaml", "make coffee", "pip install 'x[more]'", "rm -r runs"],
)
def test_a_command_that_does_not_exist_is_noticed(line: str):
    ((_, words),) = commands(line)
    check_command(["et", "run", "tiny", "--fresh"])
    with pytest.raises(Exception) as error:  # noqa: PT011 - the shell's own class has a private place
        check_command(words)
    assert type(error.value).__name__ in ("AssertionError", "NoSuchOption")


def test_a_document_that_is_wrong_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AssertionError):
        Reader().follow(Block("sh", "et validate study.yaml", None, parsed=False))
    with pytest.raises(NameError):
        Reader().follow(Block("python", "missing", None, parsed=False))


def test_the_references_name_every_key_command_and_function():
    import nnsight_et_cli

    import nnsight_et

    reference = importlib.import_module("reference")

    manifest = reference.manifest_page()
    for part in (json_schema(), *json_schema()["$defs"].values()):
        assert part["description"].split("\n")[0] in manifest
        for key, field in part["properties"].items():
            assert f"| `{key}`" in manifest
            assert re.sub(r"\s*\n\s*", " ", field.get("description", "")).replace("|", "\\|") in manifest
    shown = reference.commands_page()
    for name, command in typer.main.get_command(nnsight_et_cli.app).commands.items():  # type: ignore[attr-defined]
        assert f"## et {name}\n" in shown
        for parameter in command.params:
            assert parameter.param_type_name == "argument" or f"`{parameter.opts[0]}`" in shown
    names = re.findall(r"^::: nnsight_et\.[\w.]+\.(\w+)$", reference.notebook_page(), re.MULTILINE)
    assert sorted(names) == sorted(nnsight_et.__all__)
    every = re.findall(r"^::: (nnsight_et[\w.]*)$", reference.modules_page(), re.MULTILINE)
    assert all(importlib.util.find_spec(name) for name in every)


def test_the_site_has_the_pages_of_its_nav_written_or_made(monkeypatch: pytest.MonkeyPatch):
    """All that docs/site/ does, without what is slow: turning the pages into HTML."""
    assert {path.name for path in (ROOT / "docs" / "site").glob("*.py")} == {"hooks.py", "reference.py"}
    hooks, reference = importlib.import_module("hooks"), importlib.import_module("reference")
    nav: list = YAML(typ="safe").load((ROOT / "mkdocs.yml").read_text())["nav"]
    config = SimpleNamespace(docs_dir=str(ROOT / "docs"), nav=[*nav, {"No such page": "missing.md"}])
    assert hooks.on_config(config).nav == nav
    made: dict[str, str] = {}
    monkeypatch.setattr(hooks.File, "generated", lambda _config, uri, content: made.setdefault(uri, content))
    assert hooks.on_files([], config) == list(made.values())
    assert made.keys() == reference.PAGES.keys()
    assert all(text.startswith("# ") for text in made.values())


def test_stars_behind_scores_are_stars_in_the_site_and_its_style_is_there():
    settings = YAML(typ="safe").load((ROOT / "mkdocs.yml").read_text())
    configs = [one if isinstance(one, dict) else {one: {}} for one in settings["markdown_extensions"]]
    extensions = {name: config for one in configs for name, config in one.items()}
    table = "| heads |\n| --- |\n| L5H0 -0.505*, L5H2 -0.235*, L5H3 0.1 |\n\n*emphasis*\n\n```text\na formula\n```\n"
    html = pytest.importorskip("markdown").markdown(table, extensions=list(extensions), extension_configs=extensions)
    assert "L5H0 -0.505*, L5H2 -0.235*, L5H3 0.1" in html
    assert "<em>emphasis</em>" in html
    assert "language-text" in html  # what the style breaks the lines of
    assert all((ROOT / "docs" / name).exists() for name in settings["extra_css"])


def test_the_reference_of_results_names_every_key_and_every_tensor_with_what_it_is():
    page = importlib.import_module("reference").results_page()
    schemas = [model.model_json_schema() for model in (ResultHeader, *(one.summary for one in METHODS.values()))]
    written = json_schema()["$defs"]
    for schema in schemas:
        for name, part in {"": schema, **schema.get("$defs", {})}.items():
            assert name in written or " ".join(part["description"].split()) in page
            for key, field in {} if name in written else part.get("properties", {}).items():
                said = field.get("description") or field.get("$ref")
                assert said, f"{name}.{key} does not say what it is"
                assert f"| `{key}`" in page
                assert " ".join(field.get("description", "").split()).replace("|", "\\|") in page
    for method in METHODS.values():
        for tensor in method.summary.scores:
            assert f"| `{tensor.name}`" in page
            assert tensor.what in page
    assert set(re.findall(r"\(#([\w-]+)\)", page)) <= set(re.findall(r"\{#([\w-]+)\}", page))


@pytest.mark.slow
def test_the_site_builds_without_warnings_and_asks_for_nothing_from_elsewhere(tmp_path: Path):
    pytest.importorskip("material")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    setting = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, env=setting, check=False)
    assert done.returncode == 0, done.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert {"tutorial.html", "faq.html", "methods.html"} <= {page.name for page in pages}
    for page in pages:
        loaded = re.findall(r"<(?:script|link|img)[^>]*(?:src|href)=\"?(https?://[^\" >]+)", page.read_text())
        assert not [address for address in loaded if "nnsight" not in address], page.name
    assert "path_patch" in (tmp_path / "site" / "reference" / "notebook.html").read_text()
