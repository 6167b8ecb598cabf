"""The command line as scripts see it: exit codes, one-line errors, whole files or none."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import permsolve
from permsolve import cli


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    np.save("m.npy", rng.standard_normal((12, 16)))
    np.savez("two.npz", a=rng.random((4, 8)), b=rng.random((4, 16)))
    np.save("nan.npy", np.array([[1.0, np.nan, 2.0, 3.0]]))
    np.save("flat.npy", np.ones(8))
    np.save("six.npy", np.ones((2, 6)))
    np.save("empty.npy", np.ones((0, 4)))
    np.save("words.npy", np.array([["a", "b", "c", "d"]]))
    (tmp_path / "cut.npy").write_bytes((tmp_path / "m.npy").read_bytes()[:200])
    (tmp_path / "bad.json").write_text('{"schema": ')
    return tmp_path


@pytest.fixture
def run(folder, monkeypatch, capsys):
    """Run the command line in this process; return exit code, standard output and standard error."""

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["permsolve", *map(str, words)])
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = end.code or 0
        out = capsys.readouterr()
        return code, out.out, out.err

    return call


def test_solve_writes_a_document_that_check_confirms(run, folder):
    code, out, _ = run("solve", "m.npy", "--method", "ria", "--json", "out.json", "-q")
    assert code == 0
    assert "efficacy" in out
    assert permsolve.load("out.json").check(np.load("m.npy")) == ()
    code, out, _ = run("check", "out.json", "m.npy")
    assert code == 0
    assert out.startswith("ok")


def test_solve_passes_everything_on(run, folder):
    code, _, _ = run(
        *("solve", "m.npy", "--nm", "1:4", "--method", "random", "--set", "samples=7", "--seed", 3),
        *("--saliency", "energy", "--blocks", "8,8", "--jobs", 1, "--json", "out.json", "-q"),
    )
    result = permsolve.load("out.json")
    assert code == 0
    assert (str(result.pattern), result.method, result.options, result.seed) == ("1:4", "random", {"samples": 7}, 3)
    assert (result.saliency, result.blocks, result.iterations) == ("energy", (8, 8), 14)
    assert set(result.perm[:8]) == set(range(8))


def test_check_fails_loudly_on_another_matrix_and_on_a_changed_score(run, folder):
    run("solve", "m.npy", "--method", "ria", "--json", "out.json", "-q")
    np.save("other.npy", np.load("m.npy") + 1.0)
    code, _, err = run("check", "out.json", "other.npy")
    assert code == 1
    assert "fingerprint" in err
    document = json.loads((folder / "out.json").read_text())
    document["score"] *= 1.001
    document["efficacy"] = 100 * (document["score"] - document["baseline"])
    document["efficacy"] /= document["rows_bound"] - document["baseline"]
    document["gap"] = (document["bound"] - document["score"]) / document["bound"]
    (folder / "out.json").write_text(json.dumps(document))
    code, _, err = run("check", "out.json", "m.npy")
    assert code == 1
    assert "score: recomputed" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nan.npy"], "NaN"),
        (["flat.npy"], "axes"),
        (["six.npy"], "do not divide into groups of m = 4"),
        (["empty.npy"], "empty"),
        (["words.npy"], "real numbers"),
        (["cut.npy"], "truncated"),
        (["none.npy"], "no such file"),
        (["two.npz"], "name one with --tensor: a, b"),
        (["two.npz", "--tensor", "c"], "holds no tensor 'c'; it holds a, b"),
        (["m.npy", "--nm", "4:2"], "1 <= n < m"),
        (["m.npy", "--nm", "two"], "'two' is no pattern"),
        (["m.npy", "--method", "magic"], "unknown method 'magic'; known: alternating, annealing"),
        (["m.npy", "--method", "random", "--set", "sample=3"], "no option 'sample'; its options: samples"),
        (["m.npy", "--method", "random", "--set", "samples=x"], "not of type int"),
        (["m.npy", "--method", "random", "--set", "samples"], "option=value"),
        (["m.npy", "--method", "random", "--set", "samples=0"], "at least 1"),
        (["m.npy", "--method", "stripe_groups", "--nm", "1:16"], "regroupings"),
        (["m.npy", "--time-limit", "-1"], "at least 0"),
        (["m.npy", "--time-limit", "nan"], "finite"),
        (["m.npy", "--seed", "-1"], "seed"),
        (["m.npy", "--jobs", "0"], "n_jobs"),
        (["m.npy", "--blocks", "6,10"], "block size 6"),
        (["m.npy", "--blocks", "8;8"], "not a list of sizes"),
        (["m.npy", "--saliency", "wanda"], "needs activations"),
        (["m.npy", "--plot", "map.gif"], ".png"),
        (["m.npy", "--plot", "no/such/map.png"], "does not exist"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(run, folder, words, message):
    before = sorted(os.listdir())
    code, out, err = run("solve", *words, "--json", "out.json", "-q")
    assert code == 2
    assert message in err
    assert err.startswith("permsolve: error: ")
    assert len(err.splitlines()) == 1
    assert out == ""
    assert sorted(os.listdir()) == before


def test_unusable_outputs_are_refused_before_the_work(run, folder):
    code, _, err = run("solve", "m.npy", "--json", "no/such/out.json", "-q")
    assert code == 2
    assert "does not exist" in err


@pytest.mark.parametrize(
    "words", [["check", "bad.json", "m.npy"], ["check", "none.json", "m.npy"], ["methods", "magic"]]
)
def test_other_commands_refuse_bad_input(run, words):
    code, _, err = run(*words)
    assert code == 2
    assert err.startswith("permsolve: error: ")


def test_wrong_usage_exits_with_2(run):
    assert run("solve")[0] == 2
    assert run("solve", "m.npy", "--time-limit", "soon")[0] == 2
    assert run("nonsense")[0] == 2


def test_methods_lists_every_method_with_its_options_and_source(run):
    code, out, _ = run("methods")
    assert code == 0
    blocks = {block.splitlines()[0]: block for block in out.strip().split("\n\n")}
    assert tuple(sorted(blocks)) == permsolve.methods()
    for name, block in blocks.items():
        for option in permsolve.get_solver(name).option_names():
            assert f"{option}=" in block
        assert permsolve.get_solver(name).source in block


def test_compare_prints_a_table_leaves_out_what_is_unsupported_and_draws(run, folder):
    code, out, err = run(
        *("compare", "m.npy", "--methods", "identity,ria,stripe_groups", "--nm", "4:8", "--time-limit", "0.2"),
        *("--seeds", 2, "--plot", "curves.png", "-q"),
    )
    assert code == 0
    assert "identity" in out
    assert "ria" in out
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    code, out, err = run("compare", "m.npy", "--methods", "ria,stripe_groups", "--nm", "8:16", "-q")
    assert code == 0
    assert "stripe_groups left out" in err


def test_a_process_that_is_interrupted_writes_the_best_so_far(folder):
    np.save("wide.npy", np.random.default_rng(0).standard_normal((64, 256)))
    command = [
        sys.executable,
        "-m",
        "permsolve",
        "solve",
        "wide.npy",
        "--time-limit",
        "300",
        "--json",
        "out.json",
        "-q",
    ]
    for patience in (4, 15, 60, 240):  # an interrupt before the solver begins ends the process with nothing found
        process = subprocess.Popen([*command, "--method", "annealing"], stdout=subprocess.PIPE, text=True)
        time.sleep(patience)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=60)
        assert process.returncode == 130
        if out:
            break
    assert "interrupt" in out
    result = permsolve.load("out.json")
    assert result.stopped_by == "interrupt"
    assert result.score > result.baseline
    assert result.check(np.load("wide.npy")) == ()
