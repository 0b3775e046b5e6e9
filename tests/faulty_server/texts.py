"""More of what NDIF says: texts of the published server (ndif 0.1.2) and of torch 2.13, which a fault may ask for.

A full queue and a lost result have no text: NDIF queues without a bound, and answers
for a job it does not know as for one without a status yet.
"""

from __future__ import annotations

from descriptions import JOB_ERROR as COMMON
from descriptions import REFUSAL as REFUSED

_SORRY = "Please try again later. Sorry for the inconvenience."
JOB_ERROR = COMMON | {
    "out_of_memory": (
        "Traceback (most recent call last):\n"
        '  File "experiment.py", line 1, in <module>\n'
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.19 "
        "GiB of which 1.12 GiB is free. Including non-PyTorch memory, this process has 78.06 GiB memory in use. Of the "
        "allocated memory 76.40 GiB is allocated by PyTorch, and 1.02 GiB is reserved by PyTorch but unallocated. If "
        "reserved but unallocated memory is large try setting PYTORCH_ALLOC_CONF=expandable_segments:True to avoid "
        "fragmentation.  See documentation for Memory Management  "
        "(https://docs.pytorch.org/docs/stable/notes/cuda.html#optimizing-memory-usage-with-pytorch-alloc-conf)\n"
    ),
    "out_of_memory_cpu": (
        "Traceback (most recent call last):\n"
        '  File "experiment.py", line 1, in <module>\n'
        "RuntimeError: [enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you "
        "tried to allocate 4000000000000 bytes. Error code 12 (Cannot allocate memory)\n"
    ),
    "time_limit": "Your job exceeded the execution timeout of {limit}s.",
    "cancelled": "Your job was cancelled or preempted by the server.",
    "cancelled_by_operator": "Request cancelled by operator.",
    "evicted": (
        "Replica was evicted while processing your request. Sorry for the inconvenience. Please try again later."
    ),
    "no_room": (
        "Could not deploy this model. CANT_ACCOMMODATE: placed 0 of 1 new replicas before the cluster ran out of room."
    ),
    "error_provisioning": f"Error provisioning model. {_SORRY}",
    "error_starting": f"Error starting model. {_SORRY}",
    "server": f"Critical server error occurred. {_SORRY}",
}

REFUSAL: dict[str, tuple[int, str]] = REFUSED | {
    "missing_key": (
        401,
        "Missing or invalid API key. Please visit https://login.ndif.us/ to create a new one.",
    ),
    "malformed_key": (
        400,
        (
            "Invalid API key format: '{key}'. API keys must be in the format: xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx. "
            "You can obtain a valid API key from https://login.ndif.us"
        ),
    ),
    "unknown_key": (403, "Invalid API key."),
    "old_nnsight": (
        400,
        (
            "Client nnsight version {found} is below the minimum supported {minimum}. Please `pip install --upgrade "
            "nnsight`."
        ),
    ),
    "old_python": (
        400,
        "Client python version {found} is below the minimum supported {minimum}. Please update python.",
    ),
    "server": (500, "Internal server error."),
    "auth_unavailable": (503, "Auth backend unavailable."),
    "status_unavailable": (503, "Could not retrieve cluster status."),
    "status_late": (504, "Timed out waiting for cluster status."),
}

EXPIRED_URL = (
    '<?xml version="1.0" encoding="UTF-8"?>\n'
    "<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>"
)
MISSING_BLOB = {"type": "missing", "loc": ["body", "blob"], "msg": "Field required", "input": None}
