"""What a server can answer other than a result, and what follows from each: another try, smaller jobs, or the end.

RemoteFailure
├── Retryable    what may pass: no connection, too many requests, a server in trouble, an evicted model
├── TooLarge     too much for one job: memory, or the time a job may take
├── JobLost      the server does not know the job, or its result is gone
├── ServerSilent no answer for as long as we wait; the job may go on
└── Rejected     what no repetition mends: the key, the model, the versions, an error in our own block
"""

from __future__ import annotations

import re

from nnsight_et.core.errors import ExperimentError


class RemoteFailure(ExperimentError):
    """A job that did not end with a result, in the server's own words."""

    ended = False
    """Whether it was the job that failed, and not a question about it."""


class Retryable(RemoteFailure):
    """May succeed when tried again."""

    def __init__(self, message: str, after: float | None = None, sent: bool = False) -> None:
        super().__init__(message)
        self.after = after
        """Seconds the server asks to wait; None if it does not say."""
        self.sent = sent
        """Whether the request may have arrived."""


class TooLarge(RemoteFailure):
    """May succeed in smaller pieces: it was too much for the server's memory, or took too long."""

    def __init__(self, message: str, too_long: bool = False) -> None:
        super().__init__(message)
        self.too_long = too_long


class JobLost(RemoteFailure):
    """The server has nothing of this job, any more or ever."""


class ServerSilent(RemoteFailure):
    """The server has not answered for too long; a later run finds the job again."""


class Rejected(RemoteFailure):
    """Will fail in the same way each time."""


MEMORY = ("outofmemoryerror", "out of memory", "can't allocate memory", "cannot allocate memory")
TIME = ("exceeded the execution timeout",)
PASSING = (
    "replica was evicted",
    "was cancelled or preempted",
    "error submitting request to model deployment",
    "request payload could not be read",  # damaged on its way
    "lost connection to the compute backend",
    "please try again later",
)
MISSING = "ModuleNotFoundError"  # of a payload that will be unreadable each time
DIED = ("brokenpipeerror", "connectionreseterror")  # the process that ran the block
CALLER = re.compile(r'File "[^"\n]*?(nnsight_et/[\w/]+\.py)", line (\d+)')
LAST = re.compile(r"^(?:[\w.]*\.)?(\w+): (.+)\Z", re.MULTILINE | re.DOTALL)
OWN = ("ExperimentError", "UnsupportedModel", "TaskError")


def failure_from_description(description: str, where: str) -> RemoteFailure:
    """What the ERROR of a job means, from the server's description of it."""
    failure = _kind_of_failure(description.strip(), where)
    failure.ended = True
    return failure


def _kind_of_failure(text: str, where: str) -> RemoteFailure:
    low = text.lower()
    if any(words in low for words in MEMORY):
        return TooLarge(f"{where}: the server ran out of memory: {_last_line(text)}")
    if any(words in low for words in TIME):
        return TooLarge(f"{where}: {_last_line(text)}", too_long=True)
    died = any(words in low for words in DIED)
    if died or ("traceback" not in low and MISSING not in text and any(words in low for words in PASSING)):
        return Retryable(f"{where}: {_last_line(text)}")
    return Rejected(f"{where}: {_blame(text)}")


def failure_from_status(code: int, detail: str, after: float | None, where: str) -> RemoteFailure:
    """What an HTTP status other than success means."""
    said = f"{where}: the server answers {code}: {detail or 'no reason given'}"
    if code in (408, 425, 429) or code >= 500:
        return Retryable(said, after)
    if code in (401, 403):
        return Rejected(f"{said}; accepted: a valid key, in NDIF_API_KEY or nnsight's configuration")
    return Rejected(said)


def _blame(text: str) -> str:
    """Our block's error with its line where there is a traceback; else the server's words."""
    if "Traceback" not in text and not CALLER.search(text):
        return text
    last = LAST.search(_last_line(text))
    if last and last[1] in OWN:
        return last[2]
    places = CALLER.findall(text)
    line = f" ({places[-1][0]}:{places[-1][1]})" if places else ""
    return f"the job failed on the server: {_last_line(text)}{line}"


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "no reason given"
