"""Run a graph as a model of two stages: what hangs on one stream alone, and what joins both."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from avbench.errors import GraphError
from avbench.graph.operators import call
from avbench.graph.read import LIMITS, Batch, Call, Graph, Input, Node, Weight
from avbench.types import MODALITIES, Modality

Key = int | str  # of a value: the number of its node, or the modality of an input
PROBES = (2, 3)  # batches at which every value's shape is compared: what differs is the batch's dimension


class Cut(NamedTuple):
    """A value that passes from a stream's part to the joint one."""

    key: Key
    dim: int  # of the batch
    order: tuple[int, ...]  # dimensions as they lie in memory, so that kernels meet the layout that they would have
    shape: tuple[int, ...]  # of one sample


class GraphModel(nn.Module):
    """Compute a graph; its stages are found from what each node depends on.

    An embedding is the one value that the joint part reads of a stream, (batch, ...), or, if it reads several, those
    flat and side by side, (batch, n).

    Raises:
        GraphError: if weights are missing, unknown or too many, if a node cannot be computed, or the logits are not
            (batch, classes).
    """

    def __init__(self, graph: Graph, state: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.graph = graph
        wanted = {ref.name for node in graph.nodes for ref in node.references() if isinstance(ref, Weight)}
        if wanted != set(state) or len(state) > LIMITS.weights:
            wrong = sorted(wanted ^ set(state))
            raise GraphError(f"the graph and its weights differ in {ascii(wrong[:4])[:200]}, {len(wrong)} in all")
        self._names = {name: f"weight{index}" for index, name in enumerate(sorted(state))}
        for name, tensor in state.items():
            self.register_buffer(self._names[name], tensor.clone())  # aligned: some kernels round by where memory lies
        self._checked: set[int] = set()
        small, large = (self.dry_run(batch) for batch in PROBES)
        self._cuts = {key: cut for key in small if (cut := _cut(key, small[key], large[key]))}
        output: Key = graph.output[0]
        self._streams = self._find_streams(set())
        self.modalities: tuple[Modality, ...] = tuple(m for m in MODALITIES if m in self._streams[output])
        late: set[int] = set()
        while more := self._split(output):
            late |= more
            self._streams = self._find_streams(late)

    def forward(self, audio: Tensor, video: Tensor) -> Tensor:
        """Logits (batch, classes)."""
        return self.fuse(self.encode_audio(audio), self.encode_video(video))

    def encode_audio(self, audio: Tensor) -> Tensor:
        """Compute what hangs on the sound alone."""
        return self._encode("audio", audio)

    def encode_video(self, video: Tensor) -> Tensor:
        """Compute what hangs on the frames alone."""
        return self._encode("video", video)

    def fuse(self, audio: Tensor, video: Tensor) -> Tensor:
        """Compute the rest."""
        values = _parted(audio, self._given["audio"]) | _parted(video, self._given["video"])
        output: Key = self.graph.output[0]
        logits: Tensor = self._run(self._joined, values, [output], len(audio), audio.device)[output]
        return logits

    def dry_run(self, batch: int) -> dict[Key, Any]:
        """Compute shapes alone, of all values: before anything is computed on a batch of a new size.

        Raises:
            GraphError: naming the node that cannot be computed or is too large.
        """
        values: dict[Key, Any] = {m: torch.empty(batch, *self.graph.inputs[m], device="meta") for m in MODALITIES}
        total = 0
        for index, node in enumerate(self.graph.nodes):
            values[index] = self._called(index, node, values, batch, torch.device("meta"))
            size = _elements(values[index])
            total += size
            if size > LIMITS.elements * batch or total > LIMITS.total_elements * batch:
                raise GraphError(f"node {index} ({node.operator}) has {size} elements, {total} with those before it")
        logits = values[self.graph.output[0]]
        if (
            not isinstance(logits, Tensor)
            or logits.shape != (batch, self.graph.classes)
            or logits.dtype != torch.float32
        ):
            raise GraphError(f"the output is not float32 logits (batch, {self.graph.classes})")
        self._checked.add(batch)
        return values

    def _encode(self, modality: Modality, clip: Tensor) -> Tensor:
        if clip.shape[1:] != self.graph.inputs[modality]:
            raise ValueError(f"the {modality} is {tuple(clip.shape)}, not (batch, *{self.graph.inputs[modality]})")
        if len(clip) not in self._checked:
            self.dry_run(len(clip))
        cuts = self._given[modality]
        values = self._run(
            self._encoders[modality], {modality: clip}, [cut.key for cut in cuts], len(clip), clip.device
        )
        rows = [values[cut.key].movedim(cut.dim, 0) for cut in cuts]
        if len(rows) == 1:
            return rows[0]  # type: ignore[no-any-return]
        return torch.cat([row.reshape(len(clip), -1) for row in rows], dim=1) if rows else clip.new_zeros(len(clip), 0)

    def values(self, clips: Mapping[Modality, Tensor], every: bool) -> dict[Key, Any]:
        """Compute the graph as one part, and return the output, or every value on its way."""
        output: Key = self.graph.output[0]
        nodes, _ = self._needed([output], stop=False)
        given: dict[Key, Any] = {m: clips[m] for m in MODALITIES}
        return self._run(
            nodes, given, [output, *nodes] if every else [output], len(clips["audio"]), clips["audio"].device
        )

    def _run(
        self, nodes: Iterable[int], values: dict[Key, Any], wanted: Iterable[Key], batch: int, device: torch.device
    ) -> dict[Key, Any]:
        """Compute nodes in order, and forget each value after its last use."""
        order, kept = list(nodes), set(wanted)
        last = {key: n for n in order for key in _read(self.graph.nodes[n])}
        for index in order:
            node = self.graph.nodes[index]
            values[index] = self._called(index, node, values, batch, device)
            for key in _read(node):
                if last[key] == index and key not in kept:
                    values.pop(key, None)
        return values

    def _called(self, index: int, node: Call, values: Mapping[Key, Any], batch: int, device: torch.device) -> Any:
        def fill(value: Any) -> Any:
            if isinstance(value, Node | Input):
                return values[value[0]]
            if isinstance(value, Weight):
                tensor = self.get_buffer(self._names[value.name])
                return torch.empty_like(tensor, device=device) if device.type == "meta" else tensor
            if isinstance(value, Batch):
                return value.times * batch
            return [fill(part) for part in value] if isinstance(value, list) else value

        try:
            args, kwargs = [fill(a) for a in node.args], {k: fill(a) for k, a in node.kwargs.items()}
            value = call(node.operator, args, kwargs, device)
            if not all(isinstance(part, Tensor) for part in (value if isinstance(value, tuple | list) else [value])):
                raise TypeError("it answers no tensors")
            return value
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # operators raise nearly anything on arguments that they do not take
            reason = ascii(str(error).partition("\n")[0][:200])
            raise GraphError(
                f"node {index} ({node.operator}) cannot be computed on a batch of {batch}: {reason}"
            ) from error

    def _find_streams(self, late: set[int]) -> dict[Key, set[str]]:
        """Tell which streams each value hangs on; what is late counts as hanging on both."""
        streams: dict[Key, set[str]] = {m: {m} for m in MODALITIES}
        for index, node in enumerate(self.graph.nodes):
            streams[index] = set(MODALITIES) if index in late else set().union(*(streams[k] for k in _read(node)))
        return streams

    def _split(self, output: Key) -> set[int]:
        """Divide the graph in three, and return nodes that have to come late instead.

        A gradient with three or more sources is summed in the reverse order of the nodes, the joint part's first; if
        that is another order than the model's, the stream's readers of the value have to join the joint part.
        """
        self._joined, cuts = self._needed([output], stop=True)
        self._given = {m: [cut for cut in cuts if self._streams[cut.key] == {m}] for m in MODALITIES}
        self._encoders = {m: self._needed([cut.key for cut in self._given[m]], stop=False)[0] for m in MODALITIES}
        late: set[int] = set()
        for m in MODALITIES:
            for cut in self._given[m]:
                early, joint = (
                    [n for n in part for key in _read(self.graph.nodes[n]) if key == cut.key]
                    for part in (self._encoders[m], self._joined)
                )
                if early and joint and len(early + joint) > 2 and max(early) > min(joint):
                    late |= set(early)
        return late

    def _needed(self, keys: Iterable[Key], stop: bool) -> tuple[list[int], list[Cut]]:
        """Find nodes that some values need; with `stop` only as far as values of one stream that can be handed over."""
        nodes: set[int] = set()
        cuts: dict[Key, Cut] = {}
        waiting = list(keys)
        while waiting:
            key = waiting.pop()
            if stop and len(self._streams[key]) == 1 and key in self._cuts:
                cuts[key] = self._cuts[key]
            elif isinstance(key, int) and key not in nodes:
                nodes.add(key)
                waiting += _read(self.graph.nodes[key])
        return sorted(nodes), [cuts[key] for key in sorted(cuts, key=str)]


def _read(node: Call) -> list[Key]:
    return [ref[0] for ref in node.references() if isinstance(ref, Node | Input)]


def _cut(key: Key, small: Any, large: Any) -> Cut | None:
    """Tell how a value is laid out by sample, if it is: a tensor with the batch as one of its dimensions."""
    if not isinstance(small, Tensor) or small.dtype != torch.float32:
        return None
    dims = [d for d in range(small.dim()) if small.shape[d] != large.shape[d]]
    order = tuple(sorted(range(small.dim()), key=small.stride, reverse=True))
    if len(dims) != 1 or (small.shape[dims[0]], large.shape[dims[0]]) != PROBES:
        return None
    if not small.permute(order).is_contiguous():  # expanded, or a part of something
        return None
    return Cut(key, dims[0], order, tuple(small.movedim(dims[0], 0).shape[1:]))


def _parted(embedding: Tensor, cuts: list[Cut]) -> dict[Key, Any]:
    """Undo how `_encode` joins values."""
    if len(cuts) == 1:
        return {cuts[0].key: embedding.movedim(0, cuts[0].dim)}
    pieces = torch.split(embedding, [math.prod(cut.shape) for cut in cuts], dim=1) if cuts else ()
    values: dict[Key, Any] = {}
    for cut, piece in zip(cuts, pieces, strict=True):
        value = piece.reshape(len(embedding), *cut.shape).movedim(0, cut.dim)
        back = sorted(range(value.dim()), key=cut.order.__getitem__)
        values[cut.key] = value.permute(cut.order).contiguous().permute(back)
    return values


def _elements(value: Any) -> int:
    return value.numel() if isinstance(value, Tensor) else sum(part.numel() for part in value)
