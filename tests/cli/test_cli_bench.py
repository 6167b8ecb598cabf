"""``permsolve bench`` as scripts see it: exit codes, resuming, and what it leaves behind."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from permsolve import cli

pytest.importorskip("jinja2")

SMALL = ("--methods", "identity,ria", "--time-limit", "0.05", "--seeds", 1, "--jobs", 1)


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run the command line in a folder with matrices; return exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)
    for k, name in enumerate(("a", "b")):
        np.save(f"{name}.npy", np.random.default_rng(k).random((8, 16)))

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["permsolve", "bench", *map(str, words)])
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = end.code or 0
        out = capsys.readouterr()
        return code, out.out, out.err

    return call


def test_a_bench_prints_tables_and_leaves_its_files(run, tmp_path):
    code, out, _ = run("out", "a.npy", "b.npy", *SMALL)
    assert code == 0
    assert out.startswith("4 runs: 2 methods x 2 instances x 1 seeds x 0.05 s, 1 at a time: at most about 1 s")
    assert "All sizes, 0.05 s on one core" in out
    assert "1-16 (2)" in out
    assert {file.name for file in (tmp_path / "out").iterdir()} == {
        *("settings.json", "runs.jsonl", "report.json", "report.html")
    }
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["schema"] == "permsolve.bench/2"
    assert (report["planned"], report["finished"], report["failed"]) == (4, 4, 0)
    assert (tmp_path / "out" / "report.html").read_text().startswith("<!DOCTYPE html>")


def test_the_same_command_goes_on_and_other_settings_are_refused(run, tmp_path):
    run("out", "a.npy", "b.npy", *SMALL, "-q")
    before = (tmp_path / "out" / "runs.jsonl").read_bytes()
    code, out, _ = run("out", "a.npy", "b.npy", *SMALL)
    assert code == 0
    assert "going on: 4 runs are there already" in out
    code, _, err = run("out", "a.npy", "b.npy", *SMALL, "--nm", "1:4")
    assert code == 2
    assert "other settings" in err
    assert "new folder" in err
    assert (tmp_path / "out" / "runs.jsonl").read_bytes() == before


def test_instances_of_the_library_can_be_named(run, tmp_path):
    import permsolve

    name = permsolve.instances.library()[0].name
    code, out, _ = run("out", "--instances", name, *SMALL, "-q")
    assert (code, out) == (0, "")
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [row["name"] for row in report["instances"]] == [name]


def test_a_bench_on_another_pattern_prints_its_tables_and_lists_who_does_not_search_it(run, tmp_path):
    code, out, _ = run("out", "a.npy", *SMALL, "--nm", "hinm(4, 0.5, 2:4)")
    assert code == 0
    assert "All sizes, 0.05 s on one core" in out
    assert "not supported: 1, for example ria on a: " in out
    assert "failed" not in out
    (row,) = json.loads((tmp_path / "out" / "report.json").read_text())["instances"]
    assert (row["pattern"], row["kind"]) == ("hinm(4, 0.5, 2:4)", "hinm")
    assert set(row["best_solution"]) == {"rows", "columns"}
    first, again = (tmp_path / "out" / "report.json").read_text(), run("out", "--report-only", "-q")
    assert again[0] == 0
    assert json.loads((tmp_path / "out" / "report.json").read_text())["instances"] == json.loads(first)["instances"]


def test_a_bench_on_several_kinds_of_patterns_names_them(run, tmp_path):
    names = "uniform_32x16_2of4_s0,normal_64x64_vnm16_2of8_s1"
    code, out, _ = run("out", "--instances", names, *SMALL)
    assert code == 0
    assert "n:m, all sizes, 0.05 s on one core" in out
    assert "V:N:M, all sizes, 0.05 s on one core" in out
    assert "33-64 (1)" in out


def test_the_report_can_be_made_anew(run, tmp_path):
    run("out", "a.npy", *SMALL, "-q")
    first = json.loads((tmp_path / "out" / "report.json").read_text())
    (tmp_path / "out" / "report.json").unlink()
    (tmp_path / "out" / "report.html").unlink()
    code, out, _ = run("out", "--report-only")
    assert code == 0
    assert "All sizes" in out
    second = json.loads((tmp_path / "out" / "report.json").read_text())
    assert {**first, "made": None} == {**second, "made": None}
    assert (tmp_path / "out" / "report.html").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["out", "--methods", "sorcery", "a.npy"], "unknown method 'sorcery'"),
        (["out", "--methods", ",", "a.npy"], "--methods names nothing"),
        (["out", "--time-limit", "1,soon", "a.npy"], "'1,soon' is not a list of seconds"),
        (["out", "--methods", "identity", "--time-limit", "-1", "a.npy"], "time limit of -1 s"),
        (["out", "--instances", "no_such_instance"], "no_such_instance"),
        (["out", "--family", "fairies"], "'fairies'"),
        (["out", "--nm", "1:4"], "--nm and --saliency are for matrices in files"),
        (["out", "missing.npy"], "missing.npy: no such file"),
        (["out", "a.npy", "a.npy"], "'a' is given twice"),
        (["out", "--report-only"], "holds no bench"),
        (["out", "--report-only", "--seeds", "3"], "--report-only takes everything from the folder"),
        (["a.npy", "b.npy", "--methods", "identity"], "cannot hold a bench"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(run, tmp_path, words, message):
    code, _, err = run(*words, "-q")
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_ctrl_c_leaves_valid_files_and_the_same_command_finishes(run, tmp_path):
    words = [
        "out",
        "a.npy",
        "b.npy",
        "--methods",
        "random,identity",
        "--time-limit",
        "0.2",
        "--seeds",
        "8",
        "--jobs",
        "1",
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "permsolve", "bench", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    journal = tmp_path / "out" / "runs.jsonl"
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if journal.exists() and journal.read_bytes().count(b"\n") >= 3:
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "interrupted; the same command goes on from here" in err
    assert "unfinished" in out
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert 3 <= report["finished"] < report["planned"] == 32
    before = journal.read_bytes()
    code, out, _ = run(*words)
    assert code == 0
    assert f"going on: {report['finished']} runs" in out
    assert journal.read_bytes().startswith(before)
    assert json.loads((tmp_path / "out" / "report.json").read_text())["finished"] == 32
