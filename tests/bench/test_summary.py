"""From runs to figures: on instances small enough to work the figures out beside them."""

import json

import benches
import numpy as np
import pytest

from permsolve.bench import groups, summary, tables
from permsolve.bench.measures import GAP_SHIFT
from permsolve.errors import InputError

IDENTITY = tuple(range(16))


@pytest.fixture
def sources(tmp_path):
    return benches.matrices(tmp_path)


@pytest.fixture
def perms(sources):
    """Return, for each instance, 40 permutations in the order of their scores, the best first."""
    found = {}
    for source in sources:
        problem = source.problem()
        drawn = [np.random.default_rng(k).permutation(16) for k in range(40)]
        found[source.name] = sorted(drawn, key=problem.score, reverse=True)
    return found


def bench(sources, perms, ranks, limits=(1.0,)):
    """Summarise a bench: for each method, instance and seed the rank of the permutation found; None is a failed run."""
    methods = tuple(ranks)
    seeds = max(len(several) for by_instance in ranks.values() for several in by_instance.values())
    settings = benches.settings(sources, methods=methods, limits=limits, seeds=seeds)
    index = {source.name: source for source in sources}
    records = []
    for method, by_instance in ranks.items():
        for instance, several in by_instance.items():
            for seed, rank in enumerate(several):
                for limit in limits:
                    task = benches.task(method, instance, seed, limit)
                    if rank is None:
                        records.append(benches.failure(task))
                    else:
                        records.append(benches.record(task, index[instance], perms[instance][rank], time=limit / 2))
    return summary.summarise(settings, records)


def group(report, size=groups.ALL):
    found = next(each for each in report["groups"] if each["class"] == size)
    return found, {row["method"]: row for row in found["methods"]}


def test_gaps_are_to_the_best_answer_and_means_are_over_medians(sources, perms):
    ranks = {"ria": {"one": (0, 5, 9), "two": (7, 7, 7)}, "greedy": {"one": (3, 3, 3), "two": (0, 30, 0)}}
    report = bench(sources, perms, ranks)
    score = {name: [source.problem().score(perm) for perm in perms[name]] for name, source in index(sources).items()}
    best = {name: scores[0] for name, scores in score.items()}
    gap = {name: [100 * (best[name] - value) / best[name] for value in values] for name, values in score.items()}
    _, rows = group(report)
    for method, one, two in (("ria", gap["one"][5], gap["two"][7]), ("greedy", gap["one"][3], 0.0)):
        expected = np.exp((np.log(one + GAP_SHIFT) + np.log(two + GAP_SHIFT)) / 2) - GAP_SHIFT
        assert rows[method]["gap"] == pytest.approx(expected)
        assert rows[method]["worst_gap"] == pytest.approx(max(one, two))
    assert [row["best_by"] for row in report["instances"]] == ["ria", "greedy"]
    assert rows["greedy"]["wins"] == 2
    assert rows["ria"]["wins"] == 0
    json.dumps(report, allow_nan=False)


def index(sources):
    return {source.name: source for source in sources}


def test_the_primal_integral_starts_at_the_unpermuted_matrix(sources, perms):
    report = bench(sources, perms, {"ria": {"one": (0,), "two": (0,)}})
    for run in report["runs"]:
        instance = next(row for row in report["instances"] if row["name"] == run["instance"])
        first = max(100 * (instance["best"] - instance["baseline"]) / instance["best"], 0)
        assert run["integral"] == pytest.approx(first / 2), "the answer came after half of the time"
        assert run["time_to_target"] == 0.5


def test_an_answer_that_does_not_score_what_is_recorded_fails(sources, perms):
    settings = benches.settings(sources[:1], methods=("ria", "greedy"))
    good, bad = (benches.task(method, limit=0.05) for method in ("greedy", "ria"))
    score = sources[0].problem().score(IDENTITY)
    lie = benches.record(bad, sources[0], IDENTITY, score=score * 1.001)
    report = summary.summarise(settings, [benches.record(good, sources[0], IDENTITY), lie])
    assert [run["method"] for run in report["runs"]] == ["greedy"]
    (fault,) = report["faults"]
    assert (fault["method"], fault["kind"]) == ("ria", "failed")
    assert f"the answer scores {score!r}, its recorded score is" in fault["reason"]
    assert report["instances"][0]["best"] == pytest.approx(score), "a claimed score is nobody's best"


@pytest.mark.parametrize("perm", [(0,) * 16, (0, 1, 2, 3)], ids=["no bijection", "too short"])
def test_an_answer_that_is_no_permutation_fails(sources, perm):
    settings = benches.settings(sources[:1], methods=("ria",))
    record = benches.record(benches.task("ria", limit=0.05), sources[0], IDENTITY, solution={"perm": list(perm)})
    report = summary.summarise(settings, [record])
    assert report["failed"] == 1
    assert "no valid solution" in report["faults"][0]["reason"]


