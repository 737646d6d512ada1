"""A small Hugging Face Hub on 127.0.0.1: enough of its HTTP API for huggingface_hub itself to push and pull.

It knows models and datasets, keeps every past revision, and sends the content of large files through a second port, as
the real one does through its CDN. Run the client with HF_ENDPOINT=hub.url, HF_TOKEN=hub.token and HF_HUB_DISABLE_XET=1.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from huggingface_hub import constants

ORGANIZATION = "org"  # the one that the token may write to
Files = dict[str, dict[str, Any]]  # path in the repository to {"sha256", "size", "oid", "lfs"}
_REPO = r"(?P<repo>[\w.-]+/[\w.-]+)"
_API = rf"/api/(?P<kind>model|dataset)s/{_REPO}"
_WEB = rf"/(?P<kind>datasets/)?{_REPO}"


class Refusal(Exception):
    """An answer that is an error: status, X-Error-Code, X-Error-Message."""


class Seen(NamedTuple):
    """One request, for tests to look at."""

    method: str
    path: str
    range: str | None
    token: str | None
    cdn: bool


class HubServer:
    """The Hub. `broken` maps a path in a repository, or the start of an API path, to how it fails.

    A number is the status that it answers; "cut" sends half of the content, once; "endless" goes on after it, as long
    as it is listened to; "whole" ignores that only a part was asked for.
    """

    token = "hf_only_for_tests"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "blobs").mkdir(parents=True)
        (folder / "commits").mkdir()
        self.heads: dict[str, str] = {}  # "dataset/org/name" to commit
        self.seen: list[Seen] = []
        self.sent = 0  # bytes of endless content
        self.broken: dict[str, int | str] = {}
        self.names: dict[str, str] = {}  # sha256 of a large file to its path, for `broken`
        self.lock = threading.Lock()
        self.servers = [ThreadingHTTPServer(("127.0.0.1", 0), type("_Bound", (_Handler,), {"hub": self, "cdn": cdn}))
                        for cdn in (False, True)]  # fmt: skip
        self.url, self.cdn = (f"http://127.0.0.1:{server.server_port}" for server in self.servers)
        for server in self.servers:
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    @classmethod
    def serving(cls, folder: Path, patch: pytest.MonkeyPatch) -> HubServer:
        """Start one, and make huggingface_hub speak to it alone, as someone who is logged in."""
        one = cls(folder / "server")
        for name, value in {"HF_ENDPOINT": one.url, "HF_TOKEN": one.token, "HF_HUB_DISABLE_XET": "1",
                            "HF_HOME": str(folder / "hf"), "no_proxy": "127.0.0.1"}.items():  # fmt: skip
            patch.setenv(name, value)
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        patch.setattr(constants, "HF_TOKEN_PATH", str(folder / "hf" / "token"))
        return one

    def close(self) -> None:
        for server in self.servers:
            server.shutdown()
            server.server_close()

    def fetched(self) -> list[str]:
        """Paths whose content was asked for since `seen` was last emptied, in that order."""
        blobs = [one.path.rpartition("/")[2] for one in self.seen if one.method == "GET" and one.cdn]
        return [self.names[blob] for blob in blobs]

    # -- what a repository holds

    def create(self, kind: str, repo: str) -> None:
        self.heads[f"{kind}/{repo}"] = ""
        self.commit(kind, repo, {".gitattributes": b"*.parquet filter=lfs\n*.safetensors filter=lfs\n"})

    def commit(self, kind: str, repo: str, changes: dict[str, bytes | None], summary: str = "by hand") -> str:
        """Put files (None deletes one) on top of the head; also what an attacker does to a repository."""
        files = self.files(kind, repo)
        for path, data in changes.items():
            if data is None:
                del files[path]
            else:
                files[path] = self.store(path, data)
        return self.add(kind, repo, files, summary)

    def add(self, kind: str, repo: str, files: Files, summary: str) -> str:
        text = json.dumps({"parent": self.heads[f"{kind}/{repo}"], "files": files, "summary": summary}, sort_keys=True)
        commit = hashlib.sha1(f"{kind}/{repo} {text}".encode()).hexdigest()
        (self.folder / "commits" / commit).write_text(text)
        self.heads[f"{kind}/{repo}"] = commit
        return commit

    def files(self, kind: str, repo: str, revision: str = "main") -> Files:
        commit = self.resolve(kind, repo, revision)
        found: Files = json.loads((self.folder / "commits" / commit).read_text())["files"] if commit else {}
        return found

    def read(self, kind: str, repo: str, path: str, revision: str = "main") -> bytes:
        return (self.folder / "blobs" / self.files(kind, repo, revision)[path]["sha256"]).read_bytes()

    def resolve(self, kind: str, repo: str, revision: str) -> str:
        if f"{kind}/{repo}" not in self.heads:
            raise Refusal(404, "RepoNotFound", "Repository not found")
        commit = self.heads[f"{kind}/{repo}"] if revision == "main" else revision
        if commit and not (re.fullmatch("[0-9a-f]{40}", commit) and (self.folder / "commits" / commit).is_file()):
            raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit

    def store(self, path: str, data: bytes) -> dict[str, Any]:
        sha256 = hashlib.sha256(data).hexdigest()
        (self.folder / "blobs" / sha256).write_bytes(data)
        return self.entry(path, sha256, len(data), hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest())

    def entry(self, path: str, sha256: str, size: int, git: str = "") -> dict[str, Any]:
        lfs = _large(path)
        if lfs:
            self.names[sha256] = path
        return {"sha256": sha256, "size": size, "lfs": lfs, "oid": sha256 if lfs else git}


def _large(path: str) -> bool:
    return path.endswith((".parquet", ".safetensors", ".bin"))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: HubServer
    cdn: bool

    def do_GET(self) -> None:
        self.answer()

    do_HEAD = do_POST = do_PUT = do_GET

    def log_message(self, *_: object) -> None:
        pass

    def answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        token = (self.headers["Authorization"] or "").removeprefix("Bearer ") or None
        self.hub.seen.append(Seen(self.command, path, self.headers["Range"], token, self.cdn))
        body = self.body()
        try:
            if token not in (None, HubServer.token):
                raise Refusal(401, "", "Invalid credentials in Authorization header")
            for name, how in self.hub.broken.items():
                if isinstance(how, int) and name.startswith("/") and path.startswith(name):
                    raise Refusal(how, "", "broken on purpose")
            for method, pattern, act in _CDN if self.cdn else _ROUTES:
                if self.command in method.split() and (found := re.fullmatch(pattern, path)):
                    kind = (found.groupdict().get("kind") or "model").removesuffix("s/")
                    words = {key: value for key, value in found.groupdict().items() if key != "kind"}
                    if "repo" in words:
                        words["kind"] = kind
                    with self.hub.lock:
                        done = act(self, body, **words)
                    if done is not None:
                        self.send(200, json.dumps(done).encode(), {"Content-Type": "application/json"})
                    return
            raise Refusal(404, "", f"no such route: {self.command} {path}")
        except Refusal as refusal:
            status, code, message = refusal.args
            headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
            self.send(status, json.dumps({"error": message}).encode(), headers)

    def body(self) -> bytes:
        if self.headers["Transfer-Encoding"] != "chunked":
            return self.rfile.read(int(self.headers["Content-Length"] or 0))
        data = b""
        while size := int(self.rfile.readline(), 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    def send(self, status: int, data: bytes, headers: dict[str, str], announced: int | None = None) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(announced or len(data))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def writer(self, repo: str) -> None:
        if self.headers["Authorization"] is None:
            raise Refusal(401, "", "Invalid username or password.")
        if repo.partition("/")[0] != ORGANIZATION:
            raise Refusal(403, "", f"You don't have the rights to write to {repo}")

    # -- the API

    def create(self, body: bytes) -> dict[str, Any] | None:
        asked = json.loads(body)
        kind, repo = asked.get("type") or "model", f"{asked['organization']}/{asked['name']}"
        self.writer(repo)
        where = {"url": f"{self.hub.url}/{'' if kind == 'model' else kind + 's/'}{repo}", "name": repo}
        if f"{kind}/{repo}" in self.hub.heads:
            self.send(409, json.dumps({"error": "You already created this repo"} | where).encode(), {})
            return None
        self.hub.create(kind, repo)
        return where

    def validate(self, body: bytes) -> dict[str, Any]:
        asked = json.loads(body)
        head = yaml.safe_load(asked["content"].split("---\n")[1])
        errors = [] if re.fullmatch("[a-z0-9.-]+", str(head.get("license"))) else [{"message": "license must be known"}]
        return {"errors": errors, "warnings": []}

    def info(self, body: bytes, kind: str, repo: str, revision: str | None = None) -> dict[str, Any]:
        revision = revision or "main"
        files = self.hub.files(kind, repo, revision)
        siblings = [{"rfilename": path, "size": one["size"], "blobId": one["oid"]} for path, one in files.items()]
        return {"id": repo, "sha": self.hub.resolve(kind, repo, revision), "private": False, "siblings": siblings}

    def tree(self, body: bytes, kind: str, repo: str, revision: str, folder: str | None = None) -> list[dict[str, Any]]:
        start = f"{folder}/" if folder else ""
        found: dict[str, dict[str, Any]] = {}
        for path, one in self.hub.files(kind, repo, revision).items():
            inner = path.removeprefix(start).partition("/")[0]
            if path.startswith(start) and "recursive=true" not in self.path.lower() and start + inner != path:
                found[start + inner] = {"type": "directory", "path": start + inner, "oid": "0" * 40}
            elif path.startswith(start):
                found[path] = {"type": "file", "path": path, "size": one["size"], "oid": one["oid"]}
                if one["lfs"]:
                    found[path]["lfs"] = {"oid": one["sha256"], "size": one["size"], "pointerSize": 130}
        return list(found.values())

    def preupload(self, body: bytes, kind: str, repo: str, revision: str) -> dict[str, Any]:
        self.writer(repo)
        have = self.hub.files(kind, repo, revision)
        return {
            "files": [
                {
                    "path": one["path"],
                    "uploadMode": "lfs" if _large(one["path"]) else "regular",
                    "shouldIgnore": False,
                    "oid": have.get(one["path"], {}).get("oid"),
                }
                for one in json.loads(body)["files"]
            ]
        }

    def batch(self, body: bytes, kind: str, repo: str) -> dict[str, Any]:
        self.writer(repo)
        self.hub.resolve(kind, repo, "main")
        objects = json.loads(body)["objects"]
        for one in objects:
            if not (self.hub.folder / "blobs" / one["oid"]).is_file():
                one["actions"] = {"upload": {"href": f"{self.hub.cdn}/upload/{one['oid']}"}}
        return {"transfer": "basic", "objects": objects}

    def commit(self, body: bytes, kind: str, repo: str, revision: str) -> dict[str, Any]:
        self.writer(repo)
        files = self.hub.files(kind, repo, revision)
        lines = [json.loads(line) for line in body.splitlines()]
        head = next(line["value"] for line in lines if line["key"] == "header")
        if head.get("parentCommit", self.hub.heads[f"{kind}/{repo}"]) != self.hub.heads[f"{kind}/{repo}"]:
            raise Refusal(412, "", "A commit has happened since. Please refresh and try again.")
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = self.hub.store(value["path"], base64.b64decode(value["content"]))
            elif line["key"] == "lfsFile":
                blob = self.hub.folder / "blobs" / value["oid"]
                if not blob.is_file():
                    raise Refusal(400, "", f"{value['path']} points to a file that was not uploaded")
                files[value["path"]] = self.hub.entry(value["path"], value["oid"], blob.stat().st_size)
            elif line["key"] == "deletedFile" and files.pop(value["path"], None) is None:
                raise Refusal(404, "EntryNotFound", "A file with this name doesn't exist")
        commit = self.hub.add(kind, repo, files, head["summary"])
        return {"success": True, "commitOid": commit, "commitUrl": f"{self.hub.url}/{repo}/commit/{commit}"}

    def content(self, body: bytes, kind: str, repo: str, revision: str, path: str) -> None:
        commit = self.hub.resolve(kind, repo, revision)
        one = self.hub.files(kind, repo, revision).get(path)
        if one is None:
            raise Refusal(404, "EntryNotFound", f"no {path}")
        headers = {"X-Repo-Commit": commit, "ETag": f'"{one["oid"]}"', "Accept-Ranges": "bytes"}
        if one["lfs"]:
            headers |= {"X-Linked-Etag": f'"{one["oid"]}"', "X-Linked-Size": str(one["size"])}
            self.send(302, b"", headers | {"Location": f"{self.hub.cdn}/blob/{one['sha256']}"})
        else:
            self.blob(b"", one["sha256"], path, headers)

    # -- the CDN

    def blob(self, body: bytes, sha256: str, path: str = "", headers: dict[str, str] | None = None) -> None:
        how = self.hub.broken.get(path or self.hub.names[sha256])
        if isinstance(how, int):
            raise Refusal(how, "", "broken on purpose")
        data = (self.hub.folder / "blobs" / sha256).read_bytes()
        if how == "endless" and self.command == "GET":
            self.endless(data)
            return
        asked = self.headers["Range"] if how != "whole" else None
        start = int((asked or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        if start and start >= len(data):
            raise Refusal(416, "", "the range lies behind the end")
        more = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"} if start else {}
        end = len(data)
        if how == "cut" and self.command == "GET":
            end = start + (end - start) // 2
            self.hub.broken.pop(path or self.hub.names[sha256])
            self.close_connection = True
        self.send(206 if start else 200, data[start:end], (headers or {}) | more, len(data) - start)

    def endless(self, data: bytes) -> None:
        self.close_connection = True
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            for _ in range(1000):
                self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
                self.hub.sent += len(data)
            self.wfile.write(b"0\r\n\r\n")
        except OSError:
            pass  # nobody listens any more

    def upload(self, body: bytes, sha256: str) -> None:
        if hashlib.sha256(body).hexdigest() != sha256:
            raise Refusal(400, "", "the content is not what was announced")
        (self.hub.folder / "blobs" / sha256).write_bytes(body)
        self.send(200, b"", {})


_ROUTES = [
    ("POST", "/api/repos/create", _Handler.create),
    ("POST", "/api/validate-yaml", _Handler.validate),
    ("GET", rf"{_API}(/revision/(?P<revision>.+))?", _Handler.info),
    ("GET", rf"{_API}/tree/(?P<revision>[^/]+)(/(?P<folder>.+))?", _Handler.tree),
    ("POST", rf"{_API}/preupload/(?P<revision>.+)", _Handler.preupload),
    ("POST", rf"{_API}/commit/(?P<revision>.+)", _Handler.commit),
    ("POST", rf"{_WEB}\.git/info/lfs/objects/batch", _Handler.batch),
    ("GET HEAD", rf"{_WEB}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", _Handler.content),
]
_CDN = [
    ("GET HEAD", r"/blob/(?P<sha256>[0-9a-f]{64})", _Handler.blob),
    ("PUT", r"/upload/(?P<sha256>[0-9a-f]{64})", _Handler.upload),
]
