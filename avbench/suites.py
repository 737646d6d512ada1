"""Named, versioned protocols: threats x attacks, and how samples pass through them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from avbench.attacks import Attack, parse_attack
from avbench.errors import BadOption
from avbench.files import fingerprint
from avbench.registry import Registry
from avbench.threats import ThreatModel, find_threats

if TYPE_CHECKING:
    from avbench.attacks.mask import Mask

Mode = Literal["every", "worst-case"]


@dataclass(frozen=True)
class Suite:
    """Fix which attacks run under which threats.

    In mode `every` each attack runs on every sample, as the papers' tables report. In mode `worst-case` each attack
    runs only on samples that are still robust: right when clean, unbroken by the attacks before it and, by the
    lattice of threats, unbroken in every threat that lies inside. Corruptions have no threat and run on every sample.
    """

    name: str
    version: int
    summary: str
    threats: tuple[ThreatModel, ...]
    attacks: tuple[Attack, ...]
    mode: Mode = "every"
    limit: int | None = None  # samples; a limited suite is for quick looks
    published: bool = True  # whether its rows may enter a leaderboard
    corruptions: tuple[Mask, ...] = ()
    precisions: tuple[str, ...] = ("fp32",)  # in which clips of a run that may rank are crafted

    def __post_init__(self) -> None:
        """Refuse a combination that would not be what its name says."""
        for threat in self.threats:
            for attack in self.attacks:
                check_access(threat, attack)

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"

    @property
    def digest(self) -> str:
        """Short name of its combination of threats and attacks, whatever their order."""
        attacks = sorted(map(str, (*self.attacks, *self.corruptions)))
        return fingerprint([self.mode, sorted(map(str, self.threats)), attacks])[:8]


def check_access(threat: ThreatModel, attack: Attack) -> None:
    """Refuse an attack that uses what a threat does not grant, or that would not be what the threat says.

    Raises:
        BadOption: with what to write instead.
    """
    from avbench.attacks.mask import Mask
    from avbench.attacks.transfer import Transfer

    if isinstance(attack, Mask):
        raise BadOption(f"{attack} is a corruption, without a budget; it does not run under {threat}")
    if isinstance(attack, Transfer):
        if threat.access != "transfer":
            raise BadOption(f"{attack} is crafted on other models; write {replace(threat, access='transfer')}")
    elif threat.access == "transfer" or (threat.access == "black-box" and attack.needs == "gradients"):
        raise BadOption(f"{attack} uses the model's {attack.needs}, which {threat} does not grant")


@dataclass(frozen=True)
class Outline:
    """Name what is in a suite, so that listing suites imports no attack, and with it torch."""

    name: str
    summary: str
    preset: str  # of its threats
    attacks: str
    mode: Mode = "every"
    limit: int | None = None
    version: int = 1

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"

    def suite(self) -> Suite:
        """Make the suite."""
        threats, attacks = tuple(find_threats(self.preset)), tuple(map(parse_attack, self.attacks.split()))
        published = self.limit is None
        return Suite(self.name, self.version, self.summary, threats, attacks, self.mode, self.limit, published)


class _Suites(Registry[Suite | Outline]):
    """Make a suite of its outline when it is asked for."""

    def outline(self, name: str) -> Suite | Outline:
        """Return what has the version and the summary of a suite."""
        return super().get(name)

    def get(self, name: str) -> Suite:
        found = super().get(name)
        if isinstance(found, Outline):
            found = self._things[name] = found.suite()
        return found


SUITES = _Suites("avbench.suites", "suite")

SUITES.register("standard")(
    Outline(
        "standard",
        "Worst case of APGD-CE, APGD-DLR, TMA and Square at radius 0.006; each attacks what those before it left.",
        "standard",
        "apgd-ce apgd-dlr tma square",
        mode="worst-case",
    )
)
SUITES.register("cvpr21-attack")(
    Outline(
        "cvpr21-attack",
        "Table 1 of Tian & Xu (CVPR 2021): XA and XV at radius 0.012, XAV at 0.006.",
        "cvpr21-attack",
        "fgsm pgd mim",
    )
)
SUITES.register("cvpr21-attack-normalized")(
    Outline(
        "cvpr21-attack-normalized",
        "Table 1 of Tian & Xu (CVPR 2021), the video radius after ImageNet normalization as in the authors' code.",
        "cvpr21-attack-normalized",
        "fgsm pgd mim",
    )
)
SUITES.register("cvpr21-caption")(
    Outline(
        "cvpr21-caption",
        "Table 1 of Tian & Xu (CVPR 2021) with the radii of its caption, ten times those used; for comparison only.",
        "cvpr21-caption",
        "fgsm pgd mim",
    )
)
SUITES.register("cvpr21-defense")(
    Outline(
        "cvpr21-defense",
        "Tables 3, 5 and 6 of Tian & Xu (CVPR 2021): every radius 0.006.",
        "standard",
        "fgsm mim",
    )
)
SUITES.register("strength-curve")(
    Outline(
        "strength-curve",
        "Figures 3, 7 and 8 of Tian & Xu (CVPR 2021): radii from 0 to 0.012.",
        "strength-curve",
        "fgsm mim",
    )
)
SUITES.register("iclr25")(
    Outline(
        "iclr25",
        "White-box attacks of Zhang et al. (ICLR 2025) at radius 0.006; the paper does not state its radii.",
        "standard",
        "fgsm pgd mim nim tia mma tma",
    )
)
SUITES.register("iclr25-transfer")(
    Outline(
        "iclr25-transfer",
        "Figures 5 and 6 of Zhang et al. (ICLR 2025) at radius 0.006: crafted on the baseline, which has no row.",
        "standard-transfer",
        " ".join(f"transfer:attack={attack}" for attack in ("fgsm", "pgd", "mim", "nim", "tia", "mma", "tma")),
    )
)
SUITES.register("icassp22")(
    Outline(
        "icassp22",
        "Li et al. (ICASSP 2022): one perturbation for all clips beside PGD, at radius 0.006; theirs is of features.",
        "standard",
        "universal pgd",
    )
)
SUITES.register("quick")(
    Outline(
        "quick", "A first look: worst case of FGSM and PGD at 0.006 on 64 clips; never published.", "standard",
        "fgsm pgd", mode="worst-case", limit=64,
    )
)  # fmt: skip


def find_suite(text: str | None, threats: tuple[str, ...] = (), attacks: tuple[str, ...] = ()) -> Suite:
    """Resolve what --suite, --threat and --attack say: a suite, a part of it, or a protocol of one's own.

    With a suite, threats and attacks narrow it. Without one they make a protocol of their own, by default all
    attacks of cvpr21-attack under the preset `standard`. Neither is published, and its name tells its combination.

    Raises:
        UnknownName: if a name is not known.
        BadOption: if nothing of the suite is left, or an attack does not go with a threat.
    """
    chosen = tuple(threat for one in threats for threat in find_threats(one))
    wanted = tuple(parse_attack(one) for one in attacks)
    if text is None and (threats or attacks):
        return _own(tuple(dict.fromkeys(chosen)), tuple(dict.fromkeys(wanted)))
    name, at, version = (text or "cvpr21-attack").partition("@")
    suite = SUITES.get(name)
    if at and version != str(suite.version):
        raise BadOption(f"suite {name} is at version {suite.version}; version {version} is not in this avbench")
    if not threats and not attacks:
        return suite
    kept = replace(
        suite,
        threats=tuple(t for t in suite.threats if not threats or t in chosen),
        attacks=tuple(a for a in suite.attacks if not attacks or a in wanted),
        published=False,
    )
    if not kept.threats or not kept.attacks:
        raise BadOption(
            f"nothing of suite {suite} is left: it has the threats {', '.join(map(str, suite.threats))} "
            f"and the attacks {', '.join(map(str, suite.attacks))}; leave --suite out to combine freely"
        )
    return replace(kept, name=f"{suite.name}-part-{kept.digest}")


def _own(threats: tuple[ThreatModel, ...], wanted: tuple[Attack, ...]) -> Suite:
    from avbench.attacks.mask import Mask

    attacks = tuple(attack for attack in wanted if not isinstance(attack, Mask))
    if wanted and not attacks and threats:
        raise BadOption(f"{wanted[0]} is a corruption, without a budget; leave --threat out")
    own = Suite(
        "custom",
        version=1,
        summary="A protocol given on the command line; never published.",
        threats=threats or (() if wanted and not attacks else tuple(find_threats("standard"))),
        attacks=attacks if wanted else SUITES.get("cvpr21-attack").attacks,
        published=False,
        corruptions=tuple(attack for attack in wanted if isinstance(attack, Mask)),
    )
    return replace(own, name=f"custom-{own.digest}")
