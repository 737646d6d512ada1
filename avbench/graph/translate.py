"""Turn what torch.export traced into nodes of the format, and what hangs on no input into weights."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from torch.fx import Node

from avbench.errors import GraphError
from avbench.graph.operators import ITEM, OPERATORS, call
from avbench.graph.read import DTYPES, INFINITIES, LIMITS, MEMORY_FORMATS
from avbench.types import MODALITIES

TORCH = str(Path(torch.__file__).parent)
_DROPPED = {"device", "layout", "pin_memory", "non_blocking"}  # arguments that change no value here
_SAME = {"aten.lift_fresh_copy.default", "aten.alias.default", "aten.detach.default", "aten.dropout.default"}
_PLACES = re.compile(r'File "([^"]+)", line (\d+), in [^\n]*\n\s*([^\n]*)')


def line_of(node: Node) -> str:
    """Name the line of the model that a node comes from, for messages."""
    places = [p for p in _PLACES.findall(node.meta.get("stack_trace") or "") if not p[0].startswith(TORCH)]
    return f", at {places[-1][0]}:{places[-1][1]}: {places[-1][2]}" if places else ""


def changing_line(program: ExportedProgram) -> str:
    """Name the last line that changes in place something that was not computed there."""
    found = ""
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            root = node
            while root.op == "call_function" and root.all_input_nodes:
                root = root.all_input_nodes[0]
            schema = getattr(node.target, "_schema", None)
            if schema is not None and schema.is_mutable and root.op == "placeholder":
                found = line_of(node) or found
    return found


class Translation:
    """Collect nodes of the format in order; with each the line of the model."""

    def __init__(self, program: ExportedProgram, changing: str) -> None:
        self.program = program
        self.changing = changing  # where something is changed in place, if the program has forgotten it
        self.nodes: list[dict[str, Any]] = []
        self.lines: list[str] = []
        self._value: dict[Node, Any] = {}  # what stands in the format for a node of torch's graph
        self._fixed: dict[Node, Any] = {}  # values that hang on no input
        self._weights: dict[str, Tensor] = {}
        self._batch: set[Any] = set()  # symbols of the number of samples
        self._placeholders()

    def output(self) -> Any:
        """Translate all that the logits need, and return their place.

        Raises:
            GraphError: naming what cannot be said in the format, and its line.
        """
        last = next(node for node in self.program.graph.nodes if node.op == "output").args[0]
        outputs = list(cast("Iterable[Any]", last))
        for spec, node in zip(self.program.graph_signature.output_specs, outputs, strict=True):
            if spec.kind != OutputKind.USER_OUTPUT:
                where = line_of(node) or self.changing
                raise GraphError(f"the model changes {spec.target} in place, and a graph keeps no state{where}")
        if len(outputs) != 1 or not isinstance(outputs[0], Node):
            raise GraphError(f"the model must answer one tensor of logits, not {len(outputs)} values")
        needed = _ancestors(outputs[0])
        for node in self.program.graph.nodes:
            if node.op == "call_function" and node in needed:
                self._translate(node)
        return self._encode(outputs[0], outputs[0])

    def weights(self) -> dict[str, Tensor]:
        """Weights that nodes refer to, each with memory of its own."""
        return {name: tensor.contiguous().clone() for name, tensor in self._weights.items()}

    def _placeholders(self) -> None:
        streams = list(MODALITIES)
        nodes = [node for node in self.program.graph.nodes if node.op == "placeholder"]
        for node, spec in zip(nodes, self.program.graph_signature.input_specs, strict=True):
            if spec.kind == InputKind.USER_INPUT:
                self._value[node] = {"input": streams.pop(0)}
                self._batch |= node.meta["val"].shape[0].node.expr.free_symbols
            else:
                name = cast("str", spec.target)
                held = self.program.state_dict if name in self.program.state_dict else self.program.constants
                self._fixed[node] = cast("Tensor", held[name]).detach()

    def _translate(self, node: Node) -> None:
        if str(node.target) == "aten.copy.default":  # has no gradient by itself
            into, source = cast("tuple[Node, Node]", node.args[:2])
            if into.meta["val"].dtype != source.meta["val"].dtype:
                raise GraphError(f"the model assigns values of another dtype{line_of(node)}")
            node.target, node.args = torch.ops.aten.expand_as.default, (source, into)
        name = _name(node)
        if isinstance(node.meta.get("val"), int | torch.SymInt):
            return  # a size; whoever reads it gets a multiple of the batch
        fixed = all(source in self._fixed for source in node.all_input_nodes)
        if name in _SAME and (fixed or name != "aten.detach.default"):
            if name == "aten.dropout.default" and node.args[2]:
                raise GraphError(f"the model drops out values although it is in eval mode{line_of(node)}")
            table, source = self._fixed if fixed else self._value, cast("Node", node.args[0])
            table[node] = table[source]
        elif name not in OPERATORS:
            raise GraphError(f"the model needs {name}, which is not in the table of operators{line_of(node)}")
        elif fixed:
            kwargs = {key: self._held(value) for key, value in _kept(node).items()}
            self._fixed[node] = call(name, self._held(node.args), kwargs, torch.device("cpu"))
        else:
            self._emit(node, name)

    def _emit(self, node: Node, name: str) -> None:
        args = [self._encode(arg, node) for arg in node.args]
        kwargs = {key: self._encode(value, node) for key, value in _kept(node).items()}
        self._value[node] = {"node": len(self.nodes)}
        self.nodes.append({"op": name, "args": args} | ({"kwargs": kwargs} if kwargs else {}))
        self.lines.append(line_of(node))

    def _held(self, value: Any) -> Any:
        if isinstance(value, Node):
            return self._fixed[value]
        return [self._held(part) for part in value] if isinstance(value, list | tuple) else value

    def _encode(self, value: Any, node: Node) -> Any:
        """Say one argument in the format."""
        if isinstance(value, Node):
            return self._refer(value, node)
        if isinstance(value, torch.SymInt):
            return self._size(value, node)
        if value is None or isinstance(value, bool | str):
            return value
        if isinstance(value, int):  # the end of a slice may be the largest of 64 bits
            return max(-LIMITS.integer, min(value, LIMITS.integer))
        if isinstance(value, float) and not math.isnan(value):
            return {"float": next(k for k, v in INFINITIES.items() if v == value)} if math.isinf(value) else value
        if isinstance(value, list | tuple):
            return [self._encode(part, node) for part in value]
        for kind, table in (("dtype", DTYPES), ("memory_format", MEMORY_FORMATS)):
            if word := next((word for word, meant in table.items() if meant is value), None):
                return {kind: word}
        raise GraphError(f"{node.target} has an argument {value} that the format does not know{line_of(node)}")

    def _refer(self, source: Node, node: Node) -> Any:
        if source in self._value:
            return self._value[source]
        if source not in self._fixed:
            return self._size(source.meta["val"], node)
        held = self._fixed[source]
        if source.op != "placeholder" and not (isinstance(held, Tensor) and held.is_contiguous()):
            if str(source.target) in _SAME:
                return self._refer(cast("Node", source.args[0]), node)
            self._emit(source, _name(source))
            return self._value[source]
        self._weights[source.name] = held
        return {"weight": source.name}

    def _size(self, value: Any, node: Node) -> Any:
        if isinstance(value, int):
            return value
        expression = value.node.expr
        if expression.is_Integer:
            return int(expression)
        times = expression.subs(dict.fromkeys(self._batch, 1))
        if not times.is_Integer or not any(expression == times * symbol for symbol in self._batch):
            raise GraphError(f"a size is {expression}, which is no multiple of the batch{line_of(node)}")
        return {"batch": int(times)}


def _name(node: Node) -> str:
    """Name a node's operator in the table; a view is copied where memory does not lie as it did when tracing."""
    name = ITEM if "getitem" in str(node.target) else str(node.target)
    return "aten.reshape.default" if name in ("aten.view.default", "aten._unsafe_view.default") else name


def _kept(node: Node) -> dict[str, Any]:
    return {key: value for key, value in node.kwargs.items() if key not in _DROPPED}


def _ancestors(node: Node) -> set[Node]:
    found: set[Node] = set()
    waiting = [node]
    while waiting:
        if (one := waiting.pop()) not in found:
            found.add(one)
            waiting += one.all_input_nodes
    return found
