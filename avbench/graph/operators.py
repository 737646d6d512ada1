"""The closed table of operators that a graph may call, and what has to hold before some of them are called.

Every one is a pure function of tensors and plain numbers: none draws at random, reads a file or changes a tensor in
place. The table keeps out code, not every crash of a kernel, so a stranger's graph still belongs into the worker.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten
_FACTORIES = (  # make a tensor from nothing, on the device where the model runs
    aten.arange.default, aten.arange.start, aten.arange.start_step, aten.full.default, aten.ones.default,
    aten.scalar_tensor.default, aten.zeros.default,
)  # fmt: skip
_POINTWISE = (
    aten._to_copy.default, aten.abs.default, aten.add.Scalar, aten.add.Tensor, aten.atan2.default,
    aten.bitwise_and.Tensor, aten.bitwise_not.default, aten.bitwise_or.Tensor, aten.clamp.default,
    aten.clamp_max.default, aten.clamp_min.default, aten.cos.default, aten.div.Scalar, aten.div.Tensor,
    aten.div.Tensor_mode, aten.elu.default, aten.eq.Scalar, aten.eq.Tensor, aten.erf.default, aten.exp.default,
    aten.expm1.default, aten.fill.Scalar, aten.fill.Tensor, aten.floor.default, aten.floor_divide.default,
    aten.ge.Scalar, aten.ge.Tensor, aten.gelu.default, aten.glu.default, aten.gt.Scalar, aten.gt.Tensor,
    aten.hardsigmoid.default, aten.hardswish.default, aten.hardtanh.default, aten.imag.default, aten.le.Scalar,
    aten.le.Tensor, aten.leaky_relu.default, aten.log.default, aten.log10.default, aten.log1p.default,
    aten.log2.default, aten.logical_and.default, aten.logical_not.default, aten.logical_or.default, aten.lt.Scalar,
    aten.lt.Tensor, aten.masked_fill.Scalar, aten.masked_fill.Tensor, aten.maximum.default, aten.minimum.default,
    aten.mish.default, aten.mul.Scalar, aten.mul.Tensor, aten.ne.Scalar, aten.ne.Tensor, aten.neg.default,
    aten.pow.Scalar, aten.pow.Tensor_Scalar, aten.pow.Tensor_Tensor, aten.prelu.default, aten.real.default,
    aten.reciprocal.default, aten.relu.default, aten.relu6.default, aten.remainder.Scalar, aten.round.default,
    aten.rsqrt.default, aten.rsub.Scalar, aten.selu.default, aten.sigmoid.default, aten.sign.default,
    aten.silu.default, aten.sin.default, aten.softplus.default, aten.sqrt.default, aten.square.default,
    aten.sub.Scalar, aten.sub.Tensor, aten.tanh.default, aten.to.dtype, aten.view_as_real.default, aten.where.self,
)  # fmt: skip
_SHAPES = (
    aten.cat.default, aten.chunk.default, aten.clone.default,
    aten.constant_pad_nd.default, aten.contiguous.default, aten.expand.default,
    aten.expand_as.default, aten.flatten.using_ints, aten.flip.default, aten.full_like.default, aten.gather.default,
    aten.index.Tensor, aten.index_select.default, aten.movedim.int, aten.narrow.default, aten.new_full.default,
    aten.new_ones.default, aten.new_zeros.default, aten.ones_like.default, aten.pad.default, aten.permute.default,
    aten.pixel_shuffle.default, aten.repeat.default, aten.reshape.default, aten.roll.default, aten.select.int,
    aten.select_scatter.default, aten.slice.Tensor, aten.slice_scatter.default, aten.split.Tensor,
    aten.split_with_sizes.default, aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims, aten.stack.default,
    aten.t.default, aten.transpose.int, aten.tril.default, aten.triu.default, aten.unbind.int, aten.unflatten.int,
    aten.unfold.default, aten.unsqueeze.default, aten.upsample_bilinear2d.vec, aten.upsample_linear1d.vec,
    aten.upsample_nearest1d.vec, aten.upsample_nearest2d.vec, aten.view_as.default,
    aten.zeros_like.default,
)  # fmt: skip
_REDUCTIONS = (
    aten.amax.default, aten.amin.default, aten.any.default, aten.argmax.default, aten.cumsum.default,
    aten.linalg_vector_norm.default, aten.log_softmax.int, aten.logsumexp.default, aten.max.dim, aten.mean.default,
    aten.mean.dim, aten.min.dim, aten.norm.Scalar, aten.norm.ScalarOpt_dim, aten.prod.dim_int, aten.softmax.int,
    aten.std.correction, aten.sum.default, aten.sum.dim_IntList, aten.topk.default, aten.var.correction,
    aten.var_mean.correction,
)  # fmt: skip
_LAYERS = (
    aten._native_batch_norm_legit_no_training.default, aten.adaptive_avg_pool1d.default,
    aten.adaptive_avg_pool2d.default, aten.adaptive_avg_pool3d.default, aten.adaptive_max_pool1d.default,
    aten.adaptive_max_pool2d.default, aten.addmm.default, aten.avg_pool1d.default, aten.avg_pool2d.default,
    aten.avg_pool3d.default, aten.baddbmm.default, aten.bmm.default, aten.conv1d.default, aten.conv1d.padding,
    aten.conv2d.default, aten.conv2d.padding, aten.conv3d.default, aten.conv3d.padding,
    aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.cosine_similarity.default, aten.dot.default,
    aten.einsum.default, aten.embedding.default, aten.fft_rfft.default, aten.fft_rfft2.default,
    aten.group_norm.default, aten.gru.input, aten.instance_norm.default, aten.layer_norm.default,
    aten.linear.default, aten.lstm.input, aten.matmul.default, aten.max_pool1d.default, aten.max_pool2d.default,
    aten.max_pool3d.default, aten.mm.default, aten.mv.default, aten.rms_norm.default, aten.rnn_relu.input,
    aten.rnn_tanh.input, aten.scaled_dot_product_attention.default, aten.stft.center, aten.stft.default,
)  # fmt: skip


def _item(values: Sequence[Any], index: int) -> Any:
    if not isinstance(values, tuple | list) or not 0 <= index < len(values) or not isinstance(values[index], Tensor):
        raise ValueError("takes one of several results")
    return values[index]


ITEM = "item"  # takes one result of an operator that has several
OPERATORS: dict[str, Callable[..., Any]] = {ITEM: _item} | {
    str(operator): operator for operator in (*_FACTORIES, *_POINTWISE, *_SHAPES, *_REDUCTIONS, *_LAYERS)
}
ON_DEVICE = frozenset(map(str, _FACTORIES))


def _whole(values: object, least: int) -> None:
    for value in values if isinstance(values, list | tuple) else [values]:
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(f"{value!r} must be a whole number of at least {least}")


def _pool(x: Tensor, kernel: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1, *_: Any, **__: Any) -> None:
    """Refuse windows with which max_pool1d reads beyond its input."""
    for numbers in (kernel, stride, dilation):
        _whole(numbers, 1)
    _whole(padding, 0)


def _attention(q: Tensor, k: Tensor, v: Tensor, mask: Any = None, dropout: float = 0.0, *_: Any, **more: Any) -> None:
    """Refuse to draw at random."""
    if dropout or more.get("dropout_p"):
        raise ValueError("must not drop out anything")


def _instance_norm(x: Tensor, weight: Any, bias: Any, mean: Any = None, variance: Any = None, *_: Any) -> None:
    """Refuse running statistics, which the kernel changes."""
    if mean is not None or variance is not None:
        raise ValueError("must not keep statistics")


def _recurrent(gates: int) -> Callable[..., None]:
    def check(
        x: Tensor, state: Any, params: Sequence[Tensor], biases: bool, layers: int, dropout: float, train: bool,
        both: bool, first: bool,
    ) -> None:  # fmt: skip
        """Refuse weights that are not as many and as large as the numbers say; the kernels trust them."""
        _whole(layers, 1)
        if train or dropout or not all(isinstance(flag, bool) for flag in (biases, train, both, first)):
            raise ValueError("runs in eval mode only")
        directions = 2 if both else 1
        states = list(state) if gates == 4 else [state]
        hidden, size = states[0].shape[-1], x.shape[-1]
        if x.dim() != 3 or len(params) != layers * directions * (4 if biases else 2):
            raise ValueError("needs sequences (batch, steps, size) and the weights of each layer and direction")
        batch = x.shape[0] if first else x.shape[1]
        if len(states) != (2 if gates == 4 else 1) or any(
            s.shape != (layers * directions, batch, hidden) for s in states
        ):
            raise ValueError("has a first state of another size than its layers and its batch")
        for number, param in enumerate(params):
            layer, part = divmod(number, directions * (4 if biases else 2))
            part %= 4 if biases else 2
            given = (size if layer == 0 else hidden * directions) if part == 0 else hidden
            if param.shape != ((gates * hidden, given) if part < 2 else (gates * hidden,)):
                raise ValueError(f"has a weight {number} of shape {tuple(param.shape)}")

    return check


CHECKS: Mapping[str, Callable[..., None]] = {
    **{str(getattr(aten, f"max_pool{d}d").default): _pool for d in (1, 2, 3)},
    "aten.scaled_dot_product_attention.default": _attention, "aten.instance_norm.default": _instance_norm,
    "aten.lstm.input": _recurrent(4), "aten.gru.input": _recurrent(3),
    "aten.rnn_relu.input": _recurrent(1), "aten.rnn_tanh.input": _recurrent(1),
}  # fmt: skip


def call(name: str, args: Sequence[Any], kwargs: Mapping[str, Any], device: torch.device) -> Any:
    """Call an operator of the table, after its check.

    Raises:
        ValueError, RuntimeError, TypeError: and others, as the operator says.
    """
    if check := CHECKS.get(name):
        check(*args, **kwargs)
    where = {"device": device} if name in ON_DEVICE else {}
    return OPERATORS[name](*args, **kwargs, **where)
