"""Results that readers send: checked, stored by machine, shown in the table; and the nearest."""

import json
import runpy
import shutil

import pytest

from helpers.tutorial.profile import ROOT
from helpers.tutorial.report import nearest_machine

MAINTAIN = runpy.run_path(str(ROOT / ".ci/refresh.py"))
add_results = MAINTAIN["add_results"]


def sent(tmp_path, change=lambda results: None):
    results = json.loads((ROOT / "results/default.json").read_text())
    results["environment"] |= {"cpu": "Some CPU @ 3.10GHz", "physical_cores": 8}
    results["environment"]["instruction_sets"] = ["avx2", "avx_vnni"]
    change(results)
    path = tmp_path / "benchmark.json"
    path.write_text(json.dumps(results | {"raw_ms": [1]}))
    return path


def test_a_machine_that_is_sent_stands_in_the_table(tmp_path):
    folder = shutil.copytree(ROOT / "results", tmp_path / "results")
    before = MAINTAIN["machines_table"](folder).count("\n")
    target = add_results(sent(tmp_path), folder)
    assert target.name == "some-cpu-3-10ghz-avx-vnni-8-cores.json"
    assert "raw_ms" not in json.loads(target.read_text())
    table = MAINTAIN["machines_table"](folder)
    assert table.count("Some CPU @ 3.10GHz") == 1 and table.count("\n") == before + 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r: r.update(profile="smoke"), "profile: Input should be 'default'"),
        (lambda r: r["environment"].update(cpu="a|b"), "environment.cpu: String should match"),
        (lambda r: r["environment"].update(physical_cores=0), "environment.physical_cores: "),
        (lambda r: r.pop("rows"), "rows: Field required"),
        (lambda r: r.update(headline="none"), "cannot be used: KeyError"),
        (lambda r: r["protocol"].update(block_ms=1), "not run with the default settings"),
        (lambda r: r["protocol"].update(others_used={"1 threads, 64": 0.2}), "other programs"),
        (lambda r: r["rows"][1]["latency_ms"].update(typical="x"), "cannot be used: ValueError"),
    ],
)
def test_what_is_no_benchmark_is_refused_in_one_line(tmp_path, change, said):
    with pytest.raises(ValueError, match=said) as raised:
        add_results(sent(tmp_path, change), tmp_path)
    assert "\n" not in str(raised.value) and len(list(tmp_path.iterdir())) == 1


def test_the_nearest_machine_is_by_instructions_then_cores():
    def ask(cpu, sets, cores=2):
        asked = {"cpu": cpu, "instruction_sets": sets, "physical_cores": cores}
        return nearest_machine(asked, ROOT / "results")

    assert ask("Other", ["avx2"], 64).endswith("(2 cores, avx2)")
    assert "avx_vnni" in ask("Other", ["avx2", "avx_vnni", "avx512f"])
    assert ask("AMD EPYC", ["avx2"]) == ""
