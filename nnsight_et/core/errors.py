"""What can go wrong, and the exit code the shell gives it.

NnsightEtError
├── ManifestError      the manifest or an option: its text, a name, a number (2)
├── TaskError          data that cannot be made as asked, or a circuit file that does not fit (2)
├── UnsupportedModel   a model that cannot be found, read, or taken apart (2)
├── ExperimentError    an experiment that ran and failed (1)
│   └── NothingFound   one that cannot run, as an earlier one found no circuit (1)
└── ResultError        a result that is damaged, or none of this package's (2)
    └── FolderError    a run directory that somebody else holds, or that cannot be written (1)

A message says where, what was found, and what is accepted. Anything else raised is a bug and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches

BEGINNING = 3  # letters of a name that are enough to mean it


class NnsightEtError(Exception):
    """Base of all errors a user can cause or mend; the shell prints the message alone."""

    exit_code = 2


class ManifestError(NnsightEtError):
    """The manifest, or an option given for it, cannot be used as written."""


class TaskError(NnsightEtError):
    """The task's data or a circuit does not fit: an object of two tokens, an unknown position, a missing head."""

    alike: str = ""
    """What errors about several rows that are one mistake have in common, where their texts differ."""


class UnsupportedModel(NnsightEtError):
    """A model that cannot be found, read, or taken apart."""


class ExperimentError(NnsightEtError):
    """An experiment that started and could not be finished."""

    exit_code = 1


class NothingFound(ExperimentError):
    """The circuit that experiments need was looked for by an earlier one, and not found."""

    def __init__(self, message: str, skipped: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.skipped = skipped or {}
        """The experiments of a run that were left out, and why."""


class ResultError(NnsightEtError):
    """A result on disk that is damaged, of another schema, or not one that its method writes."""


class FolderError(ResultError):
    """A folder of results that another process holds, or that the disk refuses to write."""

    exit_code = 1


def accepted_names(found: str, names: Iterable[str]) -> str:
    """The tail of a message about an unknown name: the closest one if there is one, and all that are accepted."""
    known = list(names)
    longer = [name for name in known if len(found) >= BEGINNING and name.startswith(found)]
    close = longer or get_close_matches(found, known, n=1)
    listed = ", ".join(known) if known else "none"
    return f"did you mean '{close[0]}'? accepted: {listed}" if close else f"accepted: {listed}"


def quantity(count: int, noun: str, several: str = "") -> str:
    """How many of something: 1 stage, 2 stages; `several` is the plural of a noun that does not take an s."""
    return f"{count} {noun if count == 1 else several or noun + 's'}"


def brief(found: object) -> str:
    """What was found, in a few words: its value where that is short, else its kind."""
    kind, shown = type(found).__name__, repr(found)
    if isinstance(found, (str, int, float, type(None))) and len(shown) <= 60:
        return f"found {shown}"
    return f"found {'an' if kind[0] in 'AEIOUaeiou' else 'a'} {kind}"
