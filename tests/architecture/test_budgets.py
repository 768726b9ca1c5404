"""Budgets for easy reading that no linter checks. `scripts/check` runs these."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILE_LINES = 400
BODY_LINES = 50
NOT_CODE = {".csv", ".json", ".pyc"}
OURS = ("pipeline", "settings", "tasks", "tests")
WRITTEN = (*OURS, "scripts", "examples")


def _texts() -> list[Path]:
    """Every file of code, in whatever language."""
    found = (path for top in WRITTEN for path in (ROOT / top).rglob("*") if path.is_file())
    return sorted(path for path in found if path.suffix not in NOT_CODE)


def _modules() -> list[Path]:
    return [path for path in _texts() if path.suffix == ".py" or _is_python_script(path)]


def _is_python_script(path: Path) -> bool:
    with path.open("rb") as file:
        first = file.readline()
    return first.startswith(b"#!") and b"python" in first


def _functions(module: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def _body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """From the first statement after the docstring to the end."""
    body = function.body[1:] if ast.get_docstring(function, clean=False) is not None else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", _texts(), ids=_name)
def test_a_file_is_short_enough_to_read(path: Path) -> None:
    assert len(path.read_bytes().splitlines()) <= FILE_LINES


@pytest.mark.parametrize("module", _modules(), ids=_name)
def test_a_function_body_fits_on_a_screen(module: Path) -> None:
    assert [f"{f.name}: {_body_lines(f)}" for f in _functions(module) if _body_lines(f) > BODY_LINES] == []


@pytest.mark.parametrize("module", _modules(), ids=_name)
def test_no_function_imports_our_own_modules(module: Path) -> None:
    imported = [
        name
        for function in _functions(module)
        for node in ast.walk(function)
        for name in _imported(node)
        if name.split(".")[0] in OURS
    ]
    assert imported == []


def _imported(node: ast.AST) -> list[str]:
    match node:
        case ast.Import(names=names):
            return [alias.name for alias in names]
        case ast.ImportFrom(module=str(name), level=0):
            return [name]
        case _:
            return []
