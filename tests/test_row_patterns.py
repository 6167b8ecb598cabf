"""Patterns that permute rows, too: what may be written, what a solution is, and what follows from it."""

from __future__ import annotations

import dataclasses
import json
import pickle
import re
from typing import Any

import numpy as np
import pytest
from helpers import is_exactly_nm, uniform
from hypothesis import given, settings
from hypothesis import strategies as st

import permsolve
from permsolve import NM, VNM, HiNM, Problem, Result, Transposable, patterns
from permsolve import _contract_patterns as definitions
from permsolve.errors import DocumentError, InputError, UnsupportedProblemError
from permsolve.patterns import HiNMSolution, Pattern, TransposableSolution, VNMSolution
from permsolve.stop import MaxIterations

#: Patterns of all kinds, among them some that nobody uses.
KINDS: tuple[Pattern, ...] = (
    HiNM(4, 0.5, "2:4"),
    HiNM(3, 0.3, (1, 2)),
    HiNM(12, 0.0, "3:4"),
    HiNM(1, 0.75, "2:4"),
    VNM(4, 2, 8),
    VNM(3, 1, 6),
    VNM(12, 3, 4),
    VNM(1, 2, 12),
    Transposable(2, 4),
    Transposable(1, 3),
    Transposable(5, 6),
)
ROWS, COLS = 12, 24


def problem_of(pattern: Pattern, **more: Any) -> Problem:
    return Problem.of(uniform(ROWS, COLS), pattern, **more)


def drawn(problem: Problem, seed: int = 0) -> Any:
    return problem.pattern.draw(problem, np.random.default_rng(seed))


@pytest.mark.parametrize(
    ("spec", "pattern"),
    [
        ("hinm", HiNM()),
        ("HiNM(64)", HiNM(64)),
        ("hinm(32, 0.75, 1:4)", HiNM(32, 0.75, NM(1, 4))),
        ("hinm( nm = 4:8 , vector=16)", HiNM(16, nm="4:8")),
        ("hinm(32, .9, 2:4)", HiNM(32, 0.9)),
        ("hinm(32, 0, 2:4)", HiNM(32, 0)),
        ("64:2:8", VNM(64, 2, 8)),
        (" 128 : 2 : 20 ", VNM(128, 2, 20)),
        ("vnm", VNM(64, 2, 8)),
        ("VNM(16, m=5)", VNM(16, 2, 5)),
        ("transposable", Transposable(2, 4)),
        ("transposable(8:16)", Transposable(8, 16)),
        ("Transposable(1, 2)", Transposable(1, 2)),
        ("2:4", NM(2, 4)),
        ((1, 2), NM(1, 2)),
        (HiNM(8), HiNM(8)),
    ],
)
def test_what_may_be_written(spec: object, pattern: Pattern) -> None:
    assert patterns.parse(spec) == pattern
    assert patterns.parse(str(pattern)) == pattern
    assert len({pattern, patterns.parse(spec)}) == 1


@settings(max_examples=200)
@given(st.integers(1, 999), st.floats(0, 1, exclude_max=True), st.sampled_from(["1:2", "2:4", "8:16"]))
def test_every_digit_of_a_share_is_written_and_read(vector: int, share: float, nm: str) -> None:
    """Two thirds in twelve digits kept 64 columns of 204 where two thirds keep 68: the bench solved another problem."""
    pattern = HiNM(vector, share, nm)
    assert patterns.parse(str(pattern)) == pattern
    assert patterns.parse(str(HiNM(vector, 2 / 3))).kept(204) == 68  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        ("hinm(32, 0.5, 2:4, 7)", "vector, vector_sparsity, nm"),
        ("hinm(v=32)", "vector, vector_sparsity, nm"),
        ("hinm(32, vector=32)", "vector, vector_sparsity, nm"),
        ("hinm(32, half)", "'half'"),
        ("hinm(32, 1.0)", "from 0 to below 1"),
        ("hinm(32, 0.5, 4:2)", "1 <= n < m"),
        ("hinm(0)", "vector = 0"),
        ("hinm(32", "'hinm(32' is no pattern; write '2:4', 'hinm(32, 0.5, 2:4)'"),
        ("himn(32)", "himn"),
        ("64:2:3", "m >= 4"),
        ("64:4:8", "1 <= n < 4"),
        ("0:2:8", "vector = 0"),
        ("vnm(4.5)", "4.5"),
        ("transposable(4:4)", "1 <= n < m"),
        ("1:2:3:4", "'1:2:3:4'"),
        (None, "None"),
    ],
)
def test_what_is_no_pattern_is_named(spec: object, named: str) -> None:
    with pytest.raises(InputError, match=re.escape(named)):
        patterns.parse(spec)


