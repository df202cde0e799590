"""A server on this machine that speaks the Hub's protocol as huggingface_hub and datasets use it, with faults on demand.

Repositories live in memory: every commit is a whole tree. Small files are git blobs, Parquet, safetensors and PNG files go
through git LFS to presigned addresses. Nothing of the clients is replaced: they are told HF_ENDPOINT.
"""

import base64
import hashlib
import json
import re
import socket
import struct
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_ThisTokenIsMadeUpForTests0123456789"
SIGNATURE = "PresignedSecretOfTheTests"
PAGE = 3  # entries of a tree a page: listings are always followed over several pages
_LFS = (".parquet", ".safetensors", ".png")
_ATTRIBUTES = b"*.parquet filter=lfs diff=lfs merge=lfs -text\n"


@dataclass
class Repo:
    """One repository: its commits (newest last), each with path -> (kind, oid, size)."""

    private: bool
    gated: object = False
    commits: list[tuple[str, dict[str, tuple[str, str, int]]]] = field(default_factory=list)

    @property
    def tree(self) -> dict[str, tuple[str, str, int]]:
        return self.commits[-1][1]

    def commit(self, tree: dict[str, tuple[str, str, int]]) -> str:
        text = json.dumps([len(self.commits), sorted(tree.items())])
        self.commits.append((hashlib.sha1(text.encode()).hexdigest(), tree))
        return self.commits[-1][0]

    def at(self, revision: str) -> tuple[str, dict[str, tuple[str, str, int]]] | None:
        if revision in ("main", "refs/convert/parquet"):
            return self.commits[-1] if revision == "main" else None
        return next((found for found in self.commits if found[0] == revision), None)


@dataclass
class Fault:
    """What happens to the next `times` requests that match METHOD and the pattern: a status, "reset", or a call."""

    method: str
    pattern: str
    what: int | str | Callable[[], None]
    times: int = 1
    after: bool = False  # the request is carried out first, only its answer is lost
    headers: dict[str, str] = field(default_factory=lambda: {"Retry-After": "0"})


