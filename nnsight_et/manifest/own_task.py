"""A task of your own in Python, `kind: my_package.module:Task`: its module imported, its class made, its positions.

The module is looked for in the manifest's folder first, then where Python looks. One in that folder is read from its
file again for every manifest, so that what is run is what is digested.
"""

from __future__ import annotations

import importlib
import re
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

from pydantic import Field

from nnsight_et.core.errors import ManifestError, TaskError, accepted_names
from nnsight_et.manifest.chat import Chat, chat_identity, read_chat
from nnsight_et.manifest.document import KeyPath, Problem
from nnsight_et.manifest.pairs import TAKEN
from nnsight_et.manifest.written import SpecModel

PATTERN = r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$"
POSITION = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
PACKAGE = Path(__file__).parent.parent
LIBRARIES = (PACKAGE, *(Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")))
_from_folder: set[str] = set()


class PythonTask(SpecModel):
    """Examples made by a Python class of your own; docs/howto/own_tasks.md says what it needs."""

    kind: Annotated[str, Field(pattern=PATTERN, max_length=300)]
    """The module and its class, such as my_package.module:Task. The manifest's folder is searched first."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments for the class."""
    chat: Chat = None
    """Send prompts as a user's messages in the tokenizer's chat template; the answer then begins the reply.

    true, the name of a template, or a file with one in Jinja, relative to the manifest. A model's own `chat` wins.
    """


@dataclass(frozen=True)
class MadeTask:
    """A Python task's object, and all that says what it makes."""

    kind: str
    options: dict[str, Any]
    positions: tuple[str, ...]
    source: str
    """A digest of the text of the module's file."""
    version: str | int | None
    """The class's `version`, if it has one."""
    folder: Path
    made: Any = field(repr=False, compare=False)
    desiderata: tuple[str, ...] = ()
    """The variables that its object makes swaps of."""
    chat: bool | str | None = None
    """As it is written; of a file the template in it."""

    def __hash__(self) -> int:
        return hash((self.kind, self.positions, self.source, self.version, self.folder))

    @property
    def all_positions(self) -> tuple[str, ...]:
        """The named positions of a prompt, in its order."""
        return (*self.positions, "last")

    @property
    def identity(self) -> dict[str, Any]:
        """What is computed on, as plain data, without a folder of this machine."""
        named = {"kind": self.kind, "options": self.options, "positions": list(self.positions)}
        more = {"desiderata": list(self.desiderata)} if self.desiderata else {}
        return named | {"source": self.source, "version": self.version} | more | chat_identity(self.chat)

    def examples(self, tokenizer: Any, count: int, seed: int, split: str) -> list[Any]:
        """What the object gives, as it is; TaskError with the user's line if it raises."""
        return self._call(lambda: list(self.made.examples(tokenizer, count, seed, split)), f"examples of {split}")

    def desideratum(self, name: str, tokenizer: Any, count: int, seed: int, split: str) -> list[Any]:
        """What the object gives as swaps of a variable, as it is; TaskError with the user's line if it raises."""
        what = f"desideratum {name} of {split}"
        return self._call(lambda: list(self.made.desideratum(name, tokenizer, count, seed, split)), what)

    def available(self, seed: int, split: str) -> Any:
        """How many examples the object says that a split can have; None if it does not say."""
        counted = getattr(self.made, "available", None)
        return None if counted is None else self._call(lambda: counted(seed, split), f"available of {split}")

    def _call(self, call: Callable[[], Any], what: str) -> Any:
        with importable(self.folder):
            try:
                return call()
            except (Exception, SystemExit) as error:
                raise TaskError(f"task {self.kind}: {what}: {error_text(error)}") from error


class UnusableTask(ManifestError):
    """A Python task that cannot be imported or made; `problem` says at which key of the manifest."""

    def __init__(self, path: KeyPath, text: str) -> None:
        super().__init__(text)
        self.problem = Problem(path, text)


def make_task(task: PythonTask, folder: Path) -> MadeTask:
    """The task's object, for a manifest in `folder`; UnusableTask if there is none that can be used."""
    name, _, class_name = task.kind.partition(":")
    with importable(folder):
        module = _module(name, folder)
        made, found, version = _make_object(module, class_name, task.options)
    positions = _positions(found, class_name)
    desiderata = _desiderata(made, class_name)
    if not isinstance(version, (str, int, type(None))):
        raise UnusableTask(("task", "kind"), f"{class_name}.version is {version!r:.60}; accepted: text or a number")
    source, chat = _source(module, version), read_chat(task.chat, folder)
    return MadeTask(task.kind, task.options, positions, source, version, folder, made, desiderata, chat)


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """While open, modules of the folder can be imported, before all others, and leave no bytecode that may be stale."""
    entry, quiet = str(folder.resolve()), sys.dont_write_bytecode
    sys.path.insert(0, entry)
    sys.dont_write_bytecode = True
    try:
        yield
    finally:
        sys.dont_write_bytecode = quiet
        with suppress(ValueError):  # the user's code may have removed it
            sys.path.remove(entry)


def error_text(error: BaseException) -> str:
    """What was raised, and the last line of the user's code that it came through."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename[0] != "<"]
    others = [frame for frame in frames if not _is_within(frame.filename, (PACKAGE,))]
    own = [frame for frame in others if not _is_within(frame.filename, LIBRARIES)] or others
    place = f" ({Path(own[-1].filename).name}:{own[-1].lineno})" if own else ""
    if isinstance(error, SyntaxError) and error.filename:
        place = f" ({Path(error.filename).name}:{error.lineno})"
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}{place}"


def _is_within(file: str, folders: Iterable[Path]) -> bool:
    return any(Path(file).is_relative_to(folder) for folder in folders)


def _module(name: str, folder: Path) -> ModuleType:
    """The module; UnusableTask if it cannot be imported."""
    for stale in _from_folder:
        sys.modules.pop(stale, None)
    _from_folder.clear()
    importlib.invalidate_caches()
    before = set(sys.modules)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if not f"{name}.".startswith(f"{error.name}."):
            raise UnusableTask(("task", "kind"), f"importing {name}: {error_text(error)}") from error
        text = f"no module {error.name!r}; accepted: a module in the manifest's folder, or one that Python can import"
        raise UnusableTask(("task", "kind"), text) from error
    except (Exception, SystemExit) as error:
        raise UnusableTask(("task", "kind"), f"importing {name}: {error_text(error)}") from error
    finally:
        _from_folder.update(_new_ones(name.partition(".")[0], folder.resolve(), before))


def _new_ones(top: str, folder: Path, before: set[str]) -> Iterator[str]:
    """The modules of a package in the folder that were not imported before; none of this package's own."""
    for name, module in sys.modules.items():
        file = getattr(module, "__file__", None)
        new = name not in before and name.partition(".")[0] == top
        if new and file and _is_within(file, (folder,)) and not _is_within(file, LIBRARIES):
            yield name


def _make_object(module: ModuleType, class_name: str, options: dict[str, Any]) -> tuple[Any, Any, Any]:
    """The class's object, and its positions and version as they are; UnusableTask if it cannot be made or used."""
    made = getattr(module, class_name, None)
    if not isinstance(made, type):
        found = [key for key, value in vars(module).items() if isinstance(value, type) and key[0] != "_"]
        text = f"no class {class_name!r} in {module.__name__}; {accepted_names(class_name, found)}"
        raise UnusableTask(("task", "kind"), text)
    try:
        one = made(**deepcopy(options))
        found = one, getattr(one, "positions", None), getattr(one, "version", None)
    except (Exception, SystemExit) as error:
        written = ", ".join(f"{key}={value!r:.40}" for key, value in options.items())
        text = f"{class_name}({written}): {error_text(error)}"
        raise UnusableTask(("task", "options") if options else ("task", "kind"), text) from error
    if not callable(getattr(one, "examples", None)):
        text = f"{class_name} has no method examples; accepted: examples(tokenizer, count, seed, split)"
        raise UnusableTask(("task", "kind"), text)
    return found


def _positions(positions: Any, class_name: str) -> tuple[str, ...]:
    accept = f"accepted: a tuple of names of letters, digits and _, each once, none of {', '.join(TAKEN)}"
    path, where = ("task", "kind"), f"{class_name}.positions"
    if not isinstance(positions, (tuple, list)) or len(positions) > 64:
        raise UnusableTask(path, f"{where}: found {positions!r:.60}; {accept}")
    for index, name in enumerate(positions):
        if not isinstance(name, str) or not POSITION.fullmatch(name) or name in TAKEN or name in positions[:index]:
            raise UnusableTask(path, f"{where}: found {name!r:.60}; {accept}")
    return tuple(positions)


def _desiderata(made: Any, class_name: str) -> tuple[str, ...]:
    """The names of the variables that can be swapped; UnusableTask unless they are names, with a method for them."""
    path, names = ("task", "kind"), getattr(made, "desiderata", ())
    listed = isinstance(names, (tuple, list)) and all(isinstance(name, str) for name in names)
    if not listed or not all(map(POSITION.fullmatch, names)) or len(set(names)) < len(names):
        accept = "a tuple of names of letters, digits and _, each once"
        raise UnusableTask(path, f"{class_name}.desiderata: found {names!r:.60}; accepted: {accept}")
    if names and not callable(getattr(made, "desideratum", None)):
        accept = "desideratum(name, tokenizer, count, seed, split)"
        raise UnusableTask(path, f"{class_name} has desiderata but no method desideratum; accepted: {accept}")
    return tuple(names)


def _source(module: ModuleType, version: str | int | None) -> str:
    file = Path(module.__file__ or "")
    if file.suffix == ".py" and file.is_file():
        return blake2b(file.read_bytes(), digest_size=10).hexdigest()
    if version is None:
        text = f"{module.__name__} has no source file; accepted: one with a file, or a class with a version"
        raise UnusableTask(("task", "kind"), text)
    return "none"
