"""The callback: driven as transformers' Trainer drives it, and by the Trainer itself where accelerate is installed."""

from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("transformers", reason="needs transformers")

from torch import nn  # noqa: E402
from transformers.trainer_callback import CallbackHandler, TrainerControl, TrainerState  # noqa: E402

from permsolve.errors import InputError  # noqa: E402
from permsolve.models import weights  # noqa: E402
from permsolve.models.pruning import holds  # noqa: E402
from permsolve.patterns import NM  # noqa: E402
from permsolve.training import SRSTE, STEP, MaskDecay, Masked, NMSchedule, Recipe  # noqa: E402
from permsolve.training.callback import NMCallback  # noqa: E402

RECIPE = MaskDecay(dense=0.2, fine_tune=0.3)
STEPS = 10


class Net(nn.Module):
    """Takes and returns what the Trainer hands over and expects."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.inner(x)
        return {"loss": (logits - labels).square().mean(), "logits": logits}


class Data(torch.utils.data.Dataset):
    """Random inputs and targets."""

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        stream = torch.Generator().manual_seed(index)
        return {"x": torch.randn(8, generator=stream), "labels": torch.randn(4, generator=stream)}


def batch(step: int) -> dict[str, torch.Tensor]:
    rows = [Data()[4 * step + k] for k in range(4)]
    return {name: torch.stack([row[name] for row in rows]) for name in ("x", "labels")}


def sparse(model: nn.Module) -> bool:
    return all(holds(each.to_matrix(each.values()), NM(2, 4)) for each in weights(model))


class Loop:
    """What the Trainer does around callbacks."""

    def __init__(self, model: nn.Module, recipe: Recipe = RECIPE) -> None:
        self.model = model
        self.callback = NMCallback(recipe, "2:4")
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        self.state, self.control = TrainerState(max_steps=STEPS), TrainerControl()
        self.handler = CallbackHandler([self.callback], model, None, None, None)
        self.call("on_init_end")

    def call(self, event: str) -> None:
        getattr(self.handler, event)(None, self.state, self.control)

    def train(self, until: int) -> None:
        self.handler.optimizer = self.optimizer
        self.call("on_train_begin")
        self.train_on(until)

    def train_on(self, until: int) -> None:
        while self.state.global_step < until:
            self.optimizer.zero_grad()
            self.model(**batch(self.state.global_step))["loss"].backward()
            self.optimizer.step()
            self.state.global_step += 1
            self.call("on_step_end")

    def save(self, folder: Path) -> None:
        self.state.stateful_callbacks = {"NMCallback": self.callback.state()}
        self.state.save_to_json(str(folder / "state.json"))
        torch.save([self.model.state_dict(), self.optimizer.state_dict()], folder / "tensors.pt")

    def load(self, folder: Path) -> None:
        model, optimizer = torch.load(folder / "tensors.pt", weights_only=True)
        self.model.load_state_dict(model)
        self.optimizer.load_state_dict(optimizer)
        self.state = TrainerState.load_from_json(str(folder / "state.json"))


def plain_loop(recipe: Recipe = RECIPE) -> Net:
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    training = NMSchedule(recipe, steps=STEPS).attach(model, "2:4", optimizer)
    for step in range(STEPS):
        optimizer.zero_grad()
        model(**batch(step))["loss"].backward()
        optimizer.step()
        training.step()
    training.finish()
    return model


KINDS = [RECIPE, Masked(), MaskDecay(fine_tune=0.8, every=2), SRSTE(fine_tune=0.7), STEP(earliest=0.2, latest=0.2)]


@pytest.mark.parametrize("interrupted", [False, True])
@pytest.mark.parametrize("recipe", KINDS)
def test_the_callback_is_the_loop(recipe: Recipe, interrupted: bool, tmp_path: Path) -> None:
    """Also when the training is resumed, through the trainer's own JSON, by another trainer or by one that was killed.

    Masks that stood were once computed anew at the resumption, from weights that had moved since.
    """
    loop = Loop(Net(), recipe)
    loop.train(4)
    loop.save(tmp_path)
    if interrupted:
        loop.train_on(6)
    again = loop if interrupted else Loop(Net(), recipe)
    again.load(tmp_path)
    again.train(STEPS)
    again.call("on_train_end")
    assert sparse(again.model) and again.callback.pruned.names == ("inner.0.weight", "inner.2.weight")
    for name, tensor in plain_loop(recipe).state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name]), name


def test_an_interrupted_training_can_begin_anew() -> None:
    loop = Loop(Net(), STEP(earliest=0.2, latest=0.2))
    loop.train(5)
    loop.state = TrainerState(max_steps=STEPS)
    loop.train(STEPS)
    loop.call("on_train_end")
    assert sparse(loop.model)
    assert not loop.optimizer._optimizer_step_pre_hooks


def test_resuming_needs_the_callback_from_the_beginning() -> None:
    late = NMCallback(RECIPE, "2:4")
    with pytest.raises(InputError, match="give NMCallback to Trainer"):
        late.on_train_begin(None, TrainerState(global_step=3), None, model=Net(), optimizer=None)


def test_within_the_trainer(tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="the Trainer needs accelerate")
    from transformers import Trainer, TrainingArguments

    def trainer() -> tuple[Trainer, NMCallback]:
        callback = NMCallback(RECIPE, "2:4")
        args = TrainingArguments(
            output_dir=str(tmp_path), max_steps=STEPS, per_device_train_batch_size=4, save_steps=4, report_to=[],
            disable_tqdm=True, use_cpu=True, seed=1,
        )  # fmt: skip
        return Trainer(Net(), args, train_dataset=Data(), callbacks=[callback]), callback

    first, callback = trainer()
    first.train()
    assert callback.pruned is not None and sparse(first.model)
    assert "parametrizations" not in "".join(first.model.state_dict())
    second, _ = trainer()
    second.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    for name, tensor in first.model.state_dict().items():
        assert torch.equal(tensor, second.model.state_dict()[name]), name
