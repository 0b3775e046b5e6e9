"""What an NDIF server has for a run: does it answer, take the key, have the models, run versions like ours."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any, Literal

from packaging.version import InvalidVersion, Version

from nnsight_et.diagnostics.doctor import Diagnosis
from nnsight_et.models.catalog import KNOWN_MODELS, is_hub_id
from nnsight_et.planning.plan import ModelChoice
from nnsight_et.remote.client import Client, configuration, origin
from nnsight_et.remote.failures import Rejected, RemoteFailure, Retryable

TASK = "text-generation"
LATER = "try again in a few minutes"
Entries = Sequence[Mapping[str, Any]]


def known_models() -> list[ModelChoice]:
    """The built-in models that a server can have: not the embedded ones."""
    named = {name: one for name, one in KNOWN_MODELS.items() if is_hub_id(one.spec.path)}
    return [ModelChoice(name, one.spec, "", one.shape, {}) for name, one in named.items()]


def server_findings(models: Sequence[ModelChoice]) -> list[Diagnosis]:
    """What is to be known of nnsight's configured server before these models run there; a dtype "" is any."""
    try:
        client = Client()
    except Rejected as failure:
        return [Diagnosis("server", str(failure), "mend", "correct NDIF_HOST, or HOST in " + str(configuration()))]
    return list(_findings(client, models))


def _findings(client: Client, models: Sequence[ModelChoice]) -> Iterator[Diagnosis]:
    where, start = f"{client.host} ({origin('HOST')})", time.monotonic()
    try:
        client.read("/connected")
    except RemoteFailure as failure:
        yield Diagnosis("server", f"{where}: {_failure_text(client, failure)}", "mend", _way_out(failure))
        return
    yield Diagnosis("server", f"{where} answers in {1000 * (time.monotonic() - start):.0f} ms")
    looks: dict[str, Callable[[], Iterator[Diagnosis]]] = {
        "key": lambda: _key(client),
        "server's versions": lambda: _versions(client),
        "server's models": lambda: _models(client, models),
    }
    for subject, look in looks.items():
        try:
            yield from look()
        except RemoteFailure as failure:
            state: Literal["note", "mend"] = "mend" if isinstance(failure, Retryable) else "note"
            do = LATER if state == "mend" else "this server does not say; a run may still work"
            yield Diagnosis(subject, _failure_text(client, failure), state, do)


def _way_out(failure: RemoteFailure) -> str:
    if isinstance(failure, Rejected):
        return "no NDIF server at this address: correct NDIF_HOST, or HOST in " + str(configuration())
    if "answers" in str(failure):
        return f"{LATER}; a server of your own: ndif logs ray"
    return f"is the server up, and is the address right? NDIF_HOST, or HOST in {configuration()}"


def _failure_text(client: Client, failure: RemoteFailure) -> str:
    return str(failure).removeprefix(client.host).removeprefix(": ").partition("; accepted")[0]


def _key(client: Client) -> Iterator[Diagnosis]:
    """Who the key's owner is, if the server says so; else whether the server takes jobs with it, and without any."""
    where = origin("APIKEY")
    try:
        who = _mapping(client.read("/whoami"))
    except Rejected:  # what is no key, or the question
        who = None
    tags = (who or {}).get("tags") or []
    if not (tags or (who and who.get("email"))):
        refused = client.refusal()
        if refused is not None:
            said = refused.removeprefix(f"{client.host}: ").partition("; accepted")[0]
            ask = "https://login.ndif.us gives one" if "ndif.us" in client.host else "ask whoever runs the server"
            do = f"NDIF_API_KEY, or APIKEY in {configuration()}; {ask}"
            yield Diagnosis("key", f"from {where}: {said}" if where else f"none; {said}", "mend", do)
            return
        if not where or Client(client.host, "").refusal() is None:
            yield Diagnosis("key", "not needed: this server checks no keys")
            yield Diagnosis("trust", "trusted, as every job is: keys are not checked")
            return
    yield Diagnosis("key", f"valid (from {where})")
    if "trusted" in tags:
        yield Diagnosis("trust", "trusted: jobs run next to the weights, with gradients")
        return
    do = "every method works; DCM and attribution use finite differences, and each job takes some seconds to start"
    found = "the server does not say; if untrusted," if who is None else "untrusted:"
    yield Diagnosis("trust", f"{found} jobs see activations, not weights or gradients", "note", do)


