"""Who may use the explorer: pages that came from it, in a browser that was sent to this address.

A page of another site can make a browser send requests here. Requests that tell such an origin are
refused. A name of that site's which is made to mean this machine (DNS rebinding) gives requests the
right origin and the wrong host, and those are refused, too.
"""

from __future__ import annotations

import ipaddress
import re

from headstream.access.loopback import is_loopback
from headstream.server.http import Request

_HOST = re.compile(r"(?:\[([^\[\]]+)\]|([^:\[\]]+))(?::[0-9]+)?")
_OWN_SITES = ("same-origin", "none")  # of Sec-Fetch-Site; none: a person typed the address


def why_refused(request: Request, address: str) -> str | None:
    """Why a request to a port on `address` is refused, or None."""
    host = request.headers.get("host", "")
    name = _name_of(host)
    if name is None or not _is_own(name, address.lower()):
        return f"the host {host!r} is neither loopback nor the address of this port"
    origin = request.headers.get("origin")
    if origin is not None and origin.lower() != f"http://{host}".lower():
        return f"the origin {origin!r} is not this page's"
    site = request.headers.get("sec-fetch-site", _OWN_SITES[0])
    if site not in _OWN_SITES and request.method != "GET":
        return "the request comes from another site"
    return None


def _name_of(host: str) -> str | None:
    """A Host header without its port; None: it is not a host and a port."""
    found = _HOST.fullmatch(host.lower())
    return found and (found[1] or found[2])


def _is_own(name: str, address: str) -> bool:
    if is_loopback(name) or name == address:
        return True
    try:
        # Listening on every address, any of them may be meant. Names stay refused.
        return ipaddress.ip_address(address).is_unspecified and bool(ipaddress.ip_address(name))
    except ValueError:
        return False
