"""Registered threat models, with the radii of the papers and their errata (spec section 2)."""

from __future__ import annotations

from avbench.threats import PRESETS, ThreatModel
from avbench.threats.linf import Linf, LinfNormalized


def linf_triple(single: float, joint: float, video: type[Linf] = Linf) -> tuple[ThreatModel, ...]:
    """XA and XV at the radius `single`, XAV at the radius `joint` in both modalities."""
    return (
        ThreatModel(audio=Linf(single)),
        ThreatModel(video=video(single)),
        ThreatModel(audio=Linf(joint), video=video(joint)),
    )


# [T21] tables 3, 5, 6 with the erratum in the authors' README; the lattice holds.
PRESETS.register("standard")(linf_triple(0.006, 0.006))
# [T21] table 1 with the erratum.
PRESETS.register("cvpr21-attack")(linf_triple(0.012, 0.006))
# The same as the authors' code applies it: the video radius after ImageNet normalization.
PRESETS.register("cvpr21-attack-normalized")(linf_triple(0.012, 0.006, video=LinfNormalized))
# The captions as printed, ten times larger; for comparison only.
PRESETS.register("cvpr21-caption")(linf_triple(0.12, 0.06))
# [T21] figures 3, 7, 8: 0 to 0.012 in steps of 0.001.
PRESETS.register("strength-curve")(tuple(t for i in range(13) for t in linf_triple(i / 1000, i / 1000)))
