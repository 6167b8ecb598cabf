"""The journal after kills, under other settings, and damaged."""

import benches
import pytest

from permsolve.bench.journal import RUNS, SETTINGS, Journal, read_runs, read_settings
from permsolve.errors import FileError, InputError


@pytest.fixture
def bench(tmp_path):
    """Return a folder for a bench, its settings, and the records of its two runs."""
    sources = benches.matrices(tmp_path, ["one"])
    settings = benches.settings(sources)
    records = [benches.record(task, sources[0], range(16)) for task in settings.tasks()]
    return tmp_path / "out", settings, records


def write(folder, settings, records):
    with Journal(folder, settings) as journal:
        for record in records:
            journal.append(record)


def test_what_was_written_is_read_again(bench):
    folder, settings, records = bench
    write(folder, settings, records)
    assert read_settings(folder) == settings
    assert read_runs(folder, settings) == records
    with Journal(folder, settings) as journal:
        assert journal.done() == set(settings.tasks())


def test_a_line_is_on_disk_as_soon_as_its_run_is_recorded(bench):
    folder, settings, records = bench
    with Journal(folder, settings) as journal:
        journal.append(records[0])
        assert read_runs(folder, settings) == records[:1]


@pytest.mark.parametrize("kept", [1, 40, -1], ids=["one byte", "half a line", "all but the line end"])
def test_a_torn_last_line_is_cut_off_and_its_run_made_again(bench, kept):
    folder, settings, records = bench
    write(folder, settings, records)
    first, second = (folder / RUNS).read_bytes().splitlines(keepends=True)
    (folder / RUNS).write_bytes(first + second[:kept])
    assert read_runs(folder, settings) == records[:1]
    write(folder, settings, records[1:])
    assert (folder / RUNS).read_bytes() == first + second


def test_a_damaged_line_in_the_middle_is_an_error_that_names_it(bench):
    folder, settings, records = bench
    write(folder, settings, records)
    (folder / RUNS).write_bytes(b'{"task": 1}\n' + (folder / RUNS).read_bytes())
    with pytest.raises(FileError, match=r"runs\.jsonl: line 1 is damaged \(task"):
        read_runs(folder, settings)


def test_a_run_that_the_settings_do_not_name_is_an_error(bench):
    folder, settings, records = bench
    write(folder, settings, records)
    with pytest.raises(FileError, match="line 2 is of a run that"):
        read_runs(folder, settings.model_copy(update={"methods": ("identity",)}))


def test_other_settings_are_refused_and_nothing_is_changed(bench, tmp_path):
    folder, settings, records = bench
    write(folder, settings, records)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    with pytest.raises(InputError, match=r"other settings \(seeds: nothing more there, 1 now\).*new folder.* out-2"):
        Journal(folder, benches.settings(settings.instances, seeds=2))
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_two_benches_cannot_write_into_one_folder(bench):
    folder, settings, _ = bench
    with Journal(folder, settings), pytest.raises(InputError, match="another process is running the bench"):
        Journal(folder, settings)
    Journal(folder, settings).__exit__(None, None, None)


def test_a_folder_without_a_bench_has_no_settings(tmp_path):
    with pytest.raises(FileError, match=r"holds no bench: there is no settings\.json"):
        read_settings(tmp_path)


@pytest.mark.parametrize("text", ["", '{"schema": "permsolve.bench-settings/1"}', "[]"])
def test_damaged_settings_are_an_error(bench, text):
    folder, settings, _ = bench
    write(folder, settings, [])
    (folder / SETTINGS).write_text(text)
    with pytest.raises(FileError, match=r"settings\.json: is damaged or of another version"):
        Journal(folder, settings)


def test_runs_without_settings_are_not_taken_over(bench):
    folder, settings, records = bench
    write(folder, settings, records)
    (folder / SETTINGS).unlink()
    with pytest.raises(FileError, match=r"holds runs\.jsonl but no settings\.json"):
        Journal(folder, settings)


def test_a_file_in_the_way_is_an_error(tmp_path, bench):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="cannot hold a bench"):
        Journal(tmp_path / "file", bench[1])
