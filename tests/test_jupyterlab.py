"""A reader's way through notebook 5: JupyterLab in a browser, every cell, then the panel.

It needs a browser and what the other notebooks of the smoke profile left; `make test` runs it last.
"""

import http.client
import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote, urlsplit

import nbformat
import psutil
import pytest

from helpers.artifacts import RECIPES, Artifacts
from helpers.predict import Classifier
from helpers.profile import ROOT, load_profile
from helpers.run import numbered_notebooks

pytestmark = pytest.mark.browser

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
MODELS = ("teacher", "student.onnx", "student_int8_fast.xml")  # of the panel, in its order
SENTENCE = "a joy from its first scene to its last"
ERROR = '[data-mime-type="application/vnd.jupyter.error"]'
SETTINGS = {
    "notebook-extension/tracker": {"windowingMode": "none"},  # cells out of view are there too
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}


@pytest.fixture(scope="module")
def artifacts() -> Artifacts:
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not BROWSER:
        pytest.skip("no Chromium or Chrome on the PATH")
    artifacts = Artifacts(load_profile("smoke"))
    made = [name for name, recipe in RECIPES.items() if "01" <= recipe.notebook[:2] <= "04"]
    if unfit := [name for name in made if not artifacts.fits(name)]:
        pytest.skip(f"the smoke profile's notebooks 1 to 4 must be run first: {', '.join(unfit)}")
    return artifacts


@pytest.fixture(scope="module")
def notebook(artifacts) -> Path:
    """A copy of notebook 5 without outputs, so that what is seen comes from this run."""
    (committed,) = (path for path in numbered_notebooks() if path.name[:2] == "05")
    copy = nbformat.read(committed, as_version=4)
    for cell in copy.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
            cell.metadata.pop("jupyter", None)  # solutions are looked at, too
    copy.metadata.pop("widgets", None)
    target = artifacts.path("lab") / committed.name
    target.parent.mkdir(exist_ok=True)
    nbformat.write(copy, target)
    return target


@pytest.fixture(scope="module")
def server(artifacts, tmp_path_factory):
    """JupyterLab with its own token, apart from the user's settings: what it says of itself."""
    home = tmp_path_factory.mktemp("jupyter")
    folders = {name: home / name for name in ("config", "data", "runtime")}
    for name, values in SETTINGS.items():
        target = folders["config"] / f"lab/user-settings/@jupyterlab/{name}.jupyterlab-settings"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(values))
    environment = {name: value for name, value in os.environ.items() if "JUPYTER" not in name}
    environment |= {f"JUPYTER_{name.upper()}_DIR": str(path) for name, path in folders.items()}
    command = [sys.executable, "-m", "jupyter", "lab", "--no-browser", "--port=0"]
    command += [f"--ServerApp.root_dir={ROOT}", *(["--allow-root"] if is_root() else [])]
    with (home / "log.txt").open("w") as log:
        process = subprocess.Popen(
            command, env=environment | {"PROFILE": "smoke"}, cwd=home, stdout=log, stderr=log
        )
    try:
        started = folders["runtime"] / f"jpserver-{process.pid}.json"
        until(lambda: started.exists() or process.poll() is not None, seconds=60)
        assert process.poll() is None, (home / "log.txt").read_text()
        yield json.loads(started.read_text())
    finally:
        main = psutil.Process(process.pid)
        family = [*main.children(recursive=True), main]
        main.terminate()
        for member in psutil.wait_procs(family, timeout=15)[1]:
            member.kill()


def is_root() -> bool:
    return hasattr(os, "geteuid") and os.geteuid() == 0


