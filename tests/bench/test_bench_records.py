"""Settings and what tells two benches apart."""

import benches
import numpy as np
import pytest

from permsolve.bench import plan, records
from permsolve.errors import InputError, MissingDependencyError, UnknownMethodError


def test_size_classes():
    sizes = [(4, "1-16"), (16, "1-16"), (17, "17-32"), (64, "33-64"), (256, "129-256"), (257, "over 256")]
    assert [records.size_class(cols) for cols, _ in sizes] == [size for _, size in sizes]
    assert records.size_classes() == ("1-16", "17-32", "33-64", "65-128", "129-256", "over 256")


def test_a_bench_has_every_run_once_and_the_first_seed_first(tmp_path):
    settings = benches.settings(benches.matrices(tmp_path), limits=(0.2, 0.1), seeds=2)
    tasks = list(settings.tasks())
    assert len(set(tasks)) == len(tasks) == settings.count() == 2 * 2 * 2 * 2
    assert [task.seed for task in tasks] == [0] * 8 + [1] * 8
    assert settings.limits == (0.1, 0.2)
    assert settings.seconds() == pytest.approx(8 * 0.3)


def test_the_same_request_is_the_same_bench(tmp_path):
    sources = benches.matrices(tmp_path)
    assert benches.settings(sources).differences(benches.settings(sources)) == []


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"methods": ("identity", "greedy")}, "methods: ria there, greedy now"),
        ({"methods": ("ria", "identity")}, "methods: another order"),
        ({"methods": ("identity",)}, "methods: ria there, nothing more now"),
        ({"limits": (0.05, 3.0)}, "time limits: nothing more there, 3.0 now"),
        ({"seeds": 2}, "seeds: nothing more there, 1 now"),
    ],
)
def test_differences_are_named(tmp_path, change, named):
    sources = benches.matrices(tmp_path)
    found = benches.settings(sources).differences(benches.settings(sources, **change))
    assert len(found) == 1
    assert found[0].startswith(named)


def test_a_changed_matrix_of_the_same_name_is_a_difference(tmp_path):
    old = benches.settings(benches.matrices(tmp_path))
    np.save(tmp_path / "two.npy", np.ones((8, 16)))
    new = benches.settings(plan.file_sources([tmp_path / "one.npy", tmp_path / "two.npy"], "2:4", "magnitude"))
    assert old.differences(new) == ["the matrix or problem of: two there, two now"]


def test_another_version_or_changed_code_is_a_difference(tmp_path):
    old = benches.settings(benches.matrices(tmp_path))
    new = old.model_copy(update={"versions": {**old.versions, "numpy": "0.1"}, "code": "f" * 64})
    assert [text.partition(":")[0] for text in old.differences(new)] == ["versions", "source code"]
    assert "numpy 0.1 now" in old.differences(new)[0]


def test_a_matrix_that_changes_under_a_bench_is_noticed(tmp_path):
    source = benches.matrices(tmp_path)[0]
    np.save(tmp_path / "one.npy", np.ones((8, 16)))
    with pytest.raises(InputError, match=r"'one' is another matrix now .* another folder"):
        source.problem()


def test_instances_of_the_library_are_their_entries():
    import permsolve

    first = permsolve.instances.library()[0]
    (source,) = plan.library_sources([first.name])
    assert (source.name, source.shape, source.pattern) == (first.name, first.shape, str(first.pattern))
    assert source.problem().fingerprint == first.problem().fingerprint
    assert {each.family for each in plan.library_sources(family=first.family)} == {first.family}
    assert len(plan.library_sources()) == len(permsolve.instances.library())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"methods": ()}, "at least one method"),
        ({"methods": ("ria", "ria")}, "method 'ria' is given twice"),
        ({"limits": (0.0,)}, "time limit of 0 s"),
        ({"limits": (float("inf"),)}, "time limit of inf s"),
        ({"seeds": 0}, "0 seeds"),
    ],
)
def test_requests_that_cannot_be_run_are_refused(tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        benches.settings(benches.matrices(tmp_path), **change)


def test_unknown_methods_instances_and_families_are_refused(tmp_path):
    with pytest.raises(UnknownMethodError, match="'sorcery'"):
        benches.settings(benches.matrices(tmp_path), methods=("sorcery",))
    with pytest.raises(InputError, match="no_such_instance"):
        plan.library_sources(["no_such_instance"])
    with pytest.raises(InputError, match="'fairies'"):
        plan.library_sources(family="fairies")


def test_two_files_of_one_name_are_refused(tmp_path):
    (tmp_path / "other").mkdir()
    sources = (*benches.matrices(tmp_path, ["one"]), *benches.matrices(tmp_path / "other", ["one"]))
    with pytest.raises(InputError, match="'one' is given twice"):
        benches.settings(sources)


def test_every_method_of_the_default_comparison_exists():
    import permsolve

    assert set(plan.METHODS) <= set(permsolve.methods())


def test_the_default_methods_are_those_that_search_a_pattern_of_the_bench(tmp_path, monkeypatch):
    from permsolve import registry

    class Joint:
        patterns = ("hinm", "vnm")

    class Missing:
        @property
        def patterns(self):
            raise MissingDependencyError("no torch")

    loaders = {**registry._loaders(), "joint": lambda: Joint, "learned": lambda: Missing().patterns}
    monkeypatch.setattr(registry, "_loaders", lambda: loaders)
    plain = benches.matrices(tmp_path)
    (tiled,) = benches.matrices(tmp_path, ["tiled"], nm="4:2:8")
    (blocks,) = benches.matrices(tmp_path, ["blocks"], nm="transposable(2:4)")
    known = tuple(name for name in plan.METHODS if "vnm" in registry.get_solver(name).patterns)
    assert plan.default_methods(plain) == plan.METHODS
    assert plan.default_methods((*plain, tiled))[: len(plan.METHODS)] == plan.METHODS
    assert plan.default_methods((*plain, tiled))[-1] == "joint"
    assert plan.default_methods((tiled,))[: len(known)] == known
    assert "joint" not in plan.default_methods((blocks,))
    assert not {"learned", "identity", "random", "greedy"} & set(plan.default_methods((*plain, tiled, blocks)))
    monkeypatch.setattr(plan, "default_methods", lambda sources: ("ria",))
    assert plan.make_settings(plain).methods == ("ria",)


def test_kinds_of_patterns_have_names():
    from permsolve import patterns

    classes = (patterns.NM, patterns.HiNM, patterns.VNM, patterns.Transposable)
    assert list(records.KINDS) == [each.kind for each in classes]