def _versions(client: Client) -> Iterator[Diagnosis]:
    there = _mapping(client.read("/env"))
    packages = _mapping(there.get("packages"))
    pairs = {name: (version(name), packages.get(name)) for name in ("nnsight", "transformers", "torch")}
    pairs["python"] = (platform.python_version(), str(there.get("python_version") or "").partition(" ")[0])
    for name, (own, other) in pairs.items():
        yield _compare_versions(name, own, str(other or ""))
    if {"nnsight_et", "nnsight-et"} & packages.keys():
        do = "remove it there: jobs bring the code of this machine"
        yield Diagnosis("server's nnsight_et", "installed on the server", "note", do)


DIFFERENT = {
    "nnsight": "jobs name nnsight's own parts, which move between minor releases: pip install 'nnsight=={}' here",
    "transformers": "models may have other module names, so that requests fail: pip install 'transformers=={}' here",
    "torch": "only the last digits of numbers may differ",
    "python": "code travels as source: if jobs fail with a SyntaxError, use Python {} here",
}


def _compare_versions(name: str, own: str, other: str) -> Diagnosis:
    """How a version here and the server's go together; those of one minor release do."""
    subject = f"server's {name}"
    if not other:
        return Diagnosis(subject, f"unknown; {own} here", "note", "ask whoever runs the server")
    if _minor(own) == _minor(other):
        return Diagnosis(subject, other if own == other else f"{other}; {own} here")
    state = "mend" if name == "nnsight" else "note"
    return Diagnosis(subject, f"{other}; {own} here", state, DIFFERENT[name].format(other.partition("+")[0]))


def _minor(text: str) -> tuple[int, ...] | str:
    try:
        return Version(text).release[:2]
    except InvalidVersion:
        return text


def _models(client: Client, models: Sequence[ModelChoice]) -> Iterator[Diagnosis]:
    deployments = _mapping(_mapping(client.read("/status")).get("deployments"))
    entries = [_identity(key) | _mapping(entry) for key, entry in deployments.items()]
    for choice in models:
        name, adapter = choice.spec.server_names
        named = next((one for one in (name, adapter) if one and not is_hub_id(one)), None)
        if named:
            key = "ndif" if named == name else "ndif_adapter"
            do = f"models: {{{choice.name}: {{..., {key}: org/name}}}} in the manifest"
            yield Diagnosis(choice.name, f"{named} is not a name on a server", "mend", do)
            continue
        yield _look_up_deployment(
            choice, [one for one in entries if _is(one, choice)], f"; {adapter} over it" if adapter else ""
        )


def _identity(key: str) -> dict[str, Any]:
    """The parts of a model's key in a deployment's name, which some servers say nowhere else."""
    try:
        return _mapping(json.loads(key[key.index("{") :]))
    except ValueError:
        return {}


def _is(entry: Mapping[str, Any], choice: ModelChoice) -> bool:
    """Whether a deployment is of this model, as a run asks for it."""
    revision = (entry.get("revision") or "main") == (choice.spec.revision or "main")
    return entry.get("repo_id") == choice.spec.server_names[0] and entry.get("task") in (None, TASK) and revision


def _look_up_deployment(choice: ModelChoice, entries: Entries, adapter: str) -> Diagnosis:
    """What a server says of one model, by the best of its copies."""
    name = choice.spec.server_names[0]
    for entry in entries:
        if entry.get("application_state") == "RUNNING" and entry.get("deployment_level") in (None, "HOT"):
            dtype = str(entry.get("dtype") or "").removeprefix("torch.")
            found = f"{name} is deployed and hot{f', {dtype}' if dtype else ''}{adapter}"
            if dtype and choice.dtype and dtype != choice.dtype:
                do = f"dtype: {dtype} in the manifest, or deploy it in {choice.dtype}"
                return Diagnosis(choice.name, f"{found}; the manifest says {choice.dtype}", "mend", do)
            return Diagnosis(choice.name, found)
    deploy = f"a server of your own: ndif deploy {name} --task {TASK}; else ask whoever runs it"
    if entries:
        states = ", ".join(dict.fromkeys(_condition(entry) for entry in entries))
        do = f"the first job waits until it is loaded; {deploy}"
        return Diagnosis(choice.name, f"{name} is not hot: {states}{adapter}", "note", do)
    do = f"the first job may trigger its deployment, or be refused; {deploy}"
    return Diagnosis(choice.name, f"{name} is not deployed{adapter}", "note", do)


def _condition(entry: Mapping[str, Any]) -> str:
    state, level = entry.get("application_state"), entry.get("deployment_level")
    return str(level if state in (None, "RUNNING") else state).lower()


def _mapping(value: Any) -> dict[str, Any]:
    """The value if it is a JSON object, else an empty one."""
    return value if isinstance(value, dict) else {}
