"""The two studies of Pool and Yu: graded permutations, and the sparsity at which a permutation makes a matrix n:m."""

from __future__ import annotations

import itertools
import json
from typing import Any

import numpy as np
import pytest
from helpers import partitions, slow_score, uniform

import permsolve
from permsolve import Problem, Solver, Status, studies
from permsolve.errors import DocumentError, InputError, OptionError
from permsolve.search.path import Scored, align, approach, walk
from permsolve.stop import MaxIterations
from permsolve.studies import intermediate_steps, unstructured_study

FEW = MaxIterations(60)
MATRIX = uniform(20, 48) - 0.5


def quick(**more: Any) -> dict[str, Any]:
    return {"method": "local_search", "stop": FEW, "n_jobs": 1, **more}


# ---- paths ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("nm", "blocks"), [("2:4", None), ("1:2", (12, 24, 12)), ("4:8", (8, 40)), ("3:4", (4,) * 12)])
def test_a_walk_leads_from_the_identity_to_the_target_by_exchanges(nm: str, blocks: tuple[int, ...] | None) -> None:
    problem = Problem.of(MATRIX, nm, blocks=blocks)
    target = permsolve.solve(problem, **quick()).perm
    aligned = align(problem, target)
    assert problem.score(aligned) == pytest.approx(problem.score(target), rel=1e-12)
    states = [(state.order.copy(), state.score) for state in walk(problem, aligned)]
    assert states[0][0].tolist() == list(range(48))
    assert states[-1][0].tolist() == aligned.tolist()
    for (before, _), (after, score) in itertools.pairwise(states):
        assert np.count_nonzero(before != after) == 2
        problem.check_solution(after)
        assert score == pytest.approx(problem.score(after), rel=1e-12)


def test_aligning_undoes_reordered_groups_and_members() -> None:
    problem = Problem.of(MATRIX, "2:4")
    groups = np.arange(48).reshape(12, 4)[np.random.default_rng(0).permutation(12)][:, ::-1]
    assert align(problem, groups.ravel()).tolist() == list(range(48))


def test_aligning_moves_only_what_must_move() -> None:
    problem = Problem.of(MATRIX, "2:4")
    target = np.arange(48)
    target[[3, 20]] = target[[20, 3]]
    shuffled = target.reshape(12, 4)[::-1].ravel()
    assert np.count_nonzero(align(problem, shuffled) != np.arange(48)) == 2


def test_approaching_a_score_stays_in_the_blocks_and_comes_closer() -> None:
    problem = Problem.of(uniform(30, 96), "2:4", blocks=(4, 60, 32))
    start = Scored(problem, np.arange(96))
    target = problem.baseline + 0.05 * (problem.rows_bound - problem.baseline)
    perm = approach(start, target, 1e-4, np.random.default_rng(0))
    problem.check_solution(perm)
    assert abs(problem.score(perm) - target) <= 1e-4
    assert start.order.tolist() == list(range(96))


def test_a_target_out_of_reach_leaves_the_start_as_it_is() -> None:
    problem = Problem.of(np.ones((3, 8)), "2:4")
    assert approach(Scored(problem, np.arange(8)), 99.0, 0.0, np.random.default_rng(0)).tolist() == list(range(8))


# ---- intermediate steps ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nm", ["2:4", "1:4", "4:8"])
def test_steps_are_equal_in_efficacy_and_end_at_the_best(nm: str) -> None:
    study = intermediate_steps(MATRIX, nm, steps=6, tolerance=0.02, **quick())
    problem = Problem.of(MATRIX, nm)
    n, m = problem.pattern.n, problem.pattern.m
    assert len(study.steps) == 7
    assert study.steps[0].perm.tolist() == list(range(48))
    assert study.steps[-1].perm.tolist() == study.result.perm.tolist()
    assert [step.target for step in study.steps] == pytest.approx([study.result.efficacy * k / 6 for k in range(7)])
    for step in study.steps:
        assert step.score == pytest.approx(slow_score(np.abs(MATRIX), step.perm, n, m), rel=1e-12)
        room = problem.rows_bound - problem.baseline
        assert step.efficacy == pytest.approx(100 * (step.score - problem.baseline) / room, abs=1e-9)
        assert abs(step.error) <= 0.02
    assert study.largest_error == max(abs(step.error) for step in study.steps)