@pytest.mark.parametrize("share", [-0.1, 1, 1.5, float("nan"), "0.5", None, True])
def test_vector_sparsity_out_of_range(share: Any) -> None:
    with pytest.raises(InputError, match="from 0 to below 1"):
        HiNM(32, share)


@pytest.mark.parametrize("vector", [0, -1, 2.0, True, None, "8"])
@pytest.mark.parametrize("kind", [HiNM, VNM])
def test_a_tile_has_a_whole_number_of_rows(kind: Any, vector: Any) -> None:
    with pytest.raises(InputError, match=re.escape(f"vector = {vector!r}")):
        kind(vector)


@pytest.mark.parametrize(
    ("pattern", "shape", "named"),
    [
        (HiNM(32), (48, 64), "48 rows.*64"),
        (HiNM(32), (64, 66), "66 columns"),
        (HiNM(32, 0.9), (64, 32), r"less than one group of m = 4 \(0.1 of 32 columns\)"),
        (VNM(64), (96, 64), "96 rows.*128"),
        (VNM(64), (64, 68), "68 columns.*72"),
        (Transposable(2, 4), (6, 8), "6 rows.*8"),
        (Transposable(2, 4), (8, 6), "6 columns.*8"),
    ],
)
def test_sizes_that_do_not_divide_are_told_what_to_do(pattern: Pattern, shape: tuple[int, int], named: str) -> None:
    with pytest.raises(InputError, match=named):
        Problem.of(np.ones(shape), pattern)


@pytest.mark.parametrize(
    ("size", "share", "nm", "kept"),
    [
        (256, 0.5, "2:4", 128),
        (256, 0.75, "2:4", 64),
        (20, 0.9, "1:2", 2),  # although 1 - 0.9 is a little less than a tenth
        (100, 0.37, "2:4", 60),
        (12, 0.5, "2:4", 4),
        (8, 0.0, "2:4", 8),
    ],
)
def test_how_many_columns_a_tile_keeps(size: int, share: float, nm: str, kept: int) -> None:
    assert HiNM(4, share, nm).kept(size) == kept


@pytest.mark.parametrize("pattern", KINDS, ids=str)
def test_score_and_mask_follow_the_definition(pattern: Pattern) -> None:
    problem = problem_of(pattern)
    for solution in (problem.start, *(drawn(problem, seed) for seed in range(3))):
        expected = definitions.slow_score(problem.saliency, solution, pattern)
        assert problem.score(solution) == pytest.approx(expected, rel=1e-13)
        assert problem.piece_values(solution).sum() == pytest.approx(expected, rel=1e-13)
        mask = pattern.mask(problem.saliency, solution)
        assert problem.saliency[mask].sum() == pytest.approx(expected, rel=1e-13)
        assert mask.sum(axis=1).min() == mask.sum(axis=1).max()
        assert expected <= problem.rows_bound * (1 + 1e-12)


@pytest.mark.parametrize("pattern", [kind for kind in KINDS if isinstance(kind, HiNM)], ids=str)
def test_a_hinm_mask_is_dense_in_the_kept_columns_alone(pattern: HiNM) -> None:
    problem = problem_of(pattern)
    solution = drawn(problem)
    kept = solution.columns.shape[1]
    assert kept == pattern.kept(COLS)
    permuted = pattern.permute(pattern.mask(problem.saliency, solution), solution)
    assert is_exactly_nm(permuted[:, :kept], pattern.n, pattern.m)
    assert not permuted[:, kept:].any()
    assert permuted.mean() == kept / COLS * pattern.n / pattern.m


