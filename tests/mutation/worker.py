"""A process with the libraries loaded, which forks for every job: each job begins with the import of nnsight_et.

It reads a job per line, as JSON, and answers each with a line. Run as a script, by runner.py.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import sys
from pathlib import Path
from typing import Any

MEMORY = 12 << 30  # bytes of address space: a fault that wants more ends as a crash


def main() -> None:
    """Answer jobs until there are no more."""
    import nnsight  # noqa: F401
    import peft  # noqa: F401
    import pydantic  # noqa: F401
    import pytest  # noqa: F401
    import torch
    import transformers.models.auto.modeling_auto  # noqa: F401
    import transformers.models.llama.modeling_llama  # noqa: F401

    torch.set_num_threads(1)
    for line in sys.stdin:
        print(json.dumps(outcome(json.loads(line))), flush=True)


def outcome(job: dict[str, Any]) -> dict[str, str]:
    """What became of the job in a process of its own: how it was caught ("" if it was not), by what, and a detail."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        _work(job, writing)
    os.close(writing)
    with os.fdopen(reading, "rb") as answers:
        ended = select.select([answers], [], [], job["limit"])[0]
        if not ended:
            os.killpg(child, signal.SIGKILL)
        answer = answers.read()
    status = os.waitpid(child, 0)[1]
    if not ended:
        return {"caught": "hang", "by": f"more than {job['limit']} s", "detail": ""}
    if not answer:
        return {"caught": "crash", "by": f"exit status {status}", "detail": ""}
    return json.loads(answer)


def _work(job: dict[str, Any], writing: int) -> None:
    """In the child: run the job in its copy of the package, write what it found, and end."""
    os.setsid()
    log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    copy = Path(job["copy"])
    os.chdir(copy)
    here = str(Path(__file__).parent)
    sys.path[:] = [str(copy), *(path for path in sys.path if path != here)]
    try:
        from tests.mutation import jobs  # type: ignore[import-not-found]

        found = jobs.run(job)
    except BaseException as error:  # noqa: BLE001 - whatever a fault brings about is what is asked for
        found = {"caught": "crash" if "exercise" in job else "broken", "by": type(error).__name__, "detail": str(error)}
    os.write(writing, json.dumps(found | {"detail": found["detail"][:300]}).encode())
    os._exit(0)


if __name__ == "__main__":
    main()
