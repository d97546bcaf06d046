"""A web server for tests, with ranges and ETags, which fails on demand and records requests. And a small HF hub."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, quote, unquote, urlsplit

from huggingface_hub import constants

PIECE = 1 << 16  # bytes of a body that are sent at a time


@dataclass
class File:
    content: bytes
    arrived: datetime | None = None  # Last-Modified
    etag: str | None = ""  # "": computed from the content; None: no ETag
    ranges: bool = True
    head_status: int = 200  # HTTP status with which HEAD is answered
    claims: int | None = None  # a wrong Content-Length to send; None: the right one

    @property
    def tag(self) -> str | None:
        return hashlib.blake2b(self.content, digest_size=8).hexdigest() if self.etag == "" else self.etag


@dataclass
class Fault:
    """The fault of one GET: an error status, a connection that is cut after ``cut_after`` bytes, or no answer."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    cut_after: int | None = None
    body: bytes = b""
    silent: bool = False


@dataclass
class Request:
    method: str
    path: str
    range: str | None
    authorization: str | None
    payer: str | None
    sent: int = 0


class WebServer:
    """Serves ``files``: path → file. ``faults``: path → faults; each GET of the path uses up one of them.

    If "!" is appended to the path, as in "/a.parquet!", all GETs of the path get the first fault.
    """

    def __init__(self) -> None:
        self.files: dict[str, File] = {}
        self.faults: dict[str, list[Fault]] = {}
        self.requests: list[Request] = []
        self.stopping = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"web": self}))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    @contextmanager
    def running(self) -> Iterator[WebServer]:
        thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        thread.start()
        yield self
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()
        thread.join()

    def gets(self, path: str) -> list[Request]:
        return [request for request in self.requests if request.method == "GET" and request.path == path]

    def answer(self, handler: _Handler, path: str, query: dict[str, list[str]]) -> None:
        """Answer GET and HEAD with the file at ``path``. Subclasses may answer in other ways."""
        handler.send_file(self.files.get(path))

    def accept(self, handler: _Handler, path: str, body: bytes) -> None:
        """Answer a POST or PUT. This server only serves files, so it refuses."""
        handler.send(405)


class Hub(WebServer):
    """A server with the part of the Hugging Face hub's API that is needed to list and read data sets and models."""

    page = 2  # entries in each page of a listing

    def __init__(self) -> None:
        super().__init__()
        self.repos: dict[str, list[tuple[str, datetime, dict[str, bytes]]]] = {}
        self.gated: set[str] = set()
        self.names: dict[str, str] = {}  # branch or tag → commit; main is always the last commit
        self.token = "hf_test"  # noqa: S105
        self.storage = self.url.replace("127.0.0.1", "localhost")  # the hub's files are on another host

    def commit(self, repo: str, when: datetime, files: dict[str, bytes]) -> str:
        """Add a commit. It has the last commit's files, plus ``files``. Returns the commit's id."""
        commits = self.repos.setdefault(repo, [])
        oid = hashlib.sha1(f"{repo}{len(commits)}".encode()).hexdigest()  # noqa: S324
        commits.append((oid, when, (commits[-1][2] if commits else {}) | files))
        for content in files.values():
            self.files[f"/storage/{hashlib.sha256(content).hexdigest()}"] = File(content)
        return oid

    def answer(self, handler: _Handler, path: str, query: dict[str, list[str]]) -> None:
        for repo, commits in self.repos.items():
            for api, pages in (("/api/datasets/", "/datasets/"), ("/api/models/", "/")):
                if path.startswith(f"{api}{repo}/"):
                    return self._api(handler, repo, commits, path.removeprefix(f"{api}{repo}/"), query)
                if path.startswith(f"{pages}{repo}/resolve/"):
                    return self._resolve(handler, repo, path.removeprefix(f"{pages}{repo}/resolve/"))
        if path.startswith("/storage/"):
            return super().answer(handler, path, query)
        return handler.send(401, headers={"X-Error-Code": "RepoNotFound", "X-Error-Message": "not found"})

    def _may_read(self, handler: _Handler, repo: str) -> bool:
        if repo not in self.gated or handler.headers.get("Authorization") == f"Bearer {self.token}":
            return True
        status = 403 if handler.headers.get("Authorization") else 401
        handler.send(status, headers={"X-Error-Code": "GatedRepo", "X-Error-Message": "gated"})
        return False

    def _api(self, handler: _Handler, repo: str, commits: list, rest: str, query: dict[str, list[str]]) -> None:
        kind, _, rest = rest.partition("/")
        if kind == "auth-check":
            return handler.send_json({}) if self._may_read(handler, repo) else None
        for name, commit in self.names.items():
            if rest.startswith(name):
                rest = commit + rest.removeprefix(name)
        revision, _, folder = rest.partition("/")
        if revision == "main":
            revision = commits[-1][0]
        upto = next((n for n, commit in enumerate(commits) if commit[0] == revision), None)
        if upto is None:
            return handler.send(404, headers={"X-Error-Code": "RevisionNotFound"})
        if kind == "revision":
            gated = "auto" if repo in self.gated else False
            siblings = [{"rfilename": path} for path in commits[upto][2]]
            answer = {"id": repo, "sha": revision, "gated": gated, "private": False, "tags": [], "siblings": siblings}
            return handler.send_json(answer)
        assert (kind, query["recursive"]) == ("tree", ["true"])
        start = f"{folder}/" if folder else ""
        paths = [path for path in commits[upto][2] if path.startswith(start)]
        if not paths:
            return handler.send(404, headers={"X-Error-Code": "EntryNotFound"})
        first = int(query.get("cursor", ["0"])[0])
        following = f"{self.url}{handler.path.partition('?')[0]}?recursive=true&cursor={first + self.page}"
        link = {"Link": f'<{following}>; rel="next"'} if first + self.page < len(paths) else {}
        entries = [self._entry(commits[: upto + 1], path) for path in paths[first : first + self.page]]
        return handler.send_json([{"type": "directory", "oid": "0" * 40, "size": 0, "path": "x"}, *entries], link)

    def _entry(self, commits: list, path: str) -> dict:
        content = commits[-1][2][path]
        last = next(commit for commit in commits if commit[2].get(path) == content)
        entry = {
            "type": "file",
            "oid": hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest(),  # noqa: S324
            "size": len(content),
            "path": path,
            "lastCommit": {"id": last[0], "title": "-", "date": last[1].strftime("%Y-%m-%dT%H:%M:%S.000Z")},
        }
        if path.endswith(".parquet"):
            entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
        return entry

    def _resolve(self, handler: _Handler, repo: str, rest: str) -> None:
        revision, _, path = rest.partition("/")
        if not self._may_read(handler, repo):
            return None
        content = next((commit[2].get(path) for commit in self.repos[repo] if commit[0] == revision), None)
        if content is None:
            return handler.send(404, headers={"X-Error-Code": "EntryNotFound"})
        digest = hashlib.sha256(content).hexdigest()
        location = f"{self.storage}/storage/{digest}?signature={quote('a/b')}"
        headers = {"Location": location, "ETag": f'"{digest}"', "X-Linked-Size": str(len(content))}
        return handler.send(302, headers={**headers, constants.HUGGINGFACE_HEADER_X_REPO_COMMIT: revision})


