"""Pictures: their kinds, their content, their errors."""

import numpy as np
import pytest

import permsolve
from permsolve.errors import FileError
from permsolve.report import plots, tables

pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def solved():
    problem = permsolve.Problem.of(np.random.default_rng(0).random((20, 24)))
    return problem, permsolve.solve(problem, method="random", seed=1)


def test_the_map_states_what_is_kept_before_and_after(solved):
    problem, result = solved
    figure = plots.before_after(problem, result)
    total = problem.saliency.sum()
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert f"as it is: {100 * result.baseline / total:.2f} % kept" in titles
    assert f"permuted: {100 * result.score / total:.2f} % kept" in titles


def test_the_bars_under_the_map_are_what_each_group_loses(solved):
    problem, result = solved
    figure = plots.before_after(problem, result)
    bars = figure.axes[3].patches[0].get_data().values
    kept = problem.pattern.score(problem.saliency, result.perm)
    total = problem.saliency.sum()
    assert len(bars) == problem.groups
    assert bars.sum() == pytest.approx(100 * (total - kept) / total)


@pytest.mark.parametrize("nm", ["hinm(4, 0.5, 2:4)", "4:2:8", "transposable(2:4)", "1:4"])
def test_maps_of_every_pattern_show_what_is_pruned_in_the_order_used(nm):
    matrix = np.random.default_rng(0).random((12, 32))
    problem = permsolve.Problem.of(matrix, nm)
    result = permsolve.solve(problem, method="random", seed=1, options={"samples": 50})
    figure = plots.before_after(problem, result)
    total = matrix.sum()
    assert nm in figure.get_suptitle()
    cases = ((problem.start, result.baseline), (result.solution, result.score))
    for k, (solution, score) in enumerate(cases):
        drawn = figure.axes[k].images[0].get_array()
        lost = np.where(problem.pattern.mask(matrix, solution), 0.0, matrix)
        np.testing.assert_array_equal(drawn, problem.pattern.permute(lost, solution))
        assert drawn.sum() == pytest.approx(total - score)
        assert f"{100 * score / total:.2f} % kept" in figure.axes[k].get_title(loc="left")
        bars = figure.axes[2 + k].patches[0].get_data().values
        assert len(bars) == 32 // problem.pattern.m
        assert bars.sum() == pytest.approx(100 * (total - score) / total)
    if isinstance(problem.pattern, permsolve.HiNM):
        for axes in figure.axes[:4]:
            assert axes.lines[-1].get_xdata() == [16, 16]
        assert (figure.axes[1].images[0].get_array()[:, 16:] > 0).all()


@pytest.mark.parametrize("matrix", [np.zeros((3, 8)), np.ones((600, 520))], ids=["zeros", "wide"])
def test_maps_of_odd_matrices_can_be_drawn(matrix, tmp_path):
    problem = permsolve.Problem.of(matrix)
    result = permsolve.solve(problem, method="identity")
    plots.save(plots.before_after(problem, result), tmp_path / "map.png")
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")


def test_reducing_a_map_keeps_its_mean():
    matrix = np.random.default_rng(0).random((512, 768))
    reduced = plots._reduced(matrix)
    assert reduced.shape == (256, 256)
    assert reduced.mean() == pytest.approx(matrix.mean())
    assert plots._reduced(np.ones((257, 300))) == pytest.approx(1.0)


def test_anytime_curves_start_at_the_baseline_and_end_at_the_result(solved):
    _, result = solved
    axes = plots.anytime({"random": [result, result]}, "title").axes[0]
    curve = next(line for line in axes.lines if line.get_linewidth() == 0.8)
    assert curve.get_ydata()[-1] == pytest.approx(result.efficacy)
    early = plots._curve(result, np.array([0.0]))
    assert early[0] == pytest.approx(0.0)


def test_unknown_kinds_of_pictures_are_refused(solved, tmp_path):
    with pytest.raises(FileError, match=r"\.png, \.svg, \.pdf"):
        plots.save(plots.before_after(*solved), tmp_path / "map.bmp")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("suffix", "start"), [(".svg", b"<?xml"), (".pdf", b"%PDF")])
def test_other_kinds_of_pictures_can_be_written(solved, tmp_path, suffix, start):
    path = tmp_path / f"map{suffix}"
    plots.save(plots.before_after(*solved), path)
    assert path.read_bytes().startswith(start)


def test_the_table_ranks_methods_by_their_median(solved):
    problem, result = solved
    plain = permsolve.solve(problem, method="identity")
    table = tables.comparison({"identity": [plain], "random": [result]}, "title")
    assert list(table.columns[0].cells) == ["random", "identity"]
    assert list(table.columns[1].cells) == [f"{result.efficacy:.3f}", "0.000"]
