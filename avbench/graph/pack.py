"""Write a model as a graph: torch.export on the author's machine, then plain data."""

from __future__ import annotations

import builtins
import io
import logging
import traceback
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch
import torchvision.transforms._functional_tensor as torchvision_tensor
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.export import Dim
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from avbench import files
from avbench.datasets.cards import Card
from avbench.errors import BadOption, GraphError
from avbench.graph.load import build_graph, mixing_node
from avbench.graph.module import GraphModel
from avbench.graph.read import FORMAT, GRAPH, WEIGHTS, parse_graph
from avbench.graph.translate import TORCH, Translation, changing_line
from avbench.types import MODALITIES, AVInput

EXAMPLES = 3  # samples with which a model is traced
BATCHES = (1, 2, 3)  # on which a graph is compared with its model


def pack(model: nn.Module, card: Card, out: Path) -> GraphModel:
    """Write a model as graph.json and weights.safetensors into a folder, after comparing its answers with the graph's.

    Raises:
        GraphError: saying why it cannot be packed, and at which line of the model.
        BadOption: if the folder cannot be written.
    """
    model = model.eval().requires_grad_(False).cpu()
    shapes = {m: card.spec.shape(m) for m in MODALITIES}
    translated = _export(model, _clips(shapes, EXAMPLES))
    output = translated.output()
    state = translated.weights()
    content = {
        "format": FORMAT, "dataset": card.name, "classes": len(card.classes),
        "inputs": {m: list(shape) for m, shape in shapes.items()}, "nodes": translated.nodes, "output": output,
    }  # fmt: skip
    text = files.canonical_json(content)
    graph = parse_graph(text.encode())
    if (mixing := mixing_node(GraphModel(graph, state))) is not None:
        raise GraphError(f"one sample changes the answer on another{translated.lines[mixing]}")
    packed = build_graph(graph, state)
    _compare(model, packed, shapes)
    try:
        out.mkdir(parents=True, exist_ok=True)
        files.publish(out / WEIGHTS, lambda temporary: save_file(state, temporary))
        files.publish_text(out / GRAPH, text)
    except OSError as error:
        raise BadOption(f"cannot write to {out} ({error.strerror}); choose another --out") from error
    return packed


def _clips(shapes: Mapping[Any, tuple[int, ...]], batch: int) -> AVInput:
    random = torch.Generator().manual_seed(batch)
    return AVInput(*(torch.rand(batch, *shapes[m], generator=random) for m in MODALITIES))


@contextmanager
def _silent() -> Iterator[None]:
    """Keep torch's own long story of a failed trace from the error that tells it in a line."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)


def _export(model: nn.Module, clips: AVInput) -> Translation:
    """Trace a model with a batch of any size, without operations that change tensors in place."""
    try:
        with _traceable(), warnings.catch_warnings(), _silent():
            warnings.simplefilter("ignore")  # of torch to itself
            dynamic = tuple({0: Dim.DYNAMIC} for _ in clips)
            program = torch.export.export(model, tuple(clips), dynamic_shapes=dynamic, strict=False)
            return Translation(program.run_decompositions({}), changing_line(program))
    except Exception as error:  # torch.export raises nearly anything
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]
        if isinstance(error, GuardOnDataDependentSymNode):
            reason = "its control flow depends on the data (an `if` on a tensor, `.item()` or the like)"
        elif "specialized it to be a constant" in str(error):
            reason = "it does not run on batches of any size; let no number of samples become a plain `int`"
        where = _where(traceback.extract_tb(error.__traceback__))
        raise GraphError(f"the model cannot be packed: {reason}{where}") from error


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextmanager
def _traceable() -> Iterator[None]:
    """Let tracing see what it otherwise stumbles over, and what runs while gradients are wanted.

    `len` of a tensor stays a symbol, torchvision's `normalize` does not ask whether a deviation is zero, the attention
    layers take the path that has a gradient, and the line of a node is the innermost, in whichever function it is.
    """

    def length(thing: Any) -> Any:
        return thing.shape[0] if isinstance(thing, Tensor) and thing.dim() else count(thing)

    def normalize(tensor: Tensor, mean: list[float], std: list[float], inplace: bool = False) -> Tensor:
        shift, scale = (torch.as_tensor(v, dtype=tensor.dtype).view(-1, 1, 1) for v in (mean, std))
        return tensor.sub(shift).div(scale)

    def own_frames(_: Any, frames: Iterable[Any]) -> traceback.StackSummary:
        inner: list[Any] = []  # than the call of torch.export
        for frame in frames:
            inner = [] if frame.filename == __file__ else [*inner, frame]
        return traceback.StackSummary.from_list([f for f in inner if _own(f.filename)])

    count, fast = len, torch.backends.mha.get_fastpath_enabled()
    with (
        _replaced(builtins, "len", length),
        _replaced(torchvision_tensor, "normalize", normalize),
        _replaced(torch.fx.proxy.TracerBase, "_filter_traceback_frames", own_frames),
    ):
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)


def _own(filename: str) -> bool:
    return not filename.startswith((TORCH, "<")) and filename != __file__


def _where(frames: Any) -> str:
    """Name the innermost line that is not torch's."""
    own = [f for f in frames if _own(f.filename)]
    return f", at {own[-1].filename}:{own[-1].lineno}: {own[-1].line}" if own else ""


def _compare(model: nn.Module, packed: GraphModel, shapes: Mapping[Any, tuple[int, ...]]) -> None:
    """Hold the graph to the bits of the model: logits, and their gradient with respect to both streams."""
    for batch in BATCHES:
        seen = []
        for one in (model, packed):
            clips = [clip.requires_grad_() for clip in _clips(shapes, batch)]
            with torch.enable_grad():
                logits = one(*clips)
                found = torch.autograd.grad(logits.square().sum(), clips, allow_unused=True)
            seen.append([logits.detach(), *(x if g is None else g for x, g in zip(clips, found, strict=True))])
        for what, eager, ours in zip(("answer", *MODALITIES), *seen, strict=True):
            if not torch.equal(eager, ours):
                kind = "gives other bits" if what == "answer" else f"has another gradient to the {what}"
                raise GraphError(f"the graph {kind} than the model on a batch of {batch}; please report the model")
