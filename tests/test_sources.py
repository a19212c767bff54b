"""Assets through the real pip, against an index that is a folder; the hub by a double of it."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from helpers.tutorial import sources
from helpers.tutorial.profile import ROOT, known_profiles, load_profile
from helpers.tutorial.sources import (
    MAIN,
    Archive,
    Asset,
    AssetFile,
    SourceError,
    fetch,
    fetch_asset,
    identify,
    load_assets,
    locate,
)
from tests.conftest import sha, wheel
from tests.hub_double import HubDouble, commit_of

CONTENT = {"weights.bin": b"\x00\x01\x02" * 5000, "vocab.txt": b"the\nfilm\n"}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TUTORIAL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def publish(index, name="toyweights", members=None, inner=None) -> Archive:
    file, content = wheel(name, members or {f"data/{n}": c for n, c in CONTENT.items()})
    (index / file).write_bytes(content)
    return Archive(requirement=f"{name}==1.0", sha256=sha(content), inner=inner)


def toy(*archives, prefix="data/") -> Asset:
    files = [
        AssetFile(name=name, member=prefix + name, bytes=len(content), sha256=sha(content))
        for name, content in CONTENT.items()
    ]
    return Asset(description="toy", licence="none", archives=archives, files=files, hub="hf://a/b")


def held(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_an_asset_is_fetched_and_hashed_once(index, cache, monkeypatch):
    asset = toy(publish(index))
    first = fetch_asset("toy", asset)
    assert held(first) == CONTENT
    (index / "toyweights-1.0-py3-none-any.whl").unlink()
    monkeypatch.setattr(sources.hashlib, "file_digest", None)  # no file is read again
    assert fetch_asset("toy", asset) == first


@pytest.mark.parametrize("harm", ["cut", "remove", "link", "all"])
def test_a_file_that_is_missing_or_cut_is_fetched_again(index, cache, tmp_path, harm):
    asset = toy(publish(index))
    folder = fetch_asset("toy", asset)
    path = folder / "weights.bin"
    if harm == "cut":
        path.write_bytes(b"\x00")
    elif harm == "all":
        shutil.rmtree(folder)
    else:
        path.rename(tmp_path / "elsewhere")
    if harm == "link":
        path.symlink_to(tmp_path / "elsewhere")
    assert held(fetch_asset("toy", asset)) == CONTENT


def test_with_no_index_the_message_says_what_to_do(index, cache):
    asset = toy(publish(index))
    (index / "toyweights-1.0-py3-none-any.whl").unlink()
    with pytest.raises(SourceError, match=r"toyweights.*TUTORIAL_CACHE.*SET=\"...=hf://a/b\""):
        fetch_asset("toy", asset)
    assert [path for path in cache.iterdir() if path.is_dir()] == []


FORGED = {"data/weights.bin": b"forged", "data/vocab.txt": b"forged"}


@pytest.mark.parametrize(
    ("members", "republish", "complaint"),
    [
        (None, FORGED, "(?i)hash"),
        (FORGED, None, "has a wrong SHA-256"),
        ({"data/weights.bin": b"\x00" * 10**7}, None, "has a wrong SHA-256"),
        ({"data/other": b""}, None, "cannot read data/weights.bin"),
    ],
)
def test_what_is_not_what_was_declared_is_refused(index, cache, members, republish, complaint):
    archive = publish(index, members=members)
    if republish:
        publish(index, members=republish)
    with pytest.raises(SourceError, match=complaint):
        fetch_asset("toy", toy(archive))
    assert [path for path in cache.iterdir() if path.is_dir()] == []


def test_pieces_are_joined_into_the_archive_they_form(index, cache, tmp_path):
    with zipfile.ZipFile(tmp_path / "whole", "w") as archive:
        for name, content in CONTENT.items():
            archive.writestr(f"model/{name}", content)
    whole = (tmp_path / "whole").read_bytes()
    pieces = [
        publish(index, f"piece{i}", {f"p/model.{i}": piece}, inner=f"p/model.{i}")
        for i, piece in enumerate((whole[:5000], whole[5000:]))
    ]
    assert held(fetch_asset("toy", toy(*pieces, prefix="model/"))) == CONTENT


def test_a_full_disk_leaves_no_half_of_an_asset(index, cache):
    cache.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", cache]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root can mount a small disk")
    try:
        with pytest.raises(SourceError, match=r"No space left|ENOSPC|Errno 28"):
            fetch_asset("toy", toy(publish(index)))
        assert [path for path in cache.iterdir() if path.is_dir()] == []
    finally:
        subprocess.run(["umount", cache], check=True)


def test_a_cache_that_cannot_be_made_names_the_way_out(index, cache):
    cache.write_text("a file")
    with pytest.raises(SourceError, match="TUTORIAL_CACHE names another folder"):
        fetch_asset("toy", toy(publish(index)))


def test_what_cannot_be_had_names_the_setting_that_replaces_it(monkeypatch):
    with pytest.raises(SourceError, match=r"no file or folder here .* all-mpnet-base-v2"):
        locate("all-mpnet-base-v3")
    monkeypatch.setenv("SET", "name=trial teacher.model=/nowhere/at/all")
    with pytest.raises(SourceError, match=r'SET="teacher.model=/path/to/it"'):
        fetch(load_profile("smoke"), "teacher")


def test_identities_follow_the_content(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    (tmp_path / "train.csv").write_text("one")
    first = identify(str(tmp_path))
    assert identify(str(tmp_path)) == first
    (tmp_path / "train.csv").write_text("another")
    assert identify(str(tmp_path)) != first
    assert identify(str(tmp_path / "none")) is None
    assert identify("hf://org/never-asked-for") is None
    assert identify(f"hf://org/name@{'0' * 40}") == f"commit {'0' * 40}"
    assert identify("all-MiniLM-L6-v2").startswith("sha256 ")


def test_every_profile_uses_what_is_declared_shipped_or_on_the_hub():
    for name in known_profiles():
        for reference in load_profile(name).references(*MAIN).values():
            declared = reference in load_assets() or (ROOT / reference).exists()
            assert declared or reference.startswith("hf://"), reference


FILES = {
    "config.json": b"{}",
    "model.safetensors": b"weights" * 1000,
    "pytorch_model.bin": b"a pickle",
    "vocab.txt": b"the\n",
    "modeling_own.py": b"raise SystemExit",
    "onnx/config.json": b"{}",
}
LOCATE = "import sys; from helpers.tutorial.sources import *; p = locate(sys.argv[1])\n"
LOCATE += "print(p, identify(sys.argv[1]), sep='\\n')"


def ask(reference, endpoint, tmp_path, **environment):
    """Locate a reference in a process of its own: the client reads its endpoint when imported."""
    told = {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-c", LOCATE, reference]
    done = subprocess.run(
        command, env=os.environ | told | environment, capture_output=True, text=True, cwd=ROOT
    )
    return done.stdout.splitlines() or done.stderr.splitlines()[-1:]


def test_the_hub_gives_weights_and_no_code_and_then_the_cache_serves(tmp_path):
    with HubDouble() as hub:
        hub.add("org/safe", FILES)
        hub.add("org/old", {n: c for n, c in FILES.items() if "safetensors" not in n})
        hub.add("org/empty", {"config.json": b"{}"})
        folder, identity = ask("hf://org/safe", hub.endpoint, tmp_path)
        assert set(held(Path(folder))) == {"config.json", "model.safetensors", "vocab.txt"}
        assert identity == f"commit {commit_of('org/safe')}"
        hub.add("org/safe", FILES, commit=commit_of("later"))  # the branch moves on
        assert ask("hf://org/safe", "http://127.0.0.1:9", tmp_path) == [folder, identity]
        folder, _ = ask(f"hf://org/old@{commit_of('org/old')}", hub.endpoint, tmp_path)
        assert set(held(Path(folder))) == {"config.json", "pytorch_model.bin", "vocab.txt"}
        for reference, said in {
            "hf://org/empty": "has no weights or data that could be used",
            "hf://org/none": "does not exist, or is private",
            "hf://org/safe@v9": "has no such revision",
        }.items():
            assert said in ask(reference, hub.endpoint, tmp_path)[0]
        hub.add("org/garbled", FILES)
        hub.fail("GET /storage/", garble=True)
        assert (
            "wrong checksum and was removed" in ask("hf://org/garbled", hub.endpoint, tmp_path)[0]
        )
        assert len(ask("hf://org/garbled", hub.endpoint, tmp_path)) == 2
    assert "127.0.0.1:9" in ask("hf://org/other", "http://127.0.0.1:9", tmp_path)[0]