def test_steps_keep_columns_in_their_blocks() -> None:
    study = intermediate_steps(MATRIX, blocks=(16, 32), steps=4, **quick())
    assert study.result.blocks == (16, 32)
    for step in study.steps:
        Problem.of(MATRIX, blocks=(16, 32)).check_solution(step.perm)


def test_steps_of_one_seed_are_the_same_again() -> None:
    first, again = (intermediate_steps(MATRIX, steps=4, seed=5, **quick()).to_json() for _ in range(2))
    assert first == again


def test_where_nothing_can_be_gained_every_step_is_the_identity() -> None:
    study = intermediate_steps(np.ones((3, 16)), steps=3)
    assert [step.perm.tolist() for step in study.steps] == [list(range(16))] * 4
    assert [step.efficacy for step in study.steps] == [100.0] * 4
    assert study.largest_error == 0


def test_where_the_best_is_the_identity_all_targets_are_its_own() -> None:
    study = intermediate_steps(MATRIX, steps=3, method="identity")
    assert [step.target for step in study.steps] == [0.0] * 4
    assert study.largest_error == 0


def test_one_step_is_the_identity_and_the_best() -> None:
    study = intermediate_steps(MATRIX, steps=1, **quick())
    assert [step.error for step in study.steps] == [0, 0]


def test_few_columns_offer_few_scores_and_the_error_says_so() -> None:
    study = intermediate_steps(uniform(2, 4), "1:2", steps=8, **quick())
    scores = {round(slow_score(uniform(2, 4), perm, 1, 2), 9) for perm in partitions((0, 1, 2, 3), 2)}
    assert {round(step.score, 9) for step in study.steps} <= scores
    assert study.largest_error > 0.01