@pytest.mark.parametrize("pattern", [kind for kind in KINDS if isinstance(kind, VNM)], ids=str)
def test_a_vnm_mask_keeps_four_columns_of_every_group_and_tile(pattern: VNM) -> None:
    problem = problem_of(pattern)
    solution = drawn(problem)
    permuted = pattern.permute(pattern.mask(problem.saliency, solution), solution)
    blocks = permuted.reshape(ROWS // pattern.vector, pattern.vector, COLS // pattern.m, pattern.m)
    assert (blocks.sum(axis=3) == pattern.n).all()
    assert (blocks.any(axis=1).sum(axis=2) <= 4).all()
    for t, group in np.ndindex(solution.kept.shape[:2]):
        dropped = np.setdiff1d(np.arange(pattern.m), solution.kept[t, group])
        assert not blocks[t, :, group, dropped].any()


@pytest.mark.parametrize("pattern", [kind for kind in KINDS if isinstance(kind, Transposable)], ids=str)
def test_a_transposable_mask_is_nm_both_ways(pattern: Transposable) -> None:
    problem = problem_of(pattern)
    solution = drawn(problem)
    permuted = pattern.permute(pattern.mask(problem.saliency, solution), solution)
    assert is_exactly_nm(permuted, pattern.n, pattern.m)
    assert is_exactly_nm(permuted.T, pattern.n, pattern.m)


@pytest.mark.parametrize("m", [4])
def test_vnm_with_groups_of_four_is_plain_nm(m: int) -> None:
    """All four columns of a group are kept, so rows and choices make no difference."""
    problem, plain = problem_of(VNM(4, 2, m)), Problem.of(uniform(ROWS, COLS), (2, m))
    for seed in range(5):
        solution = drawn(problem, seed)
        assert problem.score(solution) == pytest.approx(plain.score(solution.columns), rel=1e-13)
        mask = problem.pattern.mask(problem.saliency, solution)
        assert (mask == plain.pattern.mask(plain.saliency, solution.columns)).all()
    assert problem.rows_bound == pytest.approx(plain.rows_bound, rel=1e-13)


def test_hinm_that_drops_nothing_is_plain_nm_per_tile() -> None:
    problem = problem_of(HiNM(ROWS, 0.0, "2:4"))
    plain = Problem.of(uniform(ROWS, COLS), "2:4")
    solution = drawn(problem)
    assert problem.score(solution) == pytest.approx(plain.score(solution.columns[0]), rel=1e-13)


@pytest.mark.parametrize("pattern", KINDS, ids=str)
@pytest.mark.parametrize("blocked", [False, True])
def test_pieces_that_did_not_change_keep_their_values(pattern: Pattern, blocked: bool) -> None:
    problem = problem_of(pattern, blocks=(pattern.m, COLS - pattern.m) if blocked else None)
    old, new = drawn(problem, 1), drawn(problem, 2)
    assert pattern.changed(old, old).size == 0
    values = problem.piece_values(old)
    which = pattern.changed(new, old)
    values[which] = problem.piece_values(new, which)
    assert values.tolist() == problem.piece_values(new).tolist()


@pytest.mark.parametrize("pattern", KINDS, ids=str)
def test_the_order_inside_a_tile_or_group_is_no_change(pattern: Pattern) -> None:
    problem = problem_of(pattern)
    old = drawn(problem)
    size = getattr(pattern, "vector", pattern.m)
    rows = old.rows.reshape(-1, size)[:, ::-1].ravel()
    new = pattern.check_solution(dataclasses.replace(old, rows=rows), (ROWS, COLS))
    assert pattern.changed(new, old).size == 0
    assert problem.score(new) == pytest.approx(problem.score(old), rel=1e-13)


@pytest.mark.parametrize("pattern", KINDS, ids=str)
def test_apply_then_undo_is_the_identity(pattern: Pattern) -> None:
    matrix = uniform(ROWS, COLS)
    result = permsolve.solve(matrix, pattern, method="random", stop=MaxIterations(3))
    moved = result.apply(matrix)
    assert sorted(moved.ravel().tolist()) == sorted(matrix.ravel().tolist())
    assert (result.undo(moved) == matrix).all()
    assert (
        result.apply(matrix * result.mask(matrix)) == pattern.permute(matrix * result.mask(matrix), result.solution)
    ).all()


@pytest.mark.parametrize("pattern", KINDS, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_apply_and_undo_of_a_tensor(pattern: Pattern, dtype: str) -> None:
    torch = pytest.importorskip("torch", reason="needs torch")
    matrix = uniform(ROWS, COLS)
    result = permsolve.solve(matrix, pattern, method="random", stop=MaxIterations(3))
    tensor = torch.arange(ROWS * COLS).reshape(ROWS, COLS).remainder(100).to(getattr(torch, dtype))
    moved = result.apply(tensor)
    assert moved.dtype == tensor.dtype
    assert moved.tolist() == result.apply(tensor.double().numpy()).tolist()
    assert torch.equal(result.undo(moved), tensor)


@pytest.mark.parametrize("pattern", KINDS, ids=str)
def test_documents_and_pickles_hold_the_solution(pattern: Pattern) -> None:
    matrix = uniform(ROWS, COLS)
    result = permsolve.solve(matrix, pattern, method="random", stop=MaxIterations(3))
    for again in (Result.from_json(result.to_json()), pickle.loads(pickle.dumps(result))):
        assert again.pattern == pattern
        assert again.solution == result.solution
        assert again.to_json() == result.to_json()
        assert again.check(matrix) == ()
        with pytest.raises(ValueError, match="read-only"):
            again.solution.rows[0] = 1


def test_a_document_with_the_solution_of_another_pattern_is_refused() -> None:
    results = [
        permsolve.solve(uniform(ROWS, COLS), nm, method="identity") for nm in ("2:4", "hinm(4, 0.5, 2:4)", "4:2:8")
    ]
    for first in results:
        for second in results:
            if first is second:
                continue
            document = json.loads(first.to_json()) | {"solution": json.loads(second.to_json())["solution"]}
            with pytest.raises(DocumentError, match="solution"):
                Result.from_json(json.dumps(document))


@pytest.mark.parametrize(
    ("part", "value", "named"),
    [
        ("rows", [0] * ROWS, "permutation of rows"),
        ("rows", list(range(ROWS - 1)), f"({ROWS},)"),
        ("rows", [0.5] * ROWS, "solution.rows"),
        ("columns", [[0] * 12] * 3, "differ"),
        ("columns", [[*range(11), COLS]] * 3, f"0 .. {COLS - 1}"),
        ("columns", [[*range(11), -1]] * 3, f"0 .. {COLS - 1}"),
        ("columns", [list(range(12))] * 2, "(3, 12)"),
        ("columns", [list(range(12)), list(range(12)), list(range(11))], "columns"),
        ("columns", list(range(12)), "solution.columns"),
    ],
)
def test_documents_of_hinm_that_are_not_valid_say_why(part: str, value: object, named: str) -> None:
    document = json.loads(permsolve.solve(uniform(ROWS, COLS), HiNM(4), method="identity").to_json())
    document["solution"][part] = value
    with pytest.raises(DocumentError, match=re.escape(named)):
        Result.from_json(json.dumps(document))


@pytest.mark.parametrize(
    ("pattern", "parameter", "value", "named"),
    [
        (HiNM(4), "vector", 5, "do not divide"),
        (HiNM(4), "vector_sparsity", 1.0, "from 0 to below 1"),
        (HiNM(4), "vector_sparsity", 0.75, "columns"),
        (HiNM(4), "n", 4, "1 <= n < m"),
        (VNM(4), "m", 3, "m >= 4"),
        (VNM(4), "vector", 6, "kept"),
        (Transposable(2, 4), "m", 5, "do not divide"),
        (Transposable(2, 4), "kind", "vnm", "pattern.vector"),
    ],
)
def test_documents_whose_pattern_does_not_fit_say_why(
    pattern: Pattern, parameter: str, value: object, named: str
) -> None:
    document = json.loads(permsolve.solve(uniform(ROWS, COLS), pattern, method="identity").to_json())
    document["pattern"][parameter] = value
    with pytest.raises(DocumentError, match=re.escape(named)):
        Result.from_json(json.dumps(document))


def test_a_claim_of_optimality_without_proof_is_a_fault() -> None:
    matrix = uniform(ROWS, COLS)
    result = permsolve.solve(matrix, HiNM(4), method="random", stop=MaxIterations(3))
    claimed = dataclasses.replace(result, bound=result.score, bound_kind="exact", status=permsolve.Status.OPTIMAL)
    assert any("nothing proves" in fault for fault in claimed.check(matrix))


def test_solutions_of_another_pattern_are_refused() -> None:
    perm = np.arange(COLS)
    made: dict[Pattern, Any] = {NM(2, 4): perm} | {
        pattern: problem_of(pattern).start for pattern in (HiNM(4), VNM(4), Transposable(2, 4))
    }
    for pattern in made:
        for other, solution in made.items():
            if other != pattern:
                with pytest.raises(InputError, match=r"solution|permutation"):
                    problem_of(pattern).score(solution)
                with pytest.raises(InputError, match=r"solution|permutation"):
                    permsolve.solve(uniform(ROWS, COLS), pattern, method="identity", initial=solution)


def test_solutions_are_values_that_nobody_can_change() -> None:
    rows, columns = np.arange(4), np.arange(8)
    solution = TransposableSolution(rows, columns)
    rows[:] = 0
    assert solution.rows.tolist() == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="read-only"):
        solution.columns[0] = 1
    assert solution == TransposableSolution([0, 1, 2, 3], list(range(8)))
    assert solution != TransposableSolution([0, 1, 3, 2], columns)
    assert solution != HiNMSolution([0, 1, 2, 3], columns[None])
    with pytest.raises(InputError, match="float64"):
        VNMSolution(rows, columns, np.zeros((1, 2, 4)))
    with pytest.raises(InputError, match="columns"):
        HiNMSolution(rows, [[0, 1], [2]])


def test_kept_positions_of_vnm_are_validated() -> None:
    problem = problem_of(VNM(4))
    for four in ([0, 1, 2, 2], [1, 0, 2, 3], [0, 1, 2, 8], [-1, 1, 2, 3]):
        kept = problem.start.kept.copy()
        kept[1, 2] = four
        with pytest.raises(InputError, match="ascending"):
            problem.check_solution(dataclasses.replace(problem.start, kept=kept))


def test_a_tile_keeps_of_each_block_its_own_share() -> None:
    problem = problem_of(HiNM(4), blocks=(8, 16))
    assert problem.start.columns.shape == (3, 4 + 8)
    assert (problem.start.columns[:, :4] < 8).all()
    assert (problem.start.columns[:, 4:] >= 8).all()
    assert len(problem.parts()) == 1  # the rows of both blocks move together
    with pytest.raises(InputError, match=r"in blocks of \(8, 8, 8\)"):
        problem_of(HiNM(4, 0.8), blocks=(8, 8, 8))
    assert problem_of(HiNM(4, 0.8), blocks=(4, 20)).start.columns.shape == (3, 4)
    crossing = problem.start.columns[:, ::-1]
    with pytest.raises(InputError, match="block"):
        problem.check_solution(HiNMSolution(problem.start.rows, crossing))
    side_by_side = [Problem.of(part, HiNM(4)).baseline for part in np.hsplit(uniform(ROWS, COLS), [8])]
    assert problem.baseline == pytest.approx(sum(side_by_side), rel=1e-13)


@pytest.mark.parametrize("pattern", [VNM(4), Transposable(2, 4)], ids=str)
def test_columns_stay_in_their_blocks(pattern: Pattern) -> None:
    problem = problem_of(pattern, blocks=(8, 16))
    problem.check_solution(drawn(problem))
    with pytest.raises(InputError, match="out of its block"):
        problem.check_solution(drawn(problem_of(pattern)))


@pytest.mark.parametrize("pattern", KINDS[::4], ids=str)
def test_what_only_plain_nm_has(pattern: Pattern) -> None:
    matrix = uniform(ROWS, COLS)
    with pytest.raises(InputError, match="side by side"):
        Problem.stack([matrix, matrix], pattern)
    with pytest.raises(InputError, match="reshape"):
        Problem.of(np.ones((ROWS, COLS, 3, 3)), pattern)
    with pytest.raises(UnsupportedProblemError, match="LP bound"):
        permsolve.bound(matrix, pattern)
    with pytest.raises(UnsupportedProblemError, match=r"annealing.*does not search patterns"):
        permsolve.solve(matrix, pattern, method="annealing")
    with pytest.raises(InputError, match="in memory"):
        permsolve.solve(np.ones((1200, 24000), dtype=np.float32), pattern, memory_limit="150 MB", method="random")
    with pytest.raises(InputError, match="plain n:m"):
        NM.parse(pattern)
    result = permsolve.solve(matrix, pattern, method="identity")
    with pytest.raises(InputError, match=r"result\.solution\.rows"):
        _ = result.perm
    with pytest.raises(InputError, match="12 rows"):
        result.apply(np.ones((6, COLS)))
    with pytest.raises(InputError, match="24 input channels"):
        result.undo(np.ones((ROWS, 12)))


def test_no_method_of_other_patterns_takes_plain_nm() -> None:
    with pytest.raises(UnsupportedProblemError, match=r"gyro.*hinm"):
        permsolve.solve(uniform(ROWS, COLS), "2:4", method="gyro")


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_solution_drawn_is_one_and_scores_by_definition(data: st.DataObject) -> None:
    vector, tiles = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 3))
    inner = data.draw(st.sampled_from(["1:2", "2:3", "2:4", "3:5"]))
    share = data.draw(st.floats(0, 0.8))
    m = data.draw(st.integers(4, 7))
    pattern = data.draw(st.sampled_from([HiNM(vector, share, inner), VNM(vector, 1 + m % 3, m)]))
    matrix = np.round(uniform(vector * tiles, pattern.m * data.draw(st.integers(1, 5))) * 4)
    try:
        problem = Problem.of(matrix, pattern)
    except InputError as error:
        assert "smaller vector_sparsity" in str(error)
        return
    solution = problem.check_solution(drawn(problem, data.draw(st.integers(0, 99))))
    assert definitions.faults(solution, pattern, matrix.shape) == []
    assert problem.score(solution) == pytest.approx(definitions.slow_score(matrix, solution, pattern), rel=1e-13)
    assert problem.piece_values(solution).sum() == pytest.approx(problem.score(solution), rel=1e-13)
    assert (pattern.unpermute(pattern.permute(matrix, solution), solution) == matrix).all()
