"""A hub for tests to which huggingface_hub can write, without Xet: repositories, LFS uploads, commits, cards."""

from __future__ import annotations

import base64
import hashlib
import json
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs

from tests.shards.web_server import File, Hub

ATTRIBUTES = b"*.parquet filter=lfs diff=lfs merge=lfs -text\n"


class WritableHub(Hub):
    """A hub that can be written to. ``ignored``: paths that .gitignore excludes. Each commit calls ``before_commit``.

    ``failures``: part of a path → how the next POSTs or PUTs to such a path fail. A number is an HTTP status. With
    "cut", the hub does nothing and sends no response. With "lost", the hub carries out the request, but sends no
    response.
    """

    page = 1000

    def __init__(self) -> None:
        super().__init__()
        self.ignored: set[str] = set()
        self.before_commit = lambda: None
        self.may_write = True
        self.failures: dict[str, list[int | str]] = {}

    def files_of(self, repo: str) -> dict[str, bytes]:
        return self.repos[repo][-1][2]

    def accept(self, handler: Any, path: str, body: bytes) -> None:
        if not self.may_write:
            return handler.send(403, headers={"X-Error-Message": "no write access"})
        failure = next((left.pop(0) for part, left in self.failures.items() if part in path and left), None)
        if isinstance(failure, int):
            return handler.send(failure)
        if failure is not None:
            handler.close_connection, handler.send = True, lambda *_, **__: None
        return None if failure == "cut" else self._do(handler, path, body)

    def _do(self, handler: Any, path: str, body: bytes) -> None:
        if path.startswith("/upload/"):
            self.files[f"/storage/{path.removeprefix('/upload/')}"] = File(body)
            return handler.send(200)
        if path == "/api/repos/create":
            asked = json.loads(body)
            assert asked["visibility"] == "private"
            repo = f"{asked['organization']}/{asked['name']}"
            self.commit(repo, datetime.now(UTC), {".gitattributes": ATTRIBUTES})
            return handler.send_json({"url": f"{self.url}/datasets/{repo}"})
        if "/branch/" in path:
            repo, branch = path.removeprefix("/api/datasets/").split("/branch/")
            self.names[branch] = self.repos[repo][-1][0]
            return handler.send_json({})
        if path == "/api/validate-yaml":
            return handler.send_json({"errors": [], "warnings": []})
        if path.endswith("/info/lfs/objects/batch"):
            objects = [self._upload(entry) for entry in json.loads(body)["objects"]]
            return handler.send_json({"transfer": "basic", "objects": objects})
        repo, action = path.removeprefix("/api/datasets/").rsplit("/", 2)[:2]
        if action == "preupload":
            return handler.send_json({"files": [self._mode(entry) for entry in json.loads(body)["files"]]})
        if action == "paths-info":
            commit = next(n for n, one in enumerate(self.repos[repo]) if path.endswith(one[0]))
            wanted, found = parse_qs(body.decode())["paths"], self.repos[repo][commit][2]
            return handler.send_json(
                [self._entry(self.repos[repo][: commit + 1], name) for name in wanted if name in found]
            )
        assert action == "commit", path
        return self._commit(handler, repo, [json.loads(line) for line in body.splitlines()])

    def _upload(self, entry: dict[str, Any]) -> dict[str, Any]:
        found = f"/storage/{entry['oid']}" in self.files
        actions = {} if found else {"actions": {"upload": {"href": f"{self.url}/upload/{entry['oid']}"}}}
        return {"oid": entry["oid"], "size": entry["size"], **actions}

    def _mode(self, entry: dict[str, Any]) -> dict[str, Any]:
        mode = "lfs" if entry["path"].endswith(".parquet") else "regular"
        return {"path": entry["path"], "uploadMode": mode, "shouldIgnore": entry["path"] in self.ignored}

    def _commit(self, handler: Any, repo: str, lines: list[dict[str, Any]]) -> None:
        self.before_commit()
        if lines[0]["value"]["parentCommit"] != self.repos[repo][-1][0]:
            return handler.send(412, headers={"X-Error-Message": "the branch has moved"})
        added = {}
        for line in lines[1:]:
            path = line["value"]["path"]
            if line["key"] == "file":
                added[path] = base64.b64decode(line["value"]["content"])
            elif line["key"] == "lfsFile":
                added[path] = self.files[f"/storage/{line['value']['oid']}"].content
                assert hashlib.sha256(added[path]).hexdigest() == line["value"]["oid"]
        oid = self.commit(repo, datetime.now(UTC), added)
        for line in lines[1:]:
            if line["key"] == "deletedFile":
                del self.files_of(repo)[line["value"]["path"]]
        return handler.send_json({"commitUrl": f"{self.url}/datasets/{repo}/commit/{oid}", "commitOid": oid})
