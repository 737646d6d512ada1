"""The transfer matrix of a board: clips crafted on other models."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import BaseModel, TypeAdapter, ValidationError

from avbench import store
from avbench.errors import DataError
from avbench.metrics import CLEAN, NONE
from avbench.site.boards import Board, Scored
from avbench.site.charts.chart import Chart
from avbench.site.charts.grids import Entry, matrix
from avbench.site.charts.looks import href_of, key_of, name_of, percent_of
from avbench.site.charts.svg import percent
from avbench.site.records import Name, visible
from avbench.site.tables import WITHOUT_SCRIPT

TRANSFER = "transfer:"  # begins the name of each such attack


def transfer_charts(board: Board) -> Iterator[Chart]:
    """Show what clips crafted on other models do to each model; one matrix for each threat."""
    if not any(attack.startswith(TRANSFER) for attack in board.record.attacks):
        return
    metric = "mean-average-precision" if board.multilabel else "attack-accuracy"
    clean = "mean-average-precision" if board.multilabel else "clean-accuracy"
    crafted = [_crafted(scored) for scored in board.runs]
    columns = sorted({column for cells in crafted for column in cells})
    if not columns:
        return
    attacks, sources = (list(dict.fromkeys(names)) for names in zip(*columns, strict=True))
    heads = [
        attack if len(sources) == 1 else source if len(attacks) == 1 else f"{attack} on {source}"
        for attack, source in columns
    ]
    for i, (text, threat) in enumerate(board.threats.items()):
        entries = [
            Entry(
                name_of(scored),
                href_of(scored),
                [
                    percent_of(scored, clean, CLEAN, NONE),
                    *(percent_of(scored, metric, text, cells.get(column, "")) for column in columns),
                ],
            )
            for scored, cells in zip(board.runs, crafted, strict=True)
        ]
        some = f" The first {WITHOUT_SCRIPT} of {len(entries)} runs." if len(entries) > WITHOUT_SCRIPT else ""
        yield Chart(
            key_of(board, f"transfer-{i}"),
            f"Transfer under {threat.label if board.short else text}",
            f"Accuracy (%) on clips made by {', '.join(attacks)} on {', '.join(sources)}; the smaller, the better they "
            f"transfer.{some}",
            matrix(["clean", *heads], entries[:WITHOUT_SCRIPT], percent("accuracy (%)")),
            ("Model", "Clean, %", *(f"{head}, %" for head in heads)),
            [(entry.name, *entry.values) for entry in entries],
        )


class _Surrogate(BaseModel):
    id: Name


_SURROGATES = TypeAdapter(list[_Surrogate])


def _crafted(scored: Scored) -> dict[tuple[str, str], str]:
    """Name each transfer attack of a run by the attack inside and the models that clips were crafted on.

    Raises:
        DataError: if the record does not name submissions.
    """
    found = {}
    for cell in store.read_record(scored.run.folder)["cells"]:
        attack = visible(cell["attack"])
        if attack.startswith(TRANSFER):
            inner = dict(part.partition("=")[::2] for part in attack.removeprefix(TRANSFER).split(",")).get("attack")
            try:
                names = [one.id for one in _SURROGATES.validate_python(cell.get("surrogates", []))]
            except ValidationError as error:
                raise DataError(f"{scored.run.folder / 'run.json'} has surrogates without a name: {error}") from error
            found[inner or "?", " + ".join(names) or "unknown models"] = attack
    return found
