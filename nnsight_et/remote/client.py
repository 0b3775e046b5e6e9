"""The NDIF protocol over HTTP: send a job, ask after it, fetch its result. The key is in no message and no file.

Address and key are nnsight's own settings, unless they are given.
"""

from __future__ import annotations

import io
import json
import os
import sys
import time
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import httpx
import zstandard
from nnsight.schema.config import CONFIG, ApiConfig
from nnsight.schema.request import RequestModel
from nnsight.schema.response import ResponseModel
from pydantic import ValidationError

from nnsight_et.remote.failures import JobLost, Rejected, Retryable, failure_from_status

VARIABLES = {"HOST": "NDIF_HOST", "APIKEY": "NDIF_API_KEY"}


def origin(setting: Literal["HOST", "APIKEY"]) -> str:
    """What sets the server's address or the key: a variable, nnsight's file, its default; "" if there is no key."""
    value, variable = getattr(CONFIG.API, setting), VARIABLES[setting]
    if not value:
        return ""
    if os.environ.get(variable) == value:
        return variable
    return "nnsight's default" if value == ApiConfig.model_fields[setting].default else str(configuration())


def configuration() -> Path:
    """nnsight's configuration file, whether or not it is there."""
    own = os.environ.get("NNSIGHT_CONFIG")
    folder = Path(os.environ.get("XDG_CONFIG_HOME", "~/.config")).expanduser()
    return Path(own).expanduser() if own else folder / "nnsight" / "config.yaml"


CONNECT_SECONDS, READ_SECONDS = 10.0, 120.0
HIDDEN, SAID = "***", 2000  # in place of the key; and how much of a server's words is repeated


class Client:
    """A server's address and the key for it, from nnsight's own configuration unless they are given."""

    def __init__(self, host: str | None = None, key: str | None = None) -> None:
        self.host = (host or CONFIG.API.HOST).rstrip("/")
        self._key = key if key is not None else CONFIG.API.APIKEY or ""
        if not self.host.startswith(("http://", "https://")):
            raise Rejected(f"NDIF_HOST: found {self.host!a}; accepted: an address such as https://api.ndif.us")

    def __repr__(self) -> str:
        return f"Client({self.host})"

    def submit(self, job: str, model: str, env: dict[str, Any], blob: bytes) -> str:
        """Send a job under an id of our own; the id the server gives it."""
        envelope = json.loads(RequestModel(model_key=model, compress=True, env=env).metadata()) | {"id": job}
        headers = {"ndif-timestamp": repr(time.time()), "nnsight-version": version("nnsight")}
        headers |= {"python-version": sys.version}
        answer = self._request(
            "POST",
            "/request",
            data={"data": json.dumps(envelope)},
            files={"blob": ("request", blob, "application/octet-stream")},
            headers=headers,
        )
        return self._response(answer).id

    def status(self, job: str) -> ResponseModel | None:
        """What the server last said of a job; None if it knows of none."""
        answer = self._request("GET", f"/response/{job}", known=(404,))
        return None if answer.status_code == 404 else self._response(answer)

    def fetch(self, job: str, place: Any) -> bytes:
        """The result's bytes, whole, from what a COMPLETED response carries; JobLost if they are gone."""
        if not isinstance(place, str) or not place.startswith(("http://", "https://")):
            raise JobLost(f"{self.host}: job {job} has no result to download; found {type(place).__name__}")
        try:
            with httpx.Client(timeout=httpx.Timeout(CONNECT_SECONDS, read=READ_SECONDS)) as client:
                answer = client.get(place)
        except httpx.HTTPError as error:
            raise Retryable(f"{self.host}: the result of job {job} cannot be downloaded ({_kind(error)})") from None
        if answer.status_code in (401, 403, 404, 410):
            raise JobLost(f"{self.host}: the result of job {job} is gone ({answer.status_code})")
        if answer.is_error:
            raise failure_from_status(answer.status_code, "", _after(answer), f"{self.host}: the result of job {job}")
        return _whole(answer.content, f"{self.host}: the result of job {job}")

    def read(self, path: str) -> Any:
        """What the server says at /status, /env or /whoami."""
        answer = self._request("GET", path)
        try:
            return answer.json()
        except ValueError:
            raise Rejected(f"{self.host}{path}: the answer is not JSON; accepted: an NDIF server") from None

    def refusal(self) -> str | None:
        """Why the server takes no job from this key; None if it takes them.

        It is asked with a request that lacks its block: no job comes of it.
        """
        envelope = RequestModel(model_key="", compress=True, env={}).metadata()
        try:
            self._request("POST", "/request", known=(422,), files={"data": (None, envelope)})
        except Rejected as failure:
            return str(failure)
        return None

    def _request(self, method: str, path: str, known: tuple[int, ...] = (), **content: Any) -> httpx.Response:
        headers = content.pop("headers", {}) | ({"ndif-api-key": self._key} if self._key else {})
        try:
            with httpx.Client(timeout=httpx.Timeout(CONNECT_SECONDS, read=READ_SECONDS)) as client:
                answer = client.request(method, f"{self.host}{path}", headers=headers, **content)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise Retryable(f"{self.host}: no connection ({_kind(error)})") from None
        except httpx.HTTPError as error:
            raise Retryable(f"{self.host}: the connection was lost ({_kind(error)})", sent=True) from None
        if answer.is_error and answer.status_code not in known:
            raise failure_from_status(answer.status_code, self._detail(answer), _after(answer), self.host)
        return answer

    def _detail(self, answer: httpx.Response) -> str:
        try:
            body = answer.json()
            said = str(body.get("detail", "") if isinstance(body, dict) else body)
        except ValueError:
            said = answer.text
        return (said.replace(self._key, HIDDEN) if self._key else said)[:SAID]

    def _response(self, answer: httpx.Response) -> ResponseModel:
        try:
            return ResponseModel.model_validate_json(answer.text)
        except ValidationError:
            raise Retryable(
                f"{self.host}: the answer, {len(answer.content)} bytes, is not an NDIF response", sent=True
            ) from None


def _whole(content: bytes, where: str) -> bytes:
    """The torch.save archive in a compressed result; Retryable if it came in damaged."""
    try:
        archive = zstandard.ZstdDecompressor().decompressobj().decompress(content)
        with zipfile.ZipFile(io.BytesIO(archive)) as parts:
            damaged = parts.testzip()
    except (zstandard.ZstdError, zipfile.BadZipFile, EOFError, OSError) as error:
        raise Retryable(f"{where} arrived damaged ({_kind(error)})") from None
    if damaged:
        raise Retryable(f"{where} arrived damaged ({damaged})")
    return archive


def _after(answer: httpx.Response) -> float | None:
    try:
        return max(0.0, float(answer.headers.get("retry-after", "")))
    except ValueError:
        return None


def _kind(error: Exception) -> str:
    return type(error).__name__
