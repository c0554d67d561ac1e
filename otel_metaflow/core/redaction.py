"""Masks whatever looks like a secret in everything that is exported: bodies, attributes, messages, stack traces.

Values that are known to be secret never reach the journal (otel_metaflow.core.secrets); here unknown ones are
recognized by their format. Scanners for repositories know more formats, but try each of them on each line; here a
line without any of a few literal markers is passed on after a single check, in a few microseconds.

Masking takes time linear in the length of a line, whatever it contains. So no pattern may start over inside text that
it has just scanned without a match: each starts with a literal that cannot recur in the characters after it, is
limited in length, or is searched by a function that skips the characters it has already scanned.
"""

from __future__ import annotations

import itertools
import re
import signal
import threading
from operator import itemgetter
from typing import Any, Callable, Dict, List, Mapping, Match, Pattern, Tuple, Union

from otel_metaflow.core import otlp_values
from otel_metaflow.core.secrets import MASK

# CPU time that the user's own pattern may take for one text, in seconds.
_MAX_SECONDS = 0.05


def _keep_first(match: Match[str]) -> str:
    return match.group(1) + MASK


def _sub(pattern: str, replacement: Union[str, Callable[[Match[str]], str]]) -> Callable[[str], str]:
    compiled = re.compile(pattern)
    return lambda text: compiled.sub(replacement, text)


def _end(run: Pattern[str], text: str, start: int) -> int:
    """The end of the run of characters that begins at `start`; the run may be empty."""
    match = run.match(text, start)
    return start if match is None else match.end()


_JWT = re.compile(r"\beyJ")
_JWT_HEADER = re.compile(r"[A-Za-z0-9_\-]*")
_JWT_REST = re.compile(r"\.[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]*")
_SHORTEST_HEADER = 8  # characters after "eyJ"


def _without_jwts(text: str) -> str:
    """Header, claims and signature of a JSON web token, each in base64."""
    parts: List[str] = []
    done = seen = 0
    for match in _JWT.finditer(text):
        if match.start() < seen:
            continue  # inside text that was scanned, or a token that was masked
        seen = _end(_JWT_HEADER, text, match.end())
        rest = _JWT_REST.match(text, seen)
        if rest is not None and seen - match.end() >= _SHORTEST_HEADER:
            parts += [text[done : match.start()], MASK]
            done = seen = rest.end()
    return "".join(parts) + text[done:]


# Not "tokens: 512", not "tokenizer=bert", not "token_count=3", which a flow that trains a model prints a lot.
_SECRET_WORDS = (
    "password",
    "passwd",
    "pwd",
    "secret",
    "token",
    "api_key",
    "apikey",
    "api-key",
    "accountkey",
    "access_key",
)
_SECRET_WORD = re.compile(
    r"(?i)password|passwd|pwd|secret|token(?!s|iz|_?count|_?len)|api[_\-]?key|accountkey|access_key"
)
_WORD_REST = re.compile(r"[\w\-]*")
_ASSIGNED = re.compile(r"[\"']?\s*[=:]\s*[\"']?")
_ASSIGNED_VALUE = re.compile(r"(?!\[REDACTED\])(?![\d.]+(?![^\s\"',;&]))[^\s\"',;&]{3,}")


def _without_assigned(text: str) -> str:
    """Mask what is assigned to a secret's name: `db_password = x`, `"api-key": "x"`, `&token=x`."""
    parts: List[str] = []
    done = seen = 0
    for match in _SECRET_WORD.finditer(text):
        if match.start() < seen:
            continue  # inside a word that was scanned, or a value that was masked
        seen = _end(_WORD_REST, text, match.end())
        assigned = _ASSIGNED.match(text, seen)
        value = _ASSIGNED_VALUE.match(text, assigned.end()) if assigned else None
        if value is not None:
            parts += [text[done : value.start()], MASK]
            done = seen = value.end()
    return "".join(parts) + text[done:]


