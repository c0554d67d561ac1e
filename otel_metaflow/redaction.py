"""Masks what looks like a secret in everything that leaves: bodies, attributes, messages, stack traces.

Values that are known to be secret never reach the journal (otel_metaflow.secrets); these are the shapes
of those that nobody told us. Scanners that audit repositories know more shapes, but try each of them on
each line; here a line that holds none of a few literal marks is passed on after one look, in a few
microseconds.
"""

from __future__ import annotations

import re
from typing import Any, Callable, Dict, List, Mapping, Match, Pattern, Tuple, Union

from otel_metaflow.secrets import MASK

_Replacement = Union[str, Callable[[Match[str]], str]]


def _keep_first(match: Match[str]) -> str:
    return match.group(1) + MASK


# The literals, lower-case, of which a line must hold one before the pattern is tried on it.
_SHAPES: Tuple[Tuple[Tuple[str, ...], str, _Replacement], ...] = (
    (("akia", "asia", "abia", "acca"), r"\b(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}\b", MASK),
    (("aiza",), r"\bAIza[0-9A-Za-z_\-]{35}", MASK),
    (("ya29.",), r"\bya29\.[0-9A-Za-z_\-]{20,}", MASK),
    (("ghp_", "gho_", "ghu_", "ghs_", "ghr_"), r"\bgh[pousr]_[A-Za-z0-9]{30,255}", MASK),
    (("github_pat_",), r"\bgithub_pat_[A-Za-z0-9_]{22,255}", MASK),
    (("glpat-",), r"\bglpat-[A-Za-z0-9_\-]{20,}", MASK),
    (("xox",), r"\bxox[abeoprs]-[A-Za-z0-9\-]{10,}", MASK),
    (("hooks.slack.com",), r"(hooks\.slack\.com/services/)[A-Za-z0-9/]+", _keep_first),
    (("sk_live", "sk_test", "rk_live", "rk_test"), r"\b[sr]k_(?:live|test)_[0-9A-Za-z]{16,}", MASK),
    (("sk-",), r"\bsk-[A-Za-z0-9_\-]{20,}", MASK),
    (("npm_",), r"\bnpm_[A-Za-z0-9]{36}", MASK),
    (("pypi-",), r"\bpypi-[A-Za-z0-9_\-]{50,}", MASK),
    (("hf_",), r"\bhf_[A-Za-z0-9]{30,}", MASK),
    (("dapi",), r"\bdapi[0-9a-f]{32}", MASK),
    (("eyj",), r"\beyJ[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]*", MASK),
    (("bearer", "basic "), r"(?i)\b(bearer\s+|basic\s+)[A-Za-z0-9\-._~+/]{8,}=*", _keep_first),
    (
        ("private key",),
        r"(-----BEGIN [A-Z ]*PRIVATE KEY-----)[\s\S]+?(?=-----END [A-Z ]*PRIVATE KEY-----|\Z)",
        _keep_first,
    ),
    (("://",), r"([A-Za-z][A-Za-z0-9+.\-]*://[^\s/:@]*:)[^\s@/]+(?=@)", _keep_first),
    (
        ("password", "passwd", "pwd", "secret", "token", "api_key", "apikey", "api-key", "accountkey", "access_key"),
        # Not "tokens: 512", not "tokenizer=bert", not "token_count=3": a flow that trains says such things a lot.
        (
            r"(?i)([\w\-]*(?:password|passwd|pwd|secret|token(?!s|iz|_?count|_?len)|api[_\-]?key|accountkey|access_key)[\w\-]*"
            r"[\"']?\s*[=:]\s*[\"']?)(?!\[REDACTED\])(?![\d.]+(?![^\s\"',;&]))[^\s\"',;&]{3,}"
        ),
        _keep_first,
    ),
)
_SECRET_NAME = re.compile(
    r"(?i)(?:^|[._\-])(?:password|passwd|pwd|secret|token|api_?key|access_?key|credentials?|authorization)$"
)
_KEY_BEGIN, _KEY_END = "-----BEGIN", "-----END"


class Redaction:
    """Masks text and values; one for each stream of lines, because a private key is many of them."""

    def __init__(self, extra: str = "") -> None:
        """`extra` is one more regular expression whose matches are masked.

        Raises:
            re.error: `extra` is not a regular expression.
        """
        self._shapes = _COMPILED
        self._extra = re.compile(extra) if extra else None
        self._inside_key: Dict[str, bool] = {}

    def text(self, text: str) -> str:
        """`text` without what looks like a secret."""
        lower = text.lower()
        for literal, (pattern, replacement) in self._shapes:
            if literal in lower:
                text = pattern.sub(replacement, text)
        return text if self._extra is None else self._extra.sub(MASK, text)

    def line(self, text: str, stream: str) -> str:
        """One line of a stream; those between the ends of a private key are masked whole."""
        if self._inside_key and self._inside_key.get(stream):
            if _KEY_END in text:
                del self._inside_key[stream]
                return text
            return MASK
        if _KEY_BEGIN in text and "PRIVATE KEY-----" in text and _KEY_END not in text:
            self._inside_key[stream] = True
        return self.text(text)

    def value(self, value: Any, name: str = "") -> Any:
        """The value of an attribute, strings in lists and maps with it; masked whole if its name says so."""
        if isinstance(value, str):
            return MASK if value and _SECRET_NAME.search(name) else self.text(value)
        if isinstance(value, Mapping):
            return {key: self.value(item, str(key)) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.value(item, name) for item in value]
        return MASK if value is not None and not isinstance(value, bool) and _SECRET_NAME.search(name) else value

    def attributes(self, attributes: Mapping[str, Any]) -> Dict[str, Any]:
        """Attributes with their values masked where needed."""
        return {name: self.value(value, name) for name, value in attributes.items()}


def _compiled() -> List[Tuple[str, Tuple[Pattern[str], _Replacement]]]:
    made: List[Tuple[str, Tuple[Pattern[str], _Replacement]]] = []
    for literals, pattern, replacement in _SHAPES:
        shape = (re.compile(pattern), replacement)
        made.extend((literal, shape) for literal in literals)
    return made


_COMPILED = _compiled()
