"""What the doctor finds of an NDIF server: its answer, the key, the models, the versions; and what to do about each."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from nnsight.schema.config import CONFIG

from nnsight_et.diagnostics import doctor_ndif
from nnsight_et.diagnostics.doctor import Diagnosis
from nnsight_et.diagnostics.doctor_ndif import known_models, server_findings
from nnsight_et.models.catalog import ModelSpec
from nnsight_et.planning.plan import ModelChoice
from nnsight_et.remote.client import Client
from nnsight_et.remote.failures import Rejected, Retryable
from tests.helpers.commands import et
from tests.helpers.faulty_loopback import FaultyLoopback
from tests.helpers.loopback_client import IDS, TRUSTED, UNTRUSTED, client

STRANGER = "33333333-3333-4333-8333-333333333333"
KEY = 'nnsight.modeling.transformers.TransformersModel:{"repo_id": "%s", "revision": null, "task": "text-generation"}'


@pytest.fixture
def configured(server: FaultyLoopback, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets nnsight's address, the loopback's unless given, and its key."""

    def configure(key: str | None, host: str = server.address) -> None:
        monkeypatch.setattr(CONFIG.API, "HOST", host)
        monkeypatch.setattr(CONFIG.API, "APIKEY", key)
        monkeypatch.setenv("NDIF_HOST", host)
        monkeypatch.delenv("NDIF_API_KEY", raising=False)
        if key:
            monkeypatch.setenv("NDIF_API_KEY", key)

    return configure


def by_subject(*models: ModelChoice) -> dict[str, Diagnosis]:
    return {one.subject: one for one in server_findings(models)}


def choice(served: str, dtype: str = "float32", **more: Any) -> ModelChoice:
    return ModelChoice("mine", ModelSpec("org/elsewhere", ndif=served, **more), dtype, None, {})


def test_a_trusted_key_and_a_server_that_has_the_model(configured, server, deployed):
    configured(TRUSTED)
    with client(deployed).trace(input_ids=IDS, remote=server.address):
        pass
    before = server.counts()["accepted"]
    found = by_subject(choice("tiny/llama"))
    assert {one.state for one in found.values()} == {"ok"}
    assert found["server"].found.startswith(f"{server.address} (NDIF_HOST) answers in ")
    assert found["key"].found == "valid (from NDIF_API_KEY)"
    assert found["trust"].found.startswith("trusted")
    assert found["mine"].found == "tiny/llama is deployed and hot, float32"
    assert list(found) == [
        "server", "key", "trust", "server's nnsight", "server's transformers", "server's torch", "server's python",
        "mine",
    ]  # fmt: skip
    assert server.counts()["accepted"] == before


def test_an_untrusted_key_is_told_from_one_that_is_unknown_and_from_none(configured, server):
    before = server.counts()["accepted"]
    configured(UNTRUSTED)
    found = by_subject()
    assert (found["key"].state, found["trust"].state) == ("ok", "note")
    assert "finite differences" in found["trust"].do
    for key, words in (
        (STRANGER, "403: Invalid API key"),
        ("no uuid", r"400: Invalid API key format: '***'"),
        (None, "none; the server answers 401"),
    ):
        configured(key)
        found = by_subject()
        assert found["key"].state == "mend"
        assert words in found["key"].found
        assert found["key"].do.startswith("NDIF_API_KEY")
        assert "trust" not in found
    assert server.counts()["accepted"] == before


@pytest.mark.parametrize("key", [None, STRANGER])
def test_a_server_that_checks_no_keys(configured, monkeypatch, key):
    configured(key)
    monkeypatch.setattr(Client, "refusal", lambda self: None)
    monkeypatch.setattr(Client, "read", answering({"/whoami": {"email": None, "tags": []}}))
    found = by_subject()
    assert found["key"].found == "not needed: this server checks no keys"
    assert found["trust"].found.startswith("trusted")


def test_a_key_without_tags_is_untrusted_where_keys_are_checked(configured, monkeypatch):
    configured(STRANGER)
    refusals = iter([None, "the server answers 401"])  # with the key, and with none
    monkeypatch.setattr(Client, "refusal", lambda self: next(refusals))
    monkeypatch.setattr(Client, "read", answering({"/whoami": {"email": None, "tags": []}}))
    found = by_subject()
    assert (found["key"].state, found["trust"].state) == ("ok", "note")


