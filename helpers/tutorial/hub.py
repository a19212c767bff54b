"""Models and data from the model hub: pinned to a commit, and every file checked against its sum.

A place on the hub is written as its client writes it: `hf://org/name@revision` for a model,
`hf://datasets/org/name@revision` for data, with a path after it for a single file. A branch is
resolved once: what it stood for is recorded in the cache, and the record serves from then on, with
no network, until it is removed. The files lie in the hub's own cache (HF_HOME).
"""

import errno
import hashlib
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import TypeVar

from filelock import FileLock
from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HfUriError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import HfUri, parse_hf_uri

PREFIX = "hf://"
_RETRIED = {408, 429, 500, 502, 503, 504}  # answers that pass
_TRIES = 5
_TOKENIZER_FILES = {"vocab.txt", "vocab.json", "merges.txt", "tokenizer.model", "spiece.model"}
_DATA_SUFFIXES = {
    ".parquet", ".json", ".jsonl", ".csv", ".tsv", ".txt", ".gz", ".xz", ".zst", ".md"
}  # fmt: skip

T = TypeVar("T")


class HubError(RuntimeError):
    """Something on the hub that cannot be had or is not what it should be; says what to do."""


@dataclass(frozen=True)
class HubFile:
    """A file at a commit: its size, and its sum as the hub keeps it.

    A large file has a SHA-256 (64 digits), a small one git's own SHA-1 of a blob (40 digits).
    """

    name: str
    bytes: int
    digest: str


@dataclass(frozen=True)
class Snapshot:
    """What a place on the hub stood for when it was first asked for: a commit and its files."""

    place: str
    commit: str
    files: list[HubFile]


def download(place: str, records: Path, *, only: set[str] | None = None) -> Path:
    """Return the folder (or the file) of a place on the hub, downloaded where it is not cached.

    Of a model come the configuration, the tokenizer and the weights, safetensors where they are
    offered; of data every file of data; never code. `records` is the folder of the records, `only`
    names the files where the caller knows them, and then nothing is recorded. Every file is checked
    at each call.

    Raises:
        HubError: no such place, no access, no connection, no room, or a file with a wrong sum.
    """
    where = _parse(place)
    records.mkdir(parents=True, exist_ok=True)
    with FileLock(_record_path(place, records).with_suffix(".lock")):
        recorded = None if only else find_record(place, records)
        snapshot = recorded or _look_up(place, where, only)
        repository = repo_folder_name(repo_id=where.id, repo_type=where.type)
        folder = Path(constants.HF_HUB_CACHE, repository, "snapshots", snapshot.commit)
        if lacking := [file for file in snapshot.files if not _whole(folder / file.name, file)]:
            _download_files(where, snapshot, folder, lacking)
        if not (only or recorded):
            _write_record(snapshot, records)
    return folder / where.path_in_repo if where.path_in_repo else folder


def find_record(place: str, records: Path) -> Snapshot | None:
    """What a place was found to stand for, or None if it has never been downloaded."""
    path = _record_path(place, records)
    if not path.exists():
        return None
    record = json.loads(path.read_text(encoding="utf-8"))
    return Snapshot(**record | {"files": [HubFile(**file) for file in record["files"]]})


def _record_path(place: str, records: Path) -> Path:
    return records / f"{hashlib.sha256(place.encode()).hexdigest()[:16]}.json"


def _write_record(snapshot: Snapshot, records: Path) -> None:
    path = _record_path(snapshot.place, records)
    aside = path.with_suffix(".new")
    aside.write_text(json.dumps(asdict(snapshot), indent=1) + "\n", encoding="utf-8")
    aside.replace(path)


def _parse(place: str) -> HfUri:
    try:
        where = parse_hf_uri(place)
    except HfUriError as error:
        raise HubError(f"{place}: {error}") from None
    if where.type not in ("model", "dataset"):
        raise HubError(f"{place} is a {where.type}; a model or a dataset is wanted")
    return where


def _look_up(place: str, where: HfUri, only: set[str] | None) -> Snapshot:
    """Ask the hub which commit a place stands for and which of its files are wanted."""
    api = HfApi()

    def ask():
        info = api.repo_info(where.id, repo_type=where.type, revision=where.revision)
        tree = api.list_repo_tree(where.id, repo_type=where.type, revision=info.sha, recursive=True)
        return info.sha, [item for item in tree if hasattr(item, "blob_id")]

    commit, tree = _patiently(place, ask)
    found = {item.path: item for item in tree}
    if where.path_in_repo:
        only = {where.path_in_repo}
    names = only or (_model_files if where.type == "model" else _data_files)(set(found))
    if lacking := names - set(found):
        raise HubError(f"{place} has no file {', '.join(sorted(lacking))}")
    if not names:
        raise HubError(f"{place} holds no file that could be used as a {where.type}")
    return Snapshot(
        place,
        commit,
        [
            HubFile(
                name,
                found[name].size,
                found[name].lfs.sha256 if found[name].lfs else found[name].blob_id,
            )
            for name in sorted(names)
        ],
    )


