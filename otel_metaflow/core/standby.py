"""A shipper that has delivered its run stands by for the next one, which then need not start its own.

Starting a shipper costs a quarter of a second of CPU, nearly all of it the import of the SDK, which slows down a run on
two cores. One shipper per user and installation listens on a socket, for half a minute after its work is done or while
its endpoint is down; a launcher sends it the folder of its run and its own environment, as if it had started it. So
shippers do not accumulate during many short runs, or during an outage.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import struct
import sys
import tempfile
import threading
from pathlib import Path
from typing import IO, Dict, NamedTuple, Optional
from zlib import crc32

from otel_metaflow.core import private_folder
from otel_metaflow.core.version import __version__

# How long either side waits for the other, in seconds: both run on this machine.
_TIMEOUT = 0.1
_LENGTH = struct.Struct("!I")
_MAX_REQUEST = 8 << 20  # bytes; the kernel limits the size of an environment, execve(2)
_ACCEPTED = b"accepted"


class Request(NamedTuple):
    """The request of a launcher that waits for an answer."""

    folder: Path
    environ: Dict[str, str]
    connection: socket.socket

    def accept(self) -> None:
        """Confirm to the launcher that the lock of its run is held."""
        with contextlib.suppress(OSError), self.connection:
            self.connection.sendall(_ACCEPTED)

    def decline(self) -> None:
        """Have the launcher start a shipper."""
        self.connection.close()


def ask(folder: Path, environ: Dict[str, str]) -> bool:
    """Hand the run in `folder` to a shipper that stands by; False if there is none."""
    path = _path()
    message = json.dumps({"folder": str(folder), "environ": environ}).encode("ascii")
    try:
        if not private_folder.is_private(path.parent):  # the environment sent through it holds secrets
            return False
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(_TIMEOUT)
            connection.connect(str(path))
            connection.sendall(_LENGTH.pack(len(message)) + message)
            return connection.recv(len(_ACCEPTED)) == _ACCEPTED
    except OSError:  # no shipper stands by, or it has just ended, or was killed and left its socket
        return False


class Standby:
    """The idle shipper's end: listens in a thread, from the first call of `has_request` until a request arrives."""

    def __init__(self, wake: threading.Event) -> None:
        """`wake` is set when a request has arrived."""
        self._wake = wake
        self._request: Optional[Request] = None
        self._listener: Optional[socket.socket] = None
        self._lock: Optional[IO[str]] = None

    def has_request(self) -> bool:
        """Whether a launcher has sent a request; the first call starts listening, unless another shipper does."""
        if self._listener is None and self._request is None:
            self._listen()
        return self._request is not None

    def take(self) -> Optional[Request]:
        """The pending request, if there is one; stops listening."""
        self._unlisten()
        request, self._request = self._request, None
        return request

    def _listen(self) -> None:
        path = _path()
        lock = None
        try:
            path.parent.mkdir(mode=0o700, exist_ok=True)
            if not private_folder.is_private(path.parent):  # the environment sent through it holds secrets
                return
            lock = open(path.with_suffix(".lock"), "w")  # noqa: SIM115 - held for as long as we listen
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)  # left by a killed shipper: only the holder of the lock listens
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(str(path))
            listener.listen(1)
        except OSError:  # another shipper stands by, or the file system has no sockets
            if lock is not None:
                lock.close()
            return
        self._lock, self._listener = lock, listener
        threading.Thread(target=self._accept, args=(listener,), name="standby", daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):  # closed by _unlisten
            while self._request is None:
                connection, _ = listener.accept()
                self._request = _read(connection)
                if self._request is None:
                    connection.close()
            self._wake.set()

    def _unlisten(self) -> None:
        """Remove the socket, so that later launchers do not wait for a busy shipper."""
        if self._listener is None or self._lock is None:
            return
        _path().unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # ends the accept() of the thread
        self._listener.close()
        self._lock.close()
        self._listener = self._lock = None


def _read(connection: socket.socket) -> Optional[Request]:
    connection.settimeout(_TIMEOUT)
    try:
        with connection.makefile("rb") as stream:
            length = int.from_bytes(stream.read(_LENGTH.size), "big")
            message = json.loads(stream.read(min(length, _MAX_REQUEST)))
        return Request(Path(message["folder"]), dict(message["environ"]), connection)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _path() -> Path:
    """The socket of this user, interpreter and installation."""
    own = crc32(f"{sys.executable}\0{__file__}\0{__version__}".encode("utf-8", "surrogateescape"))
    base = os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
    return Path(base) / private_folder.name() / f"{own:08x}.sock"
