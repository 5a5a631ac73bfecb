"""The contents of a pickle that PyTorch wrote for weights; nothing in it is executed.

A pickle is a program for a stack machine, which may call any function. Here `pickletools` only
splits it into its operations (https://docs.python.org/3/library/pickletools.html), and those that
make numbers, texts, containers and tensors are carried out; all others are refused.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from typing import IO, Any, NamedTuple

MAX_ITEMS = 5_000_000
"""Limit of the operations of a pickle; a network of a thousand layers has some 100,000."""


class UnusableError(ValueError):
    """The file is damaged, or holds more than weights; the text says what was found."""


class Global(NamedTuple):
    """The name of a function or class."""

    name: str


class Stored(NamedTuple):
    """A row of numbers in the file, from which tensors are cut."""

    kind: str
    """Name of PyTorch's class: "FloatStorage"."""
    key: str
    length: int
    """Number of its numbers."""


class Tensor(NamedTuple):
    """A view of a row of numbers; counted in numbers, not in bytes."""

    stored: Stored
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


_MARK = object()
_NUMBERS = {"BINFLOAT", "BININT", "BININT1", "BININT2", "FLOAT", "INT", "LONG", "LONG1", "LONG4"}
_TEXTS = {
    "BINSTRING",
    "BINUNICODE",
    "BINUNICODE8",
    "SHORT_BINSTRING",
    "SHORT_BINUNICODE",
    "UNICODE",
}
_PUTS = {"PUT", "BINPUT", "LONG_BINPUT"}
_GETS = {"GET", "BINGET", "LONG_BINGET"}
_VALUES: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def read(file: IO[bytes]) -> Any:
    """Return the value of the pickle at the position of a file, which then is behind it.

    Raises:
        UnusableError: the pickle is damaged, or holds something else than weights.
    """
    machine = _Machine()
    try:
        for number, (operation, argument, _) in enumerate(pickletools.genops(file)):
            if number >= MAX_ITEMS:
                raise UnusableError(f"more than {MAX_ITEMS} operations")
            machine.step(operation.name, argument)
        return machine.stack[-1]
    except UnusableError:
        raise
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError):
        raise UnusableError("a damaged pickle") from None


class _Machine:
    """The stack of a pickle, and the values that it refers to again."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        """Carry out one operation.

        Raises:
            UnusableError: the operation is none of those that weights need.
            IndexError, KeyError, TypeError, ValueError, AttributeError: the pickle is damaged.
        """
        stack = self.stack
        if name in _NUMBERS or name in _TEXTS:
            stack.append(argument)
        elif name in _VALUES:
            stack.append(_VALUES[name]())
        elif name in _PUTS:
            self._memo[int(argument)] = stack[-1]
        elif name == "MEMOIZE":
            self._memo[len(self._memo)] = stack[-1]
        elif name in _GETS:
            stack.append(self._memo[int(argument)])
        elif name in _TUPLES:
            stack.append(tuple(self._take(_TUPLES[name])))
        elif name == "GLOBAL":
            stack.append(_allowed(argument.replace(" ", ".")))
        elif name == "STACK_GLOBAL":
            stack.append(_allowed(".".join(self._take(2))))
        elif name == "BINPERSID":
            stack.append(_stored(stack.pop()))
        elif name == "REDUCE":
            function, arguments = self._take(2)
            stack.append(_call(function, arguments))
        elif name in ("MARK", "PROTO", "FRAME", "STOP"):
            if name == "MARK":
                stack.append(_MARK)
        else:
            self._fill(name)

    def _fill(self, name: str) -> None:
        """Carry out an operation that fills a container."""
        stack = self.stack
        if name == "TUPLE":
            stack.append(tuple(self._to_mark()))
        elif name == "LIST":
            stack.append(self._to_mark())
        elif name in ("APPEND", "APPENDS"):
            values = [stack.pop()] if name == "APPEND" else self._to_mark()
            stack[-1].extend(values)
        elif name in ("SETITEM", "SETITEMS"):
            items = self._take(2) if name == "SETITEM" else self._to_mark()
            for key, value in zip(items[::2], items[1::2], strict=True):
                if not isinstance(key, str | int):  # the hash of nested tuples may take years
                    raise UnusableError(f"a key of the type {type(key).__name__}")
                stack[-1][key] = value
        elif name == "BUILD":
            stack.pop()  # attributes of a dictionary: the versions of its modules
            if not isinstance(stack[-1], dict):
                raise UnusableError("an object with a state of its own")
        else:
            raise UnusableError(f"the pickle operation {name}")

    def _take(self, count: int) -> list[Any]:
        """Remove the last values of the stack and return them."""
        if len(self.stack) < count:
            raise IndexError
        taken = self.stack[-count:]
        del self.stack[-count:]
        return taken

    def _to_mark(self) -> list[Any]:
        """Remove the values behind the last mark, and the mark, and return them."""
        at = len(self.stack) - 1
        while self.stack[at] is not _MARK:  # an index below the first ends it
            at -= 1
            if at < 0:
                raise IndexError
        taken = self.stack[at + 1 :]
        del self.stack[at:]
        return taken


def _allowed(name: str) -> Global:
    """Return a name that weights may refer to."""
    known = {
        "collections.OrderedDict",
        "torch._utils._rebuild_tensor_v2",
        "torch._utils._rebuild_parameter",
    }
    if name not in known and not (name.startswith("torch.") and name.endswith("Storage")):
        raise UnusableError(f"{name}: more than a state dict")
    return Global(name)


def _stored(identity: Any) -> Stored:
    """Return the row of numbers that PyTorch describes as ("storage", class, key, place, count)."""
    word, kind, key, _, count = identity[:5]
    if word != "storage" or not isinstance(kind, Global) or not isinstance(count, int):
        raise UnusableError("a damaged pickle")
    if len(identity) > 5 and identity[5] is not None:
        raise UnusableError("storage that is a view of other storage")
    return Stored(kind.name.rpartition(".")[2], str(key)[:200], count)


def _call(function: Any, arguments: Any) -> Any:
    """Return what one of the few functions that are known would."""
    name = function.name if isinstance(function, Global) else ""
    if name == "collections.OrderedDict" and not arguments:
        return {}
    if name == "torch._utils._rebuild_parameter":
        return arguments[0]
    if name == "torch._utils._rebuild_tensor_v2":
        stored, offset, shape, strides = arguments[:4]
        numbers = (offset, *shape, *strides)
        if not isinstance(stored, Stored) or not all(isinstance(n, int) for n in numbers):
            raise UnusableError("a damaged pickle")
        if min(numbers) < 0 or len(shape) != len(strides):
            raise UnusableError("a tensor of negative size")
        return Tensor(stored, offset, tuple(shape), tuple(strides))
    raise UnusableError(f"a call of {name or 'something else than a function'}")
