"""Updates: only what is better is written, to the checkout alone, and never half of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import brute_force
from small import checkout, hierarchical, small

import permsolve
from permsolve import instances
from permsolve.errors import DocumentError, FileError, InputError, SolverError, UnknownMethodError
from permsolve.instances import updates
from permsolve.instances.checks import check
from permsolve.instances.entries import INDEX, Best, read_index, write_index
from permsolve.instances.updates import Effort, Found, merge

QUICK = Effort(method="local_search", time_limit=0.05, n_jobs=1, display=False)


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """Make a checkout with the small library."""
    return checkout(tmp_path / "checkout")


def read(index: Path, name: str = "uniform_12x8") -> instances.Entry:
    return next(entry for entry in read_index(index) if entry.name == name)


def better(entry: instances.Entry, factor: float = 1.01) -> Found:
    """Pretend to have found something; merging does not look at the matrix."""
    return Found(best=Best(entry.baseline * factor, np.arange(entry.shape[1]), "x", "9.9"))


def test_a_score_is_replaced_only_by_a_higher_one() -> None:
    entry = small()[0]
    entry, changes = merge(entry, better(entry))
    assert entry.best is not None
    assert (entry.best.method, entry.best.version) == ("x", "9.9")
    assert changes[0].startswith("score none -> ")
    for factor in (1.0, 1.01, 1.01 * (1 + 1e-13)):
        same, changes = merge(entry, better(entry, factor))
        assert same is entry
        assert changes == ()
    more, changes = merge(entry, better(entry, 1.02))
    assert more.best is not None
    assert more.best.score > entry.best.score
    assert len(changes) == 1


def test_a_bound_is_replaced_only_by_a_lower_one() -> None:
    from permsolve.certificates import Certificate

    entry = small()[0]
    proof, other = Certificate(1, (1,) * 8), Certificate(2, (2,) * 8)
    for value in (entry.bound, entry.bound * 1.1):
        same, changes = merge(entry, Found(bound=value, kind="lp", certificate=proof))
        assert (same, changes) == (entry, ())
    lp, changes = merge(entry, Found(bound=entry.bound * 0.99, kind="lp", certificate=proof))
    assert (lp.bound, lp.bound_kind, lp.certificate) == (entry.bound * 0.99, "lp", proof)
    assert len(changes) == 1
    exact, _ = merge(lp, Found(bound=entry.bound * 0.98, kind="exact"))
    assert (exact.bound, exact.bound_kind, exact.certificate) == (entry.bound * 0.98, "exact", proof)
    same, changes = merge(exact, Found(bound=entry.bound * 0.99, kind="lp", certificate=other))
    assert (same, changes) == (exact, ())
    bare = replace(exact, certificate=None)
    again, changes = merge(bare, Found(bound=entry.bound * 0.99, kind="lp", certificate=other))
    assert (again.bound, again.bound_kind, again.certificate) == (bare.bound, "exact", other)
    assert len(changes) == 1


def test_a_score_above_the_bound_is_an_error_and_nothing_is_written(index: Path) -> None:
    before = index.read_bytes()
    entry = read(index)
    with pytest.raises(SolverError, match=r"uniform_12x8: .* above the rows bound .* nothing was written"):
        updates._store(index, entry.name, [better(entry, 2.0)])
    assert index.read_bytes() == before


def test_an_update_writes_better_permutations_with_their_method_and_version(index: Path) -> None:
    outcomes = list(updates.improve(index, read_index(index), QUICK))
    assert [outcome.name for outcome in outcomes] == [entry.name for entry in small()]
    for old, new, outcome in zip(small(), read_index(index), outcomes, strict=True):
        assert outcome.changes
        assert new.best is not None
        assert (new.best.method, new.best.version) == ("local_search", permsolve.__version__)
        assert new.best.score == new.problem().score(new.best.solution) > old.baseline
        assert (new.sha256, new.rows_bound) == (old.sha256, old.rows_bound)


def test_instances_of_every_pattern_are_updated_alike(tmp_path: Path) -> None:
    index = checkout(tmp_path / "checkout", hierarchical())
    effort = replace(QUICK, method="random", time_limit=0.2)
    outcomes = list(updates.improve(index, read_index(index), effort))
    assert all(outcome.changes and outcome.skipped is None for outcome in outcomes)
    for entry in read_index(index):
        problem = entry.problem()
        assert entry.best is not None
        assert entry.best.score == problem.score(entry.best.solution) > entry.baseline
        assert check(entry) == (entry.name, (), ())
    before = index.read_bytes()
    again = list(updates.improve(index, read_index(index), replace(effort, method="identity")))
    assert [outcome.changes for outcome in again] == [()] * 3
    refused = list(updates.improve(index, read_index(index), replace(QUICK, method="local_search")))
    assert all("does not search patterns like" in str(outcome.skipped) for outcome in refused)
    unbounded = list(updates.improve(index, read_index(index), replace(effort, method="identity", bound="lp")))
    assert all("no LP bound for" in str(outcome.skipped) for outcome in unbounded)
    assert index.read_bytes() == before


def test_documents_of_every_pattern_contribute(tmp_path: Path) -> None:
    index = checkout(tmp_path / "checkout", hierarchical())
    for entry in hierarchical():
        result = permsolve.solve(entry.matrix(), str(entry.pattern), method="random", options={"samples": 200})
        permsolve.save(result, tmp_path / "doc.json")
        (outcome,) = updates.contribute(index, tmp_path / "doc.json")
        assert outcome.name == entry.name
        best = read(index, entry.name).best
        assert best is not None
        assert best.score == pytest.approx(result.score, rel=1e-12)


def test_an_update_that_finds_nothing_better_leaves_the_file_alone(index: Path) -> None:
    list(updates.improve(index, read_index(index), QUICK))
    before, stamp = index.read_bytes(), index.stat().st_mtime_ns
    outcomes = list(updates.improve(index, read_index(index), replace(QUICK, method="identity", seeds=2)))
    assert all(outcome.changes == () for outcome in outcomes)
    assert (index.read_bytes(), index.stat().st_mtime_ns) == (before, stamp)


def test_a_proved_instance_is_left_alone(index: Path) -> None:
    list(updates.improve(index, read_index(index), QUICK))
    planted = read(index, "planted_8x16")
    assert planted.proved
    (outcome,) = updates.improve(index, [planted], QUICK)
    assert outcome.skipped == "proved optimal already"


def test_an_lp_bound_comes_with_a_certificate_that_verifies(index: Path) -> None:
    entry = read(index, "uniform_8x12")
    (outcome,) = updates.improve(index, [entry], replace(QUICK, bound="lp"))
    assert any(change.startswith("bound ") for change in outcome.changes)
    entry = read(index, "uniform_8x12")
    assert (entry.bound_kind, entry.certificate is None) == ("lp", False)
    assert entry.bound < entry.rows_bound
    assert check(entry, n_jobs=1) == (entry.name, (), ())


def test_a_finished_exact_search_proves_an_instance_which_can_then_get_a_certificate(index: Path) -> None:
    name = "uniform_8x12"
    (outcome,) = updates.improve(index, [read(index, name)], replace(QUICK, method="exact", time_limit=None))
    proved = read(index, name)
    assert len(outcome.changes) == 2
    assert proved.proved
    optimum = brute_force(proved.matrix(), 2, 4)
    assert proved.best is not None
    assert proved.best.score == pytest.approx(optimum, rel=1e-12)
    assert check(proved, n_jobs=1) == (name, (), ())
    list(updates.improve(index, [proved], replace(QUICK, bound="lp")))
    certified = read(index, name)
    assert certified.certificate is not None
    assert certified.proved
    assert check(certified, n_jobs=1) == (name, (), ())
    (outcome,) = updates.improve(index, [certified], replace(QUICK, bound="lp"))
    assert outcome.skipped == "proved optimal already"


def test_the_stored_best_is_where_a_search_starts(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    list(updates.improve(index, read_index(index), QUICK))
    starts = []
    solve = permsolve.solve
    monkeypatch.setattr(
        permsolve, "solve", lambda *args, **options: starts.append(options["initial"]) or solve(*args, **options)
    )
    entry = read(index)
    list(updates.improve(index, [entry], QUICK))
    assert entry.best is not None
    np.testing.assert_array_equal(starts[0], entry.best.solution)


def test_what_others_wrote_meanwhile_is_kept(index: Path) -> None:
    """The index is read again before it is written: another process may have improved another instance."""
    chosen = read_index(index)
    steps = updates.improve(index, chosen[:2], QUICK)
    next(steps)
    theirs = Best(chosen[2].baseline, np.arange(16), "theirs", "1.0")
    write_index(index, [replace(e, best=theirs) if e.name == chosen[2].name else e for e in read_index(index)])
    next(steps)
    kept = read(index, chosen[2].name).best
    assert kept is not None
    assert kept.method == "theirs"
    assert read(index).best is not None


def test_an_instance_that_is_gone_is_an_error(index: Path) -> None:
    chosen = read_index(index)
    write_index(index, chosen[1:])
    with pytest.raises(FileError, match="uniform_12x8 is gone"):
        list(updates.improve(index, chosen[:1], QUICK))


def test_a_method_that_does_not_support_an_instance_leaves_it_out(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from permsolve.solvers.local_search import LocalSearch

    monkeypatch.setattr(LocalSearch, "supports", lambda self, problem: "too wide" if problem.cols > 8 else None)
    outcomes = list(updates.improve(index, read_index(index), QUICK))
    assert [bool(outcome.changes) for outcome in outcomes] == [True, False, False, False]
    assert outcomes[1].skipped is not None
    assert "too wide" in outcomes[1].skipped


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"method": "magic"}, UnknownMethodError, "magic"),
        ({"bound": "guess"}, InputError, "'rows' or 'lp'"),
        ({"seeds": 0}, InputError, "at least 1"),
        ({"time_limit": -1.0}, InputError, "at least 0"),
    ],
)
def test_bad_options_are_refused_and_nothing_is_written(
    index: Path, change: dict[str, object], error: type[Exception], message: str
) -> None:
    before = index.read_bytes()
    with pytest.raises(error, match=message):
        list(updates.improve(index, read_index(index), replace(QUICK, **change)))  # type: ignore[arg-type]
    assert index.read_bytes() == before


def test_a_folder_that_is_no_checkout_is_refused(tmp_path: Path, index: Path) -> None:
    good = index.parent.parent
    assert updates.locate(good) == index
    for spoil in ('[project]\nname = "other"\n', "not toml [", "[tool]\n"):
        (good / "pyproject.toml").write_text(spoil)
        with pytest.raises(InputError, match="is no checkout of permsolve"):
            updates.locate(good)
    for folder in (tmp_path, tmp_path / "absent", index):
        with pytest.raises(InputError, match="is no checkout of permsolve"):
            updates.locate(folder)


def document(entry: instances.Entry, path: Path, **options: object) -> Path:
    """Solve an instance as a third party would."""
    result = permsolve.solve(
        entry.matrix(), str(entry.pattern), method="local_search", time_limit=0.05, n_jobs=1, **options
    )
    permsolve.save(result, path)
    return path


def test_a_document_contributes_to_the_instance_of_its_matrix(index: Path, tmp_path: Path) -> None:
    path = document(read(index), tmp_path / "doc.json")
    text = path.read_text().replace(f'"version": "{permsolve.__version__}"', '"version": "7.7"')
    path.write_text(text)
    (outcome,) = updates.contribute(index, path)
    assert outcome.name == "uniform_12x8"  # and not uniform_8x12, whose bytes are the same
    assert outcome.changes
    best = read(index).best
    assert best is not None
    assert (best.method, best.version) == ("local_search", "7.7")
    assert best.score == read(index).problem().score(best.solution)
    (again,) = updates.contribute(index, path)
    assert again.changes == ()


def test_claims_of_a_document_are_not_believed(index: Path, tmp_path: Path) -> None:
    path = document(read(index), tmp_path / "doc.json")
    claims = json.loads(path.read_text())
    claims["bound"] = claims["score"] = (claims["score"] + claims["rows_bound"]) / 2
    claims["gap"], claims["bound_kind"], claims["status"] = 0.0, "exact", "optimal"
    room = claims["rows_bound"] - claims["baseline"]
    claims["efficacy"] = 100 * (claims["score"] - claims["baseline"]) / room
    path.write_text(json.dumps(claims))
    updates.contribute(index, path)
    entry = read(index)
    assert entry.best is not None
    assert entry.best.score < claims["score"]
    assert (entry.bound, entry.bound_kind) == (entry.rows_bound, "rows")
    assert not entry.proved


def test_a_document_of_no_instance_is_refused(index: Path, tmp_path: Path) -> None:
    before = index.read_bytes()
    entry = read(index)
    for name, made in (
        ("saliency", document(entry, tmp_path / "a.json", saliency="energy")),
        ("blocks", document(entry, tmp_path / "b.json", blocks=[4, 4])),
        ("pattern", document(replace(entry, pattern=permsolve.NM(1, 4)), tmp_path / "c.json")),
    ):
        with pytest.raises(InputError, match="no instance has its matrix"):
            updates.contribute(index, made)
        assert index.read_bytes() == before, name
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(DocumentError, match=r"bad\.json"):
        updates.contribute(index, tmp_path / "bad.json")


def test_a_write_that_fails_leaves_the_old_index(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = index.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FileError, match="No space left"):
        list(updates.improve(index, read_index(index), QUICK))
    assert index.read_bytes() == before
    assert sorted(path.name for path in index.parent.iterdir()) == [INDEX]


def test_a_killed_update_leaves_a_valid_index_with_what_it_had_found(index: Path) -> None:
    code = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from permsolve.instances import updates, entries\n"
        "index = Path(sys.argv[1])\n"
        "effort = updates.Effort('local_search', 0.05, n_jobs=1)\n"
        "for outcome in updates.improve(index, entries.read_index(index), effort):\n"
        "    print(outcome.name, flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(index)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first = process.stdout.readline().strip()
        process.kill()
    assert first == "uniform_12x8"
    assert read(index).best is not None
    assert len(read_index(index)) == len(small())
