"""A small double of the model hub: repositories at commits, served on loopback, with its faults.

It speaks what `huggingface_hub` asks of the real one: what a revision stands for, the tree of a
commit, and files, large ones through a redirect to a second host. `HF_ENDPOINT` points the real
client at it.
"""

import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

LARGE = (".safetensors", ".bin", ".parquet", ".jsonl")


def commit_of(name: str) -> str:
    """A commit that is the same in every run."""
    return hashlib.sha1(name.encode()).hexdigest()


@dataclass
class Fault:
    """What goes wrong with the next `times` requests whose "METHOD path" matches."""

    pattern: str
    times: int
    status: int | None = None  # answer so
    headers: dict[str, str] = field(default_factory=dict)
    cut_after: int | None = None  # send that many bytes, then hang up
    garble: bool = False  # send the right number of wrong bytes


class HubDouble:
    """The server; a context manager. `requests` lists what was asked, as "METHOD path"."""

    def __init__(self):
        self.repositories: dict[str, tuple[str, dict[str, bytes]]] = {}
        self.branches = ("main", "refs/convert/parquet")
        self.gated: set[str] = set()
        self.announced: dict[str, int] = {}  # sizes that the tree tells instead of the true ones
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        self.ranges: list[str] = []

    def add(self, name: str, files: dict[str, bytes], commit: str | None = None) -> None:
        """Publish files as a repository's only commit; data is named "datasets/org/name"."""
        self.repositories[name] = (commit or commit_of(name), files)

    def fail(self, pattern: str, times: int = 1, **what) -> None:
        """Make the next matching requests fail."""
        self.faults.append(Fault(pattern, times, **what))

    def __enter__(self):
        double = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                double.answer(self)

            do_HEAD = do_GET  # noqa: N815

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"
        self.storage = f"http://localhost:{self.server.server_port}/storage"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """Answer one request, or let it fail as planned."""
        path = request.path.partition("?")[0]
        asked = f"{request.command} {path}"
        self.requests.append(asked)
        fault = next((f for f in self.faults if f.times and re.search(f.pattern, asked)), None)
        if fault:
            fault.times -= 1
            if fault.status:
                return self._send(request, fault.status, b"", fault.headers)
        if path.startswith("/storage/"):
            return self._send_stored(request, path.removeprefix("/storage/"), fault)
        if path.startswith("/api/"):
            return self._send_listing(request, path.removeprefix("/api/"))
        return self._send_file(request, path.removeprefix("/"), fault)

    def _send_listing(self, request, path):
        kind, _, rest = path.partition("/")
        asked = re.fullmatch(r"([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?", rest)
        if not asked:
            return self._send(request, 404, b"")
        repository, verb, revision = asked.groups()
        name = f"datasets/{repository}" if kind == "datasets" else repository
        if not (found := self._find(request, name, revision or "main")):
            return None
        commit, files = found
        if verb != "tree":
            listing = {"id": repository, "sha": commit, "siblings": [], "private": False}
        else:
            listing = [self._describe(path, content) for path, content in files.items()]
        return self._send(request, 200, json.dumps(listing).encode())

    def _describe(self, path, content):
        size = self.announced.get(path, len(content))
        entry = {"type": "file", "path": path, "size": size, "oid": _git_digest(content)}
        if path.endswith(LARGE):
            digest = hashlib.sha256(content).hexdigest()
            entry["lfs"] = {"oid": digest, "size": size, "pointerSize": 130}
        return entry

    def _send_file(self, request, path, fault):
        name, _, rest = path.partition("/resolve/")
        revision, _, file = rest.partition("/")
        if not (found := self._find(request, name, revision)):
            return None
        commit, files = found
        if (content := files.get(file)) is None:
            return self._send(request, 404, b"", {"X-Error-Code": "EntryNotFound"})
        headers = {"X-Repo-Commit": commit, "ETag": f'"{_git_digest(content)}"'}
        if not file.endswith(LARGE):
            return self._send(request, 200, content, headers, fault)
        digest = hashlib.sha256(content).hexdigest()
        headers |= {
            "Location": f"{self.storage}/{digest}",
            "X-Linked-Size": str(len(content)),
            "X-Linked-ETag": f'"{digest}"',
        }
        return self._send(request, 302, b"", headers)

    def _send_stored(self, request, digest, fault):
        contents = [c for _, files in self.repositories.values() for c in files.values()]
        content = next(c for c in contents if hashlib.sha256(c).hexdigest() == digest)
        return self._send(request, 200, content, {"ETag": f'"{digest}"'}, fault)

    def _find(self, request, name, revision):
        if name in self.gated:
            return self._send(request, 403, b"", {"X-Error-Code": "GatedRepo"})
        if name not in self.repositories:
            return self._send(request, 401, b"", {"X-Error-Code": "RepoNotFound"})
        commit, files = self.repositories[name]
        if unquote(revision) not in (*self.branches, commit):
            return self._send(request, 404, b"", {"X-Error-Code": "RevisionNotFound"})
        return commit, files

    def _send(self, request, status, content, headers=None, fault=None):
        start = 0
        if wanted := request.headers.get("Range"):
            self.ranges.append(wanted)
            start = int(re.match(r"bytes=(\d+)-", wanted).group(1))
            status = 206
            headers = (headers or {}) | {
                "Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"
            }
        content = content[start:]
        request.send_response(status)
        for key, value in (headers or {}).items():
            request.send_header(key, value)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        if request.command == "HEAD":
            return
        if fault and fault.garble:
            content = bytes(255 - byte for byte in content)
        if fault and fault.cut_after is not None:
            request.wfile.write(content[: fault.cut_after])
            request.wfile.flush()
            request.close_connection = True
            request.connection.shutdown(2)
            return
        request.wfile.write(content)


def _git_digest(content: bytes) -> str:
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
