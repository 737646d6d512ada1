"""Read graph.json strictly: plain data, one assignment a node, in order; nothing in it is ever run or evaluated."""

from __future__ import annotations

import hashlib
import math
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from avbench.checkpoint.strict_json import parse
from avbench.errors import GraphError
from avbench.graph.operators import OPERATORS
from avbench.types import MODALITIES, Modality

FORMAT = "avbench-graph@1"
GRAPH, WEIGHTS = "graph.json", "weights.safetensors"
DTYPES = {
    str(t).removeprefix("torch."): t
    for t in (torch.float32, torch.float64, torch.complex64, torch.int32, torch.int64, torch.uint8, torch.bool)
}
MEMORY_FORMATS = {
    str(m).removeprefix("torch."): m
    for m in (torch.contiguous_format, torch.preserve_format, torch.channels_last, torch.channels_last_3d)
}
INFINITIES = {"inf": math.inf, "-inf": -math.inf}


@dataclass(frozen=True)
class Limits:
    """What a graph may ask for at most."""

    file_bytes: int = 4 * 2**20
    nodes: int = 20_000
    depth: int = 4  # lists in lists in the arguments of a node
    items: int = 4096  # in one list
    integer: int = 2**31 - 1  # magnitude
    text: int = 200  # characters
    weights: int = 10_000  # tensors
    elements: int = 2**27  # in one value, for each sample of the batch
    total_elements: int = 2**34  # in all values, the same
    classes: int = 100_000


LIMITS = Limits()


class Node(NamedTuple):
    """An earlier node's value."""

    number: int


class Weight(NamedTuple):
    """A tensor of the weights file."""

    name: str


class Input(NamedTuple):
    """A stream of the clips."""

    modality: Modality


class Batch(NamedTuple):
    """A multiple of the number of samples."""

    times: int


class Call(NamedTuple):
    """One node: an operator of the table with its arguments."""

    operator: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    def references(self) -> Iterator[Node | Weight | Input | Batch]:
        """List what it reads."""
        return _references([*self.args, *self.kwargs.values()])


@dataclass(frozen=True)
class Graph:
    """A checked graph.json."""

    dataset: str
    classes: int
    inputs: Mapping[Modality, tuple[int, ...]]  # shape of one sample
    nodes: tuple[Call, ...]
    output: Node | Input