def until(condition, *, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s in vain"
        time.sleep(0.2)


@contextmanager
def request(server, path: str, **headers):
    connection = http.client.HTTPConnection(urlsplit(server["url"]).netloc, timeout=20)
    connection.request("GET", path, headers=headers)
    yield connection.getresponse()
    connection.close()


@pytest.fixture(scope="module")
def page(server, notebook):
    """The notebook in JupyterLab after Run All Cells, when nothing runs any more."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=BROWSER, args=["--no-sandbox"] if is_root() else []
        )
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.set_default_timeout(60_000)
        place = quote(notebook.relative_to(ROOT).as_posix())
        page.goto(f"{server['url']}lab/tree/{place}?token={server['token']}")
        page.locator(".jp-Notebook .jp-CodeCell").first.wait_for()
        page.get_by_text("(ipykernel) | Idle").wait_for()  # of the status bar: a kernel is there
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        page.wait_for_function(
            """error => {
                const shown = [...document.querySelectorAll(".jp-CodeCell .jp-InputPrompt")];
                const prompts = shown.map(node => node.innerText.trim());
                const waits = prompts.some(text => text.includes("*"));
                const all = prompts.every(text => /^\\[\\d+\\]:$/.test(text));
                return all || (!waits && document.querySelector(error));
            }""",
            arg=f".jp-Notebook {ERROR}",
            timeout=600_000,
        )
        yield page
        browser.close()


def shoot(page, artifacts, name: str) -> None:
    folder = artifacts.path("screenshots")
    folder.mkdir(exist_ok=True)
    page.screenshot(path=folder / f"{name}.png")


def rows(page) -> list[list[str]]:
    lines = page.locator(".jp-OutputArea .widget-html table.answers tbody tr").all()
    return [
        [" ".join(t.split()) for t in line.locator("th, td").all_inner_texts()] for line in lines
    ]


def test_it_answers_on_this_machine_alone_and_to_its_token(server):
    for headers, status in (({}, 403), ({"Authorization": "token wrong"}, 403)):
        with request(server, "/api/contents", **headers) as answer:
            assert answer.status == status
    with request(server, "/lab") as answer:
        assert answer.status == 302 and "/login" in answer.headers["Location"]
    with request(server, "/api/contents", Authorization=f"token {server['token']}") as answer:
        assert answer.status == 200
    assert len(server["token"]) >= 40


def test_every_cell_runs_and_every_plot_appears(page, notebook, artifacts):
    cells = [c for c in nbformat.read(notebook, as_version=4).cells if c.cell_type == "code"]
    errors = page.locator(f".jp-Notebook {ERROR}")
    assert errors.all_inner_texts() == []
    assert page.locator(".jp-CodeCell .jp-InputPrompt").all_inner_texts() == [
        f"[{n}]:" for n in range(1, len(cells) + 1)
    ]
    plots = sum(cell.source.count("plots.show(") for cell in cells)
    images = page.locator(".jp-OutputArea-output img")
    assert plots and images.count() == plots
    assert all(images.nth(n).evaluate("image => image.naturalWidth") > 300 for n in range(plots))
    (place,) = (
        n for n, cell in enumerate(cells) if "nbval-check-output" in cell.metadata.get("tags", ())
    )
    checks = page.locator(".jp-CodeCell").nth(place).locator(".jp-OutputArea-output").inner_text()
    assert checks and all(line.endswith(": True") for line in checks.splitlines())
    page.locator(".jp-Notebook .jp-Cell").first.scroll_into_view_if_needed()
    shoot(page, artifacts, "top")
    images.last.scroll_into_view_if_needed()
    shoot(page, artifacts, "plot")


def test_kernel_and_server_listen_on_this_machine_alone(server, page):
    process = psutil.Process(server["pid"])
    listening = {
        connection.laddr.ip
        for member in (process, *process.children(recursive=True))
        for connection in member.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening and listening <= {"127.0.0.1", "::1"}


def test_the_panel_answers_what_is_typed(page, artifacts):
    before = rows(page)
    assert len(before) == len(MODELS)
    field = page.get_by_label("Sentence")
    field.fill(SENTENCE)
    page.get_by_role("button", name="Classify").click()
    until(lambda: all(row[4] == SENTENCE for row in rows(page)), seconds=60)
    after = rows(page)
    page.locator(".widget-html table.answers").scroll_into_view_if_needed()
    shoot(page, artifacts, "panel")
    assert [row[0] for row in after] == [row[0] for row in before]
    for name, old, new in zip(MODELS, before, after, strict=True):
        model = Classifier(artifacts.path(name))
        (probabilities,) = model.probabilities([SENTENCE])
        assert new[1] == model.labels[probabilities.argmax()]
        assert float(new[2]) == pytest.approx(probabilities.max(), abs=0.002)
        assert old[1:3] != new[1:3] and float(new[3]) > 0
    field.fill("dull")
    field.press("Enter")
    until(lambda: all(row[4] == "dull" for row in rows(page)), seconds=60)
