"""The proxy that the environment names for an address, as other programs take it."""

import urllib.request
from urllib.parse import urlsplit


def proxy_for(url: str) -> str | None:
    """Its address, or None; this machine is asked without one."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if urllib.request.proxy_bypass(host) or host in ("localhost", "127.0.0.1", "::1"):
        return None
    return urllib.request.getproxies().get(parts.scheme)