def read_graph(path: Path) -> tuple[Graph, str]:
    """Read and check a graph.json; return it with the hex sha256 of its bytes.

    Raises:
        GraphError: if it is no regular file, too large, or anything in it is not as the format says.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        raise GraphError(f"{path} is a link or cannot be read; `avbench pack` writes a graph") from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise GraphError(f"{path} is not a regular file")
    with os.fdopen(handle, "rb") as file:
        data = file.read(LIMITS.file_bytes + 1)
    return parse_graph(data), hashlib.sha256(data).hexdigest()


def parse_graph(data: bytes) -> Graph:
    """Check the bytes of a graph.json.

    Raises:
        GraphError: as `read_graph`.
    """
    if len(data) > LIMITS.file_bytes:
        raise GraphError(f"the graph has more than {LIMITS.file_bytes} bytes")
    content = parse(data, "the graph", GraphError, LIMITS.integer)
    _keys(content, {"format", "dataset", "classes", "inputs", "nodes", "output"}, "the graph")
    if content["format"] != FORMAT:
        raise GraphError(f"the graph's format is {_shown(content['format'])}, not {FORMAT}; pack the model again")
    _keys(content["inputs"], set(MODALITIES), "inputs")
    inputs = {modality: _shape(content["inputs"][modality]) for modality in MODALITIES}
    nodes = content["nodes"]
    if not isinstance(nodes, list) or len(nodes) > LIMITS.nodes:
        raise GraphError(f"nodes is a list of at most {LIMITS.nodes} calls")
    calls = tuple(_call(node, index) for index, node in enumerate(nodes))
    output = _value(content["output"], len(calls), "output")
    if not isinstance(output, Node | Input):
        raise GraphError("output is the value of a node")
    classes, dataset = content["classes"], content["dataset"]
    if not isinstance(dataset, str) or not 0 < len(dataset) <= LIMITS.text:
        raise GraphError("dataset is the name of a dataset")
    return Graph(dataset, _within(classes, 1, LIMITS.classes, "classes"), inputs, calls, output)


def _call(node: Any, index: int) -> Call:
    where = f"node {index}"
    _keys(node, {"op", "args"} | ({"kwargs"} if isinstance(node, dict) and "kwargs" in node else set()), where)
    name, args, kwargs = node["op"], node["args"], node.get("kwargs", {})
    if not isinstance(name, str) or name not in OPERATORS:
        raise GraphError(f"{where} calls {_shown(name)}, which is not in the table of operators")
    if not isinstance(args, list) or not isinstance(kwargs, dict) or {"device", "out"} & set(kwargs):
        raise GraphError(f"{where} ({name}): args is a list, kwargs an object without device and out")
    return Call(
        name,
        tuple(_value(arg, index, f"{where} ({name})") for arg in args),
        {key: _value(arg, index, f"{where} ({name})") for key, arg in kwargs.items()},
    )


def _value(data: Any, index: int, where: str, depth: int = 0) -> Any:
    """Check one argument; an object with one key names what JSON has no word for."""
    if data is None or isinstance(data, bool | int | float):
        return data
    if isinstance(data, str) and len(data) <= LIMITS.text:
        return data
    if isinstance(data, list) and len(data) <= LIMITS.items and depth < LIMITS.depth:
        return [_value(part, index, where, depth + 1) for part in data]
    if isinstance(data, dict) and len(data) == 1:
        ((kind, content),) = data.items()
        if kind in _KINDS:
            return _KINDS[kind](content, index, where)
    raise GraphError(f"{where} has an argument that the format does not know: {_shown(data)}")


def _node(content: Any, index: int, where: str) -> Node:
    if index == 0:
        raise GraphError(f"{where} refers to a node, and there is none before it")
    return Node(_within(content, 0, index - 1, f"{where}: a node before it"))


def _word(table: Mapping[str, Any]) -> Callable[[Any, int, str], Any]:
    def find(content: Any, _: int, where: str) -> Any:
        if not isinstance(content, str) or content not in table:
            raise GraphError(f"{where}: {_shown(content)} is not one of {', '.join(table)}")
        return table[content]

    return find


def _weight(content: Any, _: int, where: str) -> Weight:
    if not isinstance(content, str) or not 0 < len(content) <= LIMITS.text:
        raise GraphError(f"{where}: {_shown(content)} is not the name of a weight")
    return Weight(content)


_KINDS: Mapping[str, Callable[[Any, int, str], Any]] = {
    "node": _node,
    "weight": _weight,
    "input": _word({modality: Input(modality) for modality in MODALITIES}),
    "batch": lambda content, _, where: Batch(_within(content, 1, LIMITS.integer, f"{where}: batch")),
    "dtype": _word(DTYPES),
    "memory_format": _word(MEMORY_FORMATS),
    "float": _word(INFINITIES),
}


def _references(values: Any) -> Iterator[Node | Weight | Input | Batch]:
    for value in values:
        if isinstance(value, Node | Weight | Input | Batch):
            yield value
        elif isinstance(value, list):
            yield from _references(value)


def _keys(data: Any, wanted: set[str], where: str) -> None:
    if not isinstance(data, dict) or set(data) != wanted:
        raise GraphError(f"{where} is an object with the keys {', '.join(sorted(wanted))}, not {_shown(data)}")


def _shape(data: Any) -> tuple[int, ...]:
    if not isinstance(data, list) or len(data) > 4:
        raise GraphError("inputs are the shapes of one sample")
    shape = tuple(_within(size, 1, LIMITS.elements, "a size of an input") for size in data)
    if math.prod(shape) > LIMITS.elements:
        raise GraphError(f"an input has more than {LIMITS.elements} elements")
    return shape


def _within(value: Any, least: int, most: int, what: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise GraphError(f"{what} is a whole number from {least} to {most}, not {_shown(value)}")
    return value


def _shown(value: Any) -> str:
    """Show what a stranger wrote, escaped and short; of a collection only its kind."""
    return type(value).__name__ if isinstance(value, dict | list) else ascii(value)[:60]
