"""Named things, one file each: a file is found because it lies in the right folder, a plug-in by its entry point."""

from __future__ import annotations

import ast
import difflib
import importlib
import importlib.util
from collections.abc import Callable
from functools import cache, cached_property
from importlib.metadata import entry_points
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

from avbench.errors import BrokenPlugin, UnknownName

T = TypeVar("T")


class Entry(NamedTuple):
    """Where a named thing is defined and the first line of its docstring."""

    module: str
    summary: str


class Registry(Generic[T]):
    """Find named things without importing them, so that listing stays fast, and import one when it is asked for.

    A file registers with `ATTACKS.register("pgd")`, as a decorator or called on a value; the variable is
    the plural of `kind` in capitals. Installed packages add theirs by entry points of the group `package`.
    """

    def __init__(self, package: str, kind: str) -> None:
        self.package = package
        self.kind = kind
        self._things: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Add a thing under its name."""

        def add(thing: T) -> T:
            self._things[name] = thing
            return thing

        return add

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self._entries)

    def summary(self, name: str) -> str:
        """First line of the docstring of the thing called `name`."""
        return self._entries[name].summary if name in self._entries else ""

    def get(self, name: str) -> T:
        """Import and return the thing called `name`.

        Raises:
            UnknownName: with the nearest names.
            BrokenPlugin: if its file cannot be imported.
        """
        if name not in self._things and name in self._entries:
            entry = self._entries[name]
            if entry.module.startswith("entry-point:"):
                [point] = entry_points(group=self.package, name=name)
                self._things[name] = point.load()
            else:
                try:
                    importlib.import_module(entry.module)
                except (ImportError, SyntaxError, NameError, AttributeError, TypeError) as error:
                    where = f"{self.kind} {name} ({entry.module})"
                    raise BrokenPlugin(f"{where} cannot be loaded: {type(error).__name__}: {error}") from error
        if name not in self._things:
            raise UnknownName(f"no {self.kind} is called {name!r}; {nearest(name, self.names())}")
        return self._things[name]

    def name_of(self, thing: T) -> str:
        """Return the name that a thing was registered under."""
        return next(name for name, other in self._things.items() if other is thing)

    @cached_property
    def _entries(self) -> dict[str, Entry]:
        plugins = {p.name: Entry(f"entry-point:{p.value}", p.value) for p in entry_points(group=self.package)}
        return plugins | _scan(self.package, f"{self.kind.upper()}S")


def nearest(name: str, names: list[str]) -> str:
    """Suggest what an unknown name may have meant."""
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.4)
    return f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(names)}"


@cache
def _scan(package: str, variable: str) -> dict[str, Entry]:
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    origin = Path(spec.origin)
    is_folder = origin.name == "__init__.py"
    found: dict[str, Entry] = {}
    for path in sorted(origin.parent.glob("*.py")) if is_folder else [origin]:
        module = package if path == origin else f"{package}.{path.stem}"
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for name, summary in _registrations(tree, variable):
            found[name] = Entry(module, summary)
    return found


def _registrations(tree: ast.Module, variable: str) -> list[tuple[str, str]]:
    found = []
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            text, calls = ast.get_docstring(node), node.decorator_list
        else:
            text, calls = ast.get_docstring(tree), [call for call in ast.walk(node) if isinstance(call, ast.Call)]
        for call in calls:
            match call:
                case ast.Call(
                    func=ast.Attribute(value=ast.Name(id=owner), attr="register"),
                    args=[ast.Constant(value=str(name))],
                ) if owner == variable:
                    found.append((name, (text or "").partition("\n")[0]))
    return found
