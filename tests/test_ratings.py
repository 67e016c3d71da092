"""Ratings: they follow the games, and say how sure they are."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from odysseus.ratings import Rating, Record, rate

NAMES = "abcdef"
RECORDS = st.lists(
    st.builds(
        lambda pair, wins, ties: Record(*pair, wins, ties),
        st.permutations(NAMES).map(lambda names: names[:2]),
        st.integers(0, 40),
        st.integers(0, 40),
    ),
    max_size=12,
)


def by_model(records: Sequence[Record]) -> dict[str, Rating]:
    return {rating.model: rating for rating in rate(records)}


def renamed(records: Sequence[Record], names: dict[str, str]) -> list[Record]:
    return [Record(names[one.first], names[one.second], one.wins, one.ties) for one in records]


def width(rating: Rating) -> float:
    return rating.high - rating.low


def test_nobody_has_played() -> None:
    assert rate([]) == []


def test_a_known_example() -> None:
    """Three wins for each loss are 400 log10 3 = 190.8 points; with so many games the prior is nearly nothing."""
    best, worst = rate([Record("b", "a", wins=75_000), Record("a", "b", wins=25_000)])
    assert (best.model, best.games, best.wins, best.losses, best.ties) == ("b", 100_000, 75_000, 25_000, 0)
    assert (worst.model, worst.wins, worst.losses) == ("a", 25_000, 75_000)
    assert best.rating - worst.rating == pytest.approx(400 * math.log10(3), abs=0.3)
    assert best.rating + worst.rating == pytest.approx(2000, abs=0.2)


def test_a_known_interval() -> None:
    """The variance of the log odds of n games is 1 / (n p (1 - p)); each of two models has half of the difference."""
    one, _ = rate([Record("a", "b", wins=75_000), Record("b", "a", wins=25_000)])
    deviation = math.sqrt(1 / (100_000 * 0.75 * 0.25)) / 2
    assert width(one) / 2 == pytest.approx(1.96 * deviation * 400 / math.log(10), abs=0.1)


def test_a_tie_is_half_a_win_for_each() -> None:
    ties = by_model([Record("a", "b", ties=20), Record("b", "c", wins=5)])
    wins = by_model([Record("a", "b", wins=10), Record("b", "a", wins=10), Record("b", "c", wins=5)])
    for model in "abc":
        assert (ties[model].rating, ties[model].low) == (wins[model].rating, wins[model].low)
    assert (ties["a"].games, ties["a"].ties, ties["a"].wins) == (20, 20, 0)


@pytest.mark.parametrize("games", [1, 10, 1_000_000])
def test_who_always_won_is_finite(games: int) -> None:
    best, worst = rate([Record("a", "b", wins=games)])
    assert best.model == "a"
    assert 1000 < best.rating < 3500
    assert best.low < best.rating < best.high
    assert worst.rating == pytest.approx(2000 - best.rating, abs=0.2)


def test_more_wins_without_a_loss_are_better() -> None:
    assert rate([Record("a", "b", wins=1)])[0].rating < rate([Record("a", "b", wins=9)])[0].rating - 100


def test_models_that_never_met_are_compared_by_others() -> None:
    """a beats b as often as b beats c: a is twice as far from c as from b."""
    records = [Record("a", "b", 600), Record("b", "a", 400), Record("b", "c", 600), Record("c", "b", 400)]
    a, b, c = rate(records)
    assert [a.model, b.model, c.model] == ["a", "b", "c"]
    assert a.rating - b.rating == pytest.approx(400 * math.log10(1.5), abs=1)
    assert a.rating - c.rating == pytest.approx(800 * math.log10(1.5), abs=2)


def test_two_that_no_game_joins() -> None:
    assert [one.model for one in rate([Record("a", "b", 9), Record("c", "d", 9)])] == ["a", "c", "b", "d"]


@given(RECORDS)
@settings(deadline=None)
def test_it_adds_up(records: list[Record]) -> None:
    ratings = rate(records)
    assert {one.model for one in ratings} == {model for one in records for model in (one.first, one.second)}
    assert [one.rating for one in ratings] == sorted((one.rating for one in ratings), reverse=True)
    assert sum(one.wins for one in ratings) == sum(one.losses for one in ratings) == sum(one.wins for one in records)
    assert sum(one.ties for one in ratings) == 2 * sum(one.ties for one in records)
    for one in ratings:
        assert one.games == one.wins + one.losses + one.ties
        assert one.low < one.rating < one.high
        assert math.isfinite(one.high - one.low)
    if ratings:
        assert sum(one.rating for one in ratings) / len(ratings) == pytest.approx(1000, abs=0.2)


@given(RECORDS, st.permutations(NAMES), st.randoms())
@settings(deadline=None)
def test_names_and_order_say_nothing(records: list[Record], names: list[str], random: object) -> None:
    other = dict(zip(NAMES, names, strict=True))
    before, after = by_model(records), by_model(renamed(records[::-1], other))
    for model, rating in before.items():
        same = after[other[model]]
        assert (rating.rating, rating.low, rating.high) == pytest.approx((same.rating, same.low, same.high), abs=0.11)


@given(RECORDS)
@settings(deadline=None)
def test_wins_and_losses_mirror(records: list[Record]) -> None:
    before = by_model(records)
    after = by_model([Record(one.second, one.first, one.wins, one.ties) for one in records])
    for model, rating in before.items():
        assert rating.rating - 1000 == pytest.approx(1000 - after[model].rating, abs=0.11)


@given(RECORDS, st.integers(0, 5))
@settings(deadline=None)
def test_one_more_win_never_hurts(records: list[Record], number: int) -> None:
    winner, loser = NAMES[number], NAMES[number - 1]
    before = by_model([*records, Record(winner, loser)])
    after = by_model([*records, Record(winner, loser, wins=1)])
    assert after[winner].rating > before[winner].rating - 0.11
    assert after[loser].rating < before[loser].rating + 0.11


@given(RECORDS)
@settings(deadline=None)
def test_more_of_the_same_is_surer(records: list[Record]) -> None:
    """Of those who neither always won nor always lost: they move on with each game, to where games tell less."""
    both_ways = [*records, *(Record(one.second, one.first, one.wins, one.ties) for one in records)]
    before, after = by_model(both_ways), by_model(both_ways * 10)
    for model, rating in before.items():
        if rating.games:
            assert width(after[model]) < width(rating)
