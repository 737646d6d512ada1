"""Rules for what strangers write: YAML, names, lines of text, addresses. One function a rule, and no torch."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Hashable, Iterable
from typing import Any

import yaml

from avbench.errors import SubmissionError

LARGEST_YAML = 16_000  # bytes
DEEPEST = 4  # lists and mappings in one another
ID = re.compile(r"(?=.{1,40}--)[a-z0-9]+(?:-[a-z0-9]+)*--(?=.{1,60}\Z)[a-z0-9]+(?:-[a-z0-9]+)*")
RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))}  # of Windows
HOSTS = ("huggingface.co", "github.com", "arxiv.org", "doi.org", "openreview.net")
# Signs with a meaning in HTML, templates, shells, workflows or tables; a line that is shown needs none of them.
SIGNS = frozenset('<>{}$`"|\\')
_PART = r"/[A-Za-z0-9_~()+:-][A-Za-z0-9._~()+:-]*"
_URL = re.compile(rf"https://(?:{'|'.join(map(re.escape, HOSTS))})(?:{_PART})+/?(?:\?[A-Za-z0-9._~=&-]+)?")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]{0,17})(?:\.[0-9]{1,18})?(?:[eE][+-]?[0-9]{1,2})?")  # as JSON has it
# What one East Asian text mixes; Unicode's names of characters begin with their script.
_EAST_ASIAN = {"CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "HANGUL", "BOPOMOFO", "IDEOGRAPHIC"}


def shown(value: object, most: int = 40) -> str:
    """Quote what a stranger wrote: escaped, on one line, short."""
    text = ascii(value)
    return text if len(text) <= most else f"{text[:most]}..."


def check_characters(text: str) -> str:
    """Refuse what hides, reorders, looks like something else or means something to a program.

    Raises:
        ValueError: naming the character.
    """
    if unicodedata.normalize("NFKC", text) != text:  # which is NFC too
        raise ValueError("has characters in a compatibility form, such as full-width letters; write the plain ones")
    for character in text:
        kind = unicodedata.category(character)
        if kind[0] in "CM" or (kind[0] == "Z" and character != " ") or character in SIGNS:
            raise ValueError(f"holds {shown(character)}, which is refused; leave it out")
    return text


def check_script(text: str) -> str:
    """Refuse letters and digits of two scripts in one text: what looks like Latin has to be Latin.

    Raises:
        ValueError: naming the scripts.
    """
    letters = (c for c in text if unicodedata.category(c)[0] in "LN" and c not in "0123456789")
    scripts = {unicodedata.name(c, "?").split()[0] for c in letters}
    scripts = {"East Asian" if script in _EAST_ASIAN else script.capitalize() for script in scripts}
    if len(scripts) > 1:
        raise ValueError(f"mixes scripts ({', '.join(sorted(scripts))[:80]}); use one, and write lambda for the letter")
    return text


def check_edges(text: str) -> str:
    """Refuse a beginning that a spreadsheet would take for a formula, a program for an option; and outer spaces.

    Raises:
        ValueError: if it begins with anything but a letter or a digit, or ends with a space.
    """
    if not text[:1].isalnum() or text != text.rstrip():
        raise ValueError("begins with a letter or a digit, and does not end with a space")
    return text


def check_url(text: str) -> str:
    """Let through only plain https addresses of few sites: no user, port, escape, fragment or foreign letters.

    Raises:
        ValueError: naming the sites.
    """
    if not _URL.fullmatch(text):
        raise ValueError(
            f"is an address https://SITE/... with one of the sites {', '.join(HOSTS)} and plain characters"
        )
    return text


def check_id(name: str) -> str:
    """Refuse a name of a submission that is no <org>--<model>, or a word that Windows keeps for itself.

    Raises:
        SubmissionError: with the rule.
    """
    if not ID.fullmatch(name):
        raise SubmissionError(
            f"{shown(name)} is no id of a submission: <org>--<model> from a-z, 0-9 and single -, at most 40 and 60 long"
        )
    if reserved := RESERVED.intersection(name.split("--")):
        raise SubmissionError(f"{shown(name)} holds {min(reserved)}, a reserved word; choose another name")
    return name


def check_free(name: str, taken: Iterable[str]) -> str:
    """Refuse an id or title that differs from another submission's by case or form of its letters only.

    Raises:
        SubmissionError: naming the other.
    """
    other = next((other for other in taken if folded(other) == folded(name)), None)
    if other is not None:
        raise SubmissionError(f"{shown(name)} is taken: there is {shown(other)}; choose another name")
    return name


def folded(name: str) -> str:
    """Give names that look alike to a reader or to a file system one form."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


def read_number(value: Any) -> Any:
    """Make a number of its text, as JSON writes it; nothing else is one, neither `.nan` nor `1_000`.

    Raises:
        ValueError: if it is not a number.
    """
    if not isinstance(value, str):
        return value
    if not _NUMBER.fullmatch(value):
        raise ValueError("is a number, such as 12 or 87.5")
    return json.loads(value)


def read_argument(value: Any) -> Any:
    """Make of the text of an argument what JSON would: a number, true or false, else it stays text."""
    if value in ("true", "false"):
        return value == "true"
    return read_number(value) if isinstance(value, str) and _NUMBER.fullmatch(value) else value


def read_yaml(data: bytes) -> Any:
    """Read YAML of which every scalar stays the text that was written.

    Raises:
        SubmissionError: if it is too large, not UTF-8, malformed, has a key twice, or uses anchors, aliases or tags.
    """
    if len(data) > LARGEST_YAML:
        raise SubmissionError(f"it is larger than {LARGEST_YAML} bytes; a submission needs a tenth of that")
    try:
        text = data.decode("utf-8")
        if "\ufeff" in text:
            raise SubmissionError("it holds a byte order mark; save it as plain UTF-8")
        _check_events(text)
        return yaml.load(text, Loader=_TextLoader)  # noqa: S506  it makes nothing but text, lists and mappings
    except yaml.MarkedYAMLError as error:
        where = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise SubmissionError(f"it cannot be read as YAML: {where}{shown(error.problem, 200)}") from error
    except (yaml.YAMLError, RecursionError, ValueError, OverflowError) as error:  # OverflowError: of "\Uffffffff"
        raise SubmissionError(f"it cannot be read as YAML: {shown(str(error), 200)}") from error


def _check_events(text: str) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=yaml.BaseLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > DEEPEST:
            raise SubmissionError(f"it has more than {DEEPEST} lists and mappings in one another")
        if isinstance(event, yaml.NodeEvent) and (event.anchor is not None or getattr(event, "tag", None) is not None):
            raise SubmissionError("it uses YAML anchors, aliases or tags, which are refused; write plain values")


class _TextLoader(yaml.BaseLoader):
    """A BaseLoader that refuses a key given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key.value, str)]
        if twice := next((key for key in keys if keys.count(key) > 1), None):
            raise SubmissionError(f"the key {shown(twice)} is given twice")
        return super().construct_mapping(node, deep)
