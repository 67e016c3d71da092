"""Trusted proxies: what a request's forwarding headers say is believed only where one of ours has sent them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Literal

from odysseus.accounts import Identity, checked_owner
from odysseus.errors import Unauthorized

__all__ = ["ProxyUsers", "TrustedProxies"]

_UNIX: Literal["unix"] = "unix"
_MAPPED = IPv6Network("::ffff:0:0/96")  # how a socket for both protocols names an IPv4 address


class TrustedProxies:
    """*proxies* are networks; `"unix"` stands for whoever connects to a Unix socket, which has no address.

    A *peer* is the address of whoever is connected to us, None or empty at a Unix socket. A header is given as all its
    values, in the order in which they came.
    """

    def __init__(self, proxies: Iterable[IPv4Network | IPv6Network | Literal["unix"]]) -> None:
        proxies = list(proxies)
        self._unix = _UNIX in proxies
        self._networks = [_unmapped(proxy) for proxy in proxies if not isinstance(proxy, str)]

    def trusts(self, peer: str | None) -> bool:
        if not peer:
            return self._unix
        address = _address(peer)
        return address is not None and self._is_ours(address)

    def client_address(self, peer: str | None, forwarded_for: Sequence[str]) -> str:
        """Return the address of who asks: behind trusted proxies, the last in `X-Forwarded-For` that isn't one of them.

        What stands before it, anybody can have written. Where all are trusted it is the first; where one that
        matters isn't an address, it is the peer. A Unix socket's peer is called `unix`.
        """
        client = nearest = str(_address(peer) or peer) if peer else _UNIX
        hops = ",".join(forwarded_for).split(",") if forwarded_for and self.trusts(peer) else []
        for hop in reversed(hops):
            address = _address(hop.strip())
            if address is None or "%" in hop:  # a zone is of one machine, and may be any text
                return nearest
            client = str(address)
            if not self._is_ours(address):
                break
        return client

    def forwarded_proto(self, peer: str | None, values: Sequence[str]) -> Literal["http", "https"] | None:
        """Return what a trusted proxy's `X-Forwarded-Proto` says; None if it says nothing clear."""
        if not self.trusts(peer) or len(values) != 1:
            return None
        value = values[0].strip().lower()
        return "https" if value == "https" else "http" if value == "http" else None

    def _is_ours(self, address: IPv4Address | IPv6Address) -> bool:
        return any(address in network for network in self._networks)


class ProxyUsers:
    """`AUTH=proxy`: a trusted proxy has authenticated the user, and names them in a header."""

    def __init__(self, proxies: TrustedProxies) -> None:
        self._proxies = proxies

    async def identify(self, bearer: str | None, users: Sequence[str], peer: str | None) -> Identity:
        if not self._proxies.trusts(peer):
            raise Unauthorized("the request didn't come from a trusted proxy")
        if not users:
            raise Unauthorized("the proxy didn't say who the user is")
        if len(users) > 1:  # the proxy's own, and one that it should have removed
            raise Unauthorized("the request names more than one user")
        return Identity(checked_owner(users[0]))


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _unmapped(network: IPv4Network | IPv6Network) -> IPv4Network | IPv6Network:
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        return IPv4Network((int(network.network_address) & 0xFFFFFFFF, network.prefixlen - _MAPPED.prefixlen))
    return network
