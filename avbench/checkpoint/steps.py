"""Follow the steps of a pickle that describe weights, and make nothing else of them.

A pickle is a program. No name in it is ever looked up, no function called, no key hashed, and its steps are counted.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from avbench.checkpoint.source import Source, are_sizes
from avbench.errors import UnsafeCheckpoint

MOST_STEPS = 1_000_000
LARGEST = 2**62  # of an offset or stride
STORAGES = {
    "DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64, "ComplexDoubleStorage": torch.complex128,
}  # fmt: skip
_TENSOR = ("torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor")
_PARAMETER = ("torch._utils _rebuild_parameter", "torch._utils _rebuild_parameter_with_state")
_ORDERED = "collections OrderedDict"
# What a state dict or what lies beside it may also hold. Nothing is made of it.
_HARMLESS = {
    "collections Counter", "collections defaultdict", "_codecs encode", "torch Size", "torch device", "torch Tensor",
    "torch._tensor _rebuild_from_type_v2", "torch.serialization _get_layout", "torch.nn.parameter Parameter",
    "torch.storage UntypedStorage", "torch QInt8Storage", "torch QUInt8Storage", "torch QInt32Storage",
    *(f"torch {name}" for name in STORAGES),
    *(f"torch._utils {name}" for name in dir(torch._utils) if name.startswith("_rebuild_")),
    *(f"{module} {name}" for module in ("builtins", "__builtin__") for name in ("set", "bytearray", "complex")),
    *(f"torch {name}" for name in dir(torch) if isinstance(getattr(torch, name), torch.dtype | torch.qscheme)),
}  # fmt: skip
_KNOWN = {*_TENSOR, *_PARAMETER, _ORDERED, *_HARMLESS}
_LITERALS = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING"}
_WIDTHS = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "APPEND": 1, "SETITEM": 2}  # what is taken without a mark
_ADVICE = "save the state_dict alone, best as .safetensors"


class Pairs(list[tuple[Any, Any]]):
    """Stand for a dictionary; its keys are not hashed, since a stranger can make them collide."""


class Other(NamedTuple):
    """Stand for what is not needed."""

    name: str


class Stored(NamedTuple):
    """Numbers somewhere in the file."""

    dtype: torch.dtype
    key: str
    length: int


class Weight(NamedTuple):
    """How a tensor lies in what is stored."""

    stored: Stored
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


_MADE: dict[str, Callable[[], Any]] = {
    "EMPTY_LIST": list, "EMPTY_DICT": Pairs, "EMPTY_TUPLE": tuple,
    "NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False,
}  # fmt: skip


def follow(pickled: io.BytesIO, source: Source, stored: dict[str, Stored]) -> Any:
    """Follow a pickle to its end, and return what it describes; collect what it finds stored.

    Raises:
        UnsafeCheckpoint: if it takes another step than those that describe weights, or too many.
    """
    machine = _Machine(stored)
    for step, (operation, argument, _) in enumerate(pickletools.genops(pickled)):
        if step == MOST_STEPS:
            raise UnsafeCheckpoint(f"{source.path} takes more than {MOST_STEPS} steps to read; {_ADVICE}")
        if operation.name == "STOP":
            return machine.stack.pop()
        if not machine.take(operation.name, argument):
            what = ascii(argument)[:80] if operation.name == "GLOBAL" else operation.name
            raise UnsafeCheckpoint(
                f"{source.path} asks for more than weights, so it was not loaded ({what}); {_ADVICE}"
            )
    raise ValueError("no end")


class _Machine:
    """Hold what the steps so far describe."""

    def __init__(self, stored: dict[str, Stored]) -> None:
        self.stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[Any, Any] = {}
        self._stored = stored

    def take(self, name: str, argument: Any) -> bool:
        """Take one step; return False if it is none of those that describe weights."""
        stack = self.stack
        if name in _WIDTHS:
            self._marks.append(len(stack) - _WIDTHS[name])
        if name in _LITERALS:
            stack.append(argument)
        elif name in _MADE:
            stack.append(_MADE[name]())
        elif name in ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"):
            stack.append(tuple(self._above()))
        elif name in ("APPEND", "APPENDS", "SETITEM", "SETITEMS"):
            _put(self._above(), stack[-1])
        elif name == "MARK":
            self._marks.append(len(stack))
        elif name in ("BINPUT", "LONG_BINPUT"):
            self._memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self._memo[argument])
        elif name == "GLOBAL" and argument in _KNOWN:
            stack.append(Other(argument))
        elif name == "BINPERSID":
            stack.append(_storage(stack.pop(), self._stored))
        elif name in ("REDUCE", "NEWOBJ"):
            arguments = stack.pop()
            stack.append(_described(stack.pop(), arguments))
        elif name == "BUILD":
            stack.pop()  # attributes, as the versions in a state dict
        else:
            return name == "PROTO"
        return True

    def _above(self) -> list[Any]:
        """Take what lies above the last mark."""
        mark = self._marks.pop()
        found = self.stack[mark:]
        del self.stack[mark:]
        return found


def _put(parts: list[Any], into: Any) -> None:
    if isinstance(into, Pairs):
        into.extend(zip(parts[::2], parts[1::2], strict=True))
    elif isinstance(into, list):
        into.extend(parts)


def _storage(about: Any, stored: dict[str, Stored]) -> Stored | Other:
    word, kind, key, _, count = about[:5]
    dtype = STORAGES.get(kind.name.removeprefix("torch "))
    if word != "storage" or not isinstance(key, str) or type(count) is not int or not 0 <= count < LARGEST:
        raise ValueError("a storage that cannot be")
    if dtype is None or (len(about) == 6 and about[5] is not None):
        return Other("storage")  # untyped, quantized, or a part of another
    found = Stored(dtype, key, count)
    stored.setdefault(key, found)
    return found


def _described(maker: Any, arguments: Any) -> Any:
    """Tell what a call would make."""
    if maker.name == _ORDERED and arguments == ():
        return Pairs()
    if maker.name in _PARAMETER:
        return arguments[0]
    if maker.name not in _TENSOR or not isinstance(arguments[0], Stored):
        return Other(maker.name)
    stored, offset, shape, strides = arguments[:4]
    if not are_sizes(shape) or len(strides) != len(shape):
        raise ValueError("a shape that cannot be")
    if not all(type(number) is int and 0 <= number < LARGEST for number in (offset, *strides)):
        raise ValueError("an offset or a stride that cannot be")
    return Weight(stored, offset, tuple(shape), tuple(strides))
