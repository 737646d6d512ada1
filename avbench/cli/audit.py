"""`avbench data audit`: find what makes a split unfair."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

if TYPE_CHECKING:
    from avbench.datasets.audit import Audit, Content, Group, Ids

EXAMPLES = 10  # of each finding; --json has all
SHOWN = 4  # ids of a group, of each split


@click.command()
@click.argument("name")
@click.option("--split", "splits", multiple=True, help="Only this split; repeatable.")
@click.option(
    "--lists",
    type=click.Path(path_type=Path),
    help="Folder of the official lists; without it they are fetched.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with every finding.")
def audit(name: str, splits: tuple[str, ...], lists: Path | None, as_json: bool) -> None:
    """Find what makes the splits of dataset NAME unfair.

    In its lists: ids that stand in two places, and how many clips each class has. In those splits that are prepared:
    clips, sounds and frames that occur twice, also re-encoded, and those that are silent, clipped, constant or frozen.
    """
    from dataclasses import asdict

    from avbench import files
    from avbench.datasets.audit import audit as audit_dataset

    found = audit_dataset(name, lists, splits)
    if as_json:
        click.echo(files.readable_json(asdict(found)), nl=False)
        return
    _print_splits(found)
    click.echo()
    _print_ids(found.ids)
    if found.content:
        _print_content(found.content)
    if found.not_prepared:
        click.echo(f"\nclips not looked at: {', '.join(found.not_prepared)} (run `avbench data prepare {name}` first)")


def _print_splits(found: Audit) -> None:
    rows = []
    for split, counts in found.splits.items():
        by_size = sorted(counts.classes.items(), key=lambda item: item[1])
        (least, few), (most, many) = by_size[0], by_size[-1]
        empty = sum(not count for count in counts.classes.values())
        labels = sum(counts.classes.values())
        rows.append([split, counts.clips, counts.ids, labels, len(by_size), f"{few} {least}", f"{many} {most}", empty])
    heads = [found.dataset, "clips", "ids", "labels", "classes", "smallest class", "largest class", "without a clip"]
    _print_table(rows, heads)


def _print_ids(ids: Ids) -> None:
    for what, some in (
        ("more than once in a split", ids.repeated),
        ("in several splits", ids.shared),
        ("under different labels", ids.relabeled),
    ):
        where = Counter(" and ".join(dict.fromkeys(at.split for at in places)) for places in some.values())
        click.echo(f"ids {what}: {len(some)}" + (f" ({_counts(where)})" if some else ""))
        places = {id_: ", ".join(f"{at.split} {at.row} ({at.label})" for at in found) for id_, found in some.items()}
        _print_examples([f"{id_}: {text}" for id_, text in places.items()])


def _print_content(content: Content) -> None:
    from avbench.datasets.audit import CLIPPED, LEVELS, SILENT

    rows = [
        [split, one.looked_at, len(one.silent), len(one.clipped), len(one.constant), len(one.frozen)]
        for split, one in content.splits.items()
    ]
    click.echo()
    _print_table(rows, ["prepared", "clips", "silent", "clipped", "constant frame", "frozen"])
    click.echo(
        f"silent: root mean square below {SILENT:g} of full scale; clipped: at least {CLIPPED:.1%} of the samples at"
        f" full scale; constant, frozen: no pixel differs by more than {LEVELS} of 255"
    )
    for split, one in content.splits.items():
        for what, ids in (("silent", one.silent), ("constant frame", one.constant), ("frozen", one.frozen)):
            if ids:
                click.echo(f"{split}, {what}:")
                _print_examples(list(ids))
        if one.clipped:
            click.echo(f"{split}, clipped:")
            shares = sorted(one.clipped.items(), key=lambda item: -item[1])
            _print_examples([f"{id_}: {share:.2%}" for id_, share in shares])
    _print_groups("identical", content.identical)
    _print_groups("near-duplicate", content.similar)


def _print_groups(how: str, groups: Mapping[str, Sequence[Group]]) -> None:
    click.echo()
    rows = []
    for what, some in groups.items():
        across = [group for group in some if len(group) > 1]
        rows.append([what, len(some), _counts(_sizes(some)), len(across), _counts(_sizes(across))])
    _print_table(rows, [how, "groups", "clips in them", "across splits", "clips in these"])
    for what, some in groups.items():
        if some:
            click.echo(f"{how} {what}:")
            order = sorted(some, key=lambda group: (-len(group), -sum(map(len, group.values()))))
            _print_examples([_text(group) for group in order])


def _sizes(groups: Iterable[Group]) -> Counter[str]:
    return Counter(split for group in groups for split, ids in group.items() for _ in ids)


def _text(group: Group) -> str:
    parts = []
    for split, ids in group.items():
        more = f" and {len(ids) - SHOWN} more" if len(ids) > SHOWN else ""
        parts.append(f"{split} {', '.join(ids[:SHOWN])}{more}")
    return "; ".join(parts)


def _counts(found: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {what}" for what, count in found.items())


def _print_examples(texts: Sequence[str]) -> None:
    for text in texts[:EXAMPLES]:
        click.echo(f"  {text}")
    if len(texts) > EXAMPLES:
        click.echo(f"  and {len(texts) - EXAMPLES} more (--json has all)")


def _print_table(rows: Sequence[Sequence[object]], heads: Sequence[str]) -> None:
    from tabulate import tabulate

    click.echo(tabulate(rows, heads, disable_numparse=True))
