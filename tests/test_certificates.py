"""Certificates prove what they say, to anybody, and nothing else."""

from __future__ import annotations

import json
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from groupings import KINDS, PATTERNS, groups_of, matrix, worth
from helpers import brute_force
from hypothesis import given, settings
from hypothesis import strategies as st

import permsolve
from permsolve import Problem, cli
from permsolve.certificates import Certificate, check_claim, prove
from permsolve.errors import CertificateError, DocumentError, InputError
from permsolve.partition.quantise import Quantised


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "m"), [*PATTERNS[:-1], (2, 8)])
def test_what_bound_proves_anybody_can_prove(kind: str, n: int, m: int) -> None:
    values = matrix(kind, 6, 3 * m if m < 8 else 16)
    problem = Problem.of(values, (n, m))
    answer = permsolve.bound(problem, n_jobs=1)
    assert answer.value >= brute_force(values, n, m) * (1 - 1e-15)
    if answer.kind == "lp":
        assert answer.certificate is not None
        assert prove(problem, answer.certificate) == answer.value
        assert prove(problem, answer.certificate, n_jobs=3) == answer.value
    else:
        assert answer.value == problem.rows_bound


def test_matrices_of_extreme_range_have_provable_bounds() -> None:
    for seed in range(4):
        values = np.random.RandomState(seed).rand(12, 20)
        values[:6] *= 1e300
        values[6:] *= 1e-300
        problem = Problem.of(values)
        answer = permsolve.bound(problem, n_jobs=1)
        if answer.certificate is not None:
            assert prove(problem, answer.certificate) == answer.value


@given(
    st.integers(-3, 12),
    st.lists(st.integers(-5, 60), min_size=8, max_size=8),
    st.sampled_from([(1, 2), (2, 4), (3, 4)]),
)
@settings(max_examples=150)
def test_a_proof_is_a_proof_and_a_refusal_has_a_reason(exponent: int, duals: list[int], nm: tuple[int, int]) -> None:
    values = matrix("tied", 2, 8)
    problem = Problem.of(values, nm)
    columns = np.ceil(np.ldexp(np.minimum(values, np.sort(values, axis=1)[:, -(nm[0] + 1), None]), exponent)).T
    groups = groups_of(8, nm[1])
    feasible = (worth(columns, groups, nm[0]) <= np.array(duals)[groups].sum(axis=1)).all()
    try:
        value = prove(problem, Certificate(exponent, tuple(duals)))
    except CertificateError as error:
        assert not feasible
        assert "worth more" in str(error)
    else:
        assert feasible
        assert value >= brute_force(values, *nm)
        excess = (values - np.minimum(values, np.sort(values, axis=1)[:, -(nm[0] + 1), None])).sum()
        assert value == pytest.approx(sum(duals) * 2.0**-exponent + excess)


def test_any_dual_of_a_tight_group_lowered_by_one_is_refused() -> None:
    values = matrix("uniform", 8, 16)
    problem = Problem.of(values)
    proof = permsolve.bound(problem, n_jobs=1).certificate
    assert proof is not None
    quantised = Quantised.of(problem)
    assert quantised.exponent == proof.exponent
    groups = groups_of(16, 4)
    slack = np.array(proof.duals)[groups].sum(axis=1) - worth(quantised.columns, groups, 2)
    tight = 0
    for column in range(16):
        room = int(slack[(groups == column).any(axis=1)].min())
        duals = list(proof.duals)
        duals[column] -= room
        assert prove(problem, Certificate(proof.exponent, tuple(duals))) > 0
        duals[column] -= 1
        with pytest.raises(CertificateError, match="worth more than it says"):
            prove(problem, Certificate(proof.exponent, tuple(duals)))
        tight += room < 2**proof.exponent / 10**4
    assert tight > 8  # most columns are in a group that is worth all but what its duals were rounded by


