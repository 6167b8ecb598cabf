"""The page of a bench: whole in itself, well-formed, and safe whatever an instance is called."""

import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import benches
import numpy as np
import pytest

from permsolve.bench import summary
from permsolve.errors import MissingDependencyError
from permsolve.report import html

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")

NASTY = "<img src=x onerror=alert(1)>\"' & co"
#: Elements without an end tag.
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Collects tags, attributes and texts, and checks that every element ends where it should."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.texts, self.open = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attributes]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def make_report(folder, finished=True):
    """Return the report of a bench with a nasty name, a failed and an unsupported run, and three good ones."""
    sources = benches.matrices(folder, ["plain", "other"])
    sources = (sources[0], sources[1].model_copy(update={"name": NASTY}))
    settings = benches.settings(sources, methods=("ria", "greedy", "random"), limits=(0.5, 1.0))
    perms = [np.random.default_rng(k).permutation(16) for k in range(9)]
    records = []
    for limit in settings.limits:
        records += [
            benches.record(benches.task("ria", "plain", limit=limit), sources[0], perms[0]),
            benches.record(benches.task("ria", NASTY, limit=limit), sources[1], perms[1]),
            benches.record(benches.task("greedy", "plain", limit=limit), sources[0], perms[2]),
            benches.failure(benches.task("greedy", NASTY, limit=limit), reason="<script>alert(2)</script>"),
            benches.failure(benches.task("random", "plain", limit=limit), "unsupported", "too plain"),
            benches.failure(benches.task("random", NASTY, limit=limit), "unsupported", "too nasty"),
        ]
    return summary.summarise(settings, records if finished else records[:-1])


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return make_report(tmp_path_factory.mktemp("bench"))


@pytest.fixture(scope="module")
def text(report):
    return html.page(report)


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


def test_the_page_is_well_formed_and_has_its_parts(page):
    assert page.tags[0] == "html"
    assert [value for tag, name, value in page.attributes if (tag, name) == ("section", "id")] == [
        *("choice", "figures", "curves", "maps", "instances", "faults", "method")
    ]
    linked = {value[1:] for tag, name, value in page.attributes if (tag, name) == ("a", "href")}
    assert linked <= {value for _, name, value in page.attributes if name == "id"}


def test_the_page_needs_nothing_from_anywhere(text, page):
    assert "http://" not in text
    assert "https://" not in text
    assert "//" not in re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+|^ *// .*$", "", text, flags=re.MULTILINE)
    assert "link" not in page.tags
    for tag, name, value in page.attributes:
        if name in ("src", "href", "srcset", "action", "poster"):
            assert value.startswith(("#", "data:image/png;base64,")), (tag, name, value[:40])
    assert "@import" not in text
    assert "url(" not in text
    assert (
        "default-src 'none'" in dict((name, value) for tag, name, value in page.attributes if tag == "meta")["content"]
    )


def test_names_and_reasons_are_text_and_never_markup(text, page):
    assert NASTY not in text
    assert "<script>alert" not in text
    assert not any(name == "onerror" for _, name, _ in page.attributes)
    shown = "".join(page.texts)
    assert NASTY in shown
    assert "<script>alert(2)</script>" in shown


def test_sortable_headings_are_buttons(page, text):
    tables = re.findall(r'<table class="sortable">.*?</table>', text, flags=re.DOTALL)
    assert len(tables) >= 6
    for table in tables:
        headings = re.findall(r"<th scope=\"col\".*?</th>", table, flags=re.DOTALL)
        assert headings
        assert all('<button type="button">' in heading for heading in headings)
        body = table.partition("<tbody>")[2]
        rows = [len(re.findall(r"<t[hd][ >]", row)) for row in re.findall(r"<tr>.*?</tr>", body, flags=re.DOTALL)]
        assert set(rows) <= {len(headings)}, "every row has a cell under each heading"
    assert "aria-sort" in text


def test_pictures_are_well_formed_and_described(text):
    pictures = re.findall(r'<svg class="chart".*?</svg>', text, flags=re.DOTALL)
    assert len(pictures) == 2 * 2 + 2, "per limit all sizes and one size class, and one per instance"
    for picture in pictures:
        root = ElementTree.fromstring(picture)
        assert root.get("role") == "img"
        assert root.get("aria-label")
        lines = [path for path in root.iter("path") if path.get("class").startswith("line")]
        assert {path.find("title").text for path in lines} <= {"ria", "greedy"}
        assert lines


def test_the_page_says_which_method_to_take(text):
    section = text.partition('<section id="choice">')[2].partition("</section>")[0]
    assert section.count("<strong>") == 4, "all sizes and one size class, at two limits"
    assert "ria" in section
    assert "greedy" not in section, "it did not answer every instance"