def test_a_server_that_does_not_say_whose_a_key_is(configured, monkeypatch):
    def unknown(_: Client, path: str) -> dict[str, Any]:
        if path == "/whoami":
            raise Rejected("here: the server answers 404: Not Found")
        return {}

    configured(STRANGER)
    refusals = iter([None, "the server answers 401"])
    monkeypatch.setattr(Client, "refusal", lambda self: next(refusals))
    monkeypatch.setattr(Client, "read", unknown)
    found = by_subject()
    assert (found["key"].state, found["trust"].state) == ("ok", "note")
    assert found["trust"].found.startswith("the server does not say")


def test_what_is_no_server_is_a_finding_and_nothing_more_is_asked(configured, other_server):
    configured(TRUSTED, "http://127.0.0.1:9")
    (found,) = server_findings([])
    assert (found.subject, found.state) == ("server", "mend")
    assert "no connection (ConnectError)" in found.found
    assert "NDIF_HOST" in found.do
    configured(TRUSTED, "api.ndif.us")
    (found,) = server_findings([])
    assert "accepted: an address such as" in found.found
    configured(TRUSTED, other_server)
    (found,) = server_findings([])
    assert "404" in found.found
    assert found.do.startswith("no NDIF server at this address")


@pytest.fixture
def other_server() -> Iterator[str]:
    """A server that speaks HTTP and is none of NDIF's."""

    class Nothing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(404)

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Nothing) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_server_in_trouble_is_to_be_asked_later(configured, server, monkeypatch):
    configured(TRUSTED)
    server.fault("status", "status", name="status_unavailable")
    found = by_subject(choice("tiny/llama"))["server's models"]
    assert (found.state, found.do) == ("mend", "try again in a few minutes")
    assert "503: Could not retrieve cluster status." in found.found

    def reconnecting(*_: Any) -> None:
        raise Retryable("here: the server answers 503: compute backend is reconnecting")

    monkeypatch.setattr(Client, "read", reconnecting)
    (found,) = server_findings([])
    assert found.do.startswith("try again in a few minutes")


def test_versions_that_differ_in_more_than_a_patch_are_told_with_what_follows(configured, monkeypatch):
    configured(TRUSTED)
    own = {"nnsight": "0.8.1", "transformers": "5.22.2", "torch": "2.13.0+cpu"}
    monkeypatch.setattr(doctor_ndif, "version", own.__getitem__)
    monkeypatch.setattr(doctor_ndif.platform, "python_version", lambda: "3.11.7")
    server = {"nnsight": "0.8.0", "transformers": "5.22.2", "torch": "2.13.0"}
    cases = [
        (server, "3.11.9 (main)", {}),
        (server | {"nnsight": "0.7.4"}, "3.11.9", {"nnsight": "mend"}),
        (
            server | {"transformers": "4.57.1", "torch": "2.9.1+cu128"},
            "3.12.1",
            dict.fromkeys(("transformers", "torch", "python"), "note"),
        ),
        ({}, "", dict.fromkeys((*own, "python"), "note")),
        (server | {"nnsight_et": "0.1.0"}, "3.11.7", {"nnsight_et": "note"}),
    ]
    for packages, python, expected in cases:
        env = {"packages": packages, "python_version": python}
        monkeypatch.setattr(Client, "read", answering({"/env": env}))
        found = {
            subject.removeprefix("server's "): one
            for subject, one in by_subject().items()
            if subject.startswith("server's")
        }
        assert {subject: one.state for subject, one in found.items() if one.state != "ok"} == expected
    assert "pip install" not in found["torch"].do


def test_the_best_copy_of_a_model_counts_whichever_way_a_server_tells_of_it(configured, monkeypatch):
    configured(TRUSTED)
    told, cold = f"x:ModelActor:{KEY % 'org/a'}", {"org/a": {"deployment_level": "COLD", "repo_id": "org/a"}}
    hot = {"application_state": "RUNNING", "deployment_level": "HOT", "repo_id": "org/a", "task": "text-generation"}
    starting = {told: hot | {"application_state": "DEPLOYING"}}
    ready, absent = "org/a is deployed and hot", "org/a is not deployed"
    cases: list[tuple[dict[str, Any], str, str]] = [
        ({told: {"application_state": "RUNNING"}} | cold, ready, "ok"),
        ({told: hot | {"dtype": "float32"}} | cold, f"{ready}, float32", "ok"),
        ({told: hot | {"dtype": "torch.bfloat16"}}, f"{ready}, bfloat16; the manifest says float32", "mend"),
        (starting | cold, "org/a is not hot: deploying, cold", "note"),
        (cold, "org/a is not hot: cold", "note"),
        ({told: hot | {"revision": "v2"}}, absent, "note"),
        ({told: hot | {"task": "fill-mask"}}, absent, "note"),
        ({f"x:ModelActor:{KEY % 'org/b'}": {"application_state": "RUNNING"}}, absent, "note"),
        ({}, absent, "note"),
    ]
    for deployments, words, state in cases:
        monkeypatch.setattr(Client, "read", answering({"/status": {"deployments": deployments}}))
        found = by_subject(choice("org/a"))["mine"]
        assert (found.found, found.state) == (words, state)
    assert "ndif deploy org/a --task text-generation" in found.do


