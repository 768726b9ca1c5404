"""Bars, as an SVG file: a picture that is text, needs no library, and follows the reader's light or dark scheme."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple
from xml.sax.saxutils import escape

__all__ = ["FULL", "Bar", "Panel", "draw"]

WIDTH: Final = 860
LABEL: Final = 310
FULL: Final = 460
"""Pixels of the longest bar of a panel."""

ROW: Final = 24
THICK: Final = 16
TITLE: Final = 34
MARGIN: Final = 16

STYLE: Final = """
  text { font: 13px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #1f2328; }
  .title { font-weight: 600; font-size: 14px; }
  .label { text-anchor: end; }
  rect { fill: #8c959f; }
  rect.ours { fill: #0969da; }
  rect.limit { fill: none; stroke: #8c959f; stroke-dasharray: 4 3; }
  @media (prefers-color-scheme: dark) { text { fill: #e6edf3; } rect.ours { fill: #4493f8; } }
"""


class Bar(NamedTuple):
    """``kind``: ``"ours"``, ``"limit"`` (what nobody can beat) or ``""``."""

    label: str
    value: float
    text: str
    kind: str = ""


class Panel(NamedTuple):
    """Bars that may be compared with each other: their lengths are in proportion to their values."""

    title: str
    bars: Sequence[Bar]


def draw(title: str, panels: Sequence[Panel]) -> str:
    """The SVG document."""
    parts: list[str] = []
    y = MARGIN
    for panel in panels:
        parts.append(f'<text class="title" x="{MARGIN}" y="{y + 16}">{escape(panel.title)}</text>')
        y += TITLE
        longest = max((bar.value for bar in panel.bars), default=1.0)
        for bar in panel.bars:
            parts.append(_bar(bar, y, FULL * bar.value / longest))
            y += ROW
        y += MARGIN
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" width="{WIDTH}" height="{y}" role="img">'
        f"\n<title>{escape(title)}</title>\n<style>{STYLE}</style>"
    )
    return "\n".join([head, *parts, "</svg>", ""])


def _bar(bar: Bar, y: int, length: float) -> str:
    middle = y + THICK - 4
    kind = f' class="{bar.kind}"' if bar.kind else ""
    return (
        f'<text class="label" x="{LABEL - 8}" y="{middle}">{escape(bar.label)}</text>'
        f'<rect{kind} x="{LABEL}" y="{y}" width="{length:.1f}" height="{THICK}"/>'
        f'<text x="{LABEL + length + 8:.1f}" y="{middle}">{escape(bar.text)}</text>'
    )
