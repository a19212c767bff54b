"""The real client against a double of the hub on loopback: what may go wrong on the way."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hub_double import HubDouble, commit_of

MODEL, DATA = "org/tiny", "datasets/org/reviews"
WEIGHTS = bytes(range(256)) * 2000
FILES = {
    "config.json": b'{"model_type": "bert"}',
    "model.safetensors": WEIGHTS,
    "vocab.txt": b"the\nfilm\n",
    "pytorch_model.bin": b"a pickle",
    "training_args.bin": b"another",
    "modeling_own.py": b"raise SystemExit",
    "onnx/model.onnx": b"a graph",
}
TAKEN = {"config.json", "model.safetensors", "vocab.txt"}

FETCH = """
import sys
from pathlib import Path
from helpers.hub import HubError, download, find_record
try:
    path = download(sys.argv[1], Path(sys.argv[2]))
except HubError as error:
    sys.exit(f"HubError: {error}")
print(path, find_record(sys.argv[1], Path(sys.argv[2])).commit, sep="\\n")
"""


@pytest.fixture
def hub():
    with HubDouble() as double:
        double.add(MODEL, FILES)
        yield double


@pytest.fixture
def fetch(hub, tmp_path):
    """Fetch a place in a process of its own, since the client reads its endpoint when imported."""

    def run(place=f"hf://{MODEL}", *, endpoint=None, wrapper=(), **environment):
        environment = os.environ | {
            "HF_ENDPOINT": endpoint or hub.endpoint,
            "HF_HOME": str(tmp_path / "hf"),
            "HF_HUB_DISABLE_XET": "1",
            **environment,
        }
        command = [*wrapper, sys.executable, "-c", FETCH, place, str(tmp_path / "records")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            return done.stderr
        path, commit = done.stdout.splitlines()
        return Path(path), commit

    return run


def held(folder):
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


def test_download_takes_safetensors_and_no_code(hub, fetch):
    folder, commit = fetch()
    assert held(folder) == TAKEN
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert commit == commit_of(MODEL)


def test_where_no_safetensors_are_offered_the_state_dict_is_taken(hub, fetch):
    hub.add(MODEL, {name: FILES[name] for name in FILES if name != "model.safetensors"})
    folder, _ = fetch()
    assert held(folder) == {"config.json", "pytorch_model.bin", "vocab.txt"}


def test_data_keeps_its_folders_and_brings_no_script(hub, fetch):
    files = {"data/train-0.parquet": b"table", "README.md": b"card", "reviews.py": b"script"}
    hub.add(DATA, files)
    folder, _ = fetch(f"hf://{DATA}")
    assert held(folder) == {"data/train-0.parquet", "README.md"}
    path, _ = fetch(f"hf://{DATA}/data/train-0.parquet")
    assert path.read_bytes() == b"table"


def test_cached_files_need_no_network(hub, fetch):
    first = fetch()
    hub.requests.clear()
    assert fetch() == first
    assert fetch(endpoint="http://127.0.0.1:9") == first
    assert hub.requests == []


def test_a_branch_that_moves_on_does_not_move_a_run(hub, fetch):
    first = fetch()
    hub.add(MODEL, FILES | {"vocab.txt": b"another\n"}, commit=commit_of("later"))
    assert fetch() == first
    folder, commit = fetch(f"hf://{MODEL}@{commit_of('later')}")
    assert commit == commit_of("later")
    assert (folder / "vocab.txt").read_bytes() == b"another\n"


def test_a_cut_connection_is_resumed(hub, fetch):
    large = WEIGHTS * 24  # the client writes in steps of 10 MB
    hub.add(MODEL, FILES | {"model.safetensors": large})
    hub.fail("GET /storage/", cut_after=len(large) - 1000)
    folder, _ = fetch()
    assert (folder / "model.safetensors").read_bytes() == large
    (resumed,) = hub.ranges
    assert int(resumed.removeprefix("bytes=").rstrip("-")) >= 10_000_000


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("asked", ["GET /api/.*/tree", "GET /storage/", "HEAD .*vocab.txt"])
def test_a_busy_hub_is_asked_again(hub, fetch, status, asked):
    hub.fail(asked, status=status, times=1, headers={"Retry-After": "0"})
    folder, _ = fetch()
    assert held(folder) == TAKEN


def test_a_hub_that_stays_busy_is_named(hub, fetch):
    hub.fail("GET /api/", status=503, times=99, headers={"Retry-After": "0"})
    assert "answers 503" in fetch()
    assert len([request for request in hub.requests if MODEL in request]) == 5


def test_a_wrong_checksum_is_refused_and_fetched_anew(hub, fetch):
    hub.fail("GET /storage/", garble=True)
    assert "model.safetensors came with a wrong checksum" in fetch()
    folder, _ = fetch()
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS


def test_a_small_file_is_checked_too(hub, fetch):
    hub.fail("GET .*vocab.txt", garble=True)
    assert "vocab.txt came with a wrong checksum" in fetch()


@pytest.mark.parametrize("harm", ["truncate", "flip", "remove"])
def test_a_damaged_cache_is_mended(fetch, harm):
    folder, _ = fetch()
    path = (folder / "model.safetensors").resolve()
    if harm == "remove":
        path.unlink()
    else:
        path.write_bytes(WEIGHTS[:-1] if harm == "truncate" else b"\xff" + WEIGHTS[1:])
    folder, _ = fetch()
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS


def test_what_does_not_exist_is_explained(hub, fetch):
    assert "hf://org/none does not exist, or is private" in fetch("hf://org/none")
    assert "has no such revision" in fetch(f"hf://{MODEL}@v9")
    assert "has no file weights.gguf" in fetch(f"hf://{MODEL}/weights.gguf")
    hub.add("org/empty", {"README.md": b"nothing"})
    assert "no file that could be used as a model" in fetch("hf://org/empty")
    assert "a model or a dataset is wanted" in fetch("hf://spaces/org/demo")


def test_a_gated_repository_says_where_to_ask(hub, fetch):
    hub.gated.add(MODEL)
    message = fetch()
    assert "is gated: accept its terms" in message and f"{hub.endpoint}/{MODEL}" in message


def test_no_network_is_explained(fetch):
    assert "no connection to the hub at http://127.0.0.1:9" in fetch(endpoint="http://127.0.0.1:9")
    assert "HF_HUB_OFFLINE forbids" in fetch(HF_HUB_OFFLINE="1")


def test_too_small_a_disk_is_noticed_before_the_download(hub, fetch):
    hub.announced["model.safetensors"] = 10**15
    message = fetch()
    assert "needs 1000000000 MB" in message and "HF_HOME" in message
    assert not any("resolve" in request for request in hub.requests)


def test_a_disk_that_fills_up_on_the_way_is_explained(hub, fetch, tmp_path):
    """On a real file system of 300 kB; the tree understates the size, or it would be noticed."""
    place = tmp_path / "hf"
    place.mkdir()
    mount = f'mount -t tmpfs -o size=300k none "{place}" && exec "$@"'
    wrapper = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, "sh"]
    if subprocess.run([*wrapper, "true"], capture_output=True).returncode:
        pytest.skip("this machine gives no file systems to users")
    hub.announced["model.safetensors"] = 1000
    assert "the disk filled up under" in fetch(wrapper=wrapper)


def test_the_record_tells_every_file_and_sum(fetch, tmp_path):
    fetch()
    (record,) = (tmp_path / "records").glob("*.json")
    found = json.loads(record.read_text())
    assert found["place"] == f"hf://{MODEL}" and found["commit"] == commit_of(MODEL)
    assert {file["name"] for file in found["files"]} == TAKEN
    assert {len(file["digest"]) for file in found["files"]} == {40, 64}
