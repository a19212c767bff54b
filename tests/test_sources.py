"""Assets through the real pip, against an index that is a folder; the hub's client by a double."""

import hashlib
import shutil
import zipfile
from types import SimpleNamespace

import huggingface_hub
import pytest

from helpers.tutorial import sources
from helpers.tutorial.profile import ROOT, known_profiles, load_profile
from helpers.tutorial.sources import (
    MAIN,
    SourceError,
    fetch,
    fetch_asset,
    identify,
    load_assets,
    locate,
)
from tests.conftest import wheel

CONTENT = {"weights.bin": b"\x00\x01\x02" * 5000, "vocab.txt": b"the\nfilm\n"}
FORGED = {"data/weights.bin": b"forged", "data/vocab.txt": b"forged"}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TUTORIAL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def publish(index, name="toyweights", members=None, **more) -> dict:
    path = wheel(index, name, members or {f"data/{n}": c for n, c in CONTENT.items()})
    return {"requirement": f"{name}==1.0", "sha256": sha(path.read_bytes())} | more


def toy(*archives, prefix="data/") -> dict:
    files = {
        name: {"member": prefix + name, "bytes": len(content), "sha256": sha(content)}
        for name, content in CONTENT.items()
    }
    return {"archives": archives, "files": files, "hub": "hf://a/b"}


def held(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_an_asset_is_kept_until_a_file_is_missing_or_cut(index, cache, tmp_path):
    asset = toy(publish(index))
    (wheel,), away = index.iterdir(), tmp_path / "away"
    folder = fetch_asset("toy", asset)
    assert held(folder) == CONTENT
    wheel.rename(away)
    assert fetch_asset("toy", asset) == folder  # it is not asked for again
    away.rename(wheel)
    (folder / "weights.bin").write_bytes(b"\x00")
    assert held(fetch_asset("toy", asset)) == CONTENT
    shutil.rmtree(folder)
    assert held(fetch_asset("toy", asset)) == CONTENT


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


def test_what_cannot_be_had_names_the_way_out(index, cache, monkeypatch):
    asset = toy(publish(index))
    (index / "toyweights-1.0-py3-none-any.whl").unlink()
    monkeypatch.setattr(sources, "load_assets", lambda: {"toy": asset})
    with pytest.raises(SourceError, match=r"toyweights.*TUTORIAL_CACHE.*SET=\"x.y=hf://a/b\""):
        locate("toy", setting="x.y")
    assert [path for path in cache.iterdir() if path.is_dir()] == []
    cache.rename(cache.with_name("moved"))
    cache.write_text("a file")
    with pytest.raises(SourceError, match="let TUTORIAL_CACHE name a folder"):
        fetch_asset("toy", asset)
    monkeypatch.setenv("SET", "name=trial teacher.model=/nowhere/at/all")
    with pytest.raises(SourceError, match=r'no file or folder.*SET="teacher.model=/path/to/it"'):
        fetch(load_profile("smoke"), "teacher")


def test_identities_follow_the_content(tmp_path):
    (tmp_path / "train.csv").write_text("one")
    first = identify(str(tmp_path))
    assert identify(str(tmp_path)) == first
    (tmp_path / "train.csv").write_text("another")
    assert identify(str(tmp_path)) != first
    assert identify(str(tmp_path / "none")) is None
    assert identify("hf://org/name@v1") == "hf://org/name@v1"
    assert len(identify("all-MiniLM-L6-v2")) == 12


def test_every_profile_uses_what_is_declared_shipped_or_on_the_hub():
    for name in known_profiles():
        for reference in load_profile(name).references(*MAIN).values():
            declared = reference in load_assets() or (ROOT / reference).exists()
            assert declared or reference.startswith("hf://"), reference


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The hub's client over a folder of repositories, where all downloads are listed."""
    double = SimpleNamespace(folder=tmp_path / "hub", asked=[], wrong={})

    def download(repo_id, repo_type, revision, allow_patterns, local_files_only, **more):
        cached = tmp_path / "cached" / repo_id / "0123"
        if local_files_only and not cached.exists():
            raise huggingface_hub.errors.LocalEntryNotFoundError("not here")
        if not local_files_only:
            double.asked.append((repo_id, repo_type, revision))
            if not (double.folder / repo_id).exists():
                raise OSError("404 Client Error.\n\nRepository Not Found")
            cached.mkdir(parents=True, exist_ok=True)
            for pattern in allow_patterns:
                for file in (double.folder / repo_id).glob(pattern):
                    shutil.copy(file, cached)
        return str(cached)

    def verify(_, repo_id, **asked):
        wrong = [{"path": path} for path in double.wrong.get(repo_id, ())]
        return SimpleNamespace(mismatches=wrong)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.setattr(huggingface_hub.HfApi, "verify_repo_checksums", verify)
    for name, weights in {"safe": "model.safetensors", "old": "pytorch_model.bin"}.items():
        (double.folder / "org" / name).mkdir(parents=True)
        for file in ("config.json", "vocab.txt", "modeling_own.py", "pytorch_model.bin", weights):
            (double.folder / "org" / name / file).write_text(file)
    return double


def test_the_hub_gives_weights_and_no_code_and_then_the_cache_serves(hub):
    found = locate("hf://org/safe@v1")
    assert set(held(found)) == {"config.json", "vocab.txt", "model.safetensors"}
    assert hub.asked == [("org/safe", "model", "v1")]
    shutil.rmtree(hub.folder / "org/safe")
    assert locate("hf://org/safe@v1") == found and len(hub.asked) == 1
    assert "pytorch_model.bin" in held(locate("hf://org/old"))
    assert locate("hf://org/old/config.json") == found.parents[1] / "old/0123/config.json"


def test_what_the_hub_does_not_give_is_one_line(hub):
    (hub.folder / "org/old/pytorch_model.bin").unlink()
    hub.wrong["org/safe"] = ["model.safetensors"]
    for name, complaint in {
        "org/no": r"^hf://org/no: 404 Client Error. Repository Not.*HF_HOME",
        "org/old": "has no weights or data",
        "org/safe": "had a wrong checksum; try again",
        "bad": "Repository id must be 'namespace/name'",
    }.items():
        with pytest.raises(SourceError, match=complaint):
            locate(f"hf://{name}")
