"""Every command of the README, executed in a copy of the repository.

What takes long is replaced there: each notebook by one of a single cell, the tests by one that
passes. What the notebooks and tests do is seen when they run themselves.
"""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from helpers.assets import cache_folder
from helpers.profile import ROOT
from tests.blog_double import publish_blog
from tests.hub_double import HubDouble
from tests.test_run import RESULT

README = (ROOT / "README.md").read_text(encoding="utf-8")
FENCED = re.findall(r"^```\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
BLOCKS = [block.strip() for block in FENCED]
INLINE = re.findall(r"`((?:make|conda|python -m) [^`]*)`", README)
(BY_HAND,) = (block for block in BLOCKS if "\n" in block)
COMMANDS = list(dict.fromkeys([block for block in BLOCKS if block != BY_HAND] + INLINE))
# what has a test of its own: it gathers gigabytes, repeats all, or asks the network
ELSEWHERE = {
    "make wheelhouse": ROOT / "tests/test_wheelhouse.py",
    "make seeds": Path(__file__),
    "make audit": Path(__file__),
}
# what a reader would have or put there
STANDS_FOR = {
    "/path/to/python3.11": sys.executable,
    "SmolLM2-135M-Instruct": "checkpoints/bert-mini",  # 98 MB, which no cell here reads
    "python -m helpers.run": ".venv/bin/python -m helpers.run",  # where conda's is on the PATH
}


def test_the_readme_has_its_two_commands():
    assert BLOCKS[:2] == ["make run", "make test"]
    assert len(COMMANDS) > 15
    for command, test in ELSEWHERE.items():
        assert command in COMMANDS and command.split()[1] in test.read_text()


def copy_repository(target: Path) -> Path:
    """Copy what git would commit."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split("\0")  # fmt: skip
    for name in filter(None, listed):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target / name)
    return target


def lend_environments(target: Path) -> None:
    """Let a copy use the environments that are here, which are up to date with it."""
    for name in (
        "requirements.lock",
        "requirements.txt",
        "requirements-engine.txt",
        "pyproject.toml",
    ):
        os.utime(target / name, (0, 0))
    for name in (".venv", ".engine"):
        if (ROOT / name).exists():
            (target / name).symlink_to((ROOT / name).resolve())


CELL = """\
from helpers.artifacts import Artifacts
from helpers.profile import load_profile

with Artifacts(load_profile()).path("ran").open("a") as ran:
    ran.write("{name}\\n")"""


def stand_ins(target: Path) -> None:
    """Put the short notebooks and tests in place, and the results that a run would leave."""
    for path in (target / "notebooks").glob("*.ipynb"):
        cell = new_code_cell(CELL.format(name=path.stem))
        nbformat.write(new_notebook(cells=[new_markdown_cell("# A step"), cell]), path)
    for path in (target / "tests").glob("test_*.py"):
        path.unlink()
    (target / "tests/test_one.py").write_text("def test_one():\n    pass\n")
    (target / "tests/test_jupyterlab.py").write_text(
        "import pytest\n\n\n@pytest.mark.browser\ndef test_two():\n    pass\n"
    )
    for name in ("laptop", "smoke", "blog", "blog-train", "mine", "trial"):
        folder = target / "artifacts" / name
        folder.mkdir(parents=True)
        (folder / "benchmark.json").write_text(json.dumps(RESULT))
    rows = [f"{'fine' if i % 2 else 'dull'} {i},{i % 2}\n" for i in range(200)]
    (target / "reviews.csv").write_text("sentence,label\n" + "".join(rows))
    (target / "sentences.txt").write_text("a fine film\n\nIt never took off.\n")


def wait_for(text: str, path: Path, process: subprocess.Popen, seconds: float = 120) -> bool:
    """Whether a text comes up in a file while a process lives."""
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline:
        if text in path.read_text():
            return True
        time.sleep(0.2)
    return False


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory, tiny_folder, tiny_openvino):
    """Status, output and notebooks run of each command, each in a copy of its own."""
    hub = HubDouble()
    publish_blog(hub, tmp_path_factory.mktemp("blog"))

    def execute(command: str) -> tuple[int, str, list[str]]:
        copy = copy_repository(tmp_path_factory.mktemp("copy"))
        lend_environments(copy)
        stand_ins(copy)
        first = (re.search(r"FROM=(\d+)", command) or ["", "01"])[1]
        for path in copy.glob("notebooks/0*.ipynb"):
            if path.name[:2] not in ("00", "01", first):
                path.unlink()  # one is enough to see the command work
        shutil.copytree(tiny_folder, copy / "artifacts/laptop/student")
        for suffix in (".xml", ".bin"):
            fast = copy / f"artifacts/laptop/student_int8_fast{suffix}"
            shutil.copy(tiny_openvino.with_suffix(suffix), fast)
        (copy / "jupyter").mkdir()
        allowed = {"ServerApp": {"allow_root": True}}  # where the tests run as root
        (copy / "jupyter/jupyter_server_config.json").write_text(json.dumps(allowed))
        (copy / "cache").mkdir()  # the assets that are here, but nothing of the hub's double
        for path in filter(Path.is_dir, cache_folder().glob("*-*")):
            (copy / "cache" / path.name).symlink_to(path)
        for readers, ours in STANDS_FOR.items():
            command = command.replace(readers, ours)
        environment = {
            name: value for name, value in os.environ.items() if name not in ("PROFILE", "SET")
        } | {
            "PYTHONPATH": str(copy), "TUTORIAL_CACHE": str(copy / "cache"), "BROWSER": "true",
            "OMP_NUM_THREADS": "1", "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(copy / "hf"),
            "HF_HUB_DISABLE_XET": "1", "JUPYTER_CONFIG_DIR": str(copy / "jupyter"),
        }  # fmt: skip
        with (copy / "output").open("w") as output:
            running = subprocess.Popen(
                ["bash", "-c", command], cwd=copy, env=environment, stdin=subprocess.DEVNULL,
                stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
            # it goes on until it is stopped
            if command == "make lab" and wait_for(
                "/lab/tree/notebooks?token=", copy / "output", running
            ):
                (copy / "artifacts/laptop/ran").write_text("a server with a token\n")
                os.killpg(running.pid, signal.SIGTERM)
                running.wait(30)
                running.returncode = 0
        running.wait(300)
        ran = [line for path in copy.glob("artifacts/*/ran") for line in path.open()]
        return running.returncode, (copy / "output").read_text(), [line.strip() for line in ran]

    wanted = [command for command in COMMANDS if command not in ELSEWHERE]
    with hub:
        yield {command: execute(command) for command in wanted}


@pytest.mark.parametrize("command", [c for c in COMMANDS if c not in ELSEWHERE])
def test_a_command_of_the_readme_works(command, outcomes):
    if command.startswith("conda") and not shutil.which("conda"):
        pytest.skip("there is no conda here")
    if command == "make engine" and not (ROOT / ".engine/.ready").exists():
        pytest.skip("the reference engine cannot be installed here")
    status, output, ran = outcomes[command]
    assert status == 0, output[-2000:]
    first, *_ = shlex.split(command)[1:]
    if first in ("run", "pretrain") or "helpers.run" in command:
        step = "00" if first == "pretrain" else (re.search(r"FROM=(\d+)", command) or ["", "01"])[1]
        assert [name[:2] for name in ran] == [step], output[-2000:]
    if first == "lab":
        assert ran == ["a server with a token"]
    if "helpers.predict" in command:
        lines = [line.split("\t") for line in output.splitlines()]
        assert len(lines) == 3
        assert all(label in ("negative", "positive") and 0 <= float(p) <= 1 for label, p in lines)
    if first == "test":
        assert output.count("1 passed") == 2 and "2 passed" in output  # two notebooks of one cell


@pytest.mark.slow
def test_the_way_without_make_works(tmp_path):
    copy = copy_repository(tmp_path)
    stand_ins(copy)
    for path in copy.glob("notebooks/0[2-6]*.ipynb"):
        path.unlink()
    done = subprocess.run(
        ["bash", "-e", "-c", BY_HAND], cwd=copy, capture_output=True, text=True,
        env={k: v for k, v in os.environ.items() if k not in ("PROFILE", "SET", "PYTHONPATH")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "01_finetune_teacher" in (copy / "artifacts/laptop/ran").read_text()


ANSWERS = """\
import numpy as np
from helpers.artifacts import RECIPES, Artifacts
from helpers.data import load_data
from helpers.profile import load_profile

artifacts = Artifacts(load_profile())
labels = np.array(load_data(artifacts.profile.data)["test"]["label"])
wrong = np.arange(len(labels)) < artifacts.profile.seed
names = "teacher", "gold", "augmented", "student_int8", "student_int8_fast"
answers = dict.fromkeys(names, np.eye(2)[np.where(wrong, 1 - labels, labels)])
for name, recipe in RECIPES.items():
    if recipe.notebook == {name!r}:
        with artifacts.writing(name) as path:
            np.savez(path.with_suffix(".npz"), **answers)
            path.with_suffix(".npz").rename(path)
            path.with_suffix(".bin").touch()"""


@pytest.mark.slow
def test_make_seeds_fills_the_readmes_table(tmp_path):
    copy = copy_repository(tmp_path)
    lend_environments(copy)
    for path in sorted((copy / "notebooks").glob("0*.ipynb")):
        opening = nbformat.read(path, as_version=4).cells[0]
        cell = new_code_cell(ANSWERS.replace("{name!r}", repr(path.stem)))
        nbformat.write(new_notebook(cells=[opening, cell]), path)
    environment = {k: v for k, v in os.environ.items() if k not in ("PROFILE", "SET")}
    for command in (["python", "-m", "helpers.run", "--to", "04"], ["make", "seeds"]):
        if command[0] == "python":
            command[0] = copy / ".venv/bin/python"
        done = subprocess.run(
            command, cwd=copy, env=environment | {"PYTHONPATH": str(copy)},
            capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
    seeds = json.loads((copy / "results/seeds.json").read_text())
    assert seeds["seeds"] == [42, 43, 44]
    first, second, third = seeds["accuracies"]["Teacher"]
    assert first - second == pytest.approx(second - third) and first > third
    assert f"| Teacher | {first:.4f} | {second:.4f} | {third:.4f} |" in (
        copy / "README.md"
    ).read_text(encoding="utf-8")


class Advisories(BaseHTTPRequestHandler):
    """A double of the database that is asked: what it finds, by package."""

    findings: ClassVar[dict[str, str]] = {}

    def log_message(self, *_):
        pass

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        found = self.findings.get(name := asked["package"]["name"])
        affected = {
            "package": {"name": name, "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}]}],
        }
        entry = {"id": found, "summary": found, "details": found, "affected": [affected]}
        answer = json.dumps({"vulns": [entry]} if found else {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)


@pytest.mark.slow
def test_make_audit_leaves_out_what_is_accepted(monkeypatch):
    (accepted, *_) = re.findall(
        r"^\| (CVE\S+) \|", (ROOT / "SECURITY.md").read_text(), re.MULTILINE
    )
    server = ThreadingHTTPServer(("127.0.0.1", 0), Advisories)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("PIP_AUDIT_VULNERABILITY_SERVICE", "osv")
    monkeypatch.setenv("PIP_AUDIT_OSV_URL", f"http://127.0.0.1:{server.server_port}/v1/query")
    audit = partial(subprocess.run, ["make", "audit"], cwd=ROOT, capture_output=True, text=True)
    try:
        Advisories.findings = {"onnx": accepted}
        done = audit()
        assert done.returncode == 0, done.stderr[-2000:]
        assert "1 ignored" in done.stderr or "ignored 1" in done.stderr
        Advisories.findings = {"onnx": accepted, "tqdm": "CVE-1999-0001"}
        done = audit()
        assert done.returncode != 0 and "CVE-1999-0001" in done.stdout
        assert not re.search(rf"^onnx .*{accepted}", done.stdout, re.MULTILINE)
    finally:
        server.shutdown()
