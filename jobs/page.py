"""The pages of this project: one HTML file each, to be read without a network.

Style, tables and charts are in the file. It reads on a phone, in the dark and on paper.
"""

from collections.abc import Sequence
from html import escape
from pathlib import Path

__all__ = ["Row", "note", "paragraph", "section", "table", "write_page"]

Row = tuple[str, ...]

_STYLE = """
:root { color-scheme: light dark; --ink: #1a1a1a; --soft: #5c5c5c; --paper: #fff; --line: #b9b9b9;
  --band: #f3f5f7; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8e8; --soft: #a8a8a8; --paper: #15181b;
  --line: #565b61; --band: #20252a; } }
@media print { :root { --ink: #000; --soft: #444; --paper: #fff; --line: #999; --band: #f2f2f2; }
  figure, tr { break-inside: avoid; } body { max-width: none; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 62rem; color: var(--ink);
  background: var(--paper); font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: .5rem 0 1rem; }
h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
p { margin: .5rem 0; max-width: 46rem; }
.note { color: var(--soft); font-size: .875rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { padding: .3rem .7rem; text-align: right; border-bottom: 1px solid var(--line);
  white-space: nowrap; }
th { font-weight: 600; vertical-align: bottom; white-space: normal; }
th:first-child, td:first-child, .words th, .words td { text-align: left; }
tbody tr:nth-child(even) { background: var(--band); }
.words td { white-space: normal; overflow-wrap: anywhere; vertical-align: top; }
.words td:first-child { white-space: nowrap; }
@media print, (max-width: 40rem) { table { font-size: .8rem; } th, td { padding: .3rem .4rem; } }
@media print { .wide { overflow: visible; } table { font-size: .7rem; } }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 21rem), 1fr));
  gap: 1rem; }
figure { margin: 0; max-width: 34rem; }
svg { width: 100%; height: auto; display: block; }
svg text { font-family: system-ui, sans-serif !important; }
"""


def write_page(path: Path, title: str, sections: Sequence[str]) -> None:
    """Write the page to `path`, replacing what is there in one step."""
    page = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{escape(title)}</h1>\n" + "\n".join(sections) + "\n</body>\n</html>\n"
    )
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(page, encoding="utf-8")
    temporary.replace(path)


def section(title: str, *parts: str) -> str:
    """A section with its heading."""
    return f"<section>\n<h2>{escape(title)}</h2>\n" + "\n".join(parts) + "\n</section>"


def paragraph(text: str) -> str:
    """Plain text."""
    return f"<p>{escape(text)}</p>"


def note(text: str) -> str:
    """Small print."""
    return f'<p class="note">{escape(text)}</p>'


def table(rows: Sequence[Row], *, words: bool = False) -> str:
    """An HTML table; the first row is its header. `words`: text, which may wrap, not numbers."""
    head, *body = (
        "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in row) + "</tr>"
        for tag, row in zip(["th"] + ["td"] * (len(rows) - 1), rows, strict=True)
    )
    attribute = ' class="words"' if words else ""
    return (
        f'<div class="wide"><table{attribute}>\n<thead>{head}</thead>\n<tbody>\n'
        + "\n".join(body)
        + "\n</tbody></table></div>"
    )
