"""What the README promises and the code decides."""

from __future__ import annotations

from odysseus.application import ROUTES
from tests.readme import README, with_settings


def test_the_table_of_settings_is_that_of_the_code() -> None:
    assert README.read_text() == with_settings(README.read_text()), "run `make readme`"


def test_every_route_is_named() -> None:
    text = README.read_text()
    for route in ROUTES:
        assert f"`{route.method} {route.path}`" in text or f"`{route.path}`" in text, route.path