def test_a_curve_that_ends_elsewhere_than_the_answer_fails(sources):
    settings = benches.settings(sources[:1], methods=("ria",))
    record = benches.record(benches.task("ria", limit=0.05), sources[0], IDENTITY, trace=((0.0, 1e9),))
    assert "recorded last improvement" in summary.summarise(settings, [record])["faults"][0]["reason"]


def test_one_failed_seed_makes_a_method_incomplete_and_never_the_choice(sources, perms):
    ranks = {"ria": {"one": (0, 0, None), "two": (0, 0, 0)}, "greedy": {"one": (9, 9, 9), "two": (9, 9, 9)}}
    report = bench(sources, perms, ranks)
    found, rows = group(report)
    assert (rows["ria"]["instances"], rows["ria"]["complete"], found["instances"]) == (1, False, 2)
    assert [row["method"] for row in found["methods"]] == ["greedy", "ria"], "incomplete methods come last"
    assert {choice["method"] for choice in report["choices"]} == {"greedy"}
    assert list(report["curves"][0]["methods"]) == ["greedy"]
    assert report["failed"] == 1


def test_the_choice_says_how_often_it_is_better_than_the_runner_up(sources, perms):
    report = bench(sources, perms, {"ria": {"one": (0,), "two": (6,)}, "greedy": {"one": (30,), "two": (0,)}})
    choice = report["choices"][0]
    assert (choice["method"], choice["runner_up"]) == ("ria", "greedy")
    assert (choice["better_on"], choice["worse_on"], choice["instances"]) == (1, 1, 2)
    assert 0 < choice["gap"] < choice["runner_up_gap"]


def test_methods_that_are_equally_good_are_all_named_the_soonest_first(sources, perms):
    settings = benches.settings(sources[:1], methods=("ria", "greedy", "random"), limits=(1.0,))
    best, worse = perms["one"][0], perms["one"][20]
    records = [
        benches.record(benches.task("ria"), sources[0], best, time=0.9),
        benches.record(benches.task("greedy"), sources[0], best, time=0.1),
        benches.record(benches.task("random"), sources[0], worse, time=0.1),
    ]
    choice = summary.summarise(settings, records)["choices"][0]
    assert (choice["method"], choice["equal"], choice["runner_up"]) == ("greedy", ["ria"], "random")


def test_size_classes_are_compared_apart(tmp_path):
    narrow, wide = (
        *benches.matrices(tmp_path, ["narrow"], (4, 16)),
        *benches.matrices(tmp_path, ["wide"], (4, 20)),
    )
    settings = benches.settings((narrow, wide), methods=("ria",), limits=(1.0,))
    records = [
        benches.record(benches.task("ria", "narrow"), narrow, range(16)),
        benches.record(benches.task("ria", "wide"), wide, range(20)),
    ]
    report = summary.summarise(settings, records)
    assert [(each["class"], each["instances"]) for each in report["groups"]] == [("all", 2), ("1-16", 1), ("17-32", 1)]


def test_an_unfinished_bench_compares_only_what_every_method_was_run_on(sources, perms):
    settings = benches.settings(sources, methods=("ria", "greedy"), limits=(1.0,))
    records = [
        benches.record(benches.task("ria", "one"), sources[0], perms["one"][0]),
        benches.record(benches.task("greedy", "one"), sources[0], perms["one"][1]),
        benches.record(benches.task("ria", "two"), sources[1], perms["two"][0]),
    ]
    report = summary.summarise(settings, records)
    assert group(report)[0]["names"] == ["one"]
    assert all(row["complete"] for row in group(report)[0]["methods"])
    assert "unfinished: 1 of 4 runs" in tables.notes(report)[0]


def test_a_bench_without_a_single_run_has_an_empty_report(sources):
    report = summary.summarise(benches.settings(sources), [])
    assert (report["groups"], report["choices"], report["finished"]) == ([], [], 0)


def test_a_proved_bound_is_everybodys_and_a_wrong_one_is_a_contradiction(sources, perms):
    settings = benches.settings(sources[:1], methods=("ria", "greedy"), limits=(1.0,))
    perm = perms["one"][0]
    score = sources[0].problem().score(perm)
    other = benches.record(benches.task("greedy"), sources[0], perms["one"][9])
    for bound, kinds in ((score, []), (score * 0.99, ["contradiction"])):
        proof = benches.record(benches.task("ria"), sources[0], perm, bound=bound, bound_kind="exact")
        report = summary.summarise(settings, [proof, other])
        assert report["instances"][0]["proved"]
        assert report["instances"][0]["bound_kind"] == "exact"
        assert [fault["kind"] for fault in report["faults"]] == kinds
        assert [run["proved"] for run in report["runs"]] == [True, False]
        assert (report["choices"][0]["prover"], report["choices"][0]["proved"]) == ("ria", 1)