def _model_files(names: set[str]) -> set[str]:
    """Configuration, tokenizer and one set of weights; safetensors rather than pickles."""
    top = {name for name in names if "/" not in name}
    for stem, suffix in (("model", ".safetensors"), ("pytorch_model", ".bin")):
        pieces = {n for n in top if n.startswith(f"{stem}-") and n.endswith(suffix)}
        if weights := ({stem + suffix} & top) or pieces:
            weights |= {f"{stem}{suffix}.index.json"} & top
            settings = {n for n in top if n.endswith(".json") and not n.endswith("index.json")}
            return weights | settings | (top & _TOKENIZER_FILES)
    return set()


def _data_files(names: set[str]) -> set[str]:
    """Files of data, and the card, which may say how they divide into splits."""
    return {name for name in names if PurePosixPath(name).suffix in _DATA_SUFFIXES}


def _download_files(where: HfUri, snapshot: Snapshot, folder: Path, lacking: list[HubFile]) -> None:
    needed, free = sum(file.bytes for file in lacking), _free_bytes(folder)
    if needed > free:
        raise HubError(
            f"{snapshot.place} needs {needed / 1e6:.0f} MB and {free / 1e6:.0f} MB are free where "
            f"{constants.HF_HUB_CACHE} lies; make room or set HF_HOME to a place that has it"
        )
    print(f"fetching {snapshot.place}: {needed / 1e6:.0f} MB, from the hub", file=sys.stderr)
    for file in lacking:  # a damaged one would count as downloaded
        _discard(folder / file.name)

    def get():
        return snapshot_download(
            where.id,
            repo_type=where.type,
            revision=snapshot.commit,
            allow_patterns=[file.name for file in lacking],
        )

    _patiently(snapshot.place, get)
    for file in lacking:
        if not _whole(folder / file.name, file):
            _discard(folder / file.name)
            raise HubError(
                f"{snapshot.place}: {file.name} came with a wrong checksum and was removed; "
                "try again, and distrust the connection if it happens again"
            )


def _free_bytes(folder: Path) -> int:
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _whole(path: Path, file: HubFile) -> bool:
    """Whether a file is there and has the sum that the hub gave."""
    if not path.is_file() or path.stat().st_size != file.bytes:
        return False
    if len(file.digest) == 64:
        digest = hashlib.sha256()
    else:
        digest = hashlib.sha1(f"blob {file.bytes}\0".encode(), usedforsecurity=False)
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: digest).hexdigest() == file.digest


def _discard(path: Path) -> None:
    """Remove a file of the cache, and the blob that its name points to."""
    path.resolve().unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def _patiently(place: str, call: Callable[[], T]) -> T:
    """Call, and call again where the hub is busy or limits the rate; explain what does not pass.

    The hub's client by itself only repeats some of its requests.
    """
    for attempt in range(_TRIES):
        try:
            return call()
        except Exception as error:  # the client raises errors of several libraries
            answer = next((e.response for e in _chain(error) if hasattr(e, "response")), None)
            status = getattr(answer, "status_code", None)
            if status not in _RETRIED or attempt == _TRIES - 1:
                raise HubError(_explain(place, error, status)) from error
            after = answer.headers.get("Retry-After", "")
            wait = min(int(after), 60) if after.isdigit() else 2**attempt
            print(f"the hub answers {status}; once more in {wait} s", file=sys.stderr)
            time.sleep(wait)
    raise AssertionError("unreachable")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _explain(place: str, error: Exception, status: int | None) -> str:
    chain, endpoint, cache = list(_chain(error)), constants.ENDPOINT, constants.HF_HUB_CACHE
    numbers = {getattr(e, "errno", None) for e in chain}

    def any_of(*kinds):
        return any(isinstance(e, kinds) for e in chain)

    if errno.ENOSPC in numbers:
        return f"{place}: the disk filled up under {cache}; make room or set HF_HOME"
    if numbers & {errno.EACCES, errno.EPERM, errno.EROFS}:
        return f"{place}: {cache} cannot be written; set HF_HOME to a place that can"
    if any_of(GatedRepoError):
        page = f"{endpoint}/{place.removeprefix(PREFIX)}"
        return f"{place} is gated: accept its terms at {page}, then run `hf auth login`"
    if any_of(RevisionNotFoundError):
        return f"{place}: the repository has no such revision"
    if any_of(RepositoryNotFoundError):
        return f"{place} does not exist, or is private and asks for `hf auth login`"
    if any_of(OfflineModeIsEnabled):
        return f"{place} is not in the cache, and HF_HUB_OFFLINE forbids to fetch it"
    if status is not None or any_of(HfHubHTTPError):
        return f"{place}: the hub at {endpoint} answers {status}"
    said = str(error).strip().splitlines() or [type(error).__name__]
    said = f"{place}: no connection to the hub at {endpoint} ({said[-1]})"
    return f"{said}; the default profile needs none"
