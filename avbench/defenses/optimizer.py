"""The optimizer of a recipe: one learning rate for each part of a model."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from avbench.defenses.common import unwrap
from avbench.defenses.recipe import Recipe


def make_optimizer(recipe: Recipe, model: nn.Module) -> torch.optim.Optimizer:
    """Build the optimizer; its groups remember their `initial_lr`, from which a schedule starts."""
    groups = parts(recipe, model)
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, weight_decay=recipe.weight_decay)
    return torch.optim.SGD(groups, momentum=recipe.momentum, weight_decay=recipe.weight_decay)


def parts(recipe: Recipe, model: nn.Module) -> list[dict[str, Any]]:
    """Group parameters by their learning rate; those that only training needs belong to fusion."""
    rates = recipe.learning_rate.model_dump()
    groups: dict[str, list[nn.Parameter]] = {name: [] for name in rates}
    names = {parameter: name for name, parameter in unwrap(model).named_parameters()}
    for parameter in model.parameters():
        part = names.get(parameter, "").partition(".")[0]
        groups[part if part in ("audio", "visual") else "fusion"].append(parameter)
    return [{"params": group, "lr": rates[part], "initial_lr": rates[part]} for part, group in groups.items() if group]