def test_a_model_without_a_name_for_the_server_is_told_the_key_that_gives_it_one(configured, tmp_path):
    configured(TRUSTED)
    found = by_subject(choice(str(tmp_path)))["mine"]
    assert found.state == "mend"
    assert "ndif: org/name" in found.do
    found = by_subject(choice("org/a", adapter=str(tmp_path)))["mine"]
    assert "ndif_adapter: org/name" in found.do
    found = by_subject(choice("org/a", adapter="org/lora"))["mine"]
    assert found.found == "org/a is not deployed; org/lora over it"


def answering(answers: dict[str, Any]) -> Callable[[Client, str], Any]:
    """In place of Client.read: these answers, and otherwise empty objects."""
    return lambda _, path: answers.get(path, {})


MANIFEST = """\
name: there
backend: {backend}
models: {{mine: {{path: {folder}, ndif: tiny/llama}}, absent: {{path: {folder}, ndif: tiny/absent}}}}
experiments:
  one: {{method: knockout, model: mine, examples: 2}}
  two: {{method: knockout, model: absent, examples: 2}}
"""


def test_a_manifest_for_ndif_has_its_server_asked_and_prints_no_key(configured, deployed, tmp_path):
    configured(TRUSTED)
    manifest = tmp_path / "there.yaml"
    manifest.write_text(MANIFEST.format(backend="ndif", folder=deployed))
    result = et("doctor", manifest, "--out", tmp_path)
    assert result.exit_code == 0, result.stdout
    lines = {line[6:].split("  ")[0]: line for line in result.stdout.splitlines()}
    assert "valid (from NDIF_API_KEY)" in lines["key"]
    assert lines["absent"].startswith("note  absent")
    assert "tiny/absent is not deployed" in lines["absent"]
    assert "llama" not in lines  # the built-in models are not the manifest's
    configured(STRANGER)
    refused = et("doctor", manifest, "--out", tmp_path)
    assert refused.exit_code == 2
    assert re.search(r"^FIX +key", refused.stdout, re.MULTILINE)
    assert not any(key in result.output + refused.output for key in (TRUSTED, STRANGER))


def test_without_being_asked_for_ndif_no_server_is_asked(configured, deployed, tmp_path, monkeypatch):
    configured(TRUSTED)
    monkeypatch.setattr(Client, "_request", lambda *_, **__: pytest.fail("a server was asked"))
    manifest = tmp_path / "here.yaml"
    manifest.write_text(MANIFEST.format(backend="local", folder=deployed))
    assert et("doctor", "--out", tmp_path).exit_code == 0
    result = et("doctor", manifest, "--out", tmp_path)
    assert result.exit_code == 0
    assert any(line.split()[:4] == ["mine", "files", "are", "here"] for line in result.stdout.splitlines())


def test_asked_for_ndif_without_a_manifest_it_looks_for_the_models_known_by_name(configured, tmp_path):
    configured(TRUSTED)
    assert [one.name for one in known_models()] == ["llama", "vicuna", "goat", "float"]
    result = et("doctor", "--ndif", "--out", tmp_path)
    assert result.exit_code == 0
    assert "huggyllama/llama-7b is not deployed; tiedong/goat-lora-7b over it" in result.stdout


def test_where_the_address_comes_from_is_said(configured, monkeypatch, tmp_path):
    configured(TRUSTED)
    assert "(NDIF_HOST)" in by_subject()["server"].found
    monkeypatch.delenv("NDIF_HOST")
    monkeypatch.setenv("NNSIGHT_CONFIG", str(tmp_path / "mine.yaml"))
    assert f"({tmp_path / 'mine.yaml'})" in by_subject()["server"].found
    monkeypatch.setattr(Client, "read", answering({}))
    monkeypatch.setattr(CONFIG.API, "HOST", "https://api.ndif.us")
    monkeypatch.setattr(Client, "refusal", lambda self: "the server answers 403: Invalid API key.")
    found = by_subject()
    assert found["server"].found.startswith("https://api.ndif.us (nnsight's default)")
    assert "https://login.ndif.us" in found["key"].do
    assert json.dumps([one.found + one.do for one in found.values()]).count(TRUSTED) == 0
