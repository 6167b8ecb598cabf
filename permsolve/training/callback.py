"""A callback for the Trainer of the transformers library."""

from __future__ import annotations

from typing import Any

from permsolve.errors import InputError, MissingDependencyError
from permsolve.models.pruned import Pruned
from permsolve.models.selection import Filter
from permsolve.patterns import NM
from permsolve.training.recipes import Recipe, resolve
from permsolve.training.sparse_training import SparseTraining

try:
    from transformers.trainer_callback import ExportableState, TrainerCallback
except ImportError as error:
    raise MissingDependencyError(
        "permsolve.training.callback needs transformers: pip install transformers accelerate"
    ) from error


class NMCallback(TrainerCallback, ExportableState):
    """Trains towards n:m within ``transformers.Trainer``: give it to the trainer as one of its ``callbacks``.

    The weights are held from the making of the trainer on, as checkpoints to resume from need it; masks come in when it
    trains, over all of its steps. At the end the model is plain, and exactly n:m. Checkpoints written on the way hold
    the dense weights and the masks, for ``trainer.train(resume_from_checkpoint=...)``; only models saved after the
    training load without it.

    Parameters
    ----------
    recipe
        A recipe or its name, as in `permsolve.training.NMSchedule`.
    nm
        Pattern: (n, m) or ``"n:m"``.
    layers
        Which weights, as in `permsolve.models.weights`.

    Raises
    ------
    InputError
        If there is no such recipe or pattern.
    """

    def __init__(self, recipe: Recipe | str = "mask_decay", nm: object = "2:4", layers: Filter | None = None) -> None:
        self.recipe = resolve(recipe)
        self.nm = NM.parse(nm)
        self.layers = layers
        #: The training, while there is one.
        self.training: SparseTraining | None = None
        #: What was pruned, at the end.
        self.pruned: Pruned | None = None

    def on_init_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Hold the weights."""
        self.training = SparseTraining(kwargs["model"], self.nm, self.recipe, self.layers)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin, or go on from a checkpoint."""
        saved = (state.stateful_callbacks or {}).get(type(self).__name__, {}).get("attributes", {})
        if self.training is None:
            if state.global_step:
                raise InputError("to resume a training, give NMCallback to Trainer(callbacks=[...]) when making it")
            self.training = SparseTraining(kwargs["model"], self.nm, self.recipe, self.layers)
        optimizer = kwargs["optimizer"]
        while hasattr(optimizer, "optimizer"):  # accelerate wraps it
            optimizer = optimizer.optimizer
        if self.training.begun:  # an earlier call of train() was interrupted
            self.training.halt(resuming=state.global_step > 0)
        # The trainer has loaded the model by now: masks that it holds must not be computed anew.
        self.training.begin(state.max_steps, optimizer, (saved.get("training") or {}) if state.global_step else None)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Go on to the next step."""
        assert self.training is not None
        self.training.step()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Prune what was trained."""
        assert self.training is not None
        self.pruned = self.training.finish()
        self.training = None

    def state(self) -> dict[str, Any]:
        """Return what checkpoints keep.

        Returns
        -------
        dict
            Where the training stands.
        """
        running = self.training if self.training is not None and self.training.begun else None
        return {"args": {}, "attributes": {"training": None if running is None else running.state_dict()}}
