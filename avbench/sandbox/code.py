"""A model that is code, FILE.py:Factory: `Factory(**arguments)` makes a module, of `classes` and `spec` if it asks."""

from __future__ import annotations

import importlib.util
import inspect
import os
import re
import stat
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from avbench import files
from avbench.checkpoint import load_state, read_checkpoint
from avbench.errors import BadModel, CheckpointError
from avbench.form import SUBMISSION
from avbench.rng import seeded
from avbench.types import InputSpec

CODE = re.compile(r"(.+\.py):([A-Za-z_][A-Za-z0-9_]*)")
MOST_FILES = 256


def load_code(
    file: Path,
    factory: str,
    classes: int,
    spec: InputSpec,
    arguments: Mapping[str, Any],
    weights: Path | None = None,
) -> nn.Module:
    """Run a Python file and let its factory make the model; what is drawn at random is drawn alike each time.

    Weights that are kept in a file are loaded into what it made.

    Raises:
        BadModel: if the file or the factory fails, or makes something else.
        CheckpointError: and its kin, if the weights cannot be loaded.
    """
    name = f"avbench_code_{file.stem}"
    sys.path.insert(0, str(file.parent))  # its own modules, beside it
    try:
        found = importlib.util.spec_from_file_location(name, file)
        assert found is not None
        assert found.loader is not None
        module = sys.modules[name] = importlib.util.module_from_spec(found)
        with seeded(torch.device("cpu"), "load"):
            found.loader.exec_module(module)
            make = getattr(module, factory)
            known = inspect.signature(make).parameters
            told = {name: value for name, value in (("classes", classes), ("spec", spec)) if name in known}
            model = make(**told, **arguments)
    except (Exception, SystemExit) as error:
        raise BadModel(f"{file.name}:{factory} makes no model: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(file.parent))
    if not isinstance(model, nn.Module):
        raise BadModel(f"{file.name}:{factory} makes a {type(model).__name__}, must make a torch.nn.Module")
    if weights:
        load_state(model, read_checkpoint(weights).state, f"{weights.name} into {file.name}:{factory}")
    return model


def code_files(file: Path) -> dict[str, str]:
    """Tell the identity of code: the sha256 of all files in its folder that it may read, by their relative names.

    What a submission.yaml says is for readers, and compiled files would be run in place of their source.

    Raises:
        CheckpointError: if the file is missing, or its folder holds links, special files or too much.
    """
    folder = file.parent
    if not file.is_file():
        raise CheckpointError(f"no file {file}; a model that is code is named FILE.py:Factory")
    if folder == Path.home() or folder in Path.home().parents:
        raise CheckpointError(f"{folder} holds more than a model; put {file.name} into a folder of its own")
    hashes: dict[str, str] = {}
    for base, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name != "__pycache__"]
        for path in (Path(base, name) for name in (*names, *folders)):
            mode = path.lstat().st_mode
            if stat.S_ISREG(mode):
                hashes[str(path.relative_to(folder))] = files.sha256_file(path)
            elif not stat.S_ISDIR(mode):
                raise CheckpointError(f"{path} is a link or a special file; a folder of code holds its files")
            if len(hashes) > MOST_FILES:
                raise CheckpointError(f"{folder} holds more than {MOST_FILES} files; give the code a folder of its own")
    hashes.pop(SUBMISSION, None)
    return hashes
