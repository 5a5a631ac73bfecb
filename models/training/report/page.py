"""The page of a report: its style, and the elements that it is made of; all text is escaped.

The page loads nothing, not even from its own folder: pictures are inside, and a policy of the page
forbids everything else.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from models.text import shown

MAX_TEXT = 4000
"""Length limit of a text, such as a command."""

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
:root {{ --text: #1f2328; --soft: #59636e; --page: #ffffff; --card: #f6f8fa; --line: #d5dae0;
 --accent: #0072b2; }}
@media (prefers-color-scheme: dark) {{ :root {{ --text: #e2e6ea; --soft: #9aa4ae; --page: #14171b;
 --card: #1d2127; --line: #343a42; --accent: #56b4e9; }} }}
* {{ box-sizing: border-box; }}
body {{ font: 16px/1.6 system-ui, sans-serif; color: var(--text); background: var(--page);
 margin: 0 auto; padding: 2.5rem 1.5rem 5rem; max-width: 68rem; }}
h1 {{ font-size: 1.9rem; line-height: 1.25; margin: 0 0 .4rem; overflow-wrap: anywhere; }}
h2 {{ font-size: 1.35rem; margin: 3rem 0 .8rem; padding-bottom: .3rem;
 border-bottom: 1px solid var(--line); }}
h3 {{ font-size: 1.05rem; margin: 1.8rem 0 .5rem; }}
p, ul {{ max-width: 46rem; }}
a {{ color: var(--accent); }}
nav {{ display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; margin: 1.4rem 0; }}
.soft {{ color: var(--soft); }}
.tiles {{ display: grid; gap: .8rem; margin: 1.6rem 0;
 grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); }}
.tiles div {{ background: var(--card); border: 1px solid var(--line); border-radius: .5rem;
 padding: .7rem .9rem; }}
.tiles b {{ display: block; font-size: 1.45rem; line-height: 1.3; }}
.tiles span {{ color: var(--soft); font-size: .88rem; }}
.wide {{ overflow-x: auto; margin: 1rem 0; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .3rem .9rem .3rem 0; text-align: left; vertical-align: top;
 border-bottom: 1px solid var(--line); overflow-wrap: anywhere; }}
thead th {{ color: var(--soft); font-weight: 600; white-space: nowrap; }}
tbody th {{ font-weight: 400; }}
.number {{ text-align: right; white-space: nowrap; }}
.bar {{ display: inline-block; height: .7em; background: var(--accent); border-radius: 2px;
 vertical-align: baseline; }}
.charts {{ display: grid; gap: 1rem;
 grid-template-columns: repeat(auto-fit, minmax(min(100%, 28rem), 1fr)); }}
.pictures {{ display: grid; gap: .8rem; align-items: start;
 grid-template-columns: repeat(auto-fill, minmax(13rem, 1fr)); }}
figure {{ margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: .5rem;
 overflow: hidden; }}
.charts figure {{ background: #fff; max-width: 52rem; }}
.charts img {{ padding: .4rem; }}
img {{ display: block; max-width: 100%; height: auto; margin: 0 auto; }}
.pictures img {{ width: 100%; max-height: 17rem; object-fit: contain; background: #fff; }}
figcaption {{ padding: .45rem .7rem; font-size: .85rem; line-height: 1.4;
 overflow-wrap: anywhere; }}
pre {{ background: var(--card); border: 1px solid var(--line); border-radius: .5rem;
 padding: .8rem 1rem; font-size: .9rem; white-space: pre-wrap; overflow-wrap: anywhere; }}
</style>
</head>
<body>
{body}
</body>
</html>
"""


class Section(NamedTuple):
    """A part of the page with a heading."""

    title: str
    body: str
    """HTML."""


class Cell(NamedTuple):
    """A cell of a table that is not plain text."""

    html: str


