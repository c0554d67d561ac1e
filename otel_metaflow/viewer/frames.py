"""Folds Metaflow's own frames in tracebacks, which are the same for every step.

Only for display: `view --json` and back ends have the whole traceback. static/log_text.js does the same for the page.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

# A frame as printed by traceback; inside an exception group it is indented, with bars.
_FRAME = re.compile(r'(?P<margin>[ |]*  )File "(?P<file>[^"]*)", line \d+, in ')
# Metaflow as installed by pip, as unpacked in a container, and in a checkout.
_OWN = re.compile(r"[/\\](?:(?:site|dist)-packages|metaflow|\.mf_code)[/\\]metaflow[/\\]")


class Fold:
    """Folds lines that come one by one."""

    def __init__(self) -> None:
        self._margin = ""  # of the frames being folded
        self._count = 0

    def add(self, line: str) -> Iterator[str]:
        """The lines to show for one more line: none, or the line, preceded by a count of the folded frames."""
        frame = _FRAME.match(line)
        if frame is None:
            if self._count and line.startswith((f"{self._margin}  ", f"{self._margin}[Previous line repeated ")):
                return  # the source line of a folded frame
        elif _OWN.search(frame["file"]):
            if self._margin != frame["margin"]:
                yield from self.end()
            self._margin = frame["margin"]
            self._count += 1
            return
        yield from self.end()
        yield line

    def end(self) -> Iterator[str]:
        """The count of folded frames, if there are any."""
        if self._count:
            yield f"{self._margin}… {self._count} frame{'' if self._count == 1 else 's'} of Metaflow"
        self._count = 0


def folded(text: str) -> str:
    """`text` with each series of Metaflow's frames replaced by a line with their number."""
    fold = Fold()
    lines = [shown for line in text.split("\n") for shown in fold.add(line)]
    return "\n".join([*lines, *fold.end()])
