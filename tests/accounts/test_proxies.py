"""Which forwarding headers are believed, and from whom."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from odysseus.accounts import Identity
from odysseus.accounts.proxies import ProxyUsers, TrustedProxies
from odysseus.errors import Unauthorized
from odysseus.settings import Settings


def trusting(text: str) -> TrustedProxies:
    """Return the proxies that the setting names."""
    return TrustedProxies(Settings(trusted_proxies=text).trusted_proxies)


@pytest.mark.parametrize(
    ("proxies", "peer", "trusted"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "127.0.0.2", False),
        ("127.0.0.1", "::ffff:127.0.0.1", True),
        ("127.0.0.1", "::1", False),
        ("10.0.0.0/8", "10.255.255.255", True),
        ("10.0.0.0/8", "11.0.0.0", False),
        ("10.0.0.0/8", "::ffff:10.1.2.3", True),
        ("10.0.0.0/8, 192.168.7.1", "192.168.7.1", True),
        ("::1", "::1", True),
        ("::1", "0:0:0:0:0:0:0:1", True),
        ("2001:db8::/32", "2001:db8:ffff::1", True),
        ("2001:db8::/32", "2001:db9::1", False),
        ("fe80::/10", "fe80::1%eth0", True),
        ("::ffff:10.0.0.1", "10.0.0.1", True),
        ("::ffff:10.0.0.0/104", "10.9.9.9", True),
        ("::ffff:10.0.0.0/104", "11.9.9.9", False),
        ("::/0", "203.0.113.9", False),
        ("0.0.0.0/0", "203.0.113.9", True),
        ("0.0.0.0/0", "2001:db8::1", False),
        ("0.0.0.0/0, ::/0", None, False),
        ("0.0.0.0/0, ::/0", "", False),
        ("unix", None, True),
        ("unix", "", True),
        ("unix", "127.0.0.1", False),
        ("unix", "unix", False),
        ("", None, False),
        ("", "127.0.0.1", False),
        ("127.0.0.1", "localhost", False),
        ("127.0.0.1", "127.0.0.1:80", False),
    ],
)
def test_who_is_trusted(proxies: str, peer: str | None, trusted: bool) -> None:
    assert trusting(proxies).trusts(peer) is trusted


NEAR = "10.0.0.1"


@pytest.mark.parametrize(
    ("forwarded_for", "address"),
    [
        ([], NEAR),
        (["203.0.113.9"], "203.0.113.9"),
        (["198.51.100.1, 203.0.113.9"], "203.0.113.9"),  # the first one the client has written itself
        (["198.51.100.1, 203.0.113.9, 10.0.0.7"], "203.0.113.9"),
        (["203.0.113.9,10.0.0.7 ,\t10.0.0.8"], "203.0.113.9"),
        (["198.51.100.1", "203.0.113.9"], "203.0.113.9"),
        (["198.51.100.1", "203.0.113.9, 10.0.0.7", "10.0.0.8"], "203.0.113.9"),
        (["10.0.0.9, 10.0.0.7"], "10.0.0.9"),  # a client within the trusted network
        (["2001:db8::9"], "2001:db8::9"),
        (["2001:DB8:0:0::9"], "2001:db8::9"),
        (["::ffff:203.0.113.9"], "203.0.113.9"),
        (["203.0.113.9, ::ffff:10.0.0.7"], "203.0.113.9"),
        # Nonsense, where it matters
        ([""], NEAR),
        ([","], NEAR),
        (["203.0.113.9,"], NEAR),
        (["unknown"], NEAR),
        (["localhost"], NEAR),
        (["203.0.113.9, unknown"], NEAR),
        (["203.0.113.9, unknown, 10.0.0.7"], NEAR),
        (["203.0.113.9:1234"], NEAR),
        (["[2001:db8::9]"], NEAR),
        (["203.0.113"], NEAR),
        (["203.0.113.009"], NEAR),
        (["3405803785"], NEAR),
        (["0xcb007109"], NEAR),
        (["٢٠٣.0.113.9"], NEAR),
        (["203.0.113.9/32"], NEAR),
        (["fe80::1%eth0"], NEAR),
        (["fe80::1%a\nb<script>"], NEAR),
        (["203.0.113.9\n198.51.100.1"], NEAR),
        (["for=203.0.113.9"], NEAR),
        (["'; DROP TABLE sessions; --"], NEAR),
        # Nonsense, where it doesn't
        (["unknown, 203.0.113.9"], "203.0.113.9"),
        (["fe80::1%x, , 203.0.113.9, 10.0.0.7"], "203.0.113.9"),
        ([f"{'1.1.1.1,' * 100_000} 203.0.113.9"], "203.0.113.9"),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_the_client_behind_proxies(forwarded_for: Sequence[str], address: str) -> None:
    assert trusting("10.0.0.0/8").client_address(NEAR, forwarded_for) == address


@pytest.mark.parametrize(
    ("proxies", "peer", "address"),
    [
        ("10.0.0.0/8", "192.0.2.1", "192.0.2.1"),
        ("10.0.0.0/8", "::ffff:192.0.2.1", "192.0.2.1"),
        ("", NEAR, NEAR),
        ("10.0.0.0/8", None, "unix"),
        ("unix", None, "203.0.113.9"),
        ("unix", "", "203.0.113.9"),
        ("unix", NEAR, NEAR),
        ("10.0.0.0/8", "::ffff:10.0.0.1", "203.0.113.9"),
    ],
)
def test_the_header_counts_only_from_trusted_peers(proxies: str, peer: str | None, address: str) -> None:
    assert trusting(proxies).client_address(peer, ["203.0.113.9"]) == address


def test_a_socket_without_a_header() -> None:
    assert trusting("unix").client_address(None, []) == "unix"
    assert trusting("unix").client_address("", ["nonsense"]) == "unix"


@pytest.mark.parametrize(
    ("peer", "values", "proto"),
    [
        (NEAR, ["https"], "https"),
        (NEAR, ["HTTPS "], "https"),
        (NEAR, ["http"], "http"),
        (NEAR, [], None),
        (NEAR, [""], None),
        (NEAR, ["wss"], None),
        (NEAR, ["https, http"], None),
        (NEAR, ["https", "https"], None),
        ("192.0.2.1", ["https"], None),
        (None, ["https"], None),
    ],
)
def test_the_protocol(peer: str | None, values: Sequence[str], proto: str | None) -> None:
    assert trusting("10.0.0.0/8").forwarded_proto(peer, values) == proto


# AUTH=proxy


@pytest.mark.parametrize("name", ["alice", "alice@example.org", "Zoë", "CN=Alice, O=Odysseus"])
async def test_the_proxy_names_the_user(name: str) -> None:
    accounts = ProxyUsers(trusting("10.0.0.0/8, unix"))
    for peer in (NEAR, "::ffff:10.0.0.1", None, ""):
        assert await accounts.identify("a bearer nobody looks at", [name], peer) == Identity(name)


NAME = "the user's name is empty, or not a plain text"
LETTERS = "the user's name must be printable, and have at most 255 characters"
STRANGER = "the request didn't come from a trusted proxy"


@pytest.mark.parametrize(
    ("users", "peer", "reason"),
    [
        ([], NEAR, "the proxy didn't say who the user is"),
        ([""], NEAR, NAME),
        ([" "], NEAR, NAME),
        (["alice "], NEAR, NAME),
        (["alice", "bob"], NEAR, "the request names more than one user"),
        (["alice", "alice"], NEAR, "the request names more than one user"),
        (["", "alice"], NEAR, "the request names more than one user"),
        (["x" * 256], NEAR, LETTERS),
        (["alice\x00"], NEAR, LETTERS),
        (["ali\rce"], NEAR, LETTERS),
        (["ali\tce"], NEAR, LETTERS),
        (["ali\udcffce"], NEAR, LETTERS),
        (["ali\u202ece"], NEAR, LETTERS),
        (["alice"], "192.0.2.1", STRANGER),
        (["alice"], "127.0.0.1", STRANGER),
        (["alice"], "::1", STRANGER),
        (["alice"], None, STRANGER),
        (["alice"], "", STRANGER),
        (["alice"], "10.0.0.1.evil.example", STRANGER),
        (["alice"], "::ffff:192.0.2.1", STRANGER),
        ([], "192.0.2.1", STRANGER),
    ],
)
async def test_users_that_are_refused(users: Sequence[str], peer: str | None, reason: str) -> None:
    with pytest.raises(Unauthorized) as refused:
        await ProxyUsers(trusting("10.0.0.0/8")).identify("ody_x", users, peer)
    assert str(refused.value) == reason
