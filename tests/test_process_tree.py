"""What an attempt's processes use, without psutil where there is /proc."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from otel_metaflow.shipper import process_tree

# A parent with a name that would mislead who splits at spaces, and a child that holds 50 MiB and has worked.
PARENT = """
import ctypes, subprocess, sys
ctypes.CDLL(None).prctl(15, b"a) S 1 (b", 0, 0, 0)  # PR_SET_NAME
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE)
print(child.stdout.readline().decode().strip(), flush=True)
sys.stdin.read()
child.kill()
"""
CHILD = """
import os, time
held = bytearray(os.urandom(50 << 20))
while time.process_time() < 0.5:
    pass
print(os.getpid(), flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="no /proc here")
def test_proc_gives_what_psutil_gives() -> None:
    """Of a process and its child: bytes, seconds and which they are."""
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        by_proc, by_psutil = process_tree._by_proc(parent.pid), process_tree._by_psutil(parent.pid)
        parent.communicate("")
    assert by_proc is not None
    assert by_psutil is not None
    assert by_proc.pids == by_psutil.pids == {parent.pid, child}
    assert by_proc.memory == pytest.approx(by_psutil.memory, rel=0.05)
    assert by_proc.memory > 50 << 20
    assert by_proc.cpu == pytest.approx(by_psutil.cpu, abs=0.1)
    assert by_proc.cpu >= 0.45  # counted in ticks of 10 ms, for each of the two


def test_a_process_that_is_gone_uses_nothing() -> None:
    gone = subprocess.Popen([sys.executable, "-c", "pass"])
    gone.wait()
    assert process_tree.of(gone.pid) is None
    assert process_tree.of(0) is None
