"""A dataset's report as one HTML page that needs nothing else: no script, no font, no picture from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from smolora import _values as values
from smolora.cli.dataset_report import facts, place
from smolora.cli.output import number, plural

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; padding: .25rem .75rem .25rem 0; vertical-align: top }
th { font-weight: 600; white-space: nowrap } td.excerpt { color: #666; word-break: break-word }
rect { fill: #4a7fb5 } rect.dropped { fill: #c9803f } text { font: 12px system-ui, sans-serif; fill: currentColor }
@media (prefers-color-scheme: dark) { body { color: #ddd; background: #1b1b1b } td.excerpt { color: #999 } }
""".strip()
_WIDTH, _ROW, _LABEL = 720, 22, 170


def page(dataset: values.Dataset, speed: float | None = None) -> str:
    """The whole page; `speed` in tokens a second estimates the time of a training."""
    report = dataset.report
    title = escape(f"{dataset.name}@{dataset.revision}")
    rows = [(name, value) for name, value in facts(dataset, speed) if value]
    dropped = [
        ("kept", report.rows_kept, ""),
        ("empty", report.rows_empty, "dropped"),
        ("duplicate", report.rows_duplicate, "dropped"),
        ("nearly duplicate", report.rows_near_duplicate, "dropped"),
        ("filtered", report.rows_filtered, "dropped"),
        ("malformed", report.rows_malformed, "dropped"),
    ]
    lengths = [(f"{number(one.least)} to {number(one.most)}", one.rows, "") for one in report.lengths]
    parts = [
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style></head>',
        f"<body><h1>{title}</h1>",
        _table(rows),
        "<h2>What became of the rows</h2>",
        _plot([bar for bar in dropped if bar[1]]),
        f"<h2>Rows by their length in tokens</h2>{_plot(lengths)}" if lengths else "",
        "<h2>Findings</h2>" if report.findings else "<h2>Findings</h2><p>None: the data is clean.</p>",
        *map(_finding, report.findings),
        "</body></html>\n",
    ]
    return "\n".join(part for part in parts if part)


def _table(rows: Iterable[tuple[str, str]]) -> str:
    cells = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in rows)
    return f"<table>{cells}</table>"


def _plot(bars: list[tuple[str, int, str]]) -> str:
    """Bars below each other, each with its label and its number, as SVG."""
    most = max((rows for _, rows, _ in bars), default=1)
    lines = []
    for at, (label, rows, kind) in enumerate(bars):
        top, width = at * _ROW, max(1, round((_WIDTH - _LABEL - 90) * rows / most))
        lines.append(
            f'<text x="{_LABEL - 8}" y="{top + 15}" text-anchor="end">{escape(label)}</text>'
            f'<rect class="{kind}" x="{_LABEL}" y="{top + 3}" width="{width}" height="{_ROW - 6}"/>'
            f'<text x="{_LABEL + width + 6}" y="{top + 15}">{number(rows)}</text>'
        )
    return f'<svg viewBox="0 0 {_WIDTH} {len(bars) * _ROW}" role="img">{"".join(lines)}</svg>'


def _finding(finding: values.Finding) -> str:
    rows = "".join(
        f'<tr><th>{escape(place(one))}</th><td>{escape(one.why)}</td><td class="excerpt">{escape(one.excerpt)}</td></tr>'
        for one in finding.examples
    )
    return f"<h3>{escape(finding.kind.replace('_', ' '))}: {plural(finding.rows, 'row')}</h3><table>{rows}</table>"
