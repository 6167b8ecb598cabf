"""``permsolve study``: both studies from the command line."""

import json
import sys

import numpy as np
import pytest

from permsolve import cli


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run the command line in a folder with a matrix; return exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)
    np.save("m.npy", np.random.default_rng(0).standard_normal((12, 32)))
    np.savez("two.npz", a=np.ones((4, 8)), b=np.random.default_rng(1).standard_normal((6, 16)))

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["permsolve", "study", *map(str, words)])
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = end.code or 0
        out = capsys.readouterr()
        return code, out.out, out.err

    return call


def test_steps_prints_a_table_and_writes_the_document(run, tmp_path):
    code, out, _ = run("steps", "m.npy", "--steps", 4, "--method", "ria", "--json", "out.json", "-q")
    assert code == 0
    assert "efficacy %" in out
    assert "largest error" in out
    document = json.loads((tmp_path / "out.json").read_text())
    assert document["schema"] == "permsolve.steps/1"
    assert len(document["steps"]) == 5
    assert f"{document['steps'][-1]['efficacy']:.4f}" in out


def test_unstructured_prints_the_bracket_and_writes_the_document(run, tmp_path):
    code, out, _ = run("unstructured", "m.npy", "--nm", "1:2", "--method", "ria", "--json", "out.json", "-q")
    assert code == 0
    document = json.loads((tmp_path / "out.json").read_text())
    assert document["schema"] == "permsolve.unstructured/1"
    assert document["pattern"] == {"kind": "nm", "n": 1, "m": 2}
    for key, words in (
        ("identity", "without permutation"),
        ("sparsity", "with permutation"),
        ("lower_bound", "lower bound"),
    ):
        assert next(line for line in out.splitlines() if words in line).endswith(f"{100 * document[key]:.3f} %")


def test_everything_is_passed_on(run, tmp_path):
    code, _, _ = run(
        *("unstructured", "two.npz", "--tensor", "b", "--method", "random", "--set", "samples=7", "--seed", 3),
        *("--saliency", "energy", "--blocks", "8,8", "--jobs", 1, "--tolerance", 0.01, "--json", "out.json", "-q"),
    )
    document = json.loads((tmp_path / "out.json").read_text())
    assert code == 0
    assert (document["options"], document["seed"], document["blocks"]) == ({"samples": 7}, 3, [8, 8])
    assert (document["saliency"], document["tolerance"], document["matrix"]["shape"]) == ("energy", 0.01, [6, 16])


@pytest.mark.parametrize("study", ["steps", "unstructured"])
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none.npy"], "no such file"),
        (["m.npy", "--nm", "4:2"], "1 <= n < m"),
        (["m.npy", "--method", "magic"], "unknown method 'magic'"),
        (["m.npy", "--method", "random", "--set", "samples=x"], "not of type int"),
        (["m.npy", "--tolerance", "-1"], "tolerance"),
        (["m.npy", "--blocks", "6,26"], "block size 6"),
        (["m.npy", "--json", "no/such/out.json"], "does not exist"),
        (["m.npy", "--json", "m.npy"], "would replace the weights"),
    ],
)
def test_bad_input_is_one_line(run, study, words, message):
    code, out, err = run(study, *words, "-q")
    assert code == 2
    assert message in err
    assert err.startswith("permsolve: error: ")
    assert len(err.splitlines()) == 1
    assert out == ""


def test_steps_refuses_no_steps(run):
    code, _, err = run("steps", "m.npy", "--steps", 0)
    assert code == 2
    assert "steps = 0" in err
