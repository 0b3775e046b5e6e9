"""What NDIF says. Texts of the published server (ndif 0.1.2) and of torch 2.13, by name; a fault may ask for any.

An ERROR's description is a sentence where the server refused or stopped the job, and a Python traceback where the job's
own code failed, out of memory included. That traceback has frames of torch, transformers, nnsight and the server too;
those of the job's code come last. A full queue and a lost result have no text: NDIF queues without a bound, and answers
for a job it does not know as for one without a status yet.
"""

from __future__ import annotations

STATUS = {
    "RECEIVED": "Your job has been received and is waiting to be queued.",
    "QUEUED": "Added to Queue at position {position}.",
    "MOVED": "Moved to position {position} in Queue.",
    "PROVISIONING": "Model Provisioning...",
    "DEPLOYING": "Model Deploying...",
    "DISPATCHED": "Your job has been sent to the model deployment.",
    "RUNNING": "Your job has started running.",
    "COMPLETED": "Your job has been completed.",
}

_SORRY = "Please try again later. Sorry for the inconvenience."
JOB_ERROR = {
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
    "replica_restarted": f"Error submitting request to model deployment. {_SORRY}",
    "not_deployed": "Could not deploy this model. {reason}",
    "no_room": (
        "Could not deploy this model. CANT_ACCOMMODATE: placed 0 of 1 new replicas before the cluster ran out of room."
    ),
    "error_provisioning": f"Error provisioning model. {_SORRY}",
    "error_starting": f"Error starting model. {_SORRY}",
    "server": f"Critical server error occurred. {_SORRY}",
    "payload": (
        "Your request payload could not be read ({error}). It may be truncated or corrupted in transit, or compressed "
        "differently than the request declared. Re-sending it usually resolves this; if it persists, check that the "
        "client and server nnsight versions match."
    ),
    "architecture": (
        "The model architecture on this server doesn't match the one your code was traced against: it has no module at "
        "'{path}'.\n\nThis usually means the package versions differ between your machine and the server — most often "
        "`transformers`, which determines a checkpoint's module layout. Compare the two environments with:\n\n"
        "    from nnsight import ndif\n    print(ndif.compare())\n\n"
        "then align any mismatch it flags under nnsight / transformers / torch and re-run."
    ),
}
UNKNOWN_REPOSITORY = (
    "Repository Not Found for url: https://huggingface.co/api/models/{name}.\nPlease make sure you specified the "
    "correct `repo_id` and `repo_type`."
)

REFUSAL: dict[str, tuple[int, str]] = {
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
    "no_response": (404, "No response for request {id}."),
    "server": (500, "Internal server error."),
    "reconnecting": (
        503,
        "Service temporarily unavailable: compute backend is reconnecting. Please try again in a few minutes.",
    ),
    "auth_unavailable": (503, "Auth backend unavailable."),
    "status_unavailable": (503, "Could not retrieve cluster status."),
    "status_late": (504, "Timed out waiting for cluster status."),
}

EXPIRED_URL = (
    '<?xml version="1.0" encoding="UTF-8"?>\n'
    "<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>"
)
MISSING_BLOB = {"type": "missing", "loc": ["body", "blob"], "msg": "Field required", "input": None}
