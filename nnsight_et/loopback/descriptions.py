"""What NDIF says: texts of the published server (ndif 0.1.2), by name.

An ERROR's description is a sentence where the server refused or stopped the job, and a Python traceback where the job's
own code failed. That traceback has frames of torch, transformers, nnsight and the server too; those of the job's code
come last.
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
JOB_ERROR = {
    "replica_restarted": (
        "Error submitting request to model deployment. Please try again later. Sorry for the inconvenience."
    ),
    "not_deployed": "Could not deploy this model. {reason}",
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
    "no_response": (404, "No response for request {id}."),
    "reconnecting": (
        503,
        "Service temporarily unavailable: compute backend is reconnecting. Please try again in a few minutes.",
    ),
}
