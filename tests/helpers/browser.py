"""A headless Chromium, driven over its debugging protocol on the loopback."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import Any
from urllib.request import urlopen

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run")
TIMEOUT = 60


class Page:
    """One open page: what it wrote to the console, what it asked for, and what it looks like."""

    def __init__(self, socket: Any) -> None:
        self.socket = socket
        self.count = 0
        self.events: list[dict[str, Any]] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The answer to a command; events on the way are kept."""
        self.count += 1
        self.socket.send(json.dumps({"id": self.count, "method": method, "params": parameters}))
        while True:
            message = json.loads(self.socket.recv())
            if message.get("id") == self.count:
                assert "error" not in message, message
                return message["result"]
            self.events.append(message)

    def open(self, path: Path, width: int, scheme: str) -> None:
        """Show a file in a window of this width, for a reader who prefers this colour scheme; nothing moves."""
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        wanted = {"prefers-color-scheme": scheme, "prefers-reduced-motion": "reduce"}
        features = [{"name": name, "value": value} for name, value in wanted.items()]
        self.send("Emulation.setEmulatedMedia", features=features)
        self.send("Page.navigate", url=path.resolve().as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(json.loads(self.socket.recv()))

    def value(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page; of a promise what it comes to."""
        found = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait(self, condition: str) -> None:
        """Wait until a JavaScript condition holds in the page."""
        end = monotonic() + TIMEOUT
        while not self.value(condition):
            assert monotonic() < end, condition
            sleep(0.02)

    def press(self, key: str) -> None:
        """Press a key."""
        self.send("Input.dispatchKeyEvent", type="keyDown", key=key)

    def screenshot(self, path: Path) -> bytes:
        """The whole page as a PNG, kept at `path`; also figures that are drawn only when a reader comes near."""
        self.value("for (const one of document.querySelectorAll('.plate')) one.style.contentVisibility = 'visible'")
        content = base64.b64decode(self.send("Page.captureScreenshot", captureBeyondViewport=True)["data"])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return content

    @property
    def complaints(self) -> list[str]:
        """Errors and warnings on the console, and exceptions."""
        bad = [event for event in self.events if event["method"] in ("Runtime.exceptionThrown", "Log.entryAdded")]
        bad += [event for event in self.events if event["method"] == "Runtime.consoleAPICalled"]
        return [json.dumps(event["params"]) for event in bad]

    @property
    def requests(self) -> set[str]:
        """The addresses the page asked for."""
        sent = [event for event in self.events if event["method"] == "Network.requestWillBeSent"]
        return {event["params"]["request"]["url"] for event in sent}


@contextmanager
def chromium(profile: Path) -> Iterator[Page]:
    """A page of a fresh browser; skips where there is none."""
    program = next((found for name in NAMES if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip(f"none of {', '.join(NAMES)} is installed")
    websocket = pytest.importorskip("websocket")
    command = [program, *OPTIONS, f"--user-data-dir={profile}", "--remote-debugging-port=0", "about:blank"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as browser:
        try:
            assert browser.stderr is not None
            line = next(line for line in browser.stderr if "DevTools listening on ws://" in line)
            host = line.split("ws://")[1].split("/")[0]
            with urlopen(f"http://{host}/json/list", timeout=TIMEOUT) as answer:
                address = next(one["webSocketDebuggerUrl"] for one in json.load(answer) if one["type"] == "page")
            socket = websocket.create_connection(address, timeout=TIMEOUT, suppress_origin=True)
            try:
                yield Page(socket)
            finally:
                socket.close()
        finally:
            browser.kill()