def test_the_document_of_steps_says_which_matrix_and_which_permutations() -> None:
    study = intermediate_steps(MATRIX, "2:4", steps=2, blocks=(16, 32), seed=3, **quick())
    document = json.loads(study.to_json())
    assert document["schema"] == "permsolve.steps/1"
    assert document["pattern"] == {"kind": "nm", "n": 2, "m": 4}
    assert document["matrix"]["fingerprint"] == Problem.of(MATRIX).fingerprint
    assert (document["blocks"], document["seed"], document["method"]) == ([16, 32], 3, "local_search")
    assert [step["perm"] for step in document["steps"]] == [step.perm.tolist() for step in study.steps]
    assert [step["score"] for step in document["steps"]] == [step.score for step in study.steps]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"steps": 0}, "steps"), ({"steps": 2.0}, "steps"), ({"tolerance": -1}, "tolerance"), ({"nm": "5:4"}, "1 <= n")],
)
def test_steps_refuse_what_they_cannot_do(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        intermediate_steps(MATRIX, **arguments)


@pytest.mark.parametrize("study", [intermediate_steps, unstructured_study])
def test_a_problem_carries_its_own_pattern(study: Any) -> None:
    problem = Problem.of(MATRIX, "1:4")
    with pytest.raises(InputError, match="already carries"):
        study(problem, "2:4", blocks=(16, 32), method="identity")
    assert study(problem, method="identity") is not None


# ---- unstructured study ---------------------------------------------------------------------------------------------


def prune(weights: np.ndarray, sparsity: float) -> np.ndarray:
    """Set the share of smallest magnitudes to zero, the last of equal ones first: the obvious way."""
    flat = sorted(range(weights.size), key=lambda k: (-abs(weights.flat[k]), k))
    pruned = weights.copy()
    pruned.flat[flat[weights.size - round(sparsity * weights.size) :]] = 0
    return pruned


def fits(weights: np.ndarray, perm: Any, n: int, m: int) -> bool:
    """Return whether every group of every row holds at most n non-zeros."""
    return bool(((weights[:, perm].reshape(len(weights), -1, m) != 0).sum(axis=2) <= n).all())


@pytest.mark.parametrize(("nm", "blocks"), [("2:4", None), ("1:2", None), ("4:8", None), ("2:4", (16, 32))])
def test_the_permutation_makes_the_matrix_exactly_nm_and_not_a_weight_earlier(nm: str, blocks: Any) -> None:
    problem = Problem.of(MATRIX, nm, blocks=blocks)
    n, m = problem.pattern.n, problem.pattern.m
    study = unstructured_study(MATRIX, nm, blocks=blocks, **quick())
    one = 1 / MATRIX.size
    problem.check_solution(study.perm)
    assert fits(prune(MATRIX, study.sparsity), study.perm, n, m)
    assert not fits(prune(MATRIX, study.sparsity - one), study.perm, n, m)
    assert fits(prune(MATRIX, study.identity), range(48), n, m)
    assert not fits(prune(MATRIX, study.identity - one), range(48), n, m)
    assert study.lower_bound <= study.sparsity < study.identity
    assert study.kept.tolist() == (prune(MATRIX, study.sparsity) != 0).tolist()


def test_the_smallest_sparsity_of_a_tiny_matrix_is_found() -> None:
    matrix = uniform(3, 8, seed=4) - 0.5
    perms = list(partitions(tuple(range(8)), 4))
    smallest = next(k / 24 for k in range(25) if any(fits(prune(matrix, k / 24), perm, 2, 4) for perm in perms))
    study = unstructured_study(matrix, tolerance=0.0, **quick())
    assert study.sparsity == smallest
    assert study.lower_bound <= smallest


def test_the_rows_alone_prove_the_lower_bound() -> None:
    """No row may hold more than cols * n / m: the fullest row says how much must be pruned at least."""
    study = unstructured_study(MATRIX, method="identity")
    one = 1 / MATRIX.size
    assert (prune(MATRIX, study.lower_bound) != 0).sum(axis=1).max() == 24
    assert (prune(MATRIX, study.lower_bound - one) != 0).sum(axis=1).max() == 25


def test_every_block_has_room_for_its_own() -> None:
    matrix = np.hstack([uniform(4, 8) + 1, uniform(4, 8)])
    whole = unstructured_study(matrix, method="identity").lower_bound
    assert unstructured_study(matrix, blocks=(8, 8), method="identity").lower_bound > whole


def test_signs_do_not_matter() -> None:
    one, other = (unstructured_study(weights, **quick()) for weights in (MATRIX, -MATRIX))
    assert (one.sparsity, one.perm.tolist()) == (other.sparsity, other.perm.tolist())
    assert one.sparsity == unstructured_study(np.abs(MATRIX), **quick()).sparsity


def test_a_matrix_that_is_nm_already_needs_no_pruning() -> None:
    weights = np.tile([1.0, 2.0, 0.0, 0.0], (5, 6))
    study = unstructured_study(weights)
    assert (study.sparsity, study.identity, study.lower_bound, study.trials) == (0.5, 0.5, 0.5, ())
    assert study.perm.tolist() == list(range(24))


def test_a_hidden_nm_matrix_is_uncovered() -> None:
    """A matrix that some permutation makes 2:4 as it is: nothing needs to be pruned."""
    rng = np.random.default_rng(0)
    hidden = np.zeros((6, 32))
    hidden.reshape(6, 8, 4)[:, :, :2] = rng.random((6, 8, 2)) + 0.1
    weights = hidden[:, rng.permutation(32)]
    study = unstructured_study(weights, tolerance=0.0, method="local_search", stop=MaxIterations(3000), n_jobs=1)
    assert study.sparsity == study.lower_bound == 0.5
    assert fits(weights, study.perm, 2, 4)
    assert study.identity > 0.5


def test_an_empty_matrix_is_nm() -> None:
    study = unstructured_study(np.zeros((3, 8)))
    assert (study.sparsity, study.lower_bound, study.trials) == (1.0, 1.0, ())


def test_trials_bisect_and_each_tells_what_it_found() -> None:
    study = unstructured_study(MATRIX, tolerance=0.002, **quick())
    best = study.identity
    for trial in study.trials:
        assert (trial.violations == 0) == (trial.reached <= trial.sparsity)
        assert trial.sparsity < best
        assert not trial.proved
        best = min(best, trial.reached)
    assert study.sparsity == best
    last_no = max([study.lower_bound, *(trial.sparsity for trial in study.trials if trial.violations)])
    assert study.sparsity - last_no <= 0.002 + 1 / MATRIX.size


class Exhaustive(Solver):
    """Knows the optimum of a tiny problem and proves it."""

    def __call__(self, problem: Problem, run: Any) -> Status:
        scores = [(problem.score(perm), perm) for perm in partitions(tuple(range(problem.cols)), problem.pattern.m)]
        best, perm = max(scores)
        run.offer(perm)
        run.offer_bound(best)
        return Status.OPTIMAL


def test_a_method_that_proves_raises_the_lower_bound_to_the_answer() -> None:
    matrix = uniform(24, 8, seed=3) - 0.5
    study = unstructured_study(matrix, method=Exhaustive(), tolerance=0.0)
    assert study.lower_bound == study.sparsity
    assert any(trial.proved for trial in study.trials)
    assert study.lower_bound > unstructured_study(matrix, method="identity").lower_bound
    perms = list(partitions(tuple(range(8)), 4))
    assert not any(fits(prune(matrix, study.sparsity - 1 / 192), perm, 2, 4) for perm in perms)


def test_convolution_weights_are_pruned_in_their_own_shape() -> None:
    weights = uniform(6, 16 * 3).reshape(6, 16, 3) - 0.5
    study = unstructured_study(weights, **quick())
    assert study.kept.shape == weights.shape
    pruned = (weights * study.kept)[:, study.perm]
    assert fits(np.moveaxis(pruned, 1, 2).reshape(18, 16), range(16), 2, 4)
    assert np.abs(weights[study.kept]).min() >= np.abs(weights[~study.kept]).max()


def test_the_document_of_a_study_holds_its_figures() -> None:
    study = unstructured_study(MATRIX, "1:2", saliency="energy", seed=2, **quick())
    document = json.loads(study.to_json())
    assert document["schema"] == "permsolve.unstructured/1"
    assert document["saliency"] == "energy"
    assert (document["sparsity"], document["identity"]) == (study.sparsity, study.identity)
    assert document["lower_bound"] == study.lower_bound
    assert document["perm"] == study.perm.tolist()
    assert (document["seed"], document["method"], document["interrupted"]) == (2, "local_search", False)
    assert [trial["sparsity"] for trial in document["trials"]] == [trial.sparsity for trial in study.trials]


def test_an_interrupt_ends_the_study_with_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(Solver):
        def __call__(self, problem: Problem, run: Any) -> Status:
            raise KeyboardInterrupt

        def warm_up(self, problem: Problem) -> None:
            pass

    study = unstructured_study(MATRIX, method=Interrupted())
    assert study.interrupted
    assert len(study.trials) == 1
    assert study.sparsity == study.identity


def test_an_option_that_is_no_plain_value_cannot_be_written() -> None:
    with pytest.raises(DocumentError, match="no plain value"):
        studies._document("x/1", {"options": {"a": object()}}, "steps", [])


@pytest.mark.parametrize("tolerance", [-0.1, 1.1, "0.1", float("nan")])
def test_tolerances_that_make_no_sense(tolerance: Any) -> None:
    with pytest.raises(OptionError, match="tolerance"):
        unstructured_study(MATRIX, tolerance=tolerance)
