"""Tracebacks without Metaflow's own frames, which are the same for every step; those of user code stay.

Only what is shown is folded: `view --json` and back ends have all of it. static/log_text.js does the same for the page.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

# As traceback prints a frame; indented, and with bars, inside an exception group.
_FRAME = re.compile(r'(?P<margin>[ |]*  )File "(?P<file>[^"]*)", line \d+, in ')
# Where pip puts Metaflow, where it is unpacked in a container, and a checkout of it.
_OWN = re.compile(r"[/\\](?:(?:site|dist)-packages|metaflow|\.mf_code)[/\\]metaflow[/\\]")


class Fold:
    """Folds lines that come one by one."""

    def __init__(self) -> None:
        self._margin = ""  # of the frames that are left out now
        self._count = 0

    def add(self, line: str) -> Iterator[str]:
        """What is to be shown of one more line: nothing, or the line, after a count of the frames before it."""
        frame = _FRAME.match(line)
        if frame is None:
            if self._count and line.startswith((f"{self._margin}  ", f"{self._margin}[Previous line repeated ")):
                return  # the source of a frame that is left out
        elif _OWN.search(frame["file"]):
            if self._margin != frame["margin"]:
                yield from self.end()
            self._margin = frame["margin"]
            self._count += 1
            return
        yield from self.end()
        yield line

    def end(self) -> Iterator[str]:
        """The count of the frames that were left out last, if there are some."""
        if self._count:
            yield f"{self._margin}… {self._count} frame{'' if self._count == 1 else 's'} of Metaflow"
        self._count = 0


def folded(text: str) -> str:
    """`text` with each row of Metaflow's frames in it as one line that counts them."""
    fold = Fold()
    lines = [shown for line in text.split("\n") for shown in fold.add(line)]
    return "\n".join([*lines, *fold.end()])
