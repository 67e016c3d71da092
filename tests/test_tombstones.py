from __future__ import annotations

from odysseus.tombstones import Tombstones


def test_an_id_is_remembered_for_a_minute() -> None:
    tombstones = Tombstones()
    tombstones.add("a", 100)
    assert [tombstones.has("a", now_s) for now_s in (100, 159.9, 160)] == [True, True, False]
    assert not tombstones.has("b", 100)


def test_a_second_stop_renews_it() -> None:
    tombstones = Tombstones()
    tombstones.add("a", 100)
    tombstones.add("a", 150)
    assert [tombstones.has("a", now_s) for now_s in (209, 210)] == [True, False]


def test_there_are_at_most_ten_thousand() -> None:
    tombstones = Tombstones()
    for number in range(10_001):
        tombstones.add(str(number), 0)
    assert not tombstones.has("0", 1)
    assert all(tombstones.has(str(number), 1) for number in range(1, 10_001))