@pytest.mark.parametrize(
    ("exponent", "duals"),
    [
        (1.0, (1, 2)),
        (True, (1, 2)),
        (1, (1.0, 2)),
        (1, (True, 2)),
        (1, ("1", 2)),
        (10**9, (1, 2)),
        (-(10**9), (1, 2)),
        (None, (1,)),
    ],
)
def test_certificates_are_integers(exponent: Any, duals: Any) -> None:
    with pytest.raises(CertificateError):
        Certificate(exponent, duals)


def test_plain_data_and_back() -> None:
    proof = Certificate(np.int64(3), (np.int64(5), 2**60, -1))
    data = json.loads(json.dumps(proof.to_dict()))
    assert Certificate.from_dict(data) == proof
    assert all(type(dual) is int for dual in proof.duals)
    for wrong in (
        {},
        {"exponent": 3},
        {**data, "more": 1},
        {**data, "duals": "12"},
        {**data, "duals": {"0": 1}},
        [3, [1]],
    ):
        with pytest.raises(CertificateError):
            Certificate.from_dict(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "proof",
    [
        Certificate(40, (2**40,) * 7),
        Certificate(40, (2**40,) * 9),
        Certificate(40, ()),
        Certificate(1199, (2**50,) * 8),
        Certificate(40, (2**70,) * 8),
        Certificate(40, (10**4000,) * 8),
        Certificate(-1100, (2**50,) * 8),
        Certificate(-1100, (1,) * 8),
    ],
    ids=["short", "long", "empty", "fine", "large", "huge", "coarse", "too little"],
)
def test_certificates_that_cannot_be_right_are_refused(proof: Certificate) -> None:
    with pytest.raises(CertificateError):
        prove(Problem.of(matrix("uniform", 3, 8)), proof)


def test_a_claim_is_held_against_the_proof() -> None:
    problem = Problem.of(matrix("uniform", 8, 16))
    answer = permsolve.bound(problem, n_jobs=1)
    assert answer.certificate is not None
    check_claim(problem, answer.certificate, answer.value)
    check_claim(problem, answer.certificate, answer.value * 1.1)
    with pytest.raises(CertificateError, match="proves the bound"):
        check_claim(problem, answer.certificate, float(np.nextafter(answer.value, 0)))
    with pytest.raises(InputError):
        check_claim(problem, {"exponent": 1, "duals": []}, 1.0)  # type: ignore[arg-type]


