"""Tables that fit the terminal: cells of a row that is too wide move to lines of their own."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

_GAP = 2
_INDENT = 4


def show(console: Console, names: Sequence[str], rows: Sequence[Sequence[Text]], left: Sequence[str]) -> None:
    """Print `rows` below the names of their columns, right-aligned except for those in `left`.

    If that is wider than the console, long cells of the first column are printed above the rest of their row; if that
    is too wide as well, each row is its first cell and, below it, the other cells, each after its column's name.
    """
    right = [name not in left for name in names]
    one_line: list[Sequence[str]] = [names]
    parts = [name.rpartition(" ") for name in names]
    above, below = [first for first, _, _ in parts], [last for _, _, last in parts]
    two_lines: list[Sequence[str]] = [above, below] if any(above) else [names]
    for long_names in (False, True):
        for heads, gap in ((one_line, _GAP), (two_lines, _GAP), (two_lines, 1)):
            table = [*([Text(name, style="dim") for name in line] for line in heads), *rows]
            widths = [max(row[index].cell_len for row in table) for index in range(len(names))]
            room = console.width - sum(widths[1:]) - gap * (len(names) - 1)
            if room >= (len(names[0]) if long_names else widths[0]):
                widths[0] = longest([row[0] for row in table], room)
                for row in table:
                    print_row(console, row, widths, right, gap)
                return
    for first, *others in rows:
        console.print(first, overflow="fold")
        filled = [(name, cell) for name, cell in zip(names[1:], others, strict=True) if cell.cell_len]
        _flow(console, [Text.assemble((name, "dim"), " ", cell) for name, cell in filled])


def longest(cells: Sequence[Text], max_width: int) -> int:
    """The width of the longest of the cells that are not wider than `max_width`."""
    return max((cell.cell_len for cell in cells if cell.cell_len <= max_width), default=0)


def print_row(
    console: Console, row: Sequence[Text], widths: Sequence[int], right: Sequence[bool], gap: int = _GAP
) -> None:
    """Print cells side by side; a first cell that is wider than its column is printed above the others."""
    first, *others = row
    if first.cell_len > widths[0]:
        console.print(first, overflow="fold")
        first = Text("")
    console.print(_line([first, *others], widths, right, gap), no_wrap=True, crop=False, overflow="ignore")


def _flow(console: Console, cells: Sequence[Text]) -> None:
    """Print cells one after another, as many as fit on a line."""
    text = Text("")
    for cell in cells:
        if text.cell_len and _INDENT + text.cell_len + _GAP + cell.cell_len > console.width:
            indented(console, text)
            text = Text("")
        text = Text.assemble(text, " " * _GAP if text.cell_len else "", cell)
    indented(console, text)


def _line(cells: Sequence[Text], widths: Sequence[int], right: Sequence[bool], gap: int) -> Text:
    """Cells side by side, each as wide as its column, without trailing blanks."""
    text = Text()
    for index, (cell, width, is_right) in enumerate(zip(cells, widths, right, strict=True)):
        blank = " " * max(0, width - cell.cell_len)
        text.append_text(
            Text.assemble(" " * gap if index else "", blank if is_right else "", cell, "" if is_right else blank)
        )
    text.rstrip()
    return text


def indented(console: Console, text: Text, indent: int = _INDENT) -> None:
    """Print a text, wrapped and indented."""
    wrapped = text.wrap(console, max(1, console.width - indent), overflow="fold")
    for part in wrapped:
        part.rstrip()
        console.print(Padding(part, (0, 0, 0, indent), expand=False), crop=False)
