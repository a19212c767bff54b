"""A reader's way through notebook 5: JupyterLab in a browser, every cell, then the panel.

It needs a browser and what the other notebooks of the smoke profile left; `make test` runs it last.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import quote

import nbformat
import psutil
import pytest

from helpers.classify import Classifier
from helpers.tutorial.profile import ROOT, load_profile
from helpers.tutorial.steps import Step

pytestmark = pytest.mark.browser

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
SENTENCE = "a joy from its first scene to its last"
SETTINGS = {
    "notebook-extension/tracker": {"windowingMode": "none"},  # cells out of view are there too
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}
# every cell has a number, or none waits any more because one failed
DONE = """() => {
    const prompts = [...document.querySelectorAll(".jp-CodeCell .jp-InputPrompt")];
    const shown = prompts.map(node => node.innerText.trim());
    const failed = document.querySelector('[data-mime-type="application/vnd.jupyter.error"]');
    return shown.every(text => /\\d/.test(text)) || (failed && !shown.some(t => t.includes("*")));
}"""


@pytest.fixture(scope="module")
def notebook() -> Path:
    """A copy of notebook 5 without outputs, so that what is seen comes from this run."""
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not BROWSER:
        pytest.skip("no Chromium or Chrome on the PATH")
    step = Step("05", load_profile("smoke"))
    if faults := [fault for earlier in step.before if (fault := earlier.fault())]:
        pytest.skip(f"the smoke profile's notebooks 1 to 4 must be run first: {faults[0]}")
    copy = nbformat.read(step.notebook, as_version=4)
    for cell in copy.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    target = step.folder / "lab" / step.notebook.name
    target.parent.mkdir(exist_ok=True)
    nbformat.write(copy, target)
    shutil.copytree(step.notebook.parent / "images", target.with_name("images"), dirs_exist_ok=True)
    return target


def until(condition, *, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s in vain"
        time.sleep(0.2)


@pytest.fixture(scope="module")
def url(notebook, tmp_path_factory):
    """The notebook's address in a JupyterLab of its own, away from the user's settings."""
    home = tmp_path_factory.mktemp("jupyter")
    for name, values in SETTINGS.items():
        target = home / f"config/lab/user-settings/@jupyterlab/{name}.jupyterlab-settings"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(values))
    environment = {name: value for name, value in os.environ.items() if "JUPYTER" not in name}
    environment |= {
        f"JUPYTER_{n.upper()}_DIR": str(home / n) for n in ("config", "data", "runtime")
    }
    command = [sys.executable, "-m", "jupyter", "lab", "--no-browser", "--port=0", "--allow-root"]
    with (home / "log.txt").open("w") as log:
        process = subprocess.Popen(
            [*command, f"--ServerApp.root_dir={ROOT}"],
            env=environment | {"PROFILE": "smoke"},
            cwd=home,
            stdout=log,
            stderr=log,
        )
    try:
        said = home / "runtime" / f"jpserver-{process.pid}.json"
        until(lambda: said.exists() or process.poll() is not None, seconds=60)
        assert process.poll() is None, (home / "log.txt").read_text()
        server = json.loads(said.read_text())
        path = quote(notebook.relative_to(ROOT).as_posix())
        yield f"{server['url']}lab/tree/{path}?token={server['token']}"
    finally:
        main = psutil.Process(process.pid)
        family = [*main.children(recursive=True), main]
        main.terminate()
        for member in psutil.wait_procs(family, timeout=15)[1]:
            member.kill()


@pytest.fixture(scope="module")
def page(url):
    """The notebook in JupyterLab after Run All Cells, when nothing runs any more."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.set_default_timeout(60_000)
        page.goto(url)
        page.locator(".jp-Notebook .jp-CodeCell").first.wait_for()
        page.get_by_text("(ipykernel) | Idle").wait_for()  # of the status bar: a kernel is there
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        page.wait_for_function(DONE, timeout=600_000)
        yield page
        browser.close()


def test_every_cell_runs_and_every_picture_appears(page, notebook):
    cells = [c for c in nbformat.read(notebook, as_version=4).cells if c.cell_type == "code"]
    assert page.locator('[data-mime-type="application/vnd.jupyter.error"]').all_inner_texts() == []
    prompts = page.locator(".jp-CodeCell .jp-InputPrompt").all_inner_texts()
    assert prompts == [f"[{n}]:" for n in range(1, len(cells) + 1)]
    drawn = page.locator(".jp-OutputArea-output img")
    assert drawn.count() >= sum(cell.source.count("lesson.show(") for cell in cells) >= 1
    for image in [*drawn.all(), *page.locator(".jp-MarkdownOutput img").all()]:
        assert image.evaluate("image => image.naturalWidth") > 300
    (checks,) = (
        n for n, c in enumerate(cells) if "nbval-check-output" in c.metadata.get("tags", ())
    )
    said = page.locator(".jp-CodeCell").nth(checks).locator(".jp-OutputArea-output").inner_text()
    assert said and all(line.endswith(": True") for line in said.splitlines())
    page.screenshot(path=notebook.with_name("notebook.png"))


def test_the_panel_answers_what_is_typed(page, notebook):
    table = page.locator(".jp-OutputArea .widget-html table.answers tbody tr")

    def rows():
        return [line.locator("th, td").all_inner_texts() for line in table.all()]

    def words():
        return {" ".join(row[-1].split()) for row in rows()}

    before = rows()
    assert len(before) >= 2
    field = page.get_by_label("Sentence")
    field.fill(SENTENCE)
    page.get_by_role("button", name="Classify").click()
    until(lambda: words() == {SENTENCE}, seconds=60)
    after = rows()
    page.screenshot(path=notebook.with_name("panel.png"))
    assert [row[0] for row in after] == [row[0] for row in before]
    folder, found = notebook.parents[1], []
    for path in (folder / "teacher", folder / "student.onnx", folder / "student_int8_fast.xml"):
        model = Classifier(path)
        (probabilities,) = model.probabilities([SENTENCE])
        found.append(
            (model.labels[probabilities.argmax()], pytest.approx(probabilities.max(), abs=2e-3))
        )
    assert [(row[1], float(row[2])) for row in after] == found
    field.fill("dull")
    field.press("Enter")
    until(lambda: words() == {"dull"}, seconds=60)