def test_every_group_of_every_block_is_looked_at_and_none_across() -> None:
    values = np.concatenate([matrix("uniform", 6, 12, 1), matrix("uniform", 6, 12, 2)], axis=1)
    problem = Problem.of(values, blocks=[12, 12])
    answer = permsolve.bound(problem, n_jobs=1)
    proof = answer.certificate
    assert proof is not None
    assert prove(problem, proof) <= answer.value
    shares: list[float] = []
    prove(problem, proof, progress=shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1.0)
    for column in (0, 11, 12, 23):
        duals = list(proof.duals)
        duals[column] -= 2 ** (proof.exponent - 2)
        with pytest.raises(CertificateError, match="columns") as caught:
            prove(problem, Certificate(proof.exponent, tuple(duals)))
        group = json.loads(str(caught.value).split("columns ")[1].split("]")[0] + "]")
        assert {member // 12 for member in group} == {column // 12}
        assert column in group


def test_the_excess_above_the_clip_is_counted_exactly() -> None:
    values = np.ones((1, 8))
    values[0, :2] = 2.0**60, 3.0
    value = prove(Problem.of(values), Certificate(1, (1,) * 8))  # in halves: two of four ones are kept
    assert Fraction(value) >= Fraction(4) + Fraction(2**60 - 1) + 2
    assert value <= 2.0**60 + 512  # two units in the last place


def test_a_row_with_few_entries_is_all_excess() -> None:
    values = np.zeros((2, 8))
    values[0, 3], values[1, 5] = 5.0, 0.25
    assert prove(Problem.of(values), Certificate(4, (0,) * 8)) == pytest.approx(5.25)


# Documents


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("certified")
    values = matrix("uniform", 8, 16)
    np.save(folder / "m.npy", values)
    result = permsolve.solve(values, method="greedy", bound="lp", n_jobs=1)
    assert result.bound_kind == "lp"
    permsolve.save(result, folder / "good.json")
    assert permsolve.load(folder / "good.json").certificate == result.certificate
    return folder, json.loads((folder / "good.json").read_text())


def check(folder: Path, data: Any, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run `permsolve check` on a document; return the exit code."""
    (folder / "doc.json").write_text(data if isinstance(data, str) else json.dumps(data))
    monkeypatch.setattr(sys, "argv", ["permsolve", "check", str(folder / "doc.json"), str(folder / "m.npy")])
    try:
        cli.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_a_true_document_passes(document: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, data = document
    assert check(folder, data, monkeypatch) == 0


def _lower(data: dict[str, Any]) -> None:
    data["certificate"]["duals"][3] -= 2 ** (data["certificate"]["exponent"] - 3)


def _compensate(data: dict[str, Any]) -> None:
    _lower(data)
    data["certificate"]["duals"][4] += 2 ** (data["certificate"]["exponent"] - 3)


def _finer(data: dict[str, Any]) -> None:
    data["certificate"]["exponent"] += 1


def _coarser(data: dict[str, Any]) -> None:
    data["certificate"]["exponent"] -= 1


def _much_coarser(data: dict[str, Any]) -> None:
    data["certificate"]["exponent"] = -1100


def _raise_one(data: dict[str, Any]) -> None:
    data["certificate"]["duals"][0] += 2 ** data["certificate"]["exponent"]


def _claim_less(data: dict[str, Any]) -> None:
    lower = 0.5 * (data["bound"] + data["score"])
    data["bound"], data["gap"] = lower, (lower - data["score"]) / lower


def _drop(data: dict[str, Any]) -> None:
    data["certificate"] = None


def _huge(data: dict[str, Any]) -> None:
    data["certificate"]["duals"][0] = 2**80


@pytest.mark.parametrize(
    "forge", [_lower, _compensate, _finer, _coarser, _much_coarser, _raise_one, _claim_less, _drop, _huge]
)
def test_a_false_document_fails_the_check(
    forge: Any, document: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, data = document
    data = json.loads(json.dumps(data))
    forge(data)
    assert check(folder, data, monkeypatch) == 1
    assert "check failed" in capsys.readouterr().err


@pytest.mark.parametrize(
    "change",
    [
        {"exponent": 1.0},
        {"exponent": "1"},
        {"exponent": True},
        {"exponent": 10**7},
        {"exponent": None},
        {"duals": [1, 2]},
        {"duals": []},
        {"duals": [1.5] * 16},
        {"duals": ["1"] * 16},
        {"duals": None},
        {"more": 1},
    ],
    ids=str,
)
def test_a_malformed_certificate_is_not_read(
    change: dict[str, Any], document: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, data = document
    data = json.loads(json.dumps(data))
    data["certificate"].update(change)
    assert check(folder, data, monkeypatch) == 2
    with pytest.raises(DocumentError):
        permsolve.load(folder / "doc.json")


def test_a_number_too_long_to_be_read_is_no_crash(document: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, data = document
    text = json.dumps(data).replace(str(data["certificate"]["duals"][0]), "9" * 5000, 1)
    assert check(folder, text, monkeypatch) in (1, 2)


def test_an_exact_result_may_carry_the_certificate_of_its_lp() -> None:
    values = matrix("uniform", 24, 20, 3)
    result = permsolve.solve(values, method="exact", n_jobs=1)
    again = permsolve.Result.from_json(result.to_json())
    assert again.certificate == result.certificate
    assert again.check(values) == ()
    if result.bound_kind == "exact" and result.certificate is not None:
        assert prove(Problem.of(values), result.certificate) >= result.bound
