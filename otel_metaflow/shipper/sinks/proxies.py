"""Finds the proxy of an endpoint: HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY, as used by requests."""

from __future__ import annotations

import re
from typing import Mapping, Optional
from urllib.parse import SplitResult, urlsplit


def proxy_of(url: SplitResult, environ: Mapping[str, str]) -> Optional[SplitResult]:
    """The proxy for `url`, None where it is reached directly.

    Raises:
        ValueError: it is of a kind that is not spoken here: SOCKS, and TLS within TLS.
    """
    name = f"{url.scheme}_proxy"
    if not _variable(environ, name):
        name = "all_proxy"
    text = _variable(environ, name)
    no_proxy = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    if not text or _is_excepted(url.hostname or "", url.port, no_proxy):
        return None
    proxy = urlsplit(text if "://" in text else f"http://{text}")
    if proxy.scheme not in ("http", "https") or proxy.scheme == url.scheme == "https":
        raise ValueError(
            f"{name.upper()} is of the kind {proxy.scheme}://, which is not spoken here; type one of http://"
        )
    return proxy


def _variable(environ: Mapping[str, str], name: str) -> str:
    """Lower case takes precedence, even if it is empty."""
    return environ[name] if name in environ else environ.get(name.upper(), "")


def _is_excepted(host: str, port: Optional[int], no_proxy: str) -> bool:
    """Whether one of these names is the host, a domain that it is in, or a network that its address is in."""
    if not no_proxy or no_proxy == "*":
        return bool(no_proxy)
    names = [name.lower() for name in no_proxy.replace(" ", "").split(",") if name]
    if re.fullmatch(r"[0-9.]+", host):
        return any(_is_within(host, name) for name in names)
    domains = [name.lstrip(".") for name in names]
    forms = (host, f"{host}:{port}") if port else (host,)
    return any(form == domain or form.endswith(f".{domain}") for form in forms for domain in domains)


def _is_within(address: str, network: str) -> bool:
    import ipaddress  # as much to load as all else here

    try:
        return ipaddress.ip_address(address) in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False
