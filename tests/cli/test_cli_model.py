"""``permsolve model`` as scripts see it: files that load again, exit codes, going on where a run was stopped."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

import safetensors.torch  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

import permsolve  # noqa: E402
from permsolve import cli, models  # noqa: E402
from permsolve.models import statefile  # noqa: E402
from permsolve.models.plan import Plan  # noqa: E402

FILES = {"model.safetensors", "plan.json", "report.json", "report.txt", "run.json"}
FAST = ("--method", "ria", "--jobs", 1, "-q")

ARCH = Path(__file__).with_name("tiny_models.py").read_text()


@pytest.fixture(autouse=True)
def one_thread():
    """Such small models are slower on several threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder with the builders and a checkpoint of each."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "arch.py").write_text(ARCH)
    for seed, name in enumerate(("build", "tied", "prenorm", "chain", "odd")):
        torch.manual_seed(seed)
        model, _ = fresh(name)
        with torch.no_grad():  # not the ones, zeros and means that a fresh norm has
            for tensor in model.state_dict().values():
                if tensor.is_floating_point():
                    tensor.uniform_(0.1, 0.9) if tensor.ndim == 1 else tensor.normal_(std=0.3)
        torch.save(model.state_dict(), f"{name}.pt")
    save_file(torch.load("build.pt"), "build.safetensors")
    return tmp_path


@pytest.fixture
def run(home, monkeypatch, capsys):
    """Run the command line in this process; return exit code, standard output and standard error."""

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["permsolve", "model", *map(str, words)])
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = end.code or 0
        out = capsys.readouterr()
        return code, out.out, out.err

    return call


def fresh(name):
    return statefile.build(Path("arch.py"), name)


def outputs_of(model, inputs):
    with torch.no_grad():
        return model.eval()(inputs)


def close(a, b):
    return float((a - b).abs().max() / a.abs().max()) < 1e-5


def loaded(name, tensors):
    model, inputs = fresh(name)
    model.load_state_dict(tensors)
    return model, inputs


@pytest.mark.parametrize("checkpoint", ["build.pt", "build.safetensors"])
def test_a_permuted_model_loads_again_and_does_the_same(run, home, checkpoint):
    digest = hashlib.sha256((home / checkpoint).read_bytes()).hexdigest()
    code, out, _ = run(checkpoint, "--arch", "arch.py:build", "--out", "out", "--method", "ria", "--jobs", 1)
    assert code == 0
    assert out.startswith("Net, 2:4: 2 groups, 2 weights gain")
    assert "outputs unchanged: relative error" in out
    assert "2:4 keeps" in out and "out/model.safetensors (permuted)" in out
    assert {file.name for file in (home / "out").iterdir()} == FILES
    before, after = torch.load("build.pt"), load_file("out/model.safetensors")
    assert list(before) == list(after) or set(before) == set(after)
    assert all(before[name].dtype == after[name].dtype for name in before)
    assert not torch.equal(before["body.weight"], after["body.weight"])
    (model, inputs), (new, _) = loaded("build", before), loaded("build", after)
    assert close(outputs_of(model, inputs), outputs_of(new, inputs))
    assert hashlib.sha256((home / checkpoint).read_bytes()).hexdigest() == digest
    report = json.loads((home / "out" / "report.json").read_text())
    assert report["schema"] == "permsolve.model/1"
    assert report["sha256"][checkpoint] == digest
    assert report["verification"]["passed"] and report["verification"]["max_error"] < 1e-10
    assert [group["consumers"] for group in report["groups"]] == [["body.weight"], ["head.weight"]]
    assert report["groups"][0]["status"] == "completed"
    total = report["retained"]["total"]
    assert total["retained_before"] < total["retained"] < total["ceiling"]
    assert (report["pruned"], report["left_out"]) == (None, [])
    text = (home / "out" / "report.txt").read_text()
    for part in ("Net, permuted, ", "body.weight", "load_state_dict", digest, "torch", "seconds of solve"):
        assert part in text