class Hub:
    """The server's state, and what was asked of it."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.objects: dict[str, bytes] = {}  # LFS objects by sha256
        self.blobs: dict[str, bytes] = {}  # git blobs by git's sha1
        self.faults: list[Fault] = []
        self.requests: list[str] = []  # "METHOD path"
        self.puts: Counter[str] = Counter()  # LFS object -> whole uploads
        self.committed: Counter[str] = Counter()  # path -> commits that added it
        self.lock = threading.RLock()
        self.ungateable = False
        self.url = ""

    def asked(self, pattern: str) -> int:
        """How many requests match."""
        return sum(bool(re.search(pattern, line)) for line in self.requests)

    def fault_for(self, method: str, path: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.times and fault.method == method and re.search(fault.pattern, path):
                    fault.times -= 1
                    return fault
        return None

    def content(self, repo: str, path: str) -> bytes:
        """The bytes of a file of the newest commit."""
        kind, oid, _ = self.repos[repo].tree[path]
        return self.objects[oid] if kind == "lfs" else self.blobs[oid]

    def files(self, repo: str) -> dict[str, str]:
        """Path -> sha256 of every file of the newest commit."""
        return {path: hashlib.sha256(self.content(repo, path)).hexdigest() for path in sorted(self.repos[repo].tree)}

    def add_blob(self, content: bytes) -> tuple[str, str, int]:
        oid = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        self.blobs[oid] = content
        return "file", oid, len(content)


@contextmanager
def hub_server() -> Iterator[Hub]:
    """A running server."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = _Server(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Server(ThreadingHTTPServer):
    """Clients that are killed, or whose connection was reset on purpose, are no news."""

    daemon_threads = True

    def handle_error(self, request, client_address) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"
    # (method, pattern of the path, name of the method that answers)
    ROUTES = (
        ("POST", r"/api/repos/create", "create"),
        ("POST", r"/api/validate-yaml", "validate_yaml"),
        ("PUT", r"/api/(datasets|models)/([^/]+/[^/]+)/settings", "settings"),
        ("POST", r"/api/(datasets|models)/([^/]+/[^/]+)/preupload/([^/]+)", "preupload"),
        ("POST", r"/api/(datasets|models)/([^/]+/[^/]+)/commit/([^/]+)", "commit"),
        ("POST", r"/api/(datasets|models)/([^/]+/[^/]+)/paths-info/([^/]+)", "paths_info"),
        ("GET", r"/api/(datasets|models)/([^/]+/[^/]+)/tree/([^/]+)(?:/(.+))?", "list_tree"),
        ("GET", r"/api/(datasets|models)/([^/]+/[^/]+)(?:/revision/([^/]+))?", "info"),
        ("POST", r"/(?:(datasets)/)?([^/]+/[^/]+)\.git/info/lfs/objects/batch", "lfs_batch"),
        ("POST", r"/lfs/verify/([0-9a-f]{64})", "lfs_verify"),
        ("PUT", r"/lfs/([0-9a-f]{64})", "lfs_put"),
        ("GET", r"/(?:(datasets)/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", "resolve"),
        ("HEAD", r"/(?:(datasets)/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", "resolve"),
    )

    def handle_one(self) -> None:
        parts = urlsplit(self.path)
        path = unquote(parts.path)
        self.query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        self.body = (
            self.rfile.read(int(self.headers.get("Content-Length") or 0)) if not self._chunked() else self._chunks()
        )
        with self.hub.lock:
            self.hub.requests.append(f"{self.command} {path}")
        fault = self.hub.fault_for(self.command, path)
        if fault is not None and not fault.after and not self._fail(fault):
            return
        for method, pattern, name in self.ROUTES:
            found = re.fullmatch(pattern, path)
            if found and method == self.command:
                if not path.startswith("/lfs/") and self.headers.get("Authorization") != f"Bearer {TOKEN}":
                    return self.answer(401, {"error": "Invalid username or password."})
                self.lost = fault
                with self.hub.lock:
                    return getattr(self, name)(*found.groups())
        self.answer(404, {"error": f"no such route: {self.command} {path}"})

    do_GET = do_POST = do_PUT = do_HEAD = handle_one  # noqa: N815 (http.server's names)

    lost: Fault | None = None

    def _chunked(self) -> bool:
        return "chunked" in (self.headers.get("Transfer-Encoding") or "")

    def _chunks(self) -> bytes:
        content = b""
        while size := int(self.rfile.readline().strip(), 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def _fail(self, fault: Fault) -> bool:
        """Carries the fault out; True where the request is answered all the same."""
        if callable(fault.what):
            fault.what()
            return True
        if fault.what == "reset":
            # an RST, not an orderly end
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()
        else:
            self.answer(int(fault.what), {"error": f"injected {fault.what}"}, fault.headers)
        return False

    def answer(
        self, status: int, value: object = None, headers: dict[str, str] | None = None, content: bytes | None = None
    ):
        if self.lost is not None:
            fault, self.lost = self.lost, None
            if fault.after and not self._fail(fault):
                return
        content = json.dumps(value).encode() if content is None else content
        self.send_response(status)
        headers = {"Content-Type": "application/json", "Content-Length": str(len(content)), **(headers or {})}
        for name, text in headers.items():
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass

    # what each route does

    def _repo(self, name: str) -> Repo | None:
        found = self.hub.repos.get(name)
        if found is None:
            self.answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        return found

    def create(self) -> None:
        asked = json.loads(self.body)
        name = f"{asked['organization']}/{asked['name']}"
        url = f"{self.hub.url}/{asked.get('type', 'model')}s/{name}"
        if name in self.hub.repos:
            return self.answer(409, {"error": "You already created this repo", "url": url})
        private = asked.get("visibility") == "private" or asked.get("private") is True
        repo = self.hub.repos[name] = Repo(private)
        repo.commit({".gitattributes": self.hub.add_blob(_ATTRIBUTES)})
        self.answer(200, {"url": url})

    def validate_yaml(self) -> None:
        self.answer(200, {"errors": [], "warnings": []})

    def settings(self, kind: str, name: str) -> None:
        repo = self._repo(name)
        if repo is None:
            return
        asked = json.loads(self.body)
        if "gated" in asked and not self.hub.ungateable:
            repo.gated = asked["gated"]
        if "visibility" in asked or "private" in asked:
            repo.private = asked.get("visibility") == "private" or asked.get("private") is True
        self.answer(200, {})

    def info(self, kind: str, name: str, revision: str | None) -> None:
        repo = self._repo(name)
        found = repo.at(revision or "main") if repo else None
        if repo is None:
            return
        if found is None:
            return self.answer(404, {"error": "Invalid rev id"}, {"X-Error-Code": "RevisionNotFound"})
        siblings = [{"rfilename": path} for path in found[1]]
        value = {
            "_id": "1",
            "id": name,
            "sha": found[0],
            "private": repo.private,
            "gated": repo.gated,
            "disabled": False,
        }
        self.answer(200, {**value, "siblings": siblings, "tags": [], "lastModified": "2026-01-01T00:00:00.000Z"})

    def preupload(self, kind: str, name: str, revision: str) -> None:
        repo = self._repo(name)
        if repo is None:
            return
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(_LFS) else "regular",
                "shouldIgnore": False,
                "oid": repo.tree.get(file["path"], (None, None))[1],
            }
            for file in json.loads(self.body)["files"]
        ]
        self.answer(200, {"files": files})

    def lfs_batch(self, kind: str | None, name: str) -> None:
        asked = json.loads(self.body)
        objects = []
        for wanted in asked["objects"]:
            oid = wanted["oid"]
            entry = {"oid": oid, "size": wanted["size"]}
            if oid not in self.hub.objects:
                upload = {"href": f"{self.hub.url}/lfs/{oid}?X-Amz-Signature={SIGNATURE}", "header": {}}
                verify = {"href": f"{self.hub.url}/lfs/verify/{oid}", "header": {}}
                entry["actions"] = {"upload": upload, "verify": verify}
            objects.append(entry)
        self.answer(200, {"transfer": "basic", "objects": objects})

    def lfs_put(self, oid: str) -> None:
        if self.query.get("X-Amz-Signature") != SIGNATURE or hashlib.sha256(self.body).hexdigest() != oid:
            return self.answer(403, {"error": "wrong signature or content"})
        self.hub.objects[oid] = self.body
        self.hub.puts[oid] += 1
        self.answer(200, {})

    def lfs_verify(self, oid: str) -> None:
        asked = json.loads(self.body)
        right = oid in self.hub.objects and asked == {"oid": oid, "size": len(self.hub.objects[oid])}
        self.answer(200 if right else 404, {})

    def commit(self, kind: str, name: str, revision: str) -> None:
        repo = self._repo(name)
        if repo is None:
            return
        lines = [json.loads(line) for line in self.body.splitlines()]
        parent = lines[0]["value"].get("parentCommit")
        if parent is not None and parent != repo.commits[-1][0]:
            return self.answer(412, {"error": "A commit has happened since. Please refresh and try again."})
        tree = dict(repo.tree)
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                tree[value["path"]] = self.hub.add_blob(base64.b64decode(value["content"]))
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.hub.objects:
                    return self.answer(400, {"error": f"LFS object {value['oid']} was never uploaded"})
                tree[value["path"]] = ("lfs", value["oid"], len(self.hub.objects[value["oid"]]))
            elif line["key"] == "deletedFile":
                del tree[value["path"]]
            else:
                return self.answer(400, {"error": f"what is {line['key']}?"})
            self.hub.committed[value["path"]] += 1
        oid = repo.commit(tree)
        self.answer(200, {"success": True, "commitOid": oid, "commitUrl": f"{self.hub.url}/{name}/commit/{oid}"})

    def _entry(self, path: str, file: tuple[str, str, int]) -> dict[str, object]:
        kind, oid, size = file
        if kind == "file":
            return {"type": "file", "path": path, "oid": oid, "size": size}
        # the git blob of an LFS file is its pointer
        lfs = {"oid": oid, "size": size, "pointerSize": 130}
        return {"type": "file", "path": path, "oid": hashlib.sha1(oid.encode()).hexdigest(), "size": size, "lfs": lfs}

    def _entries(self, tree: dict[str, tuple[str, str, int]], folder: str, recursive: bool) -> list[dict[str, object]]:
        start = f"{folder}/" if folder else ""
        inside = {path: file for path, file in sorted(tree.items()) if path.startswith(start)}
        folders = {
            path[: match.start()] for path in inside for match in re.finditer("/", path) if match.start() >= len(start)
        }
        shown = [self._entry(path, file) for path, file in inside.items()]
        shown += [{"type": "directory", "path": path, "oid": "0" * 40, "size": 0} for path in sorted(folders)]
        return shown if recursive else [entry for entry in shown if "/" not in str(entry["path"])[len(start) :]]

    def list_tree(self, kind: str, name: str, revision: str, folder: str | None) -> None:
        repo = self._repo(name)
        found = repo.at(revision) if repo else None
        if repo is None:
            return
        if found is None:
            return self.answer(404, {"error": "Invalid rev id"}, {"X-Error-Code": "RevisionNotFound"})
        entries = self._entries(found[1], folder or "", self.query.get("recursive", "").lower() == "true")
        if folder and not entries:
            return self.answer(404, {"error": "no such folder"}, {"X-Error-Code": "EntryNotFound"})
        start = int(self.query.get("cursor", 0))
        headers = {}
        if start + PAGE < len(entries):
            options = "&".join(f"{key}={value}" for key, value in self.query.items() if key != "cursor")
            address = f"{self.hub.url}{urlsplit(self.path).path}?{options}&cursor={start + PAGE}"
            headers["Link"] = f'<{address}>; rel="next"'
        self.answer(200, entries[start : start + PAGE], headers)

    def paths_info(self, kind: str, name: str, revision: str) -> None:
        repo = self._repo(name)
        found = repo.at(revision) if repo else None
        if found is None:
            return None if repo is None else self.answer(404, {"error": "rev"}, {"X-Error-Code": "RevisionNotFound"})
        text = self.body.decode()
        wanted = json.loads(text)["paths"] if text.startswith("{") else parse_qs(text)["paths"]
        entries = self._entries(found[1], "", True)
        self.answer(200, [entry for entry in entries if entry["path"] in wanted])

    def resolve(self, kind: str | None, name: str, revision: str, path: str) -> None:
        repo = self._repo(name)
        found = repo.at(revision) if repo else None
        if repo is None:
            return
        if found is None or path not in found[1]:
            code = "RevisionNotFound" if found is None else "EntryNotFound"
            return self.answer(404, {"error": "not there"}, {"X-Error-Code": code})
        stored, oid, size = found[1][path]
        content = self.hub.objects[oid] if stored == "lfs" else self.hub.blobs[oid]
        headers = {
            "X-Repo-Commit": found[0],
            "ETag": f'"{oid}"',
            "Accept-Ranges": "bytes",
            "Content-Type": "text/plain",
        }
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if asked:
            first, last = int(asked[1]), min(size - 1, int(asked[2] or size - 1))
            headers["Content-Range"] = f"bytes {first}-{last}/{size}"
            return self.answer(206, headers=headers, content=content[first : last + 1])
        self.answer(200, headers=headers, content=content)
