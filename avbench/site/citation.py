"""How to cite: the project's CITATION.cff, and BibTeX entries of what the site shows."""

from __future__ import annotations

import re
from functools import cache
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from avbench import files
from avbench.errors import DataError

Url = Annotated[str, StringConstraints(pattern=r"^(https://[^\s\"'<>\\]+)?$")]
# Braces count for BibTeX even behind a backslash, so they get words.
_SPECIAL = {c: f"\\{c}" for c in "$&#%_"} | {
    "\\": r"\textbackslash{}", "{": r"\textbraceleft{}", "}": r"\textbraceright{}", "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
}  # fmt: skip


class Author(BaseModel):
    """A person or a group."""

    name: str


class Citation(BaseModel):
    """What CITATION.cff says of the project."""

    model_config = ConfigDict(extra="ignore", frozen=True)
    title: str = "avbench"
    version: str = ""
    date: Annotated[str, Field(alias="date-released")] = "2026-01-01"
    authors: tuple[Author, ...] = ()
    url: Url = ""  # where the site is published
    repository: Annotated[Url, Field(alias="repository-code")] = ""

    @property
    def base(self) -> str:
        """Address of the site's folder with a slash at its end, or nothing if it is not known."""
        return f"{self.url.rstrip('/')}/" if self.url else ""


@cache
def read_citation() -> Citation:
    """Read the project's CITATION.cff.

    Raises:
        DataError: if it is malformed.
    """
    path = files.root() / "CITATION.cff"
    try:
        return Citation.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError, ValidationError) as error:
        raise DataError(f"{path} cannot be used: {error}") from error


def bibtex(kind: str, key: str, **fields: str) -> str:
    r"""Write one entry; empty fields are left out, and no text can end its field.

    >>> print(bibtex("misc", "a model", title="50 % {robust}", author="A, B and C"))
    @misc{a-model,
      title = {50 \% \textbraceleft{}robust\textbraceright{}},
      author = {{A, B and C}},
    }
    """
    lines = [f"@{kind}{{{re.sub('[^A-Za-z0-9.-]+', '-', key)},"]
    for name, text in fields.items():
        if text:
            escaped = "".join(_SPECIAL.get(c, c) for c in text)
            lines.append(f"  {name} = {{{{{escaped}}}}}," if name == "author" else f"  {name} = {{{escaped}}},")
    return "\n".join([*lines, "}"])
