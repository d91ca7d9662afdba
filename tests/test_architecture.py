"""The dependency direction, held by walking the imports."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted(path for folder in ("testorch_core", "testorch_plugins") for path in (ROOT / folder).rglob("*.py")
                 if "demo_suite" not in path.parts)  # fmt: skip
SHARED = {"storage": "testorch_plugins.storage.sql", "transports": "testorch_plugins.transports.listening"}
"""What several plugins of a family have in common."""
INNERMOST = {"events", "runs", "results", "streams", "payloads", "errors", "text"}


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, wherever in it, with the names that are imported from it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def importers(prefix: str) -> set[str]:
    return {name_of(path) for path in MODULES for one in imports(path) if one == prefix or one.startswith(prefix + ".")}


def test_events_runs_and_errors_import_nothing_above_them():
    for name in INNERMOST:
        outside = {one.split(".")[0] for one in imports(ROOT / f"testorch_core/{name}.py")} - {"testorch_core"}
        assert outside.isdisjoint({"trio", "marshmallow", "sqlalchemy", "stevedore", "click", "rich"}), name
        inside = {
            one.split(".")[1] for one in imports(ROOT / f"testorch_core/{name}.py") if one.startswith("testorch_core.")
        }
        assert inside <= INNERMOST, name


def test_only_loading_imports_stevedore():
    assert importers("stevedore") == {"testorch_core.loading"}


def test_only_the_sql_stores_import_sqlalchemy():
    for name in importers("sqlalchemy"):
        assert name.startswith(("testorch_plugins.storage.sql", "testorch_plugins.storage.sqlite")), name


def test_each_websocket_library_is_imported_by_its_transport_alone():
    assert importers("trio_websocket") == {"testorch_plugins.transports.websocket.plugin"}
    assert importers("websockets") == {"testorch_plugins.transports.websockets.plugin"}


def test_the_core_never_imports_the_plugins():
    assert [name for name in importers("testorch_plugins") if name.startswith("testorch_core")] == []


def test_the_core_names_no_plugin():
    """Not even in a string: the defaults come through an entry point."""
    names = {"sqlite", "websocket", "event_validation", "console", "junit", "memory"}
    for path in MODULES:
        if path.is_relative_to(ROOT / "testorch_core"):
            found = {node.value for node in ast.walk(ast.parse(path.read_text()))
                     if isinstance(node, ast.Constant) and isinstance(node.value, str)} & names  # fmt: skip
            assert found == set(), path


def plugin_of(name: str) -> str:
    """The package of the plugin that a module belongs to, such as `testorch_plugins.storage.sqlite`."""
    return ".".join(name.split(".")[:3])


def test_a_plugin_imports_the_core_itself_and_nothing_else_of_ours():
    for path in MODULES:
        name = name_of(path)
        for one in imports(path):
            if name.startswith("testorch_plugins.") and one.startswith("testorch_plugins."):
                allowed = {plugin_of(name), SHARED.get(name.split(".")[1])}
                assert plugin_of(one) in allowed, f"{name} imports {one}"


def test_plugins_import_no_underscore_name_of_the_core():
    for path in MODULES:
        if name_of(path).startswith("testorch_plugins"):
            for one in imports(path):
                if one.startswith("testorch_core"):
                    assert not any(part.startswith("_") for part in one.split(".")), f"{path}: {one}"


def test_nothing_outside_testing_imports_testing():
    assert [name for name in importers("testorch_core.testing") if not name.startswith("testorch_core.testing")] == []


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_every_module_says_in_one_sentence_what_it_is_for(path: Path):
    text = path.read_text()
    if text.strip():
        assert ast.get_docstring(ast.parse(text)), "a module opens with its purpose"