def page(title: str, lead: str, sections: Sequence[Section]) -> str:
    """Return the page.

    Args:
        title: its heading.
        lead: HTML between the heading and the list of sections.
        sections: those without a body are left out.
    """
    kept = [section for section in sections if section.body]
    links = "".join(
        f'<a href="#{_anchor(section.title)}">{text(section.title)}</a>' for section in kept
    )
    body = "\n".join(
        f'<h2 id="{_anchor(section.title)}">{text(section.title)}</h2>\n{section.body}'
        for section in kept
    )
    head = f"<h1>{text(title)}</h1>\n{lead}\n<nav>{links}</nav>\n"
    return _PAGE.format(title=text(title), body=head + body)


def text(value: object) -> str:
    """Return a text for HTML: on one line, printable, escaped."""
    return html.escape(shown(value, MAX_TEXT))


def paragraph(value: object, soft: bool = False) -> str:
    """Return a paragraph."""
    css = ' class="soft"' if soft else ""
    return f"<p{css}>{text(value)}</p>"


def items(values: Iterable[object]) -> str:
    """Return a list; nothing for no values."""
    rows = "".join(f"<li>{text(value)}</li>" for value in values)
    return f"<ul>{rows}</ul>" if rows else ""


def code(*lines: object) -> str:
    """Return lines that a user can copy."""
    return f"<pre>{chr(10).join(text(line) for line in lines)}</pre>"


def tiles(values: Iterable[tuple[str, str]]) -> str:
    """Return a row of (value, what it is)."""
    cells = "".join(f"<div><b>{text(v)}</b><span>{text(what)}</span></div>" for v, what in values)
    return f'<div class="tiles">{cells}</div>'


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table; numbers stand at the right, the first column has the names of the rows."""
    body = [list(row) for row in rows]
    right = [
        bool(body) and all(isinstance(row[n], int | float | None) for row in body)
        for n in range(len(head))
    ]
    css = [' class="number"' if is_right else "" for is_right in right]
    titles = "".join(f"<th{c}>{text(t)}</th>" for c, t in zip(css, head, strict=True))
    lines = []
    for first, *others in body:
        cells = "".join(f"<td{c}>{_cell(v)}</td>" for c, v in zip(css[1:], others, strict=True))
        lines.append(f'<tr><th scope="row"{css[0]}>{_cell(first)}</th>{cells}</tr>')
    top = f"<thead><tr>{titles}</tr></thead>" if any(head) else ""
    return f'<div class="wide"><table>{top}<tbody>{"".join(lines)}</tbody></table></div>'


def bar(part: float) -> Cell:
    """Return a cell with a bar; `part` is from 0 to 1."""
    return Cell(f'<span class="bar" style="width: {max(0.0, min(part, 1.0)) * 9:.2f}rem"></span>')


def charts(pictures: Sequence[tuple[str, bytes]]) -> str:
    """Return charts, (title, PNG) each; nothing for none."""
    if not pictures:
        return ""
    figures = "".join(f"<figure>{_image(data, 'png', title)}</figure>" for title, data in pictures)
    return f'<div class="charts">{figures}</div>'


def photos(pictures: Sequence[tuple[str, str, bytes]]) -> str:
    """Return pictures, (name, what is said about it, JPEG) each; nothing for none."""
    if not pictures:
        return ""
    figures = "".join(
        f"<figure>{_image(data, 'jpeg', name)}<figcaption>{text(name)}<br>"
        f'<span class="soft">{text(about)}</span></figcaption></figure>'
        for name, about, data in pictures
    )
    return f'<div class="pictures">{figures}</div>'


def _image(data: bytes, kind: str, title: str) -> str:
    inside = base64.b64encode(data).decode()
    return f'<img src="data:image/{kind};base64,{inside}" alt="{text(title)}">'


def _cell(value: object) -> str:
    if isinstance(value, Cell):
        return value.html
    if value is None:
        return "-"
    return text(f"{value:.3f}" if isinstance(value, float) else value)


def _anchor(title: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in title.lower())
