"""Named, versioned protocols: threats x attacks, and how samples pass through them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from avbench.attacks import Attack, parse_attack
from avbench.errors import BadOption
from avbench.files import fingerprint
from avbench.registry import Registry
from avbench.threats import ThreatModel, find_threats

Mode = Literal["every", "worst-case"]


@dataclass(frozen=True)
class Suite:
    """Fix which attacks run under which threats.

    In mode `every` each attack runs on every sample, as the papers' tables report. In mode `worst-case` each attack
    runs only on samples that are still robust: right when clean, unbroken by the attacks before it and, by the
    lattice of threats, unbroken in every threat that lies inside.
    """

    name: str
    version: int
    summary: str
    threats: tuple[ThreatModel, ...]
    attacks: tuple[Attack, ...]
    mode: Mode = "every"
    limit: int | None = None  # samples; a limited suite is for quick looks
    published: bool = True  # whether its rows may enter a leaderboard

    def __post_init__(self) -> None:
        """Refuse a combination that would not be what its name says."""
        for threat in self.threats:
            for attack in self.attacks:
                if threat.access != "white-box" and attack.needs == "gradients":
                    raise BadOption(f"{attack} uses the model's gradients, which {threat} does not grant")

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"

    @property
    def digest(self) -> str:
        """Short name of its combination of threats and attacks, whatever their order."""
        return fingerprint([self.mode, sorted(map(str, self.threats)), sorted(map(str, self.attacks))])[:8]


SUITES: Registry[Suite] = Registry("avbench.suites", "suite")


def _register(
    name: str, summary: str, preset: str, attacks: str, mode: Mode = "every", limit: int | None = None
) -> Suite:
    return Suite(
        name,
        version=1,
        summary=summary,
        threats=tuple(find_threats(preset)),
        attacks=tuple(parse_attack(attack) for attack in attacks.split()),
        mode=mode,
        limit=limit,
        published=limit is None,
    )


SUITES.register("cvpr21-attack")(
    _register("cvpr21-attack", "[T21] table 1: XA and XV at 0.012, XAV at 0.006.", "cvpr21-attack", "fgsm pgd mim")
)
SUITES.register("cvpr21-attack-normalized")(
    _register(
        "cvpr21-attack-normalized",
        "[T21] table 1 with the video radius after ImageNet normalization, as in the authors' code.",
        "cvpr21-attack-normalized",
        "fgsm pgd mim",
    )
)
SUITES.register("cvpr21-defense")(
    _register("cvpr21-defense", "[T21] tables 3, 5, 6: every radius 0.006.", "standard", "fgsm mim")
)
SUITES.register("quick")(
    _register(
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
        BadOption: if nothing of the suite is left.
    """
    chosen = tuple(threat for one in threats for threat in find_threats(one))
    wanted = tuple(parse_attack(one) for one in attacks)
    if text is None and (threats or attacks):
        default = SUITES.get("cvpr21-attack")
        own = Suite(
            "custom",
            version=1,
            summary="A protocol given on the command line; never published.",
            threats=tuple(dict.fromkeys(chosen)) or tuple(find_threats("standard")),
            attacks=tuple(dict.fromkeys(wanted)) or default.attacks,
            published=False,
        )
        return replace(own, name=f"custom-{own.digest}")
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
