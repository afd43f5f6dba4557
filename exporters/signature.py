"""What a network of your own takes and gives: tensors in containers, each with a name."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fggp_deploy.common.user_code import raised
from fggp_deploy.errors import ConfigError, UnknownName
from fggp_deploy.format.generated_inputs import MAX_ELEMENTS, Array, Input
from fggp_deploy.graph.comparison import RTOL, output_error

from .containers import filled_with, leaves
from .torch_onnx import Tracing

Dynamic = Mapping[str, Mapping[int, str] | Sequence[int]]
OUTPUT = "output"  # the name of an output that has none
_TYPES = {
    torch.float32: "float32", torch.int64: "int64", torch.int32: "int32", torch.int16: "int16",
    torch.int8: "int8", torch.uint8: "uint8", torch.bool: "bool",
}  # fmt: skip


@dataclass(frozen=True)
class Names:
    """The names of a network's inputs and outputs, and the axes whose sizes stay open.

    Names that are None follow from the network. `dynamic` has axes by the name of their input:
    {axis: name of its size}, or a list of axes. Axes with one name have one size.
    """

    inputs: Sequence[str] | None = None
    outputs: Sequence[str] | None = None
    dynamic: Dynamic | None = None


@dataclass(frozen=True)
class Signature:
    """The arguments of a network, with a tensor for each input, and how it is traced."""

    network: nn.Module
    arguments: inspect.BoundArguments
    tracing: Tracing

    @classmethod
    def of(cls, network: nn.Module, example_inputs: Any, names: Names) -> Signature:
        """Bind the example inputs to forward(), run the network, and name what it gives.

        `example_inputs` are a tensor or a list, which is the only argument; a tuple of arguments;
        or a dictionary of arguments by name. Raises ConfigError for inputs, names or axes that do
        not fit, and for outputs that are not tensors or change from run to run.
        """
        arguments = _bound(network, example_inputs)
        found = _tensors(arguments)
        inputs = _named("input", names.inputs, list(found))
        tensors = {n: _checked(n, x) for n, x in zip(inputs, found.values(), strict=True)}
        if not tensors or sum(x.numel() for x in tensors.values()) > MAX_ELEMENTS:
            raise ConfigError(
                f"example_inputs must hold tensors, of at most {MAX_ELEMENTS:,} elements together"
            )
        outputs = _output_names(_run(network, arguments, tensors.values()), inputs, names.outputs)
        axes = _axes(names.dynamic or {}, tensors, outputs)
        examples = tuple(_doubled(x, axes[n]) for n, x in tensors.items())
        tracing = Tracing(
            examples, tuple(inputs), tuple(outputs), tuple(axes.values()),
            lambda forward: _flat(forward, arguments),
        )  # fmt: skip
        signature = cls(network, arguments, tracing)
        _check_stable(signature.outputs(signature.feeds()), signature.outputs(signature.feeds()))
        return signature

    def inputs(self) -> tuple[Input, ...]:
        """The inputs of a self-test, whose values lie between the smallest and largest example."""
        pairs = zip(self.tracing.input_names, self.tracing.examples, strict=True)
        return tuple(_input(name, x) for name, x in pairs)

    def feeds(self) -> dict[str, Array]:
        """The example inputs, by name."""
        pairs = zip(self.tracing.input_names, self.tracing.examples, strict=True)
        return {name: x.numpy() for name, x in pairs}

    def outputs(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """The network's outputs in torch, by name; raises ConfigError if it does not run."""
        tensors = (torch.from_numpy(feeds[n].copy()) for n in self.tracing.input_names)
        found = _run(self.network, self.arguments, tensors)
        names = self.tracing.output_names
        if len(found) != len(names):
            raise ConfigError(
                f"the network gives {len(names)} outputs in one run and {len(found)} in another; "
                "a file has the same in every run"
            )
        return {n: y.numpy() for n, y in zip(names, found.values(), strict=True)}


def _bound(network: nn.Module, example_inputs: Any) -> inspect.BoundArguments:
    signature = inspect.signature(network.forward)
    try:
        if isinstance(example_inputs, Mapping):
            return signature.bind(**{str(k): v for k, v in example_inputs.items()})
        if isinstance(example_inputs, tuple):
            return signature.bind(*example_inputs)
        return signature.bind(example_inputs)
    except TypeError as e:
        raise ConfigError(
            f"example_inputs do not fit {type(network).__name__}.forward{signature}: {e}; give a "
            "tuple of its arguments or a dictionary of them by name"
        ) from e


def _tensors(arguments: inspect.BoundArguments) -> dict[str, Tensor]:
    """The tensors of the arguments by name; all else, such as flags, is a constant of the file."""
    given = dict(arguments.arguments)
    for name, kind in arguments.signature.parameters.items():
        if kind.kind is inspect.Parameter.VAR_KEYWORD:
            given |= given.pop(name, {})
    if len(given) == 1 and isinstance(only := next(iter(given.values())), Mapping):
        given = dict(only)
    found = dict(leaves(given, ""))
    if arrays := [n for n, x in found.items() if isinstance(x, np.ndarray)]:
        raise ConfigError(f"the example input {arrays[0]!r} is a NumPy array; give a torch tensor")
    return {n: x for n, x in found.items() if isinstance(x, Tensor)}


def _checked(name: str, x: Tensor) -> Tensor:
    """An example input on the CPU, floats as float32."""
    x = x.detach().cpu().contiguous()
    x = x.float() if x.is_floating_point() else x
    if x.dtype not in _TYPES:
        raise ConfigError(
            f"the example input {name!r} is {x.dtype}; a file takes {', '.join(_TYPES.values())}"
        )
    if not x.numel():
        raise ConfigError(f"the example input {name!r} is empty, {tuple(x.shape)}")
    return x