def test_a_run_that_exceeds_its_limit_counts_as_late(sources):
    settings = benches.settings(sources[:1], methods=("ria", "greedy"), limits=(1.0,))
    records = [
        benches.record(benches.task("ria"), sources[0], IDENTITY, runtime=1.04),
        benches.record(benches.task("greedy"), sources[0], IDENTITY, runtime=1.06),
    ]
    _, rows = group(summary.summarise(settings, records))
    assert (rows["ria"]["late"], rows["greedy"]["late"]) == (0, 1)


def test_what_a_late_run_found_after_its_time_counts_only_as_best_known(sources, perms):
    settings = benches.settings(sources[:1], methods=("ria", "greedy"), limits=(1.0,))
    problem = sources[0].problem()
    middle, best = problem.score(perms["one"][20]), problem.score(perms["one"][0])
    trace = ((0.0, problem.baseline), (1.04, middle), (1.06, best))
    late = benches.record(
        benches.task("ria"), sources[0], perms["one"][0], runtime=1.06, trace=trace, bound=best, bound_kind="exact"
    )
    other = benches.record(benches.task("greedy"), sources[0], perms["one"][5])
    report = summary.summarise(settings, [late, other])
    assert report["instances"][0]["best"] == best
    assert report["runs"][0]["gap"] == pytest.approx(100 * (best - middle) / best)
    assert not report["runs"][0]["proved"]
    assert report["choices"][0]["method"] == "greedy"
    assert report["choices"][0]["prover"] is None


def test_the_librarys_best_counts_and_a_better_answer_is_news():
    import permsolve
    from permsolve.bench import plan

    entry = next(each for each in permsolve.instances.library() if each.best is not None)
    (source,) = plan.library_sources([entry.name])
    settings = benches.settings([source], methods=("identity",), limits=(1.0,))
    task = benches.task("identity", entry.name)
    identity = benches.record(task, source, range(source.shape[1]))
    report = summary.summarise(settings, [identity])
    row = report["instances"][0]
    assert row["best_by"] == "library"
    assert row["best"] == pytest.approx(entry.best.score)
    assert report["runs"][0]["gap"] > 0
    assert row["bound"] <= row["rows_bound"]
    assert "better" not in " ".join(tables.notes(report))


def test_an_answer_better_than_the_librarys_is_the_new_best(sources, perms, monkeypatch):
    stored = (sources[0].problem().score(perms["one"][3]), {"perm": perms["one"][3].tolist()})
    monkeypatch.setattr(summary, "_stored", lambda source, problem: (stored, problem.rows_bound, "rows"))
    settings = benches.settings(sources[:1], methods=("ria",), limits=(1.0,))
    report = summary.summarise(settings, [benches.record(benches.task("ria"), sources[0], perms["one"][0])])
    row = report["instances"][0]
    assert (row["best_by"], row["stored_best"]) == ("ria", stored[0])
    assert row["best_solution"] == {"perm": perms["one"][0].tolist()}
    assert tables.notes(report) == ["better than the best known of the library: one"]


@pytest.fixture
def mixed(tmp_path):
    """Return instances of every kind of pattern, and for each a few solutions in the order of their scores."""
    names = {"nm": "2:4", "hinm": "hinm(4, 0.5, 2:4)", "vnm": "4:2:8", "transposable": "transposable(2:4)"}
    sources = [benches.matrices(tmp_path, [kind], nm=nm)[0] for kind, nm in names.items()]
    found = {}
    for source in sources:
        problem = source.problem()
        drawn = [problem.pattern.draw(problem, np.random.default_rng(k)) for k in range(40)]
        found[source.name] = sorted(drawn, key=problem.score, reverse=True)
    return sources, found


