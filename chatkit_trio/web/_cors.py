"""Which pages of other origins may call the endpoint, and the headers that tell it to browsers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from werkzeug.datastructures import Headers

_PREFLIGHT_MAX_AGE = "600"  # seconds
_FOREIGN_SITES = ("cross-site", "same-site")


@dataclass(frozen=True, slots=True)
class Cors:
    """The origins that are allowed besides the server's own; None allows all."""

    origins: frozenset[str] | None

    @classmethod
    def of(cls, origins: Iterable[str] | str | None) -> Cors:
        """Return the rule for None (own origin only), `"*"`, or a list of origins."""
        if origins == "*":
            return cls(None)
        if isinstance(origins, str):
            raise ValueError(f"cors_origins must be None, '*' or a list, not {origins!r}")
        return cls(frozenset(origin.rstrip("/") for origin in origins or ()))

    def allows(self, origin: str | None) -> bool:
        """Say whether a page of this origin may call the endpoint and read the answer."""
        return self.origins is None or origin in self.origins

    def refuses(self, request_headers: Headers) -> bool:
        """Say whether a browser sends this for a page of another site that isn't allowed.

        A browser lets any page post plain text to any site, with the cookies of that site. It says
        so in `Sec-Fetch-Site`. Where it sends no such header (Safari before 16.4; plain HTTP), the
        `Origin` is compared with the host that was asked. A page can forge none of these headers.
        """
        site = request_headers.get("Sec-Fetch-Site")
        is_foreign = (
            _has_foreign_origin(request_headers) if site is None else site in _FOREIGN_SITES
        )
        return is_foreign and not self.allows(request_headers.get("Origin"))

    def headers(self, request_headers: Headers) -> dict[str, str]:
        """Return the headers of every answer; without them a page can't read errors either."""
        origin = request_headers.get("Origin")
        if self.origins is None:
            return {"Access-Control-Allow-Origin": "*"}
        if not self.origins:
            return {}
        if origin not in self.origins:
            return {"Vary": "Origin"}
        return {
            "Access-Control-Allow-Origin": origin,
            "Access-Control-Allow-Credentials": "true",
            "Vary": "Origin",
        }

    def preflight_headers(self, request_headers: Headers, method: str) -> dict[str, str]:
        """Return the headers that allow the request which the browser is about to send."""
        if not self.allows(request_headers.get("Origin")):
            return {}
        return {
            "Access-Control-Allow-Methods": f"{method}, OPTIONS",
            "Access-Control-Allow-Headers": request_headers.get(
                "Access-Control-Request-Headers", "content-type"
            ),
            "Access-Control-Max-Age": _PREFLIGHT_MAX_AGE,
        }


def _has_foreign_origin(request_headers: Headers) -> bool:
    origin = request_headers.get("Origin")
    if origin is None:
        return False
    # A proxy may replace Host by its own; it then passes on the browser's as X-Forwarded-Host.
    asked = f"{request_headers.get('Host', '')},{request_headers.get('X-Forwarded-Host', '')}"
    hosts = {host.strip().lower() for host in asked.split(",")} - {""}
    return origin.partition("://")[2].lower() not in hosts
