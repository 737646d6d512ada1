"""Equal networks whose gradients with respect to the input cost less, for attacks on CPU."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod

import torch
from torch import nn

WIDE = 16  # channels of a first layer; narrower networks have rows on boards, which were made without


class OffersQuick(nn.Module, ABC):
    """A part that knows an equal network."""

    @abstractmethod
    def quick(self) -> nn.Module | None:
        """Return the equal network, its weights frozen; None if there is none."""


def quicken(model: nn.Module) -> nn.Module:
    """Put the equal network of each part that offers one in its place; the model itself is returned if none does.

    The model is in eval mode. Only a method `quick` of a part's own class counts, for a subclass may compute something
    else, and a part with hooks stays as it is. What is not replaced is shared; values differ by the rounding of sums.
    """
    if isinstance(model, OffersQuick) and "quick" in vars(type(model)) and not any(map(_altered, model.modules())):
        return model.quick() or model
    children = {name: quicken(child) for name, child in model.named_children()}
    if all(children[name] is child for name, child in model.named_children()):
        return model
    twin = copy.copy(model)
    twin.__dict__["_modules"] = {**model._modules, **children}
    return twin


def channels_last(network: nn.Module) -> nn.Module:
    """Freeze a network and let its 2-D convolutions work on maps of which the channels of a place lie together."""
    frozen: nn.Module = network.eval().requires_grad_(False)
    return frozen.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def _altered(part: nn.Module) -> bool:
    """Tell whether someone has changed what calling a module does."""
    hooks = (part._forward_hooks, part._forward_pre_hooks, part._backward_hooks, part._backward_pre_hooks)
    return any(hooks) or "forward" in vars(part)
