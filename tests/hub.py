"""A small model hub on loopback: what huggingface_hub asks of the real one, with a log of it, and breakable."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

_RESOLVE = re.compile(r"/(?P<repo>(datasets/)?[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")
_API = re.compile(
    r"/api/(models/)?(?P<repo>(datasets/)?[^/]+/[^/]+)(/(?P<what>revision|tree)/(?P<revision>[^/]+)(/(?P<below>.*))?)?"
)


@dataclass(frozen=True, slots=True)
class Asked:
    """One request for a file: the bytes it wanted to begin at, and how many it was sent."""

    file: str
    method: str
    start: int
    sent: int


@dataclass
class Hub:
    """What the hub holds, and what it was asked."""

    endpoint: str = ""
    asked: list[Asked] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    _folders: dict[str, dict[str, Path]] = field(default_factory=dict)
    _gated: set[str] = field(default_factory=set)
    _breaks: dict[str, tuple[int, bool]] = field(default_factory=dict)
    _holds: dict[str, int] = field(default_factory=dict)
    held: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)
    down: bool = False

    def add(self, repo: str, folder: Path, *, revision: str = "main", gated: bool = False) -> str:
        """Serves a folder's files as a revision of a repository, `datasets/owner/name` for a dataset; returns the commit."""
        commit = hashlib.sha1(f"{repo} {revision}".encode()).hexdigest()
        self._folders.setdefault(repo, {}).update({revision: folder, commit: folder})
        if gated:
            self._gated.add(repo)
        return commit

    def break_once(self, file: str, after: int, *, reset: bool = False) -> None:
        """Ends the next download of a file after so many bytes: closes the connection, or resets it."""
        self._breaks[file] = (after, reset)

    def hold_once(self, file: str, after: int) -> None:
        """Stops the next download of a file after so many bytes, which sets `held`, until `released` is set."""
        self._holds[file] = after
        self.held.clear()
        self.released.clear()

    def downloads(self, file: str) -> list[Asked]:
        """The GET requests for a file."""
        return [one for one in self.asked if one.file == file and one.method == "GET"]

    def _revision(self, repo: str, name: str) -> tuple[str, Path] | None:
        folder = self._folders[repo].get(name)
        if folder is None:
            return None
        commit = next(one for one, place in self._folders[repo].items() if place == folder and len(one) == 40)
        return commit, folder


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A hub at a free port of loopback; set HF_ENDPOINT to its `endpoint`."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        hub.endpoint = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, name="hub")
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing: `Hub.asked` is the log."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        if token := self.headers.get("Authorization"):
            self.hub.tokens.append(token.removeprefix("Bearer "))
        path = unquote(urlsplit(self.path).path)
        match = _RESOLVE.fullmatch(path) or _API.fullmatch(path)
        if self.hub.down or match is None:
            return self._refuse(503 if self.hub.down else 404, "")
        repo = match["repo"]
        if repo not in self.hub._folders:
            return self._refuse(401, "RepoNotFound")  # as the real one answers who has no token
        if repo in self.hub._gated:
            return self._refuse(403, "GatedRepo")
        found = self.hub._revision(repo, match["revision"] or "main")
        if found is None:
            return self._refuse(404, "RevisionNotFound")
        if match.re is _RESOLVE:
            return self._file(found[0], found[1] / match["file"])
        if match["what"] == "tree":
            return self._tree(found[1], match["below"] or "")
        return self._info(repo, *found)

    def _refuse(self, status: int, code: str) -> None:
        self._send(status, b"", {"X-Error-Code": code} if code else {})

    def _info(self, repo: str, commit: str, folder: Path) -> None:
        siblings = [{"rfilename": p.name} for p in sorted(folder.iterdir()) if p.is_file()]
        self._json({"_id": "0", "id": repo, "modelId": repo, "sha": commit, "siblings": siblings, "tags": []})

    def _tree(self, folder: Path, below: str) -> None:
        if not (folder / below).is_dir():
            return self._refuse(404, "EntryNotFound")
        self._json([_entry(folder, p) for p in sorted((folder / below).iterdir())])

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _file(self, commit: str, path: Path) -> None:
        if not path.is_file():
            return self._refuse(404, "EntryNotFound")
        content = path.read_bytes()
        start = 0
        headers = {"X-Repo-Commit": commit, "ETag": f'"{_etag(path)}"', "Accept-Ranges": "bytes"}
        if wanted := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            start = int(wanted[1])
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        body = content[start:]
        after, reset = len(body), False
        if self.command == "GET" and path.name in self.hub._breaks:
            after, reset = self.hub._breaks.pop(path.name)
        sent = 0 if self.command == "HEAD" else min(after, len(body))
        self.hub.asked.append(Asked(path.name, self.command, start, sent))
        held = self.hub._holds.pop(path.name, None) if self.command == "GET" else None
        self._send(206 if start else 200, body, headers, after=after if held is None else held)
        if held is not None:
            self.hub.held.set()
            self.hub.released.wait()
            with contextlib.suppress(ConnectionError):  # it need not have waited
                self.wfile.write(body[held:])
        elif after < len(body):
            self._break(reset)

    def _send(self, status: int, body: bytes, headers: dict[str, str], *, after: int | None = None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:after])

    def _break(self, reset: bool) -> None:
        if reset:  # closing without lingering sends RST instead of FIN
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True


def _entry(folder: Path, path: Path) -> dict[str, Any]:
    name = path.relative_to(folder).as_posix()
    if path.is_dir():
        return {"type": "directory", "path": name, "oid": "0"}
    return {"type": "file", "path": name, "size": path.stat().st_size, "oid": _etag(path)}


def _etag(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
