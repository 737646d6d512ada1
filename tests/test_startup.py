"""Looking around is quick: help and lists import nothing heavy."""

from __future__ import annotations

import subprocess
import sys

import pytest

from avbench.cli.look import LISTS

# What takes long to import, of all that the package depends on; numpy alone costs a tenth of a second.
HEAVY = {
    "av", "huggingface_hub", "jinja2", "matplotlib", "numpy", "pandas", "PIL", "pyarrow", "scipy", "sklearn", "torch",
    "torchaudio", "torchvision",
}  # fmt: skip
FORMS = {"pydantic", "yaml", "safetensors"}  # what reads cards and submissions
SHOW = """
import contextlib, io, sys
from avbench.cli import main
for words in sys.argv[1:]:
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        main(words.split(), standalone_mode=False)
    assert len(shown.getvalue()) > 40, words
print(*{name.partition(".")[0] for name in sys.modules})
"""


def imported(*commands: str) -> set[str]:
    done = subprocess.run([sys.executable, "-c", SHOW, *commands], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("command", ["--help", "evaluate --help", "list --help"])
def test_help_imports_nothing_heavy(command: str) -> None:
    assert not imported(command) & (HEAVY | FORMS)


def test_lists_import_nothing_heavy() -> None:
    plain = [f"list {what}" for what in LISTS if what not in ("datasets", "models")]
    assert len(plain) == 7
    assert not imported(*plain) & (HEAVY | FORMS)


def test_lists_of_datasets_and_models_read_forms_and_import_nothing_heavier() -> None:
    found = imported("list datasets", "list models")
    assert not found & HEAVY
    assert found >= {"pydantic", "yaml"}