def test_the_page_records_machine_versions_and_settings(report, page):
    shown = " ".join(" ".join(page.texts).split())
    settings = report["settings"]
    assert settings["machine"]["cpu"] in shown
    assert f"numpy {settings['versions']['numpy']}" in shown
    assert "too plain" in shown
    assert "12 of 12" in shown
    assert "Unfinished" not in shown


def test_maps_show_the_best_permutations(page):
    sources = [value for tag, name, value in page.attributes if (tag, name) == ("img", "src")]
    assert 1 <= len(sources) <= html.MAPS


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Return the report of a bench on every kind of pattern, with a method that searches only one of them."""
    folder = tmp_path_factory.mktemp("mixed")
    names = {"nm": "2:4", "hinm": "hinm(4, 0.5, 2:4)", "vnm": "4:2:8", "transposable": "transposable(2:4)"}
    sources = [benches.matrices(folder, [kind], nm=nm)[0] for kind, nm in names.items()]
    settings = benches.settings(sources, methods=("ria", "random"), limits=(0.5, 1.0))
    records = []
    for source in sources:
        problem = source.problem()
        drawn = [problem.pattern.draw(problem, np.random.default_rng(k)) for k in range(9)]
        best = max(drawn, key=problem.score)
        for limit in settings.limits:
            task = benches.task("ria", source.name, limit=limit)
            records.append(benches.record(benches.task("random", source.name, limit=limit), source, best))
            if source.kind == "nm":
                records.append(benches.record(task, source, drawn[0]))
            else:
                records.append(benches.failure(task, "unsupported", "it searches plain n:m"))
    return summary.summarise(settings, records)


def test_a_page_on_several_kinds_of_patterns_shows_each_apart(mixed):
    text = html.page(mixed)
    page = Page(text)
    shown = " ".join(" ".join(page.texts).split())
    for name in ("n:m", "HiNM", "V:N:M", "transposable n:m"):
        assert f"{name}, 1 s per run" in shown
        assert f"All 1 instances of {name}" in shown
    assert "No run failed" in shown
    section = text.partition('<section id="choice">')[2].partition("</section>")[0]
    assert section.count("<strong>") == 4 * 2 * 2, "of every kind all sizes and one size class, at two limits"
    curves = text.partition('<section id="curves">')[2].partition("</section>")[0]
    assert curves.count("<title>random</title>") == 4 * 2 * 2
    assert curves.count("<title>ria</title>") == 2 * 2, "only where it is compared"
    assert curves.count(" ria</li>") == 2
    maps = [value for tag, name, value in page.attributes if (tag, name) == ("img", "src")]
    assert len(maps) == 4
    for picture in re.findall(r'<svg class="chart".*?</svg>', text, flags=re.DOTALL):
        ElementTree.fromstring(picture)


def test_every_kind_of_pattern_is_drawn_before_one_is_drawn_twice(mixed, monkeypatch):
    monkeypatch.setattr(html, "_map", lambda row: row["kind"])
    rows = [{**row, "baseline": 1.0, "best": 2.0 + row["best"] % 1} for row in mixed["instances"]]
    most = [{**rows[1], "name": f"more{k}", "best": 100.0 + k} for k in range(4)]
    assert sorted(each["png"] for each in html._maps({**mixed, "instances": [*rows, *most]})) == [
        *("hinm", "nm", "transposable", "vnm")
    ]
    assert html._maps({**mixed, "instances": [*rows, *most]})[0]["name"] == "more3"


def test_a_page_on_one_kind_of_pattern_does_not_name_it(page):
    assert "n:m, 1 s per run" not in " ".join(page.texts)


def test_an_unfinished_bench_says_so(tmp_path):
    assert "Unfinished: 1 of 12 runs" in " ".join(html.page(make_report(tmp_path, finished=False)).split())


def test_a_bench_that_has_not_begun_has_a_page(tmp_path):
    settings = benches.settings(benches.matrices(tmp_path))
    Page(html.page(summary.summarise(settings, [])))


def test_a_missing_template_engine_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "jinja2", None)
    with pytest.raises(MissingDependencyError, match=r"jinja2: pip install 'permsolve\[plot\]'"):
        html.check()


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "-"),
        (0.0, "0"),
        (1e-6, "< 0.0001"),
        (0.01234, "0.0123"),
        (0.5, "0.500"),
        (1.234, "1.23"),
        (12.34, "12.3"),
    ],
)
def test_percentages_are_short(value, shown):
    assert html._figure(value) == shown
