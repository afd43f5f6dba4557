"""Finds what a pickle would import and call, without executing it."""

from __future__ import annotations

import pickletools
from dataclasses import dataclass
from typing import Any, BinaryIO


@dataclass(frozen=True)
class Global:
    """An object that a pickle imports, by its dotted name."""

    name: str


@dataclass(frozen=True)
class Scan:
    """The dotted names of all globals, and the calls of globals with their arguments.

    An argument is a string, a Global, a tuple of arguments, or None for anything else.
    """

    names: frozenset[str]
    calls: tuple[tuple[str, Any], ...]


_MARK = object()


def scan(f: BinaryIO) -> Scan:
    """Read one pickle up to its STOP; raises ValueError or LookupError if it is not a pickle.

    Runs the pickle's stack machine on symbols. Each opcode pops and pushes what `pickletools` lists
    for it; only strings, globals and tuples are kept.
    """
    names: set[str] = set()
    calls: list[tuple[str, Any]] = []
    stack: list[Any] = []
    memo: dict[Any, Any] = {}
    for op, argument, _ in pickletools.genops(f):
        if op.name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if op.name == "MEMOIZE" else argument] = stack[-1]
            continue
        taken = _taken(stack, op)
        if op.name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif op.name == "DUP":
            stack += taken * 2
        elif op.name == "MARK":
            stack.append(_MARK)
        elif "UNICODE" in op.name or "STRING" in op.name:
            stack.append(argument)
        elif op.name in ("GLOBAL", "INST", "STACK_GLOBAL"):
            name = ".".join(map(str, taken)) if argument is None else _dotted(argument)
            names.add(name)
            stack.append(Global(name))
        elif "TUPLE" in op.name:
            stack.append(tuple(taken))
        else:
            if op.name in ("REDUCE", "NEWOBJ", "NEWOBJ_EX") and isinstance(taken[0], Global):
                calls.append((taken[0].name, taken[1]))
            stack += [None] * len(op.stack_after)
    return Scan(frozenset(names), tuple(calls))


def _taken(stack: list[Any], op: pickletools.OpcodeInfo) -> list[Any]:
    """Pop what an opcode takes from the stack, and return it without the mark."""
    split = len(stack) - len(op.stack_before)
    if pickletools.markobject in op.stack_before:
        split = len(stack) - 1
        while split >= 0 and stack[split] is not _MARK:
            split -= 1
        split -= op.stack_before.index(pickletools.markobject)
    if split < 0:
        raise ValueError("the pickle pops more from its stack than it pushed")
    taken = [value for value in stack[split:] if value is not _MARK]
    del stack[split:]
    return taken


def _dotted(argument: Any) -> str:
    return str(argument).replace(" ", ".", 1).replace("__builtin__.", "builtins.", 1)
