"""Bar charts as plain SVG, without a background: every colour stands out from a white and from a dark page alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

TEXT = "#797979"
COLOURS = ("#0d8f7f", "#c8692b", "#7c78d8", "#a8862a", "#c2559a", "#3f83bf")
WIDTH = 860
CHARACTER = 6.8  # px of a text of 12 px, on average and a bit
VALUE = 150  # px behind the longest bar, for its figure
BAR, GAP, BETWEEN = 15, 3, 14  # px
FONT = 'font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif"'


@dataclass(frozen=True)
class Bar:
    """One bar: which series it belongs to, its value with the range of its rounds, and the figure written behind it.

    Without a value there is only the text.
    """

    series: str
    value: float | None
    text: str
    least: float | None = None
    most: float | None = None


@dataclass(frozen=True)
class Group:
    """Bars that are compared with each other."""

    label: str
    bars: tuple[Bar, ...]


def bar_chart(
    title: str, note: str, groups: Sequence[Group], series: Sequence[str], *, logarithmic: bool = False
) -> str:
    """A chart with horizontal bars, a legend, and a range mark on each bar that has one.

    A series has the colour of its place in `series`, so that it has the same one in several charts. Raises ValueError
    if there are more than colours.
    """
    if len(series) > len(COLOURS):
        raise ValueError(f"{len(series)} series, and colours for {len(COLOURS)} only\nhint: add to charts.COLOURS")
    colours = dict(zip(series, COLOURS, strict=False))
    known = [value for group in groups for bar in group.bars for value in (bar.value, bar.most) if value]
    left = max((CHARACTER * len(group.label) for group in groups), default=0.0) + 10
    scale = _Scale(min(known, default=1.0), max(known, default=1.0), left, logarithmic)
    parts = [_text(0, 18, title, size=16, weight="600"), _text(0, 38, note, size=12)]
    shown = {bar.series for group in groups for bar in group.bars}
    x, y = 0.0, 50.0
    for name in (name for name in series if name in shown):
        width = 32 + CHARACTER * len(name)
        if x + width > WIDTH:
            x, y = 0.0, y + 20
        parts.append(f'<rect x="{x:.0f}" y="{y:.0f}" width="12" height="12" rx="2" fill="{colours[name]}"/>')
        parts.append(_text(x + 17, y + 10, name, size=12))
        x += width
    y += 28
    for group in groups:
        height = len(group.bars) * (BAR + GAP)
        parts.append(_text(left - 10, y + height / 2 + 3, group.label, size=12, anchor="end"))
        for bar in group.bars:
            parts += _bar(bar, y, colours[bar.series], scale)
            y += BAR + GAP
        y += BETWEEN
    box = f'width="{WIDTH}" height="{y:.0f}" viewBox="0 0 {WIDTH} {y:.0f}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {box} role="img" aria-label="{escape(title)}" {FONT}>'
    return "\n".join([head, *parts, "</svg>", ""])


class _Scale:
    """From values to pixels; bars begin at `left`."""

    def __init__(self, least: float, most: float, left: float, logarithmic: bool) -> None:
        self.left = left
        self._room = WIDTH - left - VALUE
        # A logarithmic axis begins at the power of ten below the least value.
        self._origin = math.floor(math.log10(least)) - 0.1 if logarithmic else None
        self._span = math.log10(most) - self._origin if self._origin is not None else most

    def __call__(self, value: float) -> float:
        at = value if self._origin is None else math.log10(value) - self._origin
        return max(1.0, at / self._span * self._room)


def _bar(bar: Bar, y: float, colour: str, scale: _Scale) -> list[str]:
    left = scale.left
    if not bar.value:
        return [_text(left, y + 12, bar.text, size=12)]
    width = scale(bar.value)
    parts = [f'<rect x="{left:.1f}" y="{y:.1f}" width="{width:.1f}" height="{BAR}" rx="2" fill="{colour}"/>']
    end = width
    if bar.least and bar.most and bar.most > bar.least:
        first, end = scale(bar.least), max(width, scale(bar.most))
        middle = y + BAR / 2
        parts.append(
            f'<path d="M{left + first:.1f} {middle:.1f}H{left + scale(bar.most):.1f}" stroke="{TEXT}" '
            'stroke-width="2"/>'
        )
    parts.append(_text(left + end + 6, y + 12, bar.text, size=12))
    return parts


def _text(x: float, y: float, text: str, *, size: int, anchor: str = "start", weight: str = "400") -> str:
    style = f'font-size="{size}" font-weight="{weight}" text-anchor="{anchor}" fill="{TEXT}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(text)}</text>'
