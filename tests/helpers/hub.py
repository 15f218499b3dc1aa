"""A Hub on 127.0.0.1: repositories of small files, read by the real clients through HF_ENDPOINT.

It answers what `huggingface_hub`, `datasets` and transformers ask to read: info, tree, paths-info
and resolve, with ranges, revisions and gates. `hub_datasets.add_datasets` puts the data sets into
it; models are added with `Hub.add`.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

import pytest

from tests.helpers.local_http import listening

TOKEN = "hf_granted"
"""Opens gated repositories, as HF_TOKEN."""


@dataclass
class Repo:
    """A repository at each of its revisions, as folders of files."""

    id: str
    gated: str = ""
    folders: dict[str, Path] = field(default_factory=dict)
    shas: dict[str, str] = field(default_factory=dict)

    def at(self, revision: str) -> Path | None:
        """The folder of a branch or commit."""
        names = {sha: name for name, sha in self.shas.items()}
        return self.folders.get(names.get(revision, revision))

    def sha(self, revision: str) -> str:
        return self.shas.get(revision, revision)


@dataclass
class Hub:
    """`asked` lists (method, path, bytes of the answer), in order."""

    root: Path
    url: str = ""
    repos: dict[tuple[str, str], Repo] = field(default_factory=dict)
    asked: list[tuple[str, str, int]] = field(default_factory=list)

    def add(
        self,
        name: str,
        files: Mapping[str, bytes | Path] | Path,
        *,
        kind: str = "models",
        revision: str = "main",
        gated: str = "",
    ) -> None:
        """A repository (`kind` models or datasets) of these files, or of all files of a folder.

        `gated` is "auto" or "manual", as the Hub's info says it: files need TOKEN then.
        """
        folder = self.root / kind / name / quote(revision, safe="")
        if isinstance(files, Path):
            files = {
                path.relative_to(files).as_posix(): path
                for path in sorted(files.rglob("*"))
                if path.is_file()
            }
        digest = hashlib.sha1(f"{kind} {name} {revision}".encode())
        for path, content in sorted(files.items()):
            data = content.read_bytes() if isinstance(content, Path) else content
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(data)
            digest.update(path.encode() + hashlib.sha1(data).digest())
        repo = self.repos.setdefault((kind, name), Repo(name, gated))
        repo.folders[revision], repo.shas[revision] = folder, digest.hexdigest()

    def environment(self, home: Path, **more: str) -> dict[str, str]:
        """The environment of a process that reads this Hub, with caches of its own below `home`."""
        own = {"HF_ENDPOINT": self.url, "HF_HUB_OFFLINE": "0", "HF_HOME": str(home)}
        # what the caller of the tests has set would lead to another Hub or to its caches
        drop = ("HF_", "BEZOAR_DATA", "HUGGING", "TRANSFORMERS_OFFLINE")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(drop)}
        quiet = {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        return {**kept, **own, **quiet, "BEZOAR_CACHE": str(home / "bezoar"), **more}

    def use(self, patch: pytest.MonkeyPatch, home: Path) -> None:
        """Make the clients in this process read this Hub: they keep what they read at import."""
        import datasets
        import huggingface_hub
        from huggingface_hub import constants

        for name, value in self.environment(home).items():
            patch.setenv(name, value)
        patch.delenv("BEZOAR_DATA", raising=False)
        template = self.url + "/{repo_id}/resolve/{revision}/{filename}"
        own = {"ENDPOINT": self.url, "HUGGINGFACE_CO_URL_TEMPLATE": template}
        own |= {"HF_HOME": str(home), "HF_HUB_CACHE": str(home / "hub")}
        for name, text in own.items():
            patch.setattr(constants, name, text)
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setattr(huggingface_hub.hf_api.api, "endpoint", self.url)
        patch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
        patch.setattr(datasets.config, "HF_ENDPOINT", self.url)
        patch.setattr(datasets.config, "USE_PARQUET_EXPORT", False)
        resolve = self.url + "/datasets/{repo_id}/resolve/{revision}/{path}"
        patch.setattr(datasets.config, "HUB_DATASETS_URL", resolve)
        for name in ("HF_DATASETS_CACHE", "HF_MODULES_CACHE", "DOWNLOADED_DATASETS_PATH"):
            patch.setattr(datasets.config, name, str(home / name.lower()))

    def sent(self, *parts: str) -> int:
        """Bytes of the answers to requests whose path holds all of `parts`."""
        return sum(size for _, path, size in self.asked if all(part in path for part in parts))


@contextmanager
def serving_hub(root: Path) -> Iterator[Hub]:
    """An empty Hub in a thread; its repositories lie below `root`."""
    hub = Hub(root)

    with listening(lambda handler: _answer(hub, handler), "GET", "HEAD", "POST") as hub.url:
        yield hub


def _answer(hub: Hub, handler: BaseHTTPRequestHandler) -> None:
    parts = urlsplit(handler.path)
    body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
    words = [unquote(word) for word in parts.path.strip("/").split("/")]
    token = handler.headers.get("Authorization", "").removeprefix("Bearer ")
    if words[0] == "api":
        status, headers, data = _api(hub, words[1:], parse_qs(parts.query), body)
    else:
        status, headers, data = _resolve(hub, words, token)
    if status == 200 and (wanted := handler.headers.get("Range")):
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        size, start = len(data), int(first or 0)
        end = min(int(last), size - 1) if last else size - 1
        status, data = 206, data[start : end + 1]
        headers["Content-Range"] = f"bytes {start}-{end}/{size}"
    handler.send_response(status)
    for name, value in {**headers, "Content-Length": str(len(data))}.items():
        handler.send_header(name, value)
    handler.end_headers()
    is_head = handler.command == "HEAD"
    hub.asked.append((handler.command, parts.path, 0 if is_head else len(data)))
    if not is_head:
        handler.wfile.write(data)


Answer = tuple[int, dict[str, str], bytes]


def _error(status: int, code: str, message: str) -> Answer:
    headers = {"X-Error-Message": message, "Content-Type": "application/json"}
    return status, {**headers, **({"X-Error-Code": code} if code else {})}, b"{}"


def _api(hub: Hub, words: list[str], query: dict[str, list[str]], body: bytes) -> Answer:
    """/api/KIND/OWNER/NAME[/revision/REV | /tree/REV/PATH | /paths-info/REV]"""
    repo = hub.repos.get((words[0], "/".join(words[1:3])))
    if repo is None:
        # to people without a token the Hub does not tell a private name from none
        return _error(401, "RepoNotFound", "Invalid username or password.")
    what, revision, *rest = [*words[3:], "revision", "main"] if len(words) < 5 else words[3:]
    folder, path = repo.at(revision), "/".join(rest) if len(words) > 5 else ""
    if folder is None:
        return _error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
    if what == "tree":
        below = folder / path
        if not below.is_dir():
            return _error(404, "EntryNotFound", f"{path} does not exist")
        found = (
            below.rglob("*") if query.get("recursive", [""])[0].lower() in ("1", "true") else None
        )
        return _json([_entry(entry, folder) for entry in sorted(found or below.iterdir())])
    if what == "paths-info":
        asked = _paths(body)
        there = [folder / one for one in asked if (folder / one).exists()]
        return _json([_entry(entry, folder) for entry in there])
    names = [p.relative_to(folder).as_posix() for p in sorted(folder.rglob("*")) if p.is_file()]
    facts = {"id": repo.id, "sha": repo.sha(revision), "gated": repo.gated or False}
    facts |= {"private": False, "disabled": False, "tags": [], "downloads": 0, "likes": 0}
    return _json({**facts, "siblings": [{"rfilename": name} for name in names]})


def _paths(body: bytes) -> list[str]:
    if body[:1] == b"{":
        value = json.loads(body)["paths"]
    else:
        value = parse_qs(body.decode()).get("paths", [])
    return [value] if isinstance(value, str) else list(value)


def _entry(path: Path, folder: Path) -> dict[str, Any]:
    name = path.relative_to(folder).as_posix()
    oid = hashlib.sha1(name.encode()).hexdigest()
    if path.is_dir():
        return {"type": "directory", "oid": oid, "size": 0, "path": name}
    return {"type": "file", "oid": _etag(path), "size": path.stat().st_size, "path": name}


def _json(value: Any) -> Answer:
    return 200, {"Content-Type": "application/json"}, json.dumps(value).encode()


def _etag(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()


def _resolve(hub: Hub, words: list[str], token: str) -> Answer:
    """[/datasets]/OWNER/NAME/resolve/REV/PATH"""
    kind = words.pop(0) if words[0] == "datasets" else "models"
    repo = hub.repos.get((kind, "/".join(words[:2])))
    if repo is None or len(words) < 5 or words[2] != "resolve":
        return _error(401, "RepoNotFound", "Invalid username or password.")
    revision, path = words[3], "/".join(words[4:])
    if (folder := repo.at(revision)) is None:
        return _error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
    if repo.gated and token != TOKEN:
        status = 403 if token else 401
        return _error(status, "GatedRepo", f"Access to {kind[:-1]} {repo.id} is restricted.")
    commit = {"X-Repo-Commit": repo.sha(revision), "Accept-Ranges": "bytes"}
    if not (folder / path).is_file():
        status, headers, data = _error(404, "EntryNotFound", "Entry not found")
        return status, headers | commit, data
    headers = {**commit, "ETag": f'"{_etag(folder / path)}"'}
    return 200, headers, (folder / path).read_bytes()
