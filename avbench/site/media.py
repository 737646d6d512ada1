"""Pictures and sounds of one sample, made anew from checked numbers; no byte that somebody handed in is published."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from avbench import files
from avbench.datasets.encoding import Clip, digest, encode
from avbench.evidence import Weights
from avbench.evidence.clips import Pair
from avbench.figures import SINE, decibels

FOLDER = "media"
LOW, HIGH = -90, 0  # dB of a full-scale sine; one range for all spectrograms
SAME = "Unattacked"  # of what the threat leaves as it is
HEAD = 1500  # bytes that a file takes besides its pixels or samples, at most


@dataclass(frozen=True)
class Asset:
    """An image or a sound of the site, made when it is asked for."""

    path: str  # below the site's folder
    title: str
    alt: str
    width: int
    height: int
    size: int  # bytes at most
    make: Callable[[], bytes]


@dataclass(frozen=True)
class Media:
    """What a page shows of one sample: before, after, and what changed."""

    gain: int  # how many times the difference of the frames is amplified
    brightest: float  # weight that is the brightest color of `looks`, %
    frames: list[Asset]  # the middle one
    spectrograms: list[Asset]
    sounds: list[Asset]
    looks: list[Asset]  # where the model looks

    @property
    def assets(self) -> list[Asset]:
        """All of it."""
        return [*self.frames, *self.spectrograms, *self.sounds, *self.looks]


def make_media(what: str, pair: Pair, maps: tuple[Weights, ...], rate: int) -> Media:
    """Name the files of a sample by their content, so that pages share what is equal.

    Args:
        what: the sample, for people.
        pair: its clips.
        maps: weights of places of the middle frame, before and after.
        rate: Hz.
    """
    hashes = [digest(clip) for clip in pair]
    names = [f"{FOLDER}/{name[:20]}" for name in (*hashes, files.fingerprint(hashes))]
    middle = [clip.video[len(clip.video) // 2].astype(np.int64) for clip in pair]
    change = middle[1] - middle[0]
    gain = max(1, 127 // max(1, int(np.abs(change).max())))
    titles = ("Clean" if change.any() else SAME, "Adversarial", f"Difference \u00d7 {gain}")
    alts = (f"Clean frame of {what}", f"Attacked frame of {what}", f"What the attack changed in it, times {gain}")
    pictures = zip(names, titles, alts, (*middle, (128 + gain * change).clip(0, 255)), strict=True)
    frames = [_frame(name, title, alt, pixels) for name, title, alt, pixels in pictures][: 3 if change.any() else 1]
    brightest = max((weight for one in maps for row in one for weight in row), default=0.0) or 1.0
    shares = [np.array(one, dtype=np.float64).reshape(len(one), -1) / brightest for one in maps]
    place = f"{FOLDER}/{files.fingerprint(maps)[:20]}"
    looks = [
        _colored(f"{place}-{title}.png", title, f"Where the model looks in the {title} frame of {what}", share)
        for title, share in zip(("clean", "adversarial"), shares, strict=False)
    ]
    if not len(pair.clean.audio):
        return Media(gain, 100 * brightest, frames, [], [], looks)
    heard = [clip.audio.astype(np.float64) / 32768 for clip in pair]
    alts = (f"Spectrogram of {what}, clean", "The same, attacked", "Spectrogram of what the attack changed")
    levels = [(decibels(sound)[::-1] - SINE - LOW) / (HIGH - LOW) for sound in (*heard, heard[1] - heard[0])]
    same = np.array_equal(heard[0], heard[1])
    titles = (SAME if same else "Clean", "Adversarial", "Difference")
    shown = zip(names, titles, alts, levels, strict=True)
    spectrograms = [_colored(f"{name}-sound.png", title, alt, level) for name, title, alt, level in shown]
    played = zip(names[:2], titles[:2], pair, strict=True)
    sounds = [_sound(name, title, f"{title} sound of {what}", clip, rate) for name, title, clip in played]
    return Media(gain, 100 * brightest, frames, spectrograms[: 1 if same else 3], sounds[: 1 if same else 2], looks)


def _frame(name: str, title: str, alt: str, pixels: NDArray[np.int64]) -> Asset:
    """Place pixels (3, height, width)."""
    _, height, width = pixels.shape
    image = Image.fromarray(np.ascontiguousarray(np.moveaxis(pixels, 0, 2).astype(np.uint8)))
    return Asset(f"{name}-frame.png", title, alt, width, height, HEAD + pixels.size, partial(_png, image))


def _colored(path: str, title: str, alt: str, share: NDArray[np.float64]) -> Asset:
    """Place (rows, columns) of 0 to 1 as colors from black over red to white."""
    from matplotlib import colormaps

    height, width = share.shape
    image = Image.fromarray((share.clip(0, 1) * 255).round().astype(np.uint8))
    image.putpalette(colormaps["magma"](range(256), bytes=True)[:, :3].tobytes())
    return Asset(path, title, alt, width, height, HEAD + share.size, partial(_png, image))


def _png(image: Image.Image) -> bytes:
    picture = io.BytesIO()
    image.save(picture, "png", optimize=True)
    return picture.getvalue()


def _sound(name: str, title: str, alt: str, clip: Clip, rate: int) -> Asset:
    size = HEAD + clip.audio.nbytes
    return Asset(f"{name}.wav", title, alt, 0, 0, size, lambda: encode(clip._replace(video=clip.video[:0]), rate).audio)
