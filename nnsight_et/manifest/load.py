"""From text, and the --set options beside it, to a Manifest. Every problem found is in one ManifestError."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from nnsight_et.core.errors import ManifestError, accepted_names
from nnsight_et.manifest import checks, messages
from nnsight_et.manifest.document import SIZE_LIMIT, Document, KeyPath, dotted_path, read
from nnsight_et.manifest.schema import Manifest

SHIPPED = {path.stem: path for path in sorted((Path(__file__).parent / "shipped").glob("*.yaml"))}
"""The manifests that come with the package, by the names that stand for them."""


def load(path: Path, settings: Sequence[str] = ()) -> Manifest:
    """The manifest in the file `path`, with `settings` (each key.path=value) in place of what it says there.

    `tiny` and `paper` are the shipped ones, where there is no file of that name.
    """
    path = path if path.exists() else SHIPPED.get(str(path), path)
    return parse(_text(path), path.name, settings, folder=path.parent)


def parse(
    text: str,
    where: str,
    settings: Sequence[str] = (),
    lines: bool = True,
    folder: Path | None = None,
    options: Mapping[KeyPath, str] | None = None,
) -> Manifest:
    """The manifest written in `text`; `where` names the text in messages, with `lines` numbered or not.

    Relative paths in it start in `folder`, or in the working directory. options: which of a command's options the
    values at some keys come from. A setting is key.path=value, or --option=value of a key at the top.
    """
    document = read(text, where, lines)
    document.options = dict(options or {})
    if not isinstance(document.data, dict):
        raise ManifestError(f"{where}: no manifest; accepted: a mapping with name, experiments, ...")
    for setting in settings:
        _apply(document, setting)
    try:
        manifest = Manifest.model_validate(document.data)
    except ValidationError as error:
        raise document.error(messages.problems(error, document.data)) from None
    manifest = manifest.in_folder(folder or Path())
    if problems := tuple(checks.problems(manifest)):
        raise document.error(problems)
    return manifest.with_places(document.places)


def _text(path: Path) -> str:
    try:
        if path.is_file() and path.stat().st_size > 4 * SIZE_LIMIT:
            raise ManifestError(f"{path}: {path.stat().st_size} bytes; accepted: at most {SIZE_LIMIT} characters")
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path}: not text in UTF-8 (byte {error.start}); accepted: a YAML file") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        known = f"{accepted_names(str(path), SHIPPED)}, or a manifest's file"
        raise ManifestError(f"{path}: cannot be read ({reason}); {known}") from None


def _apply(document: Document, setting: str) -> None:
    key, equals, text = setting.partition("=")
    where = f"--set {ascii(setting[:80])[1:-1]}"
    if key.startswith("--"):
        where = f"{key} {ascii(text[:80])[1:-1]}"
        key = key.removeprefix("--").replace("-", "_")
    if not equals or not key:
        raise ManifestError(
            f"{where}: not a setting; accepted: key.path=value, such as experiments.circuit.examples=30"
        )
    document.set(_path(document, key, where), read(text, where, lines=False))


def _path(document: Document, key: str, where: str) -> KeyPath:
    """What `key` points at in the document; its last part may be new, and so may a mapping at the top or a model."""
    here, path = document.data, ()
    *parents, last = key.split(".")
    for part in parents:
        may_be_new = path == ("models",) or (not path and part in Manifest.model_fields)
        if may_be_new and isinstance(here, dict) and part not in here:
            document.set((*path, part), Document(where, {}))
        path = (*path, _step(here, part, path, where))
        here = here[path[-1]]
    if isinstance(here, list):
        return (*path, _step(here, last, path, where))
    if not isinstance(here, dict):
        raise ManifestError(
            f"{where}: {dotted_path(path)} is neither a mapping nor a list; accepted: {dotted_path(path)}=value"
        )
    return (*path, last)


def _step(here: object, part: str, path: KeyPath, where: str) -> str | int:
    """The key or index that `part` means in `here`."""
    if isinstance(here, dict) and part in here:
        return part
    if isinstance(here, list):
        if part.isdecimal() and len(part) < 10 and int(part) < len(here):
            return int(part)
        raise ManifestError(f"{where}: no entry {part} in {dotted_path(path)}; accepted: 0 to {len(here) - 1}")
    keys = here if isinstance(here, dict) else ()
    raise ManifestError(
        f"{where}: no key '{part}' in {dotted_path(path) or 'the manifest'}; {accepted_names(part, keys)}"
    )