_NOTED = ("Range", "Authorization", "x-amz-request-payer")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # otherwise bodies are sent 40 ms after their headers
    web: WebServer
    request_log: Request

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        path = unquote(url.path)
        self.request_log = Request(self.command, path, *(self.headers.get(name) for name in _NOTED))
        self.web.requests.append(self.request_log)
        self.fault = None
        if self.command == "GET":
            if faults := self.web.faults.get(path):
                self.fault = faults.pop(0)
            else:
                self.fault = next(iter(self.web.faults.get(f"{path}!", [])), None)
        if self.fault and self.fault.silent:
            self.web.stopping.wait()
            self.close_connection = True
        elif self.fault and self.fault.status:
            self.send(self.fault.status, self.fault.body, self.fault.headers)
        else:
            self.web.answer(self, path, parse_qs(url.query))

    do_HEAD = do_GET

    def do_POST(self) -> None:
        """Pass the body to ``accept``, which subclasses of the server may override."""
        self.request_log, self.fault = Request(self.command, unquote(urlsplit(self.path).path), None, None, None), None
        self.web.requests.append(self.request_log)
        self.web.accept(self, self.request_log.path, self.rfile.read(int(self.headers["Content-Length"])))

    do_PUT = do_POST

    def send(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.fault and self.fault.cut_after is not None:
            body, self.close_connection = body[: self.fault.cut_after], True
        try:
            for at in range(0, len(body), PIECE):
                piece = body[at : at + PIECE]
                # Count the piece before the client gets it, because tests may read the count as soon as it arrives.
                self.request_log.sent += len(piece)
                self.wfile.write(piece)
        except ConnectionError:  # the client closed the connection
            self.close_connection = True

    def send_json(self, value: object, headers: dict[str, str] | None = None) -> None:
        self.send(200, json.dumps(value).encode(), headers)

    def send_file(self, file: File | None) -> None:
        if file is None:
            return self.send(404)
        if self.command == "HEAD" and file.head_status != 200:
            return self.send(file.head_status)
        headers = {}
        if file.tag is not None:
            headers["ETag"] = f'"{file.tag}"'
        if file.arrived:
            headers["Last-Modified"] = format_datetime(file.arrived.astimezone(UTC), usegmt=True)
        if self.headers.get("If-Match", f'"{file.tag}"') != f'"{file.tag}"':
            return self.send(412)
        size = len(file.content)
        asked = self.headers.get("Range")
        if not asked or not file.ranges:
            if file.claims is not None:
                headers["Content-Length"], self.close_connection = str(file.claims), True
            return self.send(200, file.content, headers)
        first, last = (int(n) for n in asked.removeprefix("bytes=").split("-"))
        if first >= size:
            return self.send(416)
        last = min(last, size - 1)
        headers["Content-Range"] = f"bytes {first}-{last}/{size if file.claims is None else file.claims}"
        return self.send(206, file.content[first : last + 1], headers)

    def log_message(self, *_: object) -> None:
        pass
