from __future__ import annotations

import math

import pytest

from odysseus.rates import Rates


def test_a_minutes_worth_at_once() -> None:
    rates = Rates(60)
    assert [rates.take("ann", 5.0) for _ in range(60)] == [0.0] * 60
    assert rates.take("ann", 5.0) == pytest.approx(1)
    assert rates.take("ann", 5.75) == pytest.approx(0.25)
    assert rates.take("ann", 6.0) == 0
    assert rates.take("ann", 6.0) == pytest.approx(1)
    assert rates.refused == 3


def test_each_key_has_its_own() -> None:
    rates = Rates(1)
    assert (rates.take("ann", 0), rates.take("bob", 0)) == (0, 0)
    assert rates.take("ann", 0) == rates.take("bob", 0) == pytest.approx(60)


def test_no_more_than_a_minutes_worth_is_saved_up() -> None:
    rates = Rates(2)
    for now_s in (0.0, 10_000.0):
        assert [rates.take("ann", now_s) > 0 for _ in range(3)] == [False, False, True]


@pytest.mark.parametrize("per_minute", [1, 7, 59, 60, 61, 600, 100_000])
def test_whoever_waits_as_long_as_told_is_let_through(per_minute: int) -> None:
    """However often they asked meanwhile, and with what header fields can say: whole seconds, rounded up."""
    rates, now_s = Rates(per_minute), 1234.567
    for _ in range(per_minute):
        assert rates.take("ann", now_s) == 0
    for _ in range(20):
        while (wait_s := rates.take("ann", now_s)) == 0:
            pass
        assert 0 < wait_s <= 60
        assert rates.take("ann", now_s + wait_s / 3) > 0
        assert rates.take("ann", now_s + wait_s * 2 / 3) > 0
        now_s += math.ceil(wait_s)
        assert rates.take("ann", now_s) == 0


def test_over_a_long_time_it_is_the_rate() -> None:
    rates = Rates(600)
    let_through = sum(rates.take("ann", step / 100) == 0 for step in range(6001 * 10))
    assert let_through == pytest.approx(600 * 11, abs=2)  # ten minutes, and the minute that was saved up


def test_the_key_that_came_least_recently_is_forgotten() -> None:
    rates = Rates(1, most=2)
    for now_s, key in enumerate(("ann", "bob", "ann", "cid")):  # a refusal is a coming, too
        rates.take(key, now_s)
    assert rates.take("ann", 4) > 0
    assert rates.take("bob", 4) == 0
    assert len(rates._buckets) == 2
