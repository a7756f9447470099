"""Which module a command is about: one of ours with its checkpoint, or anybody's; and how much of it is to be compared."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rnnx._errors import ExportError

if TYPE_CHECKING:
    from torch import nn

_OPTIONS = (
    click.option("--model", "name", metavar="NAME", help="One of `rnnx models`."),
    click.option("--module", metavar="FILE.py:FACTORY", help="Your own: what returns the module, or (module, example)."),
    click.option("--checkpoint", type=click.Path(path_type=Path), help="Weights: .safetensors, or .pt with a state_dict."),
    click.option(
        "--arg", "arguments", multiple=True, metavar="NAME=VALUE", help="An argument of the factory; may be repeated."
    ),
    click.option(
        "--example",
        "examples",
        multiple=True,
        metavar="INPUT",
        help='An input of forward, such as "int64[B=2,T=7] < 50" or "x: float32[B=2,T=7,3]"; one per input, in order or by name.',
    ),
    click.option(
        "--states",
        multiple=True,
        metavar="ARGUMENT=OUTPUT",
        help="Which output hands a state back, where it cannot be found: h=output.1",
    ),
    click.option("--axes", multiple=True, metavar="INPUT=LETTERS", help="A letter per axis, B and T among them: x=TBF"),
)
_PROOFS = (
    click.option("--quick", "proof", flag_value="quick", help="Compare little, for the inner loop of your work."),
    click.option("--full", "proof", flag_value="full", default=True, help="Follow the module for 10 000 steps. The default."),
    click.option("--thorough", "proof", flag_value="thorough", help="Follow the module for a million steps."),
)

Command = Callable[..., Any]


@dataclass(frozen=True)
class Asked:
    """The options that say which module is meant, as they were given."""

    name: str | None
    module: str | None
    checkpoint: Path | None
    arguments: Sequence[str]
    examples: Sequence[str]
    states: Sequence[str]
    axes: Sequence[str]

    def check(self) -> None:
        """Raises UsageError where both kinds of module are asked for, or one with what belongs to the other."""
        if self.name is not None and self.module is not None:
            raise click.UsageError("give --model NAME for one of `rnnx models`, or --module FILE.py:FACTORY for your own")
        given = {"--arg": self.arguments, "--example": self.examples, "--states": self.states, "--axes": self.axes}
        own = [option for option, values in given.items() if values]
        if self.module is None and own:
            raise click.UsageError(f"{own[0]} belongs to --module; --model knows its own")


@dataclass(frozen=True)
class Chosen:
    """A module, and how it is to be exported."""

    module: "nn.Module"
    example: Any
    states: Mapping[str, str] | None = None
    axes: Mapping[str, str] | None = None


def module_options(command: Command) -> Command:
    """Adds the options of `Asked`: name, module, checkpoint, arguments, examples, states, axes."""
    return _with(_OPTIONS, command)


def proof_options(command: Command) -> Command:
    """Adds the options that say how much is compared: proof."""
    return _with(_PROOFS, command)


def own_module(asked: Asked) -> Chosen:
    """The module that --module names, with its weights.

    Raises:
        ExportError: it cannot be made, its weights cannot be read, or there is no example.
    """
    from rnnx._cli.given import as_example, load_weights, make_module, parse_arguments, parse_example, parse_pairs

    target = str(asked.module)
    described = parse_example(asked.examples)
    pairs, letters = parse_pairs("--states", asked.states, "h=output.1"), parse_pairs("--axes", asked.axes, "x=BTF") or {}
    module, example = make_module(target, parse_arguments(asked.arguments))
    if asked.checkpoint is not None:
        load_weights(module, asked.checkpoint)
    if described:
        example, found = as_example(module, described)
        letters = found | letters
    elif example is None:
        raise ExportError(
            f'{target} returns no example beside the module; describe its inputs, such as --example "float32[B=2,T=7,3]"'
        )
    return Chosen(module, example, pairs, letters or None)


def _with(options: Sequence[Callable[[Command], Command]], command: Command) -> Command:
    for option in reversed(options):
        command = option(command)
    return command
