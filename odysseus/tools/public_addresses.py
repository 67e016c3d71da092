"""Which IP addresses are public: what a tool may connect to when someone else chose the address."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_network

__all__ = ["Address", "is_public"]

Address = IPv4Address | IPv6Address

_UNICAST = ip_network("2000::/3")  # IANA has given out no other; so this leaves out all that maps or contains IPv4
_NAT64 = ip_network("64:ff9b::/96")
_REFUSED = (  # what `is_global` lets through, in one version of Python or another
    ip_network("168.63.129.16/32"),  # Azure's host, public only by its number
    ip_network("192.0.0.0/24"),  # for protocols, and Oracle's metadata
    ip_network("192.88.99.0/24"),  # relays to 6to4
    ip_network("2001::/23"),  # for protocols; Teredo, which contains IPv4, among them
    ip_network("2002::/16"),  # 6to4, which contains IPv4
    ip_network("3fff::/20"),  # for documentation
)


def is_public(address: Address) -> bool:
    """Return whether *address* is one host's on the public internet.

    An address of NAT64 is what it stands for: on networks without IPv4 it is how public hosts are reached.
    """
    if isinstance(address, IPv6Address):
        if address in _NAT64:
            return is_public(IPv4Address(address.packed[-4:]))
        if address not in _UNICAST:
            return False
    elif address.is_multicast or address.is_reserved:
        return False
    return address.is_global and not any(address in network for network in _REFUSED)