def test_a_pruned_model_is_exactly_what_pruning_the_permuted_one_gives(run, home):
    code, out, _ = run("build.pt", "--arch", "arch.py:build", "--out", "out", "--prune", "--saliency", "energy", *FAST)
    assert code == 0 and "2 weights pruned to 2:4" in out
    after = load_file("out/model.safetensors")
    for name in ("body.weight", "head.weight"):
        rows = after[name].movedim(1, -1).reshape(-1, after[name].shape[1] // 4, 4)
        assert int((rows != 0).sum(-1).max()) == 2
    model, inputs = loaded("build", torch.load("build.pt"))
    Plan.load("out/plan.json").apply_(model, example_inputs=inputs)
    models.prune_(model, "2:4", saliency="energy")
    assert all(torch.equal(tensor, after[name]) for name, tensor in model.state_dict().items())
    report = json.loads((home / "out" / "report.json").read_text())
    assert report["pruned"] == ["body.weight", "head.weight"]
    assert report["retained"]["total"]["density"] == 0.5
    assert report["retained"]["left_out"]["stem.weight"].startswith("3 input channels")


def test_a_pruned_model_is_written_compressed_beside_the_dense_one(run, home):
    half = {name: each.half() for name, each in torch.load("prenorm.pt").items()}
    torch.save(half, "half.pt")
    words = ("half.pt", "--arch", "arch.py:prenorm", "--out", "out", "--gather", "norm", "--prune", "--sparse", *FAST)
    code, out, err = run(*words)
    assert code == 0, err
    assert "compressed  out/sparse (3 weights, " in out
    assert {file.name for file in (home / "out").iterdir()} == FILES | {"sparse"}
    report = json.loads((home / "out" / "report.json").read_text())
    assert {each["name"] for each in report["compressed"]["weights"]} == {"stem.weight", "up.weight", "down.weight"}
    assert set(report["files"]) >= {"sparse/model.safetensors", "sparse/sparse.json"}
    assert "load_sparse_" in (home / "out" / "report.txt").read_text()
    tensors = load_file("out/sparse/model.safetensors")
    assert {each.dtype for each in tensors.values() if each.is_floating_point()} == {torch.float16}
    dense, inputs = fresh("prenorm")
    sparse, _ = fresh("prenorm")
    os.chdir("out")
    exec(report["load"], {"model": dense, "permsolve": permsolve, "safetensors": safetensors})
    exec(report["compressed"]["load"], {"model": sparse, "permsolve": permsolve})
    assert not torch.equal(dense.up.weight, torch.load("../prenorm.pt")["up.weight"])
    inputs = inputs.double()  # dense products: nothing to compile
    assert close(outputs_of(dense.double(), inputs), outputs_of(sparse.double(), inputs))
    os.chdir("..")
    assert run(*words)[1].startswith("finished already")


def test_types_of_the_checkpoint_are_kept(run, home):
    half = {name: each.half() if each.is_floating_point() else each for name, each in torch.load("build.pt").items()}
    torch.save({"state_dict": half, "epoch": 7}, "half.pt")
    code, _, err = run("half.pt", "--arch", "arch.py:build", "--out", "out", *FAST)
    assert code == 0, err
    after = load_file("out/model.safetensors")
    assert {name: each.dtype for name, each in after.items()} == {name: each.dtype for name, each in half.items()}
    assert torch.equal(after["body.weight"].flatten().sort()[0], half["body.weight"].flatten().sort()[0])


@pytest.mark.parametrize("omitted", [None, "head.weight"])
def test_tied_tensors_are_written_under_the_names_they_came_with(run, home, omitted):
    state = torch.load("tied.pt")
    state.pop(omitted, None)
    torch.save(state, "in.pt")
    code, _, err = run("in.pt", "--arch", "arch.py:tied", "--out", "out", *FAST)
    assert code == 0, err
    after = load_file("out/model.safetensors")
    assert set(after) == set(state)
    model, inputs = loaded("tied", torch.load("tied.pt"))
    new, _ = loaded("tied", after | {"head.weight": after["embed.weight"]})
    assert close(outputs_of(model, inputs), outputs_of(new, inputs))


def test_indices_of_gather_are_loaded_as_the_report_says(run, home):
    code, _, err = run("prenorm.pt", "--arch", "arch.py:prenorm", "--out", "out", "--gather", "norm", *FAST)
    assert code == 0, err
    model, inputs = loaded("prenorm", torch.load("prenorm.pt"))
    new, _ = fresh("prenorm")
    with pytest.raises(RuntimeError, match="channel_order"):  # never silently without
        new.load_state_dict(load_file("out/model.safetensors"))
    code = json.loads((home / "out" / "report.json").read_text())["load"]
    os.chdir("out")
    exec(code, {"model": new, "permsolve": permsolve, "safetensors": safetensors})
    assert close(outputs_of(model, inputs), outputs_of(new, inputs))


def test_example_inputs_may_come_from_a_file(run, home):
    torch.save({"x": torch.randn(2, 3, 8, 8)}, "example.pt")
    code, _, err = run("build.pt", "--arch", "arch.py:bare", "--out", "out", "--example", "example.pt", *FAST)
    assert code == 0, err
    report = json.loads((home / "out" / "report.json").read_text())
    assert (report["settings"]["example"], len(report["sha256"]["example"])) == ("example.pt", 64)


def test_groups_solved_side_by_side_give_the_same_model(run, home):
    words = ("build.pt", "--arch", "arch.py:build", "--method", "ria", "-q")
    assert run(*words, "--out", "one")[0] == 0
    code, _, err = run(*words, "--out", "two", "--workers", 2)
    assert code == 0, err
    assert (home / "one" / "model.safetensors").read_bytes() == (home / "two" / "model.safetensors").read_bytes()


SKEWED = {"body.weight": torch.zeros(3), "more": torch.zeros(1)}
WORDS = ("build.pt", "--arch", "arch.py:build")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (WORDS, "--out names the folder"),
        ((*WORDS, "--out", "."), "the checkpoint's own folder"),
        ((*WORDS, "--out", "arch.py"), "is no folder"),
        ((*WORDS, "--out", "full"), "holds other files already"),
        ((*WORDS, "--out", "out", "--nm", "4:2"), "1 <= n < m"),
        ((*WORDS, "--out", "out", "--method", "magic"), "unknown method 'magic'"),
        ((*WORDS, "--out", "out", "--method", "stripe_groups", "--nm", "1:16"), "does not support group 'head'"),
        ((*WORDS, "--out", "out", "--saliency", "wanda"), "needs activations"),
        ((*WORDS, "--out", "out", "--time-limit", "0"), "positive number of seconds"),
        ((*WORDS, "--out", "out", "--time-limit", "nan"), "positive number of seconds"),
        ((*WORDS, "--out", "out", "--seed", "-1"), "seed"),
        ((*WORDS, "--out", "out", "--jobs", "0"), "n_jobs"),
        ((*WORDS, "--out", "out", "--workers", "0"), "must be a number of workers"),
        ((*WORDS, "--out", "out", "--gather", "all"), "--gather 'all' must be norm or layer"),
        ((*WORDS, "--out", "out", "--example-text", "hello"), "needs --arch transformers"),
        ((*WORDS, "--out", "out", "--example", "none.pt"), "none.pt: no such file"),
        ((*WORDS, "--out", "out", "--example", "build.pt"), "cannot be traced"),
        (("none.pt", "--arch", "arch.py:build", "--out", "out"), "none.pt: no such file"),
        (("arch.py", "--arch", "arch.py:build", "--out", "out"), "unknown kind of file '.py'"),
        (("full", "--arch", "arch.py:build", "--out", "out"), "is a folder; --arch file.py:build needs a file"),
        (("build.pt", "--arch", "resnet", "--out", "out"), "neither 'transformers' nor"),
        (("build.pt", "--arch", "none.py:build", "--out", "out"), "none.py: no such file"),
        (("build.pt", "--arch", "arch.py:none", "--out", "out"), "has no function 'none'"),
        (("build.pt", "--arch", "arch.py:bare", "--out", "out"), "without inputs to trace it with"),
        (("build.pt", "--arch", "arch.py:stubborn", "--out", "out"), "cannot be traced"),
        (("build.pt", "--arch", "arch.py:notanumber", "--out", "out"), "not finite"),
        (("tied.pt", "--arch", "arch.py:build", "--out", "out"), "does not fit Net: "),
        (("skewed.pt", "--arch", "arch.py:build", "--out", "out"), "3, in the model 32 x 16 x 3 x 3"),
        (("nan.pt", "--arch", "arch.py:build", "--out", "out"), "not finite"),
        (("odd.pt", "--arch", "arch.py:odd", "--out", "out", "--prune"), "no weight of the model can be pruned to 2:4"),
        ((*WORDS, "--out", "out", "--sparse"), "--sparse writes the pruned model compressed: it needs --prune"),
        (
            ("conv.pt", "--arch", "arch.py:conv", "--out", "out", "--prune", "--sparse"),
            "no weight can be compressed",
        ),
        (("build.pt", "--arch", "transformers", "--out", "out"), "is not a folder"),
        (("full", "--arch", "transformers", "--out", "out"), "no config.json"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(run, home, words, message):
    (home / "full").mkdir()
    (home / "full" / "thesis.txt").touch()
    torch.save(torch.load("build.pt") | SKEWED, "skewed.pt")
    torch.save(fresh("conv")[0].state_dict(), "conv.pt")
    torch.save(torch.load("build.pt") | {"body.bias": torch.full((32,), float("nan"))}, "nan.pt")
    before = sorted(home.rglob("*"))
    code, out, err = run(*words, "-q")
    assert (code, out) == (2, "")
    assert message in err
    assert err.startswith("permsolve: error: ") and err.count("\n") == 1
    assert [file for file in sorted(home.rglob("*")) if "__pycache__" not in file.parts] == before


def test_a_finished_run_is_left_alone_and_other_settings_are_refused(run, home):
    words = ("build.safetensors", "--arch", "arch.py:build", "--out", "out", *FAST)
    assert run(*words)[0] == 0
    times = {file.name: file.stat().st_mtime_ns for file in (home / "out").iterdir()}
    code, out, _ = run(*words)
    assert code == 0
    assert out.startswith("finished already: out/model.safetensors")
    for more, message in (
        (("--nm", "1:4"), "other settings (nm 2:4, now 1:4)"),
        (("--prune", "--seed", "3"), "(seed 0, now 3; prune False, now True); give the same to go on with it"),
        (("--time-limit", "1"), "(time_limit none, now 1.0)"),
    ):
        code, _, err = run(*words, *more)
        assert (code, err.count("\n")) == (2, 1)
        assert message in err
    (home / "arch.py").write_text(ARCH + "# changed\n")
    code, _, err = run(*words)
    assert code == 2 and "other files (changed: arch.py)" in err
    (home / "arch.py").write_text(ARCH)
    save_file(torch.load("build.pt") | {"head.bias": torch.zeros(8)}, "build.safetensors")
    code, _, err = run(*words)
    assert code == 2 and "changed: build.safetensors" in err
    assert {file.name: file.stat().st_mtime_ns for file in (home / "out").iterdir()} == times


def test_a_lost_model_is_written_again_from_the_plan(run, home):
    words = ("build.pt", "--arch", "arch.py:build", "--out", "out", "--method", "ria")
    run(*words)
    first = (home / "out" / "model.safetensors").read_bytes()
    (home / "out" / "model.safetensors").unlink()
    code, out, _ = run(*words)
    assert code == 0 and "going on: 2 of 2 groups are solved already" in out
    assert (home / "out" / "model.safetensors").read_bytes() == first


def test_a_plan_can_be_had_first(run, home):
    code, out, _ = run("build.pt", "--arch", "arch.py:build", "--plan-only")
    assert code == 0 and "body" in out and "stay as they are" in out
    assert not (home / "out").exists()
    code, out, _ = run("build.pt", "--arch", "arch.py:build", "--plan-only", "--out", "out")
    assert code == 0 and out.endswith("plan        out/plan.json\n")
    assert {file.name for file in (home / "out").iterdir()} == {"plan.json", "run.json"}
    assert not Plan.load("out/plan.json").solved
    code, _, err = run("build.pt", "--arch", "arch.py:build", "--nm", "1:4", "--out", "out", *FAST)
    assert code == 2 and "nm 2:4, now 1:4" in err
    code, _, err = run("build.pt", "--arch", "arch.py:build", "--out", "out", "--seed", 4, *FAST)
    assert code == 0, err
    assert Plan.load("out/plan.json").solved


def test_a_model_whose_outputs_change_is_not_written(run, home):
    run("build.pt", "--arch", "arch.py:build", "--plan-only", "--out", "out")
    document = json.loads((home / "out" / "plan.json").read_text())
    moved = document["groups"][0]["movements"]
    document["groups"][0]["movements"] = [each for each in moved if each["role"] != "producer"]
    (home / "out" / "plan.json").write_text(json.dumps(document))
    code, _, err = run("build.pt", "--arch", "arch.py:build", "--out", "out", *FAST)
    assert code == 1
    assert err.startswith("permsolve: check failed: ") and "outputs CHANGED" in err and err.count("\n") == 1
    assert {file.name for file in (home / "out").iterdir()} == {"plan.json", "run.json"}


def test_a_tampered_or_damaged_plan_is_refused(run, home):
    words = ("build.pt", "--arch", "arch.py:build", "--out", "out", *FAST)
    run(*words)
    (home / "out" / "model.safetensors").unlink()
    text = (home / "out" / "plan.json").read_text()
    document = json.loads(text)
    document["groups"][0]["result"]["matrix"]["fingerprint"] = "0" * 64
    (home / "out" / "plan.json").write_text(json.dumps(document))
    code, _, err = run(*words)
    assert code == 2 and "was solved for other weights" in err and err.count("\n") == 1
    (home / "out" / "plan.json").write_text(text[:200])
    code, _, err = run(*words)
    assert code == 2 and "out/plan.json: not a JSON document" in err and err.count("\n") == 1


def test_ctrl_c_between_solving_and_writing_loses_nothing(run, home, monkeypatch):
    words = ("build.pt", "--arch", "arch.py:build", "--out", "out", "--method", "ria")

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Plan, "apply_", interrupted)
        code, _, err = run(*words)
    assert code == 130
    assert err == "permsolve: interrupted; the same command goes on from here\n"
    assert {file.name for file in (home / "out").iterdir()} == {"plan.json", "run.json"}
    code, out, _ = run(*words)
    assert code == 0 and "going on: 2 of 2 groups" in out
    with monkeypatch.context() as patch:
        patch.setattr(models, "analyze", interrupted)
        code, _, err = run(*words[:-3], "out2")
    assert (code, err) == (130, "permsolve: interrupted; nothing was written\n")
    assert not (home / "out2").exists()


CHAIN = ("chain.pt", "--arch", "arch.py:chain", "--out", "out", "--time-limit", 3, "--jobs", 1)


def wait_for_a_solved_group(going=lambda: True):
    deadline = time.monotonic() + 120
    while going() and time.monotonic() < deadline:
        if os.path.exists("out/plan.json"):
            with open("out/plan.json") as file:
                if '"fingerprint"' in file.read():
                    break
        time.sleep(0.02)


def check_that_it_goes_on(run, home):
    """Check what a stopped run has left behind, and that the same command ends it."""
    assert {file.name for file in (home / "out").iterdir()} == {"plan.json", "run.json"}
    groups = Plan.load("out/plan.json").groups
    whole = [each.perm for each in groups if each.result is not None and each.result.stopped_by != "interrupt"]
    assert 1 <= len(whole) < len(groups)
    code, out, err = run(*CHAIN)
    assert code == 0, err
    assert f"going on: {len(whole)} of {len(groups)} groups are solved already" in out
    done = Plan.load("out/plan.json").groups
    assert all((old == new.perm).all() for old, new in zip(whole, done, strict=False))
    assert all(each.result.stopped_by != "interrupt" for each in done)
    assert sum(each.result.runtime for each in done) < 4  # the limit is for both runs together
    model, inputs = loaded("chain", torch.load("chain.pt"))
    new, _ = loaded("chain", load_file("out/model.safetensors"))
    assert close(outputs_of(model, inputs), outputs_of(new, inputs))


def test_a_run_that_is_killed_while_solving_goes_on(run, home):
    words = [sys.executable, "-m", "permsolve", "model", *map(str, CHAIN)]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    wait_for_a_solved_group(lambda: process.poll() is None)
    process.kill()
    _, err = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL, err
    check_that_it_goes_on(run, home)


def test_ctrl_c_while_solving_says_how_to_go_on(run, home):
    def press():
        wait_for_a_solved_group()
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press, daemon=True).start()
    code, _, err = run(*CHAIN)
    assert (code, err) == (130, "permsolve: interrupted; the same command goes on from here\n")
    check_that_it_goes_on(run, home)