def _named(kind: str, given: Sequence[str] | None, found: list[str]) -> list[str]:
    """`given` if there are as many as `found`, which are the names by default."""
    names = found if given is None else list(given)
    if isinstance(given, str) or not all(isinstance(n, str) and n for n in names):
        raise ConfigError(f"{kind}_names must be a list of names, got {given!r}")
    if len(names) != len(found):
        raise ConfigError(
            f"{kind}_names has {len(names)} entries, but the network has {len(found)} {kind}s: "
            f"{', '.join(found)}"
        )
    if twice := [n for i, n in enumerate(names) if n in names[:i]]:
        raise ConfigError(f"two {kind}s are called {twice[0]!r}; give {kind}_names")
    return names


def _output_names(
    outputs: Mapping[str, Tensor], inputs: list[str], given: Sequence[str] | None
) -> list[str]:
    default = [f"{n}_out" if n in inputs else n for n in outputs]
    names = _named("output", given, default)
    if both := [n for n in names if n in inputs]:
        raise ConfigError(f"{both[0]!r} names an input and an output; give other output_names")
    return names


def _axes(
    dynamic: Dynamic, tensors: Mapping[str, Tensor], outputs: list[str]
) -> dict[str, dict[int, str]]:
    """The open axes of each input; those of outputs follow from them and are passed over."""
    if not isinstance(dynamic, Mapping):
        raise ConfigError(f"dynamic must be a dictionary {{input: axes}}, got {dynamic!r:.60}")
    found: dict[str, dict[int, str]] = {name: {} for name in tensors}
    sizes: dict[str, int] = {}
    for name, axes in dynamic.items():
        if name in outputs:
            continue
        if name not in tensors:
            raise UnknownName("input in dynamic", str(name), tensors)
        shape = tensors[name].shape
        named = axes if isinstance(axes, Mapping) else {a: f"{name}_{a}" for a in axes}
        for axis, size_name in named.items():
            if not isinstance(axis, int) or not -len(shape) <= axis < len(shape):
                raise ConfigError(
                    f"dynamic names axis {axis!r} of {name!r}, whose example has the shape "
                    f"{tuple(shape)}"
                )
            if not isinstance(size_name, str) or not size_name.isidentifier():
                raise ConfigError(
                    f"dynamic calls axis {axis} of {name!r} {size_name!r}; give a name such as "
                    "'batch'"
                )
            if sizes.setdefault(size_name, shape[axis]) != shape[axis]:
                raise ConfigError(
                    f"dynamic calls axis {axis} of {name!r} {size_name!r}, whose size is "
                    f"{sizes[size_name]} elsewhere and {shape[axis]} here"
                )
            found[name][axis % len(shape)] = size_name
    return found


def _doubled(x: Tensor, axes: Mapping[int, str]) -> Tensor:
    """The example twice along open axes of size 1, which torch would take for fixed."""
    for axis in axes:
        if x.shape[axis] == 1:
            x = torch.cat([x, x], axis)
    return x


def _flat(
    forward: Callable[..., Any], arguments: inspect.BoundArguments
) -> Callable[..., tuple[Tensor, ...]]:
    """A forward() from tensors to a tuple of tensors."""

    def flat(*tensors: Tensor) -> tuple[Tensor, ...]:
        args, named = _call(arguments, iter(tensors))
        return tuple(_outputs(forward(*args, **named)).values())

    return flat


def _call(
    arguments: inspect.BoundArguments, tensors: Iterator[Tensor]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    filled = inspect.BoundArguments(
        arguments.signature, filled_with(dict(arguments.arguments), tensors)
    )
    return filled.args, filled.kwargs


@torch.no_grad()
def _run(network: nn.Module, arguments: inspect.BoundArguments, tensors: Any) -> dict[str, Tensor]:
    """The outputs of the network for other tensors in its arguments; raises ConfigError."""
    name = type(network).__name__
    args, named = _call(arguments, iter(tensors))
    try:
        found = network(*args, **named)
    except Exception as e:  # whatever the network's own code raises
        raise ConfigError(f"{name} does not run on example_inputs ({raised(e)})") from e
    return _outputs(found, name)


def _outputs(found: Any, network: str = "the network") -> dict[str, Tensor]:
    """The tensors in what a network returned, without those that are None, by name."""
    own_names = isinstance(found, Mapping) or dataclasses.is_dataclass(found)
    tensors = {n: y for n, y in leaves(found, "" if own_names else OUTPUT) if y is not None}
    for name, y in tensors.items():
        if not isinstance(y, Tensor) or y.is_complex():
            kind = y.dtype if isinstance(y, Tensor) else type(y).__name__
            raise ConfigError(
                f"{network} returns {kind} in {name!r}; a file can only return tensors of "
                "numbers, in tuples, lists and dictionaries"
            )
    if not tensors:
        raise ConfigError(f"{network} returns no tensor")
    return tensors


def _check_stable(first: Mapping[str, Array], second: Mapping[str, Array]) -> None:
    """Raise ConfigError if two runs on the same inputs give other shapes or values."""
    for name, y in first.items():
        again = second[name]
        if again.shape != y.shape:
            what = f"has the shape {y.shape} in one run and {again.shape} in the next"
        elif not output_error(again, y) <= RTOL:
            what = f"changes by {output_error(again, y):.1e} of its largest value"
        else:
            continue
        raise ConfigError(
            f"two runs on the same example_inputs differ: the output {name!r} {what}; turn off "
            "dropout and other randomness that eval() leaves on"
        )


def _input(name: str, x: Tensor) -> Input:
    low, high = x.min().item(), x.max().item()
    given = (low, high) if not x.is_floating_point() or -np.inf < low < high < np.inf else None
    return Input(name, _TYPES[x.dtype], tuple(x.shape), given)
