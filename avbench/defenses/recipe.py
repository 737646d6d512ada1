"""Recipes: all that decides a trained model, as YAML that is checked before anything is built."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from avbench.datasets import Sample
from avbench.errors import RecipeError

Positive = Annotated[float, Field(gt=0)]


class LearningRate(BaseModel):
    """Learning rates of the parts; a parameter belongs to the part that its name begins with."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    audio: Positive
    visual: Positive
    fusion: Positive  # everything else


class Augmentation(BaseModel):
    """Random changes of each training clip that keep its label."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    shift_audio: Annotated[int, Field(ge=0)] = 0  # samples, either way, around the clip's ends
    shift_video: Annotated[int, Field(ge=0)] = 0  # pixels, each way and axis
    invert_audio: bool = False  # change the sign of the waveform
    flip_video: bool = False  # mirror left-right and upside down

    def __call__(self, sample: Sample, random: np.random.Generator) -> Sample:
        """Change one stored sample."""
        audio, video = sample.audio, sample.video
        if self.shift_audio:
            audio = np.roll(audio, random.integers(-self.shift_audio, self.shift_audio + 1))
        if self.invert_audio and random.random() < 0.5:
            audio = np.maximum(audio, -32767) * np.int16(-1)
        if self.shift_video:
            shift = random.integers(-self.shift_video, self.shift_video + 1, 2)
            video = np.roll(video, tuple(shift), axis=(2, 3))
        if self.flip_video:
            for axis in (2, 3):
                video = np.flip(video, axis) if random.random() < 0.5 else video
        return sample._replace(audio=audio, video=video)


def _same_everywhere(rate: Any) -> Any:
    """Let a recipe give one number for all parts."""
    return dict.fromkeys(("audio", "visual", "fusion"), rate) if isinstance(rate, int | float) else rate


class Recipe(BaseModel):
    """All that decides a trained model, with the training defaults of [T21] where they are not given."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    dataset: str
    architecture: str
    arguments: dict[str, str | bool | int | float] = Field(default_factory=dict)
    defense: str = "none"
    defense_arguments: dict[str, str | bool | int | float] = Field(default_factory=dict)
    epochs: Annotated[int, Field(ge=1)] = 100
    batch_size: Annotated[int, Field(ge=2)] = 48
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: Annotated[LearningRate, BeforeValidator(_same_everywhere)] = LearningRate(
        audio=1e-3, visual=1e-4, fusion=1e-3
    )
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0  # decay a step of the averaged weights that are submitted; 0: none
    accumulate: Annotated[int, Field(ge=1)] = 1  # parts that a batch goes through the model in
    precision: Literal["float32", "bfloat16"] = "float32"  # of the forward pass in training
    schedule: Literal["step", "cosine"] = "step"  # cosine begins with a linear warm-up over a tenth of the steps
    step_epochs: Annotated[int, Field(ge=1)] = 30  # the learning rate falls tenfold every so many epochs
    augmentation: Augmentation = Augmentation()
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0

    @model_validator(mode="after")
    def _parts_of_two(self) -> Recipe:
        if 2 * self.accumulate > self.batch_size:  # batch norm needs two
            raise ValueError(
                f"accumulate {self.accumulate} leaves a batch of {self.batch_size} less than 2 samples a part"
            )
        return self


def read_recipe(path: Path) -> Recipe:
    """Read a recipe.

    Raises:
        RecipeError: naming the key that is wrong.
    """
    try:
        return Recipe.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'the file'}: {e['msg']}" for e in error.errors()[:5])
        raise RecipeError(f"{path}: {wrong}") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RecipeError(f"{path} cannot be read: {error}") from error