def test_kinds_of_patterns_are_compared_apart(mixed):
    sources, found = mixed
    settings = benches.settings(sources, methods=("random", "ria"), limits=(1.0,))
    records = [benches.record(benches.task("random", each.name), each, found[each.name][0]) for each in sources]
    records.append(benches.record(benches.task("ria", "nm"), sources[0], found["nm"][5]))
    refused = [benches.failure(benches.task("ria", each.name), "unsupported", "not mine") for each in sources[1:]]
    report = summary.summarise(settings, records + refused)
    json.dumps(report, allow_nan=False)
    assert (report["failed"], report["unsupported"]) == (0, 3)
    assert [(each["kind"], each["class"]) for each in report["groups"]] == [
        (kind, size) for kind in ("nm", "hinm", "vnm", "transposable") for size in ("all", "1-16")
    ]
    for each in report["groups"]:
        assert [row["method"] for row in each["methods"]] == (["random", "ria"] if each["kind"] == "nm" else ["random"])
        assert all(row["complete"] for row in each["methods"]), "who does not search a pattern is no part of it"
        assert each["instances"] == 1
    assert {(choice["kind"], choice["method"]) for choice in report["choices"]} == {
        (source.kind, "random") for source in sources
    }
    assert [curve["kind"] for curve in report["curves"]] == [each["kind"] for each in report["groups"]]
    for source, row in zip(sources, report["instances"], strict=True):
        problem = source.problem()
        assert row["kind"] == source.name
        assert row["best"] == problem.score(problem.pattern.from_lists(row["best_solution"]))
        assert row["bound"] == row["rows_bound"] == problem.rows_bound
    assert list(tables.overall(report, 1.0, "hinm").columns[0].cells) == ["random"]
    assert list(tables.by_size(report, 1.0, "nm").columns[0].cells) == ["random", "ria"]
    assert list(tables.by_size(report, 1.0, "vnm").columns[0].cells) == ["random"]
    (note,) = tables.notes(report)
    assert note == "not supported: 3, for example ria on hinm: not mine"


def test_without_an_answer_the_best_is_what_permutes_nothing(mixed):
    sources, _ = mixed
    report = summary.summarise(benches.settings(sources), [])
    for source, row in zip(sources, report["instances"], strict=True):
        problem = source.problem()
        assert row["best_solution"] == problem.pattern.to_lists(problem.start)
        assert (row["best"], row["best_by"]) == (problem.baseline, "identity")


@pytest.mark.parametrize(
    ("kind", "solution", "message"),
    [
        ("nm", {}, "consists of nothing, one of 2:4 of perm"),
        ("nm", {"rows": [0, 1], "columns": [0, 1]}, "consists of rows, columns, one of 2:4 of perm"),
        ("hinm", {"perm": list(range(16))}, "consists of perm, one of hinm.* of rows, columns"),
        ("hinm", {"rows": list(range(8)), "columns": list(range(16))}, r"has shape \(2, 8\), got \(16,\)"),
        ("vnm", {"rows": list(range(8)), "columns": list(range(16)), "kept": [[[0, 1]]]}, "kept of a solution"),
        ("transposable", {"rows": [0] * 8, "columns": list(range(16))}, "exactly once"),
        ("transposable", {"rows": [[0, 1], [2]], "columns": list(range(16))}, "no array of whole numbers"),
    ],
)
def test_an_answer_that_is_no_solution_of_its_pattern_fails(mixed, kind, solution, message):
    source = next(each for each in mixed[0] if each.name == kind)
    settings = benches.settings([source], methods=("random",), limits=(1.0,))
    record = benches.record(benches.task("random", kind), source, mixed[1][kind][0], solution=solution)
    report = summary.summarise(settings, [record])
    assert report["failed"] == 1
    with pytest.raises(InputError, match=f"the answer is no valid solution: .*{message}"):
        raise InputError(report["faults"][0]["reason"])


def test_the_librarys_best_of_another_pattern_counts():
    import permsolve
    from permsolve.bench import plan

    entry = permsolve.instances.entry("row_clusters_64x64_hinm16_50pc_2of4_s1")
    (source,) = plan.library_sources([entry.name])
    settings = benches.settings([source], methods=("identity",), limits=(1.0,))
    identity = benches.record(benches.task("identity", entry.name), source, source.problem().start)
    (row,) = summary.summarise(settings, [identity])["instances"]
    assert (row["best_by"], row["best"]) == ("library", pytest.approx(entry.best.score, rel=1e-12))
    assert row["best_solution"] == entry.pattern.to_lists(entry.best.solution)


def test_the_tables_show_every_method_and_mark_the_choice(sources, perms):
    ranks = {
        "ria": {"one": (0,), "two": (0,)},
        "greedy": {"one": (9,), "two": (None,)},
        "random": {"one": (5,), "two": (5,)},
    }
    report = bench(sources, perms, ranks)
    table = tables.overall(report, 1.0)
    assert list(table.columns[0].cells) == ["ria", "random", "greedy"]
    assert list(table.columns[1].cells) == ["2/2", "2/2", "1/2"]
    cells = list(tables.by_size(report, 1.0).columns[1].cells)
    assert cells[0].endswith("*")
    assert cells[1].endswith("(1) ")
    assert "failed runs: 1, for example greedy on two: it broke" in tables.notes(report)
