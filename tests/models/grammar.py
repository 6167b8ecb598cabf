"""Random networks: programs drawn from a grammar of operators, that can be built, printed and made smaller.

``draw(seed)`` returns a `Program`: a few modules and parameters, and lines of Python that a forward runs. Every line is
run while it is drawn, so that shapes are known and values stay finite. The same seed gives the same program.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
import torch.nn.utils.parametrize
import torch.nn.utils.prune
from torch import Tensor, nn
from zoo_parts import Made, buffer, noise, parameter, randomise

LARGEST, MOST = 1e4, 6000
"""No tensor of a program has a larger entry, or more of them."""


MANY = 15
"""A choice among as many options is one that every round of networks goes through in turn."""

FAILURES = (RuntimeError, ValueError, IndexError, TypeError, AttributeError, AssertionError, ZeroDivisionError)
"""What a line of Python that does not fit its tensors may raise."""


class Rejected(Exception):
    """A production does not apply, or leads to values that are of no use: another one is tried."""


def tie(module: Any, weight: nn.Parameter) -> Any:
    """Return a module that shares its weight with another."""
    if module.weight.shape != weight.shape:
        raise Rejected
    module.weight = weight
    return module


def pruned(module: nn.Module) -> nn.Module:
    """Return a module whose weight is ``weight_orig * weight_mask``."""
    return torch.nn.utils.prune.random_unstructured(module, "weight", 0.4)


def twice(module: Any) -> Any:
    """Return a module whose weight is twice a parametrised one."""
    torch.nn.utils.parametrize.register_parametrization(module, "weight", Scaled())
    return module


class Scaled(nn.Module):
    """A parametrisation."""

    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


def mask(*shape: int) -> nn.Buffer:
    """Make a boolean buffer."""
    return nn.Buffer(noise(*shape, seed=len(shape)) > -0.6)


def table(*numbers: int) -> nn.Buffer:
    """Make a buffer of whole numbers."""
    return nn.Buffer(torch.tensor(numbers))


def unsaved(*shape: int) -> nn.Buffer:
    """Make a buffer that is not part of the state."""
    return nn.Buffer(1 + 0.3 * noise(*shape), persistent=False)


class Constant(nn.Module):
    """A tensor that is a plain attribute, no buffer."""

    def __init__(self, *shape: int):
        super().__init__()
        self.value = (1 + 0.3 * noise(*shape)).double()


NAMES = {
    **{"torch": torch, "F": F, "nn": nn, "tie": tie, "pruned": pruned, "twice": twice, "mask": mask, "table": table},
    **{"parameter": parameter, "buffer": buffer, "unsaved": unsaved, "Constant": Constant},
    **{"weight_norm": torch.nn.utils.parametrizations.weight_norm, "old_weight_norm": torch.nn.utils.weight_norm},
}


class Graph(nn.Module):
    """A network that runs lines of Python; its parts are ``m.p0``, ``m.p1`` and so on."""

    def __init__(self, body: str, inputs: Sequence[str], output: str):
        super().__init__()
        head = f"def run(m, {', '.join(inputs)}):\n"
        scope: dict[str, Any] = dict(NAMES)
        exec(head + "".join(f"    {line}\n" for line in [*body.splitlines(), f"return {output}"]), scope)
        self.run = scope["run"]

    def forward(self, *args: Tensor) -> Any:
        return self.run(self, *args)


class Pack(nn.Module):
    """Several networks side by side, as most of the time of an export does not depend on the size."""

    def __init__(self, graphs: Sequence[nn.Module], counts: Sequence[int]):
        super().__init__()
        self.graphs, self.counts = nn.ModuleList(graphs), tuple(counts)

    def forward(self, *args: Tensor) -> Any:
        rest = list(args)
        return [
            graph(*[rest.pop(0) for _ in range(count)]) for graph, count in zip(self.graphs, self.counts, strict=True)
        ]


@dataclass(frozen=True)
class Program:
    """A network as text.

    ``inputs`` and ``parts`` map names to the expressions that make them, ``lines`` is the body of the forward and
    ``output`` what it returns. ``first`` names the parts that read inputs of the model.
    """

    seed: int
    inputs: dict[str, str]
    parts: dict[str, str] = field(default_factory=dict)
    lines: tuple[str, ...] = ()
    output: str = ""
    first: frozenset[str] = frozenset()

    def build(self) -> Made:
        """Return the model in float64 and in eval mode, every parameter random, and its inputs."""
        model = Graph("\n".join(self.lines), list(self.inputs), self.output)
        for name, text in self.parts.items():
            self.add(model, name, text)
        return model.double().eval(), tuple(self.examples.values())

    def add(self, model: nn.Module, name: str, text: str) -> None:
        """Give a model a part; its values depend on its name and the seed only."""
        part = eval(text, dict(NAMES), {"m": model})
        holder = nn.Module()
        setattr(holder, name, part)
        randomise(holder, 1000 * self.seed + int(name[1:])).double()
        if name in holder._buffers:
            model.register_buffer(name, holder._buffers[name], name not in holder._non_persistent_buffers_set)
        else:
            setattr(model, name, getattr(holder, name))

    @property
    def examples(self) -> dict[str, Tensor]:
        """Inputs by name, floating-point ones in float64."""
        made = {}
        for number, (name, text) in enumerate(self.inputs.items()):
            generator = torch.Generator().manual_seed(1000 * self.seed + number)
            made[name] = eval(text, {"torch": torch, "g": generator})
        return {name: x.double() if x.is_floating_point() else x for name, x in made.items()}

    def __str__(self) -> str:
        inputs = [f"{name} = {text}" for name, text in self.inputs.items()]
        parts = [f"m.{name} = {text}" for name, text in self.parts.items()]
        return "\n".join([f"# program {self.seed}", *inputs, *parts, *self.lines, f"return {self.output}"])

    def tidy(self) -> Program:
        """Return the program without lines and parts that nothing reads."""
        lines: list[str] = []
        text = self.output
        for line in reversed(self.lines):
            made = re.match(r"((?:v\d+(?:, )?)+) = ", line)
            if made is None or any(re.search(rf"\b{name}\b", text) for name in made[1].split(", ")):
                lines.insert(0, line)
                text += "\n" + line
        parts: dict[str, str] = {}
        for name, part in reversed(self.parts.items()):
            if re.search(rf"\bm\.{name}\b", text):
                parts[name] = part
                text += "\n" + part
        return replace(self, lines=tuple(lines), parts=dict(reversed(parts.items())))

    def without(self, number: int, substitute: str) -> Program:
        """Return the program without a line, another tensor in place of what it made."""
        made = self.lines[number].partition(" = ")[0]
        lines = [*self.lines[:number], *self.lines[number + 1 :]]
        lines = lines if made == substitute else [re.sub(rf"\b{made}\b", substitute, line) for line in lines]
        output = re.sub(rf"\b{made}\b", substitute, self.output)
        return replace(self, lines=tuple(lines), output=output).tidy()


def pack(programs: Sequence[Program]) -> Made:
    """Return one model that holds several networks, and its inputs."""
    made = [program.build() for program in programs]
    model = Pack([model for model, _ in made], [len(inputs) for _, inputs in made])
    return model.eval(), tuple(x for _, inputs in made for x in inputs)


def shrink(program: Program, fails: Callable[[Program], bool]) -> Program:
    """Return the smallest program found that still fails: lines are left out as long as one can be."""
    progress = True
    while progress:
        progress = False
        for number in reversed(range(len(program.lines))):
            if number >= len(program.lines):
                continue
            earlier = [line.partition(" = ")[0] for line in program.lines[:number]]
            candidates = [name for name in dict.fromkeys([*reversed(earlier), *program.inputs]) if "," not in name]
            for substitute in ["None", *candidates]:
                smaller = program.without(number, substitute)
                try:
                    failing = fails(smaller)
                except Exception:
                    failing = False
                if failing:
                    program, progress = smaller, True
                    break
    return program


class Var:
    """A tensor of a program in the making: its name, its value, and the axis of its channels."""

    def __init__(self, name: str, value: Tensor, axis: int):
        self.name, self.value, self.axis = name, value, axis % max(1, value.ndim)

    def __str__(self) -> str:
        return self.name

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.value.shape)

    @property
    def rank(self) -> int:
        return self.value.ndim

    @property
    def channels(self) -> int:
        return self.shape[self.axis] if self.rank else 1


Production = Callable[["Draw"], Any]


class Draw:
    """A program in the making."""

    def __init__(self, seed: int, rng: random.Random, inputs: dict[str, tuple[str, int]]):
        self.random = rng
        self.program = Program(seed, {name: text for name, (text, _) in inputs.items()})
        self.model = nn.Module()
        self.parts: dict[str, str] = {}
        self.lines: list[str] = []
        self.vars: list[Var] = []
        self.inputs = [Var(name, x, inputs[name][1]) for name, x in self.program.examples.items()]
        self.used: set[str] = set()
        self.first: set[str] = set()
        self.counter = 0
        self.output = ""
        self.forced: int | None = None

    # -- choices ---------------------------------------------------------------------------------------------------

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def choose(self, *options: Any) -> Any:
        """Draw an option; where there are many, the one that is asked for."""
        if self.forced is not None and len(options) >= MANY:
            return options[self.forced % len(options)]
        return self.random.choice(options)

    def width(self) -> int:
        """Draw a number of channels: mostly a multiple of 4."""
        return self.random.choice([8, 8, 8, 16, 16, 16, 16, 24, 24, 12, 12, 32, 20, 10])

    def pick(self, fits: Callable[[Var], bool] = lambda x: True, inputs: float = 0.03) -> Var:
        """Draw a tensor, rather a late one; now and then an input."""
        if self.chance(inputs):
            found = [x for x in self.inputs if x.value.is_floating_point() and fits(x)]
            if found:
                return self.random.choice(found)
        found = [x for x in self.vars if x.rank and x.value.is_floating_point() and fits(x)]
        if not found:
            raise Rejected
        return self.random.choices(found, [2.0 ** (k - len(found)) for k in range(len(found))])[0]

    def axis(self, x: Var, channels: float = 0.65) -> int:
        """Draw an axis: mostly that of the channels, seldom that of the batch, sometimes negative."""
        axis = (
            x.axis
            if x.rank < 2 or self.chance(channels)
            else self.random.randrange(0 if self.chance(0.1) else 1, x.rank)
        )
        return axis - x.rank if self.chance(0.4) else axis

    def evaluate(self, text: str) -> Any:
        return eval(text, dict(NAMES), {"m": self.model, **{x.name: x.value for x in self.everything}})

    @property
    def everything(self) -> list[Var]:
        return [*self.inputs, *self.vars]

    # -- parts and lines -------------------------------------------------------------------------------------------

    def part(self, text: str) -> str:
        """Add a module, parameter or buffer; return how a line calls it."""
        name = f"p{self.counter}"
        self.counter += 1
        try:
            self.program.add(self.model, name, text)
        except FAILURES:
            raise Rejected from None
        getattr(self.model.eval(), name)
        self.parts[name] = text
        return f"m.{name}"

    def emit(self, text: str, axis: int | None = None, like: Var | None = None) -> Var:
        """Add a line that makes a tensor."""
        return self.several([axis if like is None else like.axis], text)[0]

    def several(self, axes: Sequence[int | None], text: str) -> list[Var]:
        """Add a line that makes several tensors, or one."""
        try:
            with torch.no_grad():
                made = self.evaluate(text)
        except FAILURES:
            raise Rejected from None
        values = list(made) if isinstance(made, (tuple, list)) else [made]
        if len(values) != len(axes):
            raise Rejected
        for value in values:
            if not isinstance(value, Tensor) or not 0 < value.numel() <= MOST or value.ndim > 6:
                raise Rejected
            if value.is_floating_point() and not value.abs().max() < LARGEST:
                raise Rejected
        found = []
        for value, axis in zip(values, axes, strict=True):
            found.append(Var(f"v{self.counter}", value, -1 if axis is None else axis))
            self.counter += 1
        self.lines.append(f"{', '.join(x.name for x in found)} = {text}")
        self._note(text)
        self.vars += found
        return found

    def do(self, text: str) -> None:
        """Add a line that changes tensors in place."""
        scope = {"m": self.model, **{x.name: x.value for x in self.everything}}
        try:
            with torch.no_grad():
                exec(text, dict(NAMES), scope)
        except FAILURES:
            raise Rejected from None
        if any(not bool(x.value.abs().max() < LARGEST) for x in self.vars if x.value.is_floating_point()):
            raise Rejected
        self.lines.append(text)
        self._note(text)

    def _note(self, text: str) -> None:
        names = re.findall(r"\bv\d+\b|\bx\d+\b", text)
        self.used.update(names)
        if any(name[0] == "x" for name in names):
            self.first.update(re.findall(r"\bm\.(p\d+)", text))

    def attempt(self, production: Production) -> bool:
        """Try a production; on failure everything is as it was."""
        state = list(self.lines), dict(self.parts), list(self.vars), set(self.used), set(self.first)
        try:
            production(self)
        except Rejected:
            self.lines, self.parts, self.vars, self.used, self.first = state
            self._replay()
            return False
        return True

    def _replay(self) -> None:
        """Run all lines again, as a line that was rejected may have changed tensors in place."""
        scope: dict[str, Any] = {"m": self.model, **self.program.examples}
        with torch.no_grad():
            for line in self.lines:
                exec(line, dict(NAMES), scope)
        for x in self.everything:
            x.value = scope[x.name]

    def finish(self) -> Program:
        """Return the program."""
        lines, first = tuple(self.lines), frozenset(self.first)
        return replace(self.program, parts=self.parts, lines=lines, output=self.output, first=first).tidy()


def useful(program: Program) -> bool:
    """Whether all outputs are finite, of moderate size, and not constant."""
    from zoo_parts import call

    model, inputs = program.build()
    outputs = [x for x in call(model, inputs) if x.is_floating_point()]
    return bool(outputs) and all(
        x.isfinite().all() and x.abs().max() < LARGEST and x.max() - x.min() > 1e-6 * x.abs().max() for x in outputs
    )


Start = Callable[[int, random.Random], Draw]


def draw_program(seed: int, start: Start, productions: dict[Production, float], end: Production) -> Program:
    """Draw a network: a start, some productions by their weights, an end that sets ``output``.

    Productions with many options come first, each option in turn, so that no operator is left to chance.
    """
    turns = [(production, k) for production in productions for k in range(getattr(production, "options", 0))]
    for trial in range(50):
        rng = random.Random(1000 * seed + trial)
        drawing = start(seed, rng)
        if turns:
            production, option = turns[7919 * seed % len(turns)]
            drawing.forced = option
            applies = drawing.attempt(production)
            drawing.forced = None
            if not applies and trial < 20:
                continue
        for _ in range(rng.choice([0, 1, 3, 3, 4, 4, 5, 6, 8])):
            for production in rng.choices(list(productions), list(productions.values()), k=30):
                if drawing.attempt(production):
                    break
        if drawing.attempt(end) and useful(program := drawing.finish()):
            return program
    raise AssertionError(f"no program for seed {seed}")