def test_the_command_line_starts_without_torch(home):
    code = "import sys, permsolve.cli; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0


# Folders of transformers.

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz", "the", "fox", "##s"]


@pytest.fixture
def bert(home):
    """A tiny BertModel with a tokenizer, in a folder."""
    transformers = pytest.importorskip("transformers")
    transformers.utils.logging.disable_progress_bar()
    (home / "words.txt").write_text("\n".join(VOCABULARY))
    config = transformers.BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=40,
    )
    torch.manual_seed(0)
    model = transformers.BertModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    model.save_pretrained("bert")
    transformers.BertTokenizer("words.txt").save_pretrained("bert")
    return model


def ids():
    return torch.randint(len(VOCABULARY), (3, 7), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("more", [[], ["--prune"], ["--example-text", "the foxs"]])
def test_a_folder_of_transformers_loads_again(run, home, bert, more):
    import transformers

    before = {file.name: file.read_bytes() for file in (home / "bert").iterdir()}
    code, _, err = run("bert", "--arch", "transformers", "--out", "out", *more, *FAST)
    assert (code, err) == (0, "")
    assert {file.name for file in (home / "out").iterdir()} == FILES | set(before)
    for name in set(before) - {"model.safetensors"}:
        assert (home / "out" / name).read_bytes() == before[name]
    new, info = transformers.AutoModel.from_pretrained("out", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    old, new_tensors = load_file("bert/model.safetensors"), load_file("out/model.safetensors")
    assert set(old) == set(new_tensors)
    assert not torch.equal(old["encoder.layer.0.output.dense.weight"], new.encoder.layer[0].output.dense.weight)
    assert transformers.AutoTokenizer.from_pretrained("out")("the foxs")["input_ids"] == [2, 31, 32, 33, 3]
    with torch.no_grad():
        one, two = bert(ids()).last_hidden_state, new.eval()(ids()).last_hidden_state
    if more == ["--prune"]:
        weight = new.encoder.layer[1].output.dense.weight
        assert int((weight.reshape(-1, 4) != 0).sum(-1).max()) == 2
    else:
        assert close(one, two)
    assert {file.name: file.read_bytes() for file in (home / "bert").iterdir()} == before


def test_the_output_folder_can_be_the_next_input(run, home, bert):
    assert run("bert", "--arch", "transformers", "--out", "out", *FAST)[0] == 0
    code, _, err = run("out", "--arch", "transformers", "--out", "again", "--prune", *FAST)
    assert (code, err) == (0, "")
    assert json.loads((home / "again" / "report.json").read_text())["pruned"]
    assert json.loads((home / "again" / "run.json").read_text())["checkpoint"] == "out"


def test_shards_mixed_types_and_torch_files_of_transformers(run, home, bert):
    import transformers

    shutil.rmtree(home / "bert")
    half = bert.to(torch.bfloat16)
    half.embeddings.LayerNorm.float()
    half.save_pretrained("bert", max_shard_size="10KB")
    assert len(list((home / "bert").glob("*.safetensors"))) > 1
    code, _, err = run("bert", "--arch", "transformers", "--out", "out", *FAST)
    assert (code, err) == (0, "")
    assert {file.name for file in (home / "out").iterdir()} == FILES | {"config.json"}
    after = load_file("out/model.safetensors")
    assert after["embeddings.LayerNorm.weight"].dtype == torch.float32
    assert after["encoder.layer.0.output.dense.weight"].dtype == torch.bfloat16
    new = transformers.AutoModel.from_pretrained("out", dtype=torch.float32).eval()
    with torch.no_grad():
        assert close(bert.float()(ids()).last_hidden_state, new(ids()).last_hidden_state)
    for file in (home / "bert").glob("*.safetensors*"):
        file.unlink()
    torch.save(bert.state_dict(), "bert/pytorch_model.bin")
    code, _, err = run("bert", "--arch", "transformers", "--out", "out2", *FAST)
    assert (code, err) == (0, "")
    new = transformers.AutoModel.from_pretrained("out2", dtype=torch.float32).eval()  # config.json says bfloat16
    with torch.no_grad():
        assert close(bert(ids()).last_hidden_state, new(ids()).last_hidden_state)


def test_gathers_are_not_written_for_from_pretrained_to_lose(run, home):
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    torch.manual_seed(0)
    vit = transformers.ViTModel(transformers.ViTConfig(image_size=16, patch_size=8, **sizes)).eval()
    vit.save_pretrained("vit")
    code, _, err = run("vit", "--arch", "transformers", "--out", "out", "--gather", "norm", *FAST)
    assert (code, err) == (0, "")
    assert {file.name for file in (home / "out").iterdir()} == FILES
    assert any("channel_order" in name for name in load_file("out/model.safetensors"))
    code = json.loads((home / "out" / "report.json").read_text())["load"]
    os.chdir("out")
    scope = {"transformers": transformers, "permsolve": permsolve, "safetensors": safetensors}
    exec(code, scope)
    pixels = torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        assert close(vit(pixels).last_hidden_state, scope["model"].eval()(pixels).last_hidden_state)


def edit(name, change):
    """Change the tensors of the folder's weights."""
    tensors = load_file(f"{name}/model.safetensors")
    kept = {name: tensor.clone() for name, tensor in tensors.items()}
    change(kept)
    save_file(kept, f"{name}/model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("change", "words", "message"),
    [
        (
            lambda t: t.pop("pooler.dense.weight"),
            [],
            "does not fit BertModel: 1 tensor is missing (pooler.dense.weight)",
        ),
        (lambda t: t.update({"pooler.dense.bias": torch.zeros(3)}), [], "(pooler.dense.bias: 3, in the model 16)"),
        (None, ["--out", "bert"], "the checkpoint's own folder"),
        (None, ["--example-text", "a", "--example", "x.pt"], "exclude each other"),
        ("config.json", [], "transformers cannot load it"),
        ("model.safetensors", [], "not a readable file of weights"),
        ("weights", [], "holds no weights"),
        ("tokenizer", ["--example-text", "a"], "has no tokenizer"),
    ],
)
def test_a_bad_folder_is_one_line_and_nothing_is_written(run, home, bert, change, words, message):
    if callable(change):
        edit("bert", change)
    elif change == "weights":
        (home / "bert" / "model.safetensors").unlink()
    elif change == "tokenizer":
        for file in [*(home / "bert").glob("token*"), *(home / "bert").glob("vocab*")]:
            file.unlink()
    elif change is not None:
        (home / "bert" / change).write_bytes(b"{")
    before = sorted(home.rglob("*"))
    code, out, err = run("bert", "--arch", "transformers", "--out", "out", *words, "-q")
    assert (code, out) == (2, "")
    assert message in err and err.count("\n") == 1
    assert sorted(home.rglob("*")) == before


def test_tensors_that_transformers_does_not_use_are_named_and_left_out(run, home, bert):
    edit("bert", lambda tensors: tensors.update({"cls.extra.weight": torch.zeros(2, 16)}))
    code, _, err = run("bert", "--arch", "transformers", "--out", "out", *FAST)
    assert code == 0
    assert err.count("\n") == 1 and "1 tensors of the checkpoint are not the model's" in err
    assert json.loads((home / "out" / "report.json").read_text())["left_out"] == ["cls.extra.weight"]
    assert "cls.extra.weight" in (home / "out" / "report.txt").read_text()
