"""Which pages of other origins may call the endpoint, and the headers that tell it to browsers."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from werkzeug.datastructures import Headers

from ._hosts import is_own_origin, origin_in_ascii

_PREFLIGHT_MAX_AGE = "600"  # seconds
_OWN_SITES = ("same-origin", "none")
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#@\s]+")
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


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
        return cls(frozenset(_given_origin(origin) for origin in origins or ()))

    def allows(self, origin: str | None) -> bool:
        """Say whether a page of this origin may call the endpoint and read the answer."""
        return self.origins is None or origin in self.origins

    def refuses(self, request_headers: Headers, *, is_link: bool = False) -> bool:
        """Say whether a browser sends this for a page of another site that isn't allowed.

        A browser lets any page post plain text to any site, with the cookies of that site. It says
        whose page it is in `Origin`, which is compared with the host that was asked. Most also say
        it in `Sec-Fetch-Site`, but not to plain HTTP; so that can refuse a request, and never
        excuse it. A page can forge neither.

        With `is_link` the request is one that any site may link to or show, as an image is:
        browsers send no `Origin` with it, so `Sec-Fetch-Site` doesn't count.
        """
        origins = request_headers.getlist("Origin")
        if any(not self._trusts(origin, request_headers) for origin in origins):
            return True
        if self.origins is None and "Cookie" in request_headers:
            # A page can't read the answer to a request with cookies, but would be obeyed.
            return any(not is_own_origin(origin, request_headers) for origin in origins)
        site = request_headers.get("Sec-Fetch-Site", "none")
        is_listed = bool(origins) and all(self.allows(origin) for origin in origins)
        return site not in _OWN_SITES and not (is_link or is_listed or self.origins is None)

    def _trusts(self, origin: str, request_headers: Headers) -> bool:
        return self.allows(origin) or is_own_origin(origin, request_headers)

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

    def preflight_headers(self, request_headers: Headers, methods: str) -> dict[str, str]:
        """Return the headers that allow the request which the browser is about to send."""
        if not self.allows(request_headers.get("Origin")):
            return {}
        return {
            "Access-Control-Allow-Methods": methods,
            "Access-Control-Allow-Headers": request_headers.get(
                "Access-Control-Request-Headers", "content-type"
            ),
            "Access-Control-Max-Age": _PREFLIGHT_MAX_AGE,
        }


def _given_origin(given: str) -> str:
    origin = origin_in_ascii(given.strip().rstrip("/").lower())
    if _ORIGIN.fullmatch(origin) is None:
        # "null" is one of these: every sandboxed frame of anybody has that origin.
        raise ValueError(
            "cors_origins must be origins, scheme and host and no path, such as"
            f" 'https://shop.example', and one is {given!r}"
        )
    return origin.removesuffix(_DEFAULT_PORTS.get(origin.partition("://")[0], "/"))
