"""Look for what hides a gradient without running anything: operators of a graph, layers of an architecture."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import nn

from avbench.graph.operators import ITEM
from avbench.graph.read import Call, Graph, Input, Node
from avbench.sandbox.remote import RemoteModel
from avbench.sandbox.wire import STAGES
from avbench.submit.report import Finding
from avbench.types import MODALITIES

STEP = "lint"
# Operators whose answer has no gradient or a zero one, by the name between `aten.` and the overload.
FLAT = {
    "any", "argmax", "bitwise_and", "bitwise_not", "bitwise_or", "eq", "floor", "floor_divide", "ge", "gt", "le",
    "logical_and", "logical_not", "logical_or", "lt", "ne", "round", "sign",
}  # fmt: skip
# Operators that take only the shape of one argument, by its position.
SHAPES = {
    "expand_as": 1, "fill": 0, "full_like": 0, "new_full": 0, "new_ones": 0, "new_zeros": 0, "ones_like": 0,
    "view_as": 1, "zeros_like": 0,
}  # fmt: skip
INDICES = {"max", "min", "topk"}  # answer (values, indices)
LAYERS = re.compile(r"round|quanti|sign(?!al)|floor|argmax|threshold|binar|detach|discret", re.IGNORECASE)


class Masked(NamedTuple):
    """What a graph does to gradients."""

    nodes: tuple[int, ...]  # where one ends that reaches them from an input, on a way to the answer
    lost: tuple[str, ...]  # modalities that the answer hangs on and whose gradient ends on every way


def lint_graph(graph: Graph) -> Finding:
    """Report operators that end a gradient between an input and the answer; fail if they end all of one modality."""
    nodes, lost = find_masked(graph)
    named = ", ".join(f"node {n} ({graph.nodes[n].operator})" for n in nodes[:6])
    if lost:
        return Finding(STEP, "fail", f"no gradient reaches the {' and the '.join(lost)} by any way, it ends at", named)
    if nodes:
        what = f"{len(nodes)} operators end a gradient, others lead past them; an attack sees only a part"
        return Finding(STEP, "warn", what, named)
    return Finding(STEP, "pass", f"none of {len(graph.nodes)} operators on the way from an input ends its gradient")


def lint_module(module: nn.Module) -> Finding:
    """Report layers whose name says that they hide gradients, and stand-ins for gradients; code is not looked into."""
    if stand_ins := [f"differentiable_{s}" for s in STAGES if hasattr(module, f"differentiable_{s}")]:
        what = "attacks get the gradient of a stand-in; a person has to see that it is a good one"
        return Finding(STEP, "warn", what, ", ".join(stand_ins))
    if isinstance(module, RemoteModel):
        return Finding(STEP, "skip", "code is read by a person, not by a program; its gradients are tried all the same")
    names = [f"{name} ({type(part).__name__})" for name, part in module.named_modules() if _hides(name, part)]
    if names:
        return Finding(STEP, "warn", "layers are named like something that hides gradients", ", ".join(names[:6]))
    return Finding(STEP, "pass", "no layer is named like something that hides gradients")


def find_masked(graph: Graph) -> Masked:
    """Follow each input through the graph, and the answer back."""
    useful = _useful(graph)
    ends: set[int] = set()
    lost = []
    for modality in MODALITIES:
        reached: set[int | str] = {modality}  # by values
        alive: set[int | str] = {modality}  # by gradients too
        for index, node in enumerate(graph.nodes):
            read = set(_read(node))
            if not read & reached:
                continue
            reached.add(index)
            if read & alive and not _ends(graph, node):
                alive.add(index)
            elif read & alive and index in useful:
                ends.add(index)
        output: int | str = graph.output[0]
        if output in reached and output not in alive:
            lost.append(modality)
    return Masked(tuple(sorted(ends)), tuple(lost))


def _useful(graph: Graph) -> set[int | str]:
    """Find what the answer hangs on by its values."""
    found: set[int | str] = {graph.output[0]}
    for index in reversed(range(len(graph.nodes))):
        if index in found:
            found |= set(_read(graph.nodes[index]))
    return found


def _ends(graph: Graph, node: Call) -> bool:
    """Tell whether an operator's answer has no gradient, or one that is zero nearly everywhere."""
    name = _name(node)
    if name == ITEM:
        source, index = node.args[0], node.args[1]
        return index == 1 and isinstance(source, Node) and _name(graph.nodes[source.number]) in INDICES
    dtypes = [v for v in (*node.args, *node.kwargs.values()) if isinstance(v, torch.dtype)]
    whole = any(not (dtype.is_floating_point or dtype.is_complex) for dtype in dtypes)
    return name in FLAT or whole or node.kwargs.get("rounding_mode") is not None


def _name(node: Call) -> str:
    return node.operator.removeprefix("aten.").partition(".")[0]


def _read(node: Call) -> Iterator[int | str]:
    """List the values that count for the answer."""
    shape = SHAPES.get(_name(node))
    args = tuple(arg for place, arg in enumerate(node.args) if place != shape)
    return (ref[0] for ref in node._replace(args=args).references() if isinstance(ref, Node | Input))


def _hides(name: str, part: nn.Module) -> bool:
    return bool(LAYERS.search(type(part).__name__) or LAYERS.search(name.rpartition(".")[2]))
