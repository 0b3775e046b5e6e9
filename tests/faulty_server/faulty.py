"""The endpoints behind the faults: every HTTP answer passes here, and is counted."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import formatdate
from typing import Any

from descriptions import STATUS
from faults import Faults, Rule
from texts import EXPIRED_URL, REFUSAL


@dataclass
class Answer:
    """A whole HTTP answer."""

    code: int
    headers: list[tuple[bytes, bytes]]
    body: bytes

    @classmethod
    def of(cls, code: int, body: Any) -> Answer:
        """One with a JSON body, or with the text as it is."""
        content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        kind = b"application/xml" if isinstance(body, str) else b"application/json"
        return cls(code, [(b"content-type", kind)], content)


PLACES = {"/request": "request", "/response/": "response", "/results/": "download", "/status": "status"}


class Faulty:
    """The server's endpoints behind the faults; counts what comes in."""

    def __init__(self, inner: Any, faults: Faults, abort: Callable[[Any], None]) -> None:
        self.inner, self.faults, self.abort = inner, faults, abort
        self.requests: Counter[str] = Counter()
        self.polls: Counter[str] = Counter()
        self.downloads: Counter[str] = Counter()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer, if need be not as it should."""
        path = scope.get("path", "")
        if scope["type"] == "websocket":
            self.requests["WS /subscribe"] += 1
        if scope["type"] != "http" or path.startswith("/loopback/"):
            await self.inner(scope, receive, send)
            return
        where = next((where for start, where in PLACES.items() if path.startswith(start)), "")
        self.count(scope["method"], path, where)
        rule = self.faults.due(where)
        what = rule.what if rule else ""
        if rule and what == "drop" and where == "request":
            self.abort(scope)
            return
        answer = self.replacement_answer(rule, path.rpartition("/")[2]) if rule else None
        answer = answer or await self.request_answer(scope, receive)
        if what == "drop_after":
            self.abort(scope)
            return
        await self.send_answer(answer, rule, send)
        if what == "drop":
            self.abort(scope)

    def count(self, method: str, path: str, where: str) -> None:
        """Count a request by its endpoint, polls and downloads by their job too."""
        name = path.rpartition("/")[2].removesuffix(".pt")
        if where == "response":
            self.polls[name] += 1
        if where == "download":
            self.downloads[name] += 1
        ends = {"response": "/response/{id}", "download": "/results/{id}"}
        self.requests[f"{method} {ends.get(where, path)}"] += 1

    async def request_answer(self, scope: Any, receive: Any) -> Answer:
        """What the endpoint answers."""
        answer = Answer(500, [], b"")

        async def keep(message: Any) -> None:
            if message["type"] == "http.response.start":
                answer.code, answer.headers = message["status"], list(message["headers"])
            else:
                answer.body += message.get("body", b"")

        await self.inner(scope, receive, keep)
        return answer

    def replacement_answer(self, rule: Rule, name: str) -> Answer | None:
        """An answer that the endpoint is not asked for."""
        if rule.what == "status":
            code, detail = rule.refusal()
            answer = Answer.of(code, {"detail": detail})
            if rule.retry_after is not None:
                answer.headers.append((b"retry-after", str(rule.retry_after).encode()))
            return answer
        if rule.what == "stuck":
            told = STATUS["QUEUED"].format(position=1)
            return Answer.of(200, {"id": name, "status": "QUEUED", "description": told, "data": None, "meta": None})
        if rule.what == "unknown":
            code, detail = REFUSAL["no_response"]
            return Answer.of(code, {"detail": detail.format(id=name)})
        return Answer.of(403, EXPIRED_URL) if rule.what == "expired" else None

    async def send_answer(self, answer: Answer, rule: Rule | None, send: Any) -> None:
        """Send an answer, whole and at once unless the rule says otherwise."""
        what, body = (rule.what if rule else ""), answer.body
        skew = rule.seconds if rule and what == "skew" else 0.0
        step = max(1, int(rule.bytes_per_second / 20) if rule and what == "slow" else len(body))
        if rule and what == "delay":
            await asyncio.sleep(rule.seconds)
        if what == "truncated":
            body = body[: len(body) // 2]
        if what == "corrupted":
            middle, end = len(body) // 2, len(body) // 2 + len(body) // 8
            body = body[:middle] + bytes(byte ^ 0x5A for byte in body[middle:end]) + body[end:]
        headers = [pair for pair in answer.headers if pair[0].lower() != b"content-length"]
        headers.append((b"content-length", str(len(body)).encode()))
        headers.append((b"date", formatdate(time.time() + skew, usegmt=True).encode()))
        await send({"type": "http.response.start", "status": answer.code, "headers": headers})
        end = len(body) // 2 if what == "drop" else len(body)
        for at in range(0, end, step):
            await send({"type": "http.response.body", "body": body[at : min(at + step, end)], "more_body": True})
            if what == "slow":
                await asyncio.sleep(0.05)
        if what != "drop":
            await send({"type": "http.response.body", "body": b"", "more_body": False})
