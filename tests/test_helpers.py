"""The tests' own tools: what they are compared with must be right itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import brute_force, clear_stale_caches, is_exactly_nm, partitions, slow_score


def test_slow_score_of_a_matrix_scored_by_hand() -> None:
    matrix = [[1, 2, 3, 4], [5, 0, 0, 6]]
    assert slow_score(matrix, [0, 1, 2, 3], 1, 2) == 2 + 4 + 5 + 6
    assert slow_score(matrix, [0, 3, 1, 2], 1, 2) == 4 + 3 + 6 + 0
    assert slow_score(matrix, [0, 1, 2, 3], 3, 4) == 9 + 11


@pytest.mark.parametrize(("cols", "m", "count"), [(6, 2, 15), (8, 4, 35), (12, 4, 5775), (6, 3, 10), (4, 4, 1)])
def test_partitions_come_once_each(cols: int, m: int, count: int) -> None:
    seen = set()
    for perm in partitions(tuple(range(cols)), m):
        assert sorted(perm) == list(range(cols))
        seen.add(frozenset(frozenset(perm[k : k + m]) for k in range(0, cols, m)))
    assert len(seen) == count == len(list(partitions(tuple(range(cols)), m)))


def test_brute_force_finds_the_best_pairing() -> None:
    assert brute_force([[9, 8, 1, 2]], 1, 2) == 17


def test_exactly_nm_means_no_more_and_no_less() -> None:
    assert is_exactly_nm([[1, 0, 0, 1]], 1, 2)
    assert not is_exactly_nm([[1, 1, 0, 0]], 1, 2)
    assert not is_exactly_nm([[1, 0, 0, 0]], 1, 2)


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """Make a folder of one kernel with a compiled file, as a first session leaves it."""
    (tmp_path / "gain.py").write_text("a = 1\n")
    clear_stale_caches(tmp_path)
    for name in ("gain.f-1.py311.nbi", "gain.f-1.py311.1.nbc", "gain.cpython-311.pyc"):
        (tmp_path / "__pycache__" / name).write_bytes(b"x")
    return tmp_path


def compiled(folder: Path) -> list[str]:
    return sorted(path.suffix for path in (folder / "__pycache__").glob("gain.*"))


def test_caches_of_unchanged_sources_stay(sources: Path) -> None:
    assert not clear_stale_caches(sources)
    assert compiled(sources) == [".nbc", ".nbi", ".pyc"]


def test_caches_of_changed_sources_go(sources: Path) -> None:
    (sources / "gain.py").write_text("a = 2\n")
    assert clear_stale_caches(sources)
    assert compiled(sources) == [".pyc"]
    assert not clear_stale_caches(sources)


def test_a_new_source_file_makes_caches_stale(sources: Path) -> None:
    (sources / "more.py").write_text("")
    assert clear_stale_caches(sources)


def test_clearing_where_nothing_can_be_written_does_not_fail(tmp_path: Path) -> None:
    assert not clear_stale_caches(tmp_path / "missing")
    (tmp_path / "__pycache__").write_text("a file in the way")
    assert not clear_stale_caches(tmp_path)
