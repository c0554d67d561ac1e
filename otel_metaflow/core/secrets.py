"""Masks the values of environment variables that hold a key, a token or a password, before they reach the journal.

Unknown secrets are recognized by their format, in the shipper (otel_metaflow.core.redaction).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from pathlib import Path
from typing import Iterable, Mapping, Optional, Pattern, Set

_NAMES = ("KEY", "TOKEN", "SECRET", "PASSWORD", "PASSWD", "CREDENTIAL", "HEADERS")
# Shorter values ("1", "true", "none") are switches, not secrets, and replacing them would garble every line.
_SHORTEST = 6
# A shorter value of letters only is a word ("testing"), which lines contain for other reasons.
_SHORTEST_OF_LETTERS = 8
# Values used in place of a secret in examples and on development machines, in lower case.
_PLACEHOLDERS = {
    "000000", "00000000", "111111", "123123", "123456", "1234567", "12345678", "123456789", "1234567890", "654321",
    "administrator", "anonymous", "changeit", "changeme", "changethis", "credential", "credentials", "database",
    "default_value", "development", "disabled", "dummykey", "dummytoken", "example", "example_key", "fakekey",
    "faketoken", "localhost", "localstack", "minioadmin", "my-secret", "my_secret", "mypassword", "mysecret",
    "mytoken", "no_token", "not-needed", "not-used", "not_needed", "not_set", "not_used", "notneeded", "notoken",
    "notused", "passw0rd", "password", "password1", "password123", "placeholder", "postgres", "postgresql",
    "production", "rabbitmq", "redacted", "replace-me", "replace_me", "replaceme", "root123", "sandbox",
    "secret-key", "secret123", "secret_key", "secretkey", "staging", "test-key", "test-token", "test123",
    "test1234", "test_key", "test_token", "testkey", "testpass", "testpassword", "testsecret", "testtoken",
    "undefined", "unspecified", "username", "your-api-key", "your-token", "your_api_key", "your_token",
}  # fmt: skip
MASK = "[REDACTED]"


def known(environ: Mapping[str, str]) -> Set[str]:
    """The values of all variables named like a secret, unless they are words, placeholders or paths."""
    values: Set[str] = set()
    for name in environ:
        if _is_secret(name.upper()):
            value = environ[name]
            if len(value) >= _SHORTEST and not _is_word(value) and not _is_path(value):
                values.add(value)
    return values


def _is_word(value: str) -> bool:
    """Whether a value, such as AWS_ACCESS_KEY_ID=testing, is a word: masking it would garble unrelated lines."""
    bare = value.strip().strip("\"'<>").lower()
    is_short = len(bare) < _SHORTEST_OF_LETTERS and bare.isalpha()
    return is_short or bare in _PLACEHOLDERS or len(set(bare)) <= 1


def _is_secret(name: str) -> bool:
    for mark in _NAMES:  # noqa: SIM110 - each task looks at all its variables, and a generator takes thrice as long
        if mark in name:
            return True
    return False


def _is_path(value: str) -> bool:
    """Whether a value, such as SSH_KEY_FILE=/home/u/.ssh/id, is the path of a secret rather than a secret."""
    return value.startswith(("/", "~/", "./")) and os.path.exists(os.path.expanduser(value))


class Mask:
    """Replaces known secret values in text, in a single scan."""

    def __init__(self, values: Iterable[str] = ()) -> None:
        self.values: Set[str] = set()
        self._pattern: Optional[Pattern[str]] = None
        self.add(values)

    def add(self, values: Iterable[str]) -> None:
        """Add values; where several match, the longest one is replaced."""
        new = set(values) - self.values
        if not new:
            return
        self.values |= new
        # Text arrives line by line, so a multi-line secret is matched line by line.
        parts = {part for value in self.values for part in (value, *value.splitlines()) if len(part) >= _SHORTEST}
        if parts:
            self._pattern = re.compile("|".join(re.escape(part) for part in sorted(parts, key=len, reverse=True)))

    def __call__(self, text: str) -> str:
        """Return `text` without the known values."""
        if self._pattern is None:
            return text
        return self._pattern.sub(MASK, text)


def open_pipe(pipe: Path) -> Optional[int]:
    """Open the launcher's end of the pipe through which tasks send it secrets; None if there can be none."""
    try:
        with contextlib.suppress(FileExistsError):
            os.mkfifo(pipe, 0o600)
        # For reading and writing: a pipe with a writer never reports end of file, and opens without blocking.
        return os.open(pipe, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None


def send(pipe: Path, values: Set[str]) -> None:
    """Send the launcher, if there is one, values to mask in the output that it reads."""
    if not values:
        return
    try:
        descriptor = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:  # there is no launcher, or it has ended
        return
    try:
        for value in values:
            # One write each: writes of up to PIPE_BUF bytes are atomic (pipe(7)).
            with contextlib.suppress(BlockingIOError):
                os.write(descriptor, json.dumps(value).encode() + b"\n")
    finally:
        os.close(descriptor)


def receive(descriptor: int) -> Set[str]:
    """The values that tasks have sent since the last call; does not block."""
    try:
        data = os.read(descriptor, 1 << 20)
    except BlockingIOError:
        return set()
    values: Set[str] = set()
    for line in data.splitlines():
        with contextlib.suppress(ValueError):
            values.add(json.loads(line))
    return values
