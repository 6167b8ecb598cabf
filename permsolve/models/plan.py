"""Plans: everything a model lets be permuted, solved, applied, verified, undone and stored."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from permsolve.errors import DocumentError, FileError, InputError, ModelError, VerificationError
from permsolve.io import write_atomically
from permsolve.models import verification
from permsolve.models.analysis import investigate
from permsolve.models.gathers import GATHERS, layer_points, norm_points
from permsolve.models.group import Group
from permsolve.models.grouping import Block, Movement, Refusal, divide
from permsolve.models.saliencies import ModelSaliency
from permsolve.models.sides import side_of
from permsolve.models.solving import GroupCallback, solve_groups
from permsolve.models.tensors import INDEX, check_movable, lookup, permute_
from permsolve.models.trace import trace
from permsolve.models.verification import Verification
from permsolve.patterns import Pattern, Permutation, parse
from permsolve.solver import Solver

if TYPE_CHECKING:
    from permsolve.models.calibration import Calibration
    from permsolve.models.learning import Learned
    from permsolve.models.selection import Filter

Step = tuple[Movement, Permutation]


def analyze(model: nn.Module, example_inputs: object, nm: object = (2, 4), *, gather: str | None = None) -> Plan:
    """Find every channel permutation that gains under a pattern and that a model absorbs with its function unchanged.

    Plain n:m permutes input channels of weights. HiNM permutes output channels: a plan then holds the order of the
    rows, and the columns that each tile keeps.

    The model is traced in evaluation mode with `torch.export`; what happens to channels is followed operator by
    operator, and an operator that is not known keeps the channels it reads where they are. The analysis holds for
    calls that trace to the same graph as the example does.

    Parameters
    ----------
    model
        The model; it is not changed. It may be on the meta device: then the plan cannot be solved.
    example_inputs
        A tensor, a tuple of arguments, or a dict of keyword arguments for its forward. Sizes that happen to be equal
        do not matter.
    nm
        Pattern: (n, m), ``"n:m"``, `permsolve.HiNM` or what `permsolve.patterns.parse` makes one of.
    gather
        ``"norm"`` gives the channels that linear layers read from a norm an order of their own by an explicit index: a
        buffer after the norm, or, where others read the norm as well, before each of the linear layers. ``"layer"``
        gives every linear layer an order of its own, by an index before each whose channels are not free without one.
        The model then does one gather more for each, which `sparsify_` folds into compressed layers. For plain n:m
        only.

    Returns
    -------
    Plan
        The groups of channels that may be permuted, and the weights that may not, with reasons.

    Raises
    ------
    ModelError
        If the model cannot be traced with this example.
    InputError
        If another argument does not fit.
    """
    pattern = parse(nm)
    side = side_of(pattern)
    if gather not in (None, *GATHERS):
        raise InputError(f"gather = {gather!r} must be None, {' or '.join(map(repr, GATHERS))}")
    if gather is not None and pattern.moves_rows:
        raise InputError(f"gather = {gather!r} orders input channels, which {pattern} keeps by index: leave it out")
    traced = trace(model, example_inputs, watch=gather is not None)
    points = norm_points(traced) if gather == "norm" else None
    if gather == "layer":
        points = layer_points(traced, _free(divide(investigate(traced), side)[0]))
    found = investigate(traced, points)
    groups, refusals = divide(found, side)
    named: list[Group] = []
    for blocks in groups:
        group = Group.of(blocks, pattern)
        taken = sum(each.name.split("#")[0] == group.name for each in named)
        group.name += f"#{taken + 1}" if taken else ""
        named.append(group)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Plan(
        nm=pattern,
        model=type(model).__name__,
        parameters=parameters,
        groups=tuple(named),
        frozen=tuple(refusals),
        unknown=dict(found.unknown),
        example_inputs=example_inputs,
    )


def _free(groups: list[list[Block]]) -> set[str]:
    """Return the weights that share an order with no other, and whose channels may go anywhere."""
    alone = [blocks[0].movements for blocks in groups if len(blocks) == 1]
    consumers = [[move for move in moves if move.role == "consumer"] for moves in alone]
    return {own[0].name for own in consumers if len(own) == 1 and len(own[0].positions) == 1}


@dataclass(eq=False, repr=False)
class Plan:
    """What a model lets be permuted, and the permutations found.

    Parameters
    ----------
    nm
        The pattern.
    model
        Name of the model's class.
    parameters
        Number of its parameters.
    groups
        Channels that one permutation moves, in the order of the graph.
    frozen
        Weights that do not gain: ``name``, ``axis`` of the channels that stay, ``reason``.
    unknown
        Operators without a rule that channels met, and how often.
    example_inputs
        What the model was traced with, or None for a plan that was read.
    """

    nm: Pattern
    model: str
    parameters: int
    groups: tuple[Group, ...]
    frozen: tuple[Refusal, ...]
    unknown: dict[str, int] = field(default_factory=dict)
    example_inputs: object = field(default=None, repr=False)

    @property
    def gainers(self) -> tuple[str, ...]:
        """Names of all weights that gain: `consumers` or `makers`."""
        return tuple(dict.fromkeys(each.name for group in self.groups for each in group.gainers))

    @property
    def consumers(self) -> tuple[str, ...]:
        """Names of all weights whose input channels are permuted, and that gain."""
        return tuple(dict.fromkeys(each.name for group in self.groups for each in group.consumers))

    @property
    def makers(self) -> tuple[str, ...]:
        """Names of all weights whose output channels are permuted, and that gain."""
        return tuple(dict.fromkeys(each.name for group in self.groups for each in group.makers))

    @property
    def producers(self) -> tuple[str, ...]:
        """Names of all weights whose output channels follow without a gain."""
        return tuple(dict.fromkeys(name for group in self.groups for name in group.producers))

    @property
    def gaining(self) -> int:
        """Number of parameters that stand in channels a group permutes, and gain."""
        return sum(each.size for group in self.groups for each in group.gainers)

    @property
    def solved(self) -> bool:
        """Whether every group has a solution."""
        return all(group.solution is not None for group in self.groups)

    def __getitem__(self, name: str) -> Group:
        """Return a group by its name."""
        for group in self.groups:
            if group.name == name:
                return group
        known = ", ".join(repr(group.name) for group in self.groups[:8])
        more = f" and {len(self.groups) - 8} more" if len(self.groups) > 8 else ""
        raise InputError(f"the plan has no group {name!r}; it has {known or 'none'}{more}")

    def __repr__(self) -> str:
        """Return a line that names the model and counts."""
        return f"<Plan {self.nm} of {self.model}: {len(self.groups)} groups, {len(self.frozen)} weights stay>"

    def __str__(self) -> str:
        from permsolve.models.tables import plan_table

        return plan_table(self)

    def assign(self, name: str, solution: Any) -> None:
        """Give a group a solution of one's own.

        Parameters
        ----------
        name
            Name of the group.
        solution
            Of plain n:m a permutation, integers of shape (channels,): channel s of the permuted weights is channel
            perm[s] of the old ones. Of HiNM a `permsolve.patterns.HiNMSolution`: its rows are such a permutation.

        Raises
        ------
        InputError
            If there is no such group, or the solution does not fit.
        """
        group = self[name]
        group.solution = group.check_solution(solution)
        group.result = None

    def solve(
        self,
        model: nn.Module,
        *,
        method: str | Solver = "auto",
        saliency: object = "magnitude",
        calibration: Calibration | None = None,
        time_limit: float | None = None,
        seed: int = 0,
        n_jobs: int | None = None,
        workers: int | None = 1,
        options: dict[str, Any] | None = None,
        callbacks: Sequence[GroupCallback] = (),
        display: bool | None = None,
        save: str | os.PathLike[str] | None = None,
        again: bool = False,
    ) -> Plan:
        """Solve every group that has no permutation yet.

        Parameters
        ----------
        model
            The model, with data; it is not changed.
        method, options, seed
            As in `permsolve.solve`, for each group.
        n_jobs
            Threads of each solve; by default the workers share all cores.
        workers
            Groups solved side by side, on the engine of ``joblib.parallel_config``, as ``n_jobs`` of
            `permsolve.solve_many`; -1 for one per core.
        saliency
            A name or saliency object for all weights; a mapping from names of weights to arrays of their shape or
            saliency objects; or a function of a weight's name and its values, with input channels on axis 1, to an
            array of that shape. With a calibration ``"wanda"``, ``"ria"``, ``"obs"`` and the objective
            ``"output_error"`` are names, too.
        calibration
            What `calibrate` found of this model, in the order that it is in.
        time_limit
            Seconds for all groups together; each gets a share of the workers' time, in proportion to its number of
            channels.
        callbacks
            Functions called with a group and its `permsolve.stop.Progress`; a true answer ends that group's solve.
            They need one worker.
        display
            Show progress over the groups: True, False, or None for where a person is watching.
        save
            A file that the plan is written to after every group, so that a killed run can go on.
        again
            Solve the groups that have a permutation, too.

        Returns
        -------
        Plan
            This plan; every group has its result.

        Raises
        ------
        InputError
            If an argument does not fit.
        ModelError
            If the plan is for another model.
        KeyboardInterrupt
            If interrupted; what was solved by then stays, and with one worker the group at work keeps its best.
        """
        if time_limit is not None and not (isinstance(time_limit, (int, float)) and time_limit > 0):
            raise InputError(f"time_limit = {time_limit!r} must be a positive number of seconds")
        if not isinstance(callbacks, (list, tuple)) or not all(callable(each) for each in callbacks):
            raise InputError(f"callbacks = {callbacks!r} must be a list of functions of a group and its progress")
        self.check(model)
        verification.check_has_data(model)
        todo = [group for group in self.groups if again or group.solution is None]
        if isinstance(saliency, Mapping):
            missing = [each.name for group in todo for each in group.gainers if each.name not in saliency]
            if missing:
                raise InputError(f"the saliency has no entry for {missing[0]!r} ({len(missing)} weights lack one)")
        ranking = saliency if calibration is None else ModelSaliency(saliency, calibration).for_groups(model)
        if save is not None:
            self.save(save)  # what cannot be written is known before the work
        solve_groups(
            self,
            model,
            todo,
            saliency=ranking,
            time_limit=time_limit,
            workers=workers,
            callbacks=callbacks,
            display=display,
            save=save,
            settings={"method": method, "options": options, "seed": seed, "n_jobs": n_jobs},
        )
        return self

    def learn(
        self,
        model: nn.Module,
        batches: Iterable[object],
        *,
        method: str = "sinkhorn",
        steps: int = 200,
        lr: float | None = None,
        saliency: object = "wanda",
        calibration: Calibration | None = None,
        layers: Filter | None = None,
        loss: str | Callable[[Any, Any], torch.Tensor] = "cosine",
        held_out: Iterable[object] | None = None,
        block: int | None = None,
        start: str = "identity",
        seed: int = 0,
        save: str | os.PathLike[str] | None = None,
        display: bool | None = None,
    ) -> Learned:
        """Learn the permutations by the outputs of the pruned model, all groups at once; the weights are frozen.

        A permutation acts through the masks alone, which are put back into the weights' own order: nothing else of the
        model is touched, and no activation is gathered. Afterwards ``apply_`` and ``prune_`` with the same saliency and
        layers make the model whose loss was measured.

        Parameters
        ----------
        model
            The model, with data, in its own order; it is not changed.
        batches
            A list or loader of batches, each a tensor, a tuple of arguments or a dict of keyword arguments. A step
            takes one; they are gone through over and over.
        method
            ``"sinkhorn"`` (PermLLM, arXiv 2510.10136): logits in blocks, Sinkhorn normalisation, masks of the hard
            permutation with the gradient of the relaxed one. ``"transport"`` (arXiv 2601.22980): a learned cost,
            entropic optimal transport with falling epsilon and no hard permutation, and 1e-5 times the distance of all
            pruned layers' outputs from the dense ones added to the loss.
        steps
            Number of gradient steps.
        lr
            Learning rate at the beginning, which falls along a cosine; by default 0.001 for ``"sinkhorn"`` (0.005 with
            the saliency of RIA), as published, and 0.03 for ``"transport"``.
        saliency
            What masks are chosen by, as in `prune_`, entry by entry: ``"output_error"`` will not do.
        calibration
            What a saliency by name needs; by default made of the batches.
        layers
            Which weights are pruned, as in `prune_`.
        loss
            How the pruned model's first output differs from the dense model's, averaged over all vectors along its
            last axis: ``"cosine"``, one minus their cosine, as published for ``"sinkhorn"``; or ``"kl"``, the
            Kullback-Leibler divergence of their softmax, for logits. Or a function of the model's outputs and a batch's
            target to a tensor of one number; batches are pairs (inputs, target) then.
        held_out
            Batches, kept in memory, by which the best permutations are chosen; by default the batches themselves.
        block
            Channels of a block that no channel leaves; by default 64 for ``"sinkhorn"``, and a quarter of the channels
            for ``"transport"``.
        start
            ``"identity"``; ``"solved"``: the permutations in the plan; or ``"random"``, as published for
            ``"sinkhorn"``: the identity divided into blocks, a random order in each.
        seed
            Of the parameters to start with.
        save
            A file for the state, written every half minute: repeated after a kill, the call goes on and finds
            what it would have found. The batches must come in the same order.
        display
            Show progress: True, False, or None for where a person is watching.

        Returns
        -------
        Learned
            How the loss on the held-out batches has changed. The plan has the permutations of the smallest, which may
            be those that it started from.

        Raises
        ------
        InputError
            If an argument does not fit, or an output is not finite.
        ModelError
            If the plan is for another model.
        FileError
            If the state cannot be read or written.
        """
        from permsolve.models.learning import learn

        return learn(
            self,
            model,
            batches,
            method=method,
            steps=steps,
            lr=lr,
            saliency=saliency,
            calibration=calibration,
            layers=layers,
            loss=loss,
            held_out=held_out,
            block=block,
            start=start,
            seed=seed,
            save=save,
            display=display,
        )

    def check(self, model: nn.Module) -> None:
        """Check that a model has what this plan moves.

        Parameters
        ----------
        model
            The model.

        Raises
        ------
        ModelError
            If a parameter is missing or has another shape.
        """
        if not isinstance(model, nn.Module):
            raise InputError(f"need a torch.nn.Module, got {model!r}")
        for group in self.groups:
            for move in group.movements:
                if move.role in ("index", "pointed"):
                    try:
                        model.get_submodule(move.name)
                    except AttributeError:
                        raise ModelError(
                            f"the plan is for another model: {type(model).__name__} has no module {move.name!r}"
                        ) from None
                else:
                    lookup(model, move.name, move.view)
                    for name in move.masks:
                        lookup(model, name, move.view)

    def apply_(self, model: nn.Module, *, example_inputs: object = None, verify: bool = True) -> Verification | None:
        """Permute a model in place, by every group that has a permutation, and prove its outputs unchanged.

        Parameters
        ----------
        model
            The model whose weights were solved.
        example_inputs
            What to verify with; by default what the model was traced with. Where these are floating-point, random ones
            are tried as well.
        verify
            Whether to compare outputs before and after. Without it the model is only checked for fitting the plan.

        Returns
        -------
        Verification or None
            How far the outputs are apart.

        Raises
        ------
        ModelError
            If the model does not fit the plan, or has other weights than those that were solved (it may be permuted
            already), or a weight is held by a mask or parametrization that was added since.
        VerificationError
            If its outputs change; then it is as it was before.
        """
        self.check(model)
        check_movable(model, [move for group in self.groups for move in group.movements])
        verification.check_has_data(model)
        groups = [group for group in self.groups if group.solution is not None]
        for group in groups:
            if group.result is not None and group.fingerprint(model) != group.result.fingerprint:
                raise ModelError(
                    f"group {group.name!r} was solved for other weights than this model's: it may be permuted "
                    f"already, or be another checkpoint; solve the plan for this model (again=True)"
                )
        if self.groups and not groups:
            raise InputError("the plan has no permutation yet: call plan.solve(model) or plan.assign(...) first")
        if not verify:
            _permute_all(model, self._steps(groups), [])
            return None
        inputs = verification.need_inputs(example_inputs, self.example_inputs)
        double = verification.fits_double(model)
        before = verification.run(model, inputs, double=double)
        done: list[Step] = []
        checked = verification.compare(before, before)
        try:
            # In the model's own precision errors add up: then every group is verified as it is applied.
            for part in [groups] if before.dtype == torch.float64 else [[group] for group in groups]:
                _permute_all(model, self._steps(part), done)
                checked = verification.compare(before, verification.run(model, inputs, double=double))
                if not checked.passed:
                    names = part[0].name if len(part) == 1 else f"{len(part)} groups"
                    raise VerificationError(f"after permuting {names} the {checked}; the model was put back as it was")
        except BaseException:
            _undo_all(model, done)
            raise
        return checked

    def undo_(self, model: nn.Module) -> None:
        """Put a permuted model back into its own order.

        Parameters
        ----------
        model
            A model that this plan was applied to; it may have been trained or pruned since. Where all permutations
            are the user's own, nothing tells whether it was.

        Raises
        ------
        ModelError
            If the model does not fit the plan.
        """
        self.check(model)
        check_movable(model, [move for group in self.groups for move in group.movements])
        verification.check_has_data(model)
        groups = [group for group in self.groups if group.solution is not None]
        for group in groups:
            if group.result is not None and group.fingerprint(model) == group.result.fingerprint:
                raise ModelError(f"the weights of group {group.name!r} are in their own order already")
        _permute_all(model, self._steps(groups, back=True), [])

    def attach_(self, model: nn.Module) -> None:
        """Give a fresh model the indices of this plan, so that it can load a permuted checkpoint.

        Only plans made with ``gather`` have any.

        Parameters
        ----------
        model
            The model, not permuted.

        Raises
        ------
        ModelError
            If the model does not fit the plan.
        """
        self.check(model)
        groups = [group for group in self.groups if group.solution is not None]
        steps = [step for step in self._steps(groups) if step[0].role in ("index", "pointed")]
        for move, _ in steps:
            if hasattr(model.get_submodule(move.name), INDEX):
                raise ModelError(f"module {move.name!r} has an index already")
        _permute_all(model, steps, [])

    def _steps(self, groups: Sequence[Group], *, back: bool = False) -> list[Step]:
        """Return what is to be permuted, and how, in order."""
        steps = []
        for group in groups[::-1] if back else groups:
            assert group.perm is not None
            perm = np.argsort(group.perm) if back else group.perm
            steps += [(move, perm) for move in group.movements]
        return steps

    def to_json(self) -> str:
        """Return the plan as a JSON document of schema ``permsolve.plan/1``.

        Returns
        -------
        str
            The document: where every permutation goes, and each group's result in full.
        """
        from permsolve.models.documents import dump

        return dump(self)

    @staticmethod
    def from_json(text: str | bytes) -> Plan:
        """Read a plan.

        Parameters
        ----------
        text
            The document.

        Returns
        -------
        Plan
            The plan, without example inputs.

        Raises
        ------
        DocumentError
            If it does not follow the schema, or its parts do not fit together.
        """
        from permsolve.models.documents import parse

        return parse(text)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the plan as a JSON document, atomically.

        Parameters
        ----------
        path
            Where to; an existing file is replaced.

        Raises
        ------
        FileError
            If the file cannot be written.
        """
        write_atomically(path, self.to_json().encode())

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Plan:
        """Read a plan from a file.

        Parameters
        ----------
        path
            The file.

        Returns
        -------
        Plan
            The plan, without example inputs.

        Raises
        ------
        FileError
            If the file cannot be read.
        DocumentError
            If it is no valid plan.
        """
        try:
            text = Path(path).read_bytes()
        except OSError as error:
            raise FileError(os.fspath(path), error.strerror or str(error)) from error
        try:
            return Plan.from_json(text)
        except DocumentError as error:
            raise DocumentError(f"{os.fspath(path)}: {error}") from error


def _permute_all(model: nn.Module, steps: Sequence[Step], done: list[Step]) -> None:
    """Permute step by step, noting what is done; if anything goes wrong, put all of it back."""
    before = len(done)
    try:
        for move, perm in steps:
            permute_(model, move, perm)
            done.append((move, perm))
    except BaseException:
        _undo_all(model, done[before:])
        del done[before:]
        raise


def _undo_all(model: nn.Module, done: Sequence[Step]) -> None:
    for move, perm in reversed(done):
        permute_(model, move, np.argsort(perm))
