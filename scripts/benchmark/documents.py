"""The numbers in the documents: a run is kept beside them, and everything else is made of that."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from scripts.benchmark.report import markdown, picture, tables
from scripts.benchmark.result import Result

__all__ = ["DOCUMENT", "PICTURE", "RUN", "documents", "read", "write"]

DOCS: Final = Path(__file__).parents[2] / "docs" / "explanation"
RUN: Final = DOCS / "performance.json"
DOCUMENT: Final = DOCS / "performance.md"
PICTURE: Final = DOCS / "performance.svg"

_PART: Final = re.compile(r"(<!-- bench: (?P<name>\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def read(path: Path) -> Result:
    """A run that was kept."""
    return msgspec.json.decode(path.read_bytes(), type=Result)


def documents(result: Result) -> Iterator[tuple[Path, str]]:
    """The files that show a run, and what must be in them."""
    kept = msgspec.json.format(msgspec.json.encode(result), indent=1).decode()
    yield RUN, f"{kept}\n"
    yield PICTURE, picture(result)
    yield DOCUMENT, _filled(DOCUMENT.read_text(encoding="utf-8"), result)


def write(result: Result) -> None:
    """Put a run into the documents."""
    for path, text in documents(result):
        path.write_text(text, encoding="utf-8")


def _filled(text: str, result: Result) -> str:
    parts = {table.name: markdown(table) for table in tables(result)}
    parts["run"] = _described(result)
    return _PART.sub(lambda part: f"{part[1]}{parts[part['name']]}\n{part[3]}", text)


def _described(result: Result) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in result.versions.items())
    sizes = "; ".join(f"{what}: {count:,}" for what, count in result.sizes.items())
    missing = "".join(f" Not measured: {why}." for why in dict.fromkeys(result.missing.values()))
    return f"The numbers are of {result.date}, on {result.machine}; {versions}. {sizes}.{missing}"
