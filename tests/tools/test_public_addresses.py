"""Which addresses are public, by a table of those that look it and those that aren't."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from odysseus.tools.public_addresses import is_public


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("1.1.1.1", True),
        ("172.15.0.1", True),
        ("192.0.1.1", True),
        ("168.63.129.17", True),
        ("2606:4700:4700::1111", True),
        ("2a00:1450:4001:80e::200e", True),
        ("64:ff9b::1.1.1.1", True),
        ("0.0.0.0", False),
        ("0.1.2.3", False),
        ("10.1.2.3", False),
        ("100.64.0.1", False),
        ("100.100.100.200", False),
        ("127.255.255.254", False),
        ("168.63.129.16", False),
        ("169.254.169.254", False),
        ("172.16.0.1", False),
        ("192.0.0.192", False),
        ("192.0.2.1", False),
        ("192.88.99.1", False),
        ("192.168.1.1", False),
        ("198.18.0.1", False),
        ("203.0.113.1", False),
        ("224.0.0.1", False),
        ("239.255.255.250", False),
        ("240.0.0.1", False),
        ("255.255.255.255", False),
        ("::", False),
        ("::1", False),
        ("::127.0.0.1", False),
        ("::1.1.1.1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:1.1.1.1", False),
        ("64:ff9b::127.0.0.1", False),
        ("64:ff9b::168.63.129.16", False),
        ("64:ff9b:1::1.1.1.1", False),
        ("100::1", False),
        ("2001::7f00:1", False),
        ("2001:0:1:1:1:1:80ff:fffe", False),
        ("2001:db8::1", False),
        ("2002:7f00:1::1", False),
        ("2002:101:101::1", False),
        ("3fff::1", False),
        ("5f00::1", False),
        ("fc00::1", False),
        ("fd00:ec2::254", False),
        ("fe80::1", False),
        ("fe80::1%lo", False),
        ("fec0::1", False),
        ("ff02::1", False),
    ],
)
def test_public_addresses(address: str, public: bool) -> None:
    assert is_public(ip_address(address)) is public
