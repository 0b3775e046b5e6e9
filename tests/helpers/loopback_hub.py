"""A model hub on 127.0.0.1: serves folders as repositories, so that hub ids work without a network."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit


@contextmanager
def serving(repositories: Mapping[str, Path]) -> Iterator[str]:
    """The address of a hub with these repositories, while open."""
    handler = type("Handler", (_Hub,), {"repositories": dict(repositories)})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Hub(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    repositories: Mapping[str, Path] = {}

    def do_GET(self) -> None:
        """Repositories and their trees under /api/models, files under /<repository>/resolve/<revision>."""
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        listing = parts[:2] == ["api", "models"]
        owner, name, *rest = parts[2:] if listing else parts
        folder = self.repositories.get(f"{owner}/{name}")
        if folder is None:
            self._answer(404, b'{"error": "no such repository"}', {"X-Error-Code": "RepoNotFound"})
        elif listing and rest[:1] == ["tree"]:
            self._tree(folder)
        elif listing:
            self._listing(f"{owner}/{name}", folder)
        else:
            self._file(folder, "/".join(rest[2:]))

    do_HEAD = do_GET

    def _listing(self, repository: str, folder: Path) -> None:
        files = sorted(path.name for path in folder.iterdir() if path.is_file())
        facts = {"id": repository, "modelId": repository, "sha": _commit(folder), "private": False, "tags": []}
        facts |= {"downloads": 0, "likes": 0, "siblings": [{"rfilename": file} for file in files]}
        self._answer(200, json.dumps(facts).encode(), {"Content-Type": "application/json"})

    def _tree(self, folder: Path) -> None:
        files = [path for path in sorted(folder.iterdir()) if path.is_file()]
        entries = [
            {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": _commit(folder)} for file in files
        ]
        self._answer(200, json.dumps(entries).encode(), {"Content-Type": "application/json"})

    def _file(self, folder: Path, file: str) -> None:
        headers = {"X-Repo-Commit": _commit(folder)}
        if not (folder / file).is_file():
            self._answer(404, b"", headers | {"X-Error-Code": "EntryNotFound"})
            return
        content = (folder / file).read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        self._answer(200, content, headers | {"ETag": f'"{digest}"', "Content-Type": "application/octet-stream"})

    def _answer(self, code: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Requests are not printed."""


def _commit(folder: Path) -> str:
    """A commit id that changes with the folder's contents."""
    state = hashlib.sha1()
    for path in sorted(folder.iterdir()):
        if path.is_file():
            state.update(path.name.encode() + hashlib.sha1(path.read_bytes()).digest())
    return state.hexdigest()
