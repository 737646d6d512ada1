"""Registered threat models, with the radii of the papers and their errata (spec section 2)."""

from __future__ import annotations

from avbench.threats import PRESETS, Access, ThreatModel
from avbench.threats.linf import Linf, LinfNormalized


def linf_triple(
    single: float, joint: float, video: type[Linf] = Linf, access: Access = "white-box"
) -> tuple[ThreatModel, ...]:
    """XA and XV at the radius `single`, XAV at the radius `joint` in both modalities."""
    return (
        ThreatModel(audio=Linf(single), access=access),
        ThreatModel(video=video(single), access=access),
        ThreatModel(audio=Linf(joint), video=video(joint), access=access),
    )


# [T21] tables 3, 5, 6 with the erratum in the authors' README; the lattice holds.
PRESETS.register("standard")(linf_triple(0.006, 0.006))
# The same for clips that are crafted on other models.
PRESETS.register("standard-transfer")(linf_triple(0.006, 0.006, access="transfer"))
# [T21] table 1 with the erratum.
PRESETS.register("cvpr21-attack")(linf_triple(0.012, 0.006))
# The same as the authors' code applies it: the video radius after ImageNet normalization.
PRESETS.register("cvpr21-attack-normalized")(linf_triple(0.012, 0.006, video=LinfNormalized))
# The captions as printed, ten times larger; for comparison only.
PRESETS.register("cvpr21-caption")(linf_triple(0.12, 0.06))
# [T21] figures 3, 7, 8: 0 to 0.012 in steps of 0.001.
PRESETS.register("strength-curve")(tuple(t for i in range(13) for t in linf_triple(i / 1000, i / 1000)))
