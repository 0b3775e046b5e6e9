"""What the doctor finds of the NDIF server itself, which checks no keys here."""

from __future__ import annotations

import pytest
from nnsight.schema.config import CONFIG

from nnsight_et.diagnostics.doctor_ndif import server_findings
from nnsight_et.models.catalog import ModelSpec
from nnsight_et.planning.plan import ModelChoice
from nnsight_et.remote.client import Client
from tests.real_ndif.server import RealNdif

pytestmark = pytest.mark.real_ndif


def test_the_doctor_tells_what_the_server_has(ndif_server: RealNdif, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(CONFIG.API, "HOST", ndif_server.address)
    monkeypatch.setattr(CONFIG.API, "APIKEY", None)
    assert Client().refusal() is None
    names = {"served": "test/one", "absent": "test/none"}
    models = [ModelChoice(name, ModelSpec("a/b", ndif=place), "float32", None, {}) for name, place in names.items()]
    found = {one.subject: one for one in server_findings(models)}
    assert not [one for one in found.values() if one.state == "mend"]
    assert " answers in " in found["server"].found
    assert found["key"].found == "not needed: this server checks no keys"
    assert found["server's nnsight"].found == "0.8.0; 0.8.1 here"
    assert found["server's transformers"].found == "5.22.2"
    assert found["absent"].found == "test/none is not deployed"
    assert found["served"].found in ("test/one is deployed and hot, float32", "test/one is not deployed")
