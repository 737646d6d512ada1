"""Perceptual fingerprints: what of a clip survives re-encoding, so that copies are found whose bits differ.

Sound: whether the difference of log energy between neighboring bands rises or falls over 1/32 s (Haitsma & Kalker,
ISMIR 2002), compared at shifts of up to 0.2 s; what hardly changes, as in silence or a steady tone, tells nothing.
Picture: the lowest frequencies of the frame in gray, by their correlation and by their signs (a perceptual hash).

Wrong pairs: sound 0 of 12.5 M (synthav, grid), 5 of 4.5 M (FSDD); frame 12,193 of 0.5 M (grid), 2,590 of 98 M (MNIST).
Found again (12-64 kbit/s, half to 1.5 size, -12 to 3.5 dB, -0.1 to 0.2 s): grid 500 of 500, FSDD 778 of 800.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import dctn, rfft
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from avbench.progress import track

BANDS, LOW, HIGH = 32, 200.0, 3600.0  # number; Hz: what low bit rates and an 8 kHz recording keep
WINDOW, HOP, LAG = 1 / 8, 1 / 64, 2  # s, s, hops
SHIFT = 13  # hops; the largest shift that is compared
MOMENTS = 24  # of a clip that are compared, at least; its fingerprint holds all
FLOOR, DEAD = 1e-5, 0.06  # of the clip's largest band energy; change of log energy that tells nothing
KNOWN = 128  # signs; a clip that tells fewer is hardly or never found
SOUND = 0.55  # correlation of signs from which sounds are near-duplicates; about 22 % of the signs differ
SIDE, KEPT = 32, 8  # pixels of the gray picture; lowest frequencies kept in each direction
PICTURE_PRINT = KEPT**2 - 1
FAINT = 1.0  # standard deviation, of 255; a picture with less contrast has no fingerprint
PICTURE, HAMMING = 0.99, 16  # correlation of pictures from which they are near-duplicates; different signs up to it
BLOCK = 256  # clips compared at once with all others


class Clusters(NamedTuple):
    """For each clip the number of its cluster; clips are linked by near-duplicates, perhaps over several."""

    clip: NDArray[np.int32]  # links: sound and picture are both alike
    audio: NDArray[np.int32]
    frame: NDArray[np.int32]


def sound_print(audio: NDArray[np.int16], rate: int) -> NDArray[np.int8]:
    """Return (moments, BANDS - 1) signs, 0 where nothing can be told."""
    width = round(WINDOW * rate)
    moments = max(int((len(audio) - width) / (HOP * rate)) + 1, 0)
    if moments <= LAG:
        return np.zeros((0, BANDS - 1), np.int8)
    starts = np.round(np.arange(moments) * HOP * rate).astype(int)
    windows = np.lib.stride_tricks.sliding_window_view(audio.astype(np.float32) / 32768, width)[starts]
    size = 1 << (width - 1).bit_length()
    spectra = np.abs(rfft(windows * np.hanning(width).astype(np.float32), size, axis=1)) ** 2
    edges = np.round(np.geomspace(LOW, HIGH, BANDS + 1) * size / rate).astype(int)
    energy = np.add.reduceat(spectra, np.minimum(edges, spectra.shape[1] - 1), axis=1)[:, :-1]
    log = np.log(np.maximum(energy, 1e-9) + FLOOR * energy.max())
    change = np.diff(log[LAG:] - log[:-LAG], axis=1)
    return np.where(np.abs(change) > DEAD, np.sign(change), 0).astype(np.int8)


def picture_print(frame: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the lowest frequencies of a frame (3, height, width), without the mean, as a vector of length 1 or 0."""
    gray = Image.fromarray(np.ascontiguousarray(frame.transpose(1, 2, 0))).convert("L")
    small = np.asarray(gray.resize((SIDE, SIDE), Image.Resampling.BILINEAR), np.float32)
    found = dctn(small, norm="ortho")[:KEPT, :KEPT].ravel()[1:]
    length = np.linalg.norm(found)
    return np.asarray(found / length if length >= FAINT * SIDE else 0 * found, np.float32)


def cluster(sounds: NDArray[np.int8], pictures: NDArray[np.float32]) -> Clusters:
    """Link near-duplicates among all clips, block by block, so that memory stays proportional to their number.

    Args:
        sounds: (clips, moments, BANDS - 1), of `sound_print`.
        pictures: (clips, 63), of `picture_print`.
    """
    clips, audios, frames = (np.arange(len(sounds), dtype=np.int32) for _ in range(3))
    starts = range(0, len(sounds), BLOCK)
    for start in track(starts, "comparing clips", len(starts)):
        audio, frame = _same_sound(sounds, start), _same_picture(pictures, start)
        clips, audios, frames = (
            _link(found, start, match) for found, match in ((clips, audio & frame), (audios, audio), (frames, frame))
        )
    return Clusters(clips, audios, frames)


def _same_sound(sounds: NDArray[np.int8], start: int) -> NDArray[np.bool_]:
    """Compare the clips of a block, at every shift, with some moments of each clip from there on."""
    block, moments = sounds[start : start + BLOCK], sounds.shape[1]
    at = np.arange(0, moments, max(1, moments // MOMENTS))
    others = sounds[start:, at].reshape(len(sounds) - start, -1).astype(np.float32)
    told = np.abs(sounds[start:, at]).sum(2, dtype=np.float32)  # signs of each moment
    best = np.zeros((len(block), len(others)), np.float32)
    for shift in range(-SHIFT, SHIFT + 1):
        inside = np.flatnonzero((at + shift >= 0) & (at + shift < moments))
        if inside.size:
            first, last = inside[0], inside[-1] + 1
            one = block[:, at[first:last] + shift].reshape(len(block), -1).astype(np.float32)
            score = one @ others[:, first * (BANDS - 1) : last * (BANDS - 1)].T
            score /= np.sqrt(np.maximum(np.abs(one).sum(1, keepdims=True), KNOWN))
            score /= np.sqrt(np.maximum(told[:, first:last].sum(1), KNOWN))
            np.maximum(best, score, out=best)
    alike: NDArray[np.bool_] = best >= SOUND
    return alike


def _same_picture(pictures: NDArray[np.float32], start: int) -> NDArray[np.bool_]:
    one, other = pictures[start : start + BLOCK], pictures[start:]
    signs = [np.sign(found - np.median(found, axis=1, keepdims=True)) for found in (one, other)]
    agree = signs[0] @ signs[1].T
    alike: NDArray[np.bool_] = (one @ other.T >= PICTURE) & (agree >= PICTURE_PRINT - 2 * HAMMING)
    return alike


def _link(found: NDArray[np.int32], start: int, match: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Join the clusters of clips that match."""
    one, other = np.nonzero(match & (found[start : start + BLOCK, None] != found[None, start:]))
    if not len(one):
        return found
    links = (np.ones(len(one), np.bool_), (found[start + one], found[start + other]))
    _, joined = connected_components(coo_array(links, shape=(len(found), len(found))), directed=False)
    return np.asarray(joined, np.int32)[found]