# Each format with literals, in lower case: only a line that contains one of them is searched for it.
_SHAPES: Tuple[Tuple[Tuple[str, ...], Callable[[str], str]], ...] = (
    (("akia", "asia", "abia", "acca"), _sub(r"\b(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}\b", MASK)),
    (("aiza",), _sub(r"\bAIza[0-9A-Za-z_\-]{35}", MASK)),
    (("ya29.",), _sub(r"\bya29\.[0-9A-Za-z_\-]{20,}", MASK)),
    (("ghp_", "gho_", "ghu_", "ghs_", "ghr_"), _sub(r"\bgh[pousr]_[A-Za-z0-9]{30,255}", MASK)),
    (("github_pat_",), _sub(r"\bgithub_pat_[A-Za-z0-9_]{22,255}", MASK)),
    (("glpat-",), _sub(r"\bglpat-[A-Za-z0-9_\-]{20,}", MASK)),
    (("xox",), _sub(r"\bxox[abeoprs]-[A-Za-z0-9\-]{10,}", MASK)),
    (("hooks.slack.com",), _sub(r"(hooks\.slack\.com/services/)[A-Za-z0-9/]+", _keep_first)),
    (("sk_live", "sk_test", "rk_live", "rk_test"), _sub(r"\b[sr]k_(?:live|test)_[0-9A-Za-z]{16,}", MASK)),
    (("sk-",), _sub(r"\bsk-[A-Za-z0-9_\-]{20,}", MASK)),
    (("npm_",), _sub(r"\bnpm_[A-Za-z0-9]{36}", MASK)),
    (("pypi-",), _sub(r"\bpypi-[A-Za-z0-9_\-]{50,}", MASK)),
    (("hf_",), _sub(r"\bhf_[A-Za-z0-9]{30,}", MASK)),
    (("dapi",), _sub(r"\bdapi[0-9a-f]{32}", MASK)),
    (("eyj",), _without_jwts),
    (("bearer", "basic "), _sub(r"(?i)\b(bearer\s+|basic\s+)[A-Za-z0-9\-._~+/]{8,}=*", _keep_first)),
    (
        ("private key",),
        _sub(
            r"(-----BEGIN [A-Z ]*PRIVATE KEY-----)[\s\S]+?(?=-----END [A-Z ]*PRIVATE KEY-----|\Z)",
            _keep_first,
        ),
    ),
    (("://",), _sub(r"((?<=[A-Za-z0-9+.\-])://[^\s/:@]*:)[^\s@/]+(?=@)", _keep_first)),
    (_SECRET_WORDS, _without_assigned),
)
# A single search for all the literals. Those that begin alike are tried together, which makes it five times as fast.
_LITERALS = sorted(literal for literals, _ in _SHAPES for literal in literals)
_ANY_LITERAL = re.compile(
    "|".join(
        f"{re.escape(first)}(?:{'|'.join(re.escape(literal[1:]) for literal in alike)})"
        for first, alike in itertools.groupby(_LITERALS, itemgetter(0))
    )
)
_SECRET_NAME = re.compile(
    r"(?i)(?:^|[._\-])(?:password|passwd|pwd|secret|token|api_?key|access_?key|credentials?|authorization)$"
)
_KEY_BEGIN, _KEY_END = "-----BEGIN", "-----END"


class Redaction:
    """Masks text and values; it has state for each stream, because a private key spans many lines."""

    def __init__(self, extra: str = "") -> None:
        """`extra` is an additional regular expression whose matches are masked.

        Raises:
            re.error: `extra` is not a regular expression.
        """
        self._extra = re.compile(extra) if extra else None
        self._inside_key: Dict[str, bool] = {}

    def text(self, text: str) -> str:
        """`text` without what looks like a secret."""
        lower = text.lower()
        if _ANY_LITERAL.search(lower):
            for literals, mask in _SHAPES:
                for literal in literals:
                    if literal in lower:
                        text = mask(text)
                        break
        return text if self._extra is None else _bounded(self._extra, text)

    def line(self, text: str, stream: str) -> str:
        """One line of a stream; lines inside a private key are masked entirely."""
        if self._inside_key and self._inside_key.get(stream):
            if _KEY_END in text:
                del self._inside_key[stream]
                return text
            return MASK
        if _KEY_BEGIN in text and "PRIVATE KEY-----" in text and _KEY_END not in text:
            self._inside_key[stream] = True
        return self.text(text)

    def value(self, value: Any, name: str = "") -> Any:
        """An attribute's value as OTLP can carry it, strings masked; all of it is masked if its name is a secret's."""
        return self._masked(otlp_values.fit(value), name)

    def attributes(self, attributes: Mapping[str, Any]) -> Dict[str, Any]:
        """Attributes as OTLP can carry them, with their values masked."""
        return {name: self._masked(value, name) for name, value in otlp_values.attributes(attributes).items()}

    def _masked(self, value: Any, name: str) -> Any:
        if isinstance(value, str):
            return MASK if value and _SECRET_NAME.search(name) else self.text(value)
        if isinstance(value, dict):
            return {key: self._masked(item, key) for key, item in value.items()}
        if isinstance(value, list):
            return [self._masked(item, name) for item in value]
        return MASK if value is not None and not isinstance(value, bool) and _SECRET_NAME.search(name) else value


def _bounded(pattern: Pattern[str], text: str) -> str:
    """Apply the user's own pattern; a text on which it takes too long is masked entirely.

    Python checks for signals while it matches, and runs their handlers in the main thread; in other threads there is
    no limit. CPU time is limited, so that a busy machine masks no more than an idle one.
    """
    if threading.current_thread() is not threading.main_thread():
        return pattern.sub(MASK, text)
    is_searching = True

    def stop(*_: Any) -> None:
        if is_searching:
            raise TimeoutError

    before = signal.signal(signal.SIGVTALRM, stop)
    try:
        signal.setitimer(signal.ITIMER_VIRTUAL, _MAX_SECONDS)
        return pattern.sub(MASK, text)
    except TimeoutError:
        return MASK
    finally:
        is_searching = False
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
