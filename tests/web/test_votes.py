"""Votes, the list of compares, and what becomes of them: the leaderboard."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from odysseus.web.routes import SERVICE
from tests.accounts.forge import SECRET, claims, hs256
from tests.fake_upstream import FakeUpstream, say
from tests.web.conftest import Answer, Serve, Service


async def ended(service: Service, *models: str, **fields: Any) -> dict[str, Any]:
    """Make a compare, and let every pane end."""
    compare = await service.compare(*models, **({"blind": True} | fields))
    for pane in compare["panes"]:
        await (await service.open("GET", pane["stream"])).rest()
    return compare


async def vote(service: Service, compare: dict[str, Any], winner: Any) -> Answer:
    return await service.call("POST", f"/api/compare/{compare['compare_id']}/vote", {"winner": winner})


async def number_of(service: Service, compare: dict[str, Any], model: str | None) -> Any:
    """Return the number of *model*'s pane, which only the database knows; None has none."""
    stored = await service.app[SERVICE].store.compare(compare["compare_id"], "")
    return "tie" if model is None else next(pane.number for pane in stored.panes if pane.model == model)


@pytest.mark.parametrize("winner", [0, 1, "tie"])
async def test_a_vote(service: Service, winner: Any) -> None:
    compare = await ended(service, "m", "n")
    first = await vote(service, compare, winner)
    assert first.status == 200
    assert {pane["model"] for pane in first.body["panes"]} == {"m", "n"}
    assert first.body == {
        "compare_id": compare["compare_id"],
        "winner": winner,
        "panes": [
            {"pane": 0, "label": "A", "model": first.body["panes"][0]["model"]},
            {"pane": 1, "label": "B", "model": first.body["panes"][1]["model"]},
        ],
    }
    again = await vote(service, compare, winner)
    assert (again.status, again.body) == (200, first.body)
    other = await vote(service, compare, "tie" if winner != "tie" else 0)
    assert (other.status, other.error["code"]) == (409, "already_voted")
    shown = await service.get(f"/api/compare/{compare['compare_id']}")
    assert (shown["blind"], shown["revealed"], shown["winner"]) == (True, True, winner)
    assert [pane["model"] for pane in shown["panes"]] == [pane["model"] for pane in first.body["panes"]]
    [head] = (await service.get("/api/compare"))["compares"]
    assert head["winner"] == winner


@pytest.mark.parametrize("winner", [2, -1, 0.5, True, None, "0", "A", "TIE", "", [0], 2**62])
async def test_votes_that_are_none(service: Service, winner: Any) -> None:
    answer = await vote(service, await ended(service, "m", "n"), winner)
    assert (answer.status, answer.error["code"]) == (422, "invalid_field")
    assert answer.error["field"].startswith("winner")


async def test_refused_votes(service: Service, upstream: FakeUpstream) -> None:
    open_ = await ended(service, "m", "n", blind=False)
    answer = await vote(service, open_, 0)
    assert (answer.status, answer.error["code"]) == (409, "not_blind")
    answer = await vote(service, {"compare_id": "cmp_9"}, 0)
    assert (answer.status, answer.error["code"]) == (404, "not_found")
    upstream.script = say("Hi", done=False)
    compare = await service.compare("m", "n", blind=True)
    streams = []
    for pane in (None, *compare["panes"]):
        if pane is not None:
            streams.append(await service.open("GET", pane["stream"]))
            await streams[-1].said("Hi")
        answer = await vote(service, compare, 0)
        assert (answer.status, answer.error["code"]) == (409, "not_ended")
    for stream in streams:
        await service.stop(stream.session_id)
    assert (await vote(service, compare, 0)).status == 200


async def test_one_of_many_votes_counts(service: Service) -> None:
    compare = await ended(service, "m", "n")
    answers = await asyncio.gather(*(vote(service, compare, number % 2) for number in range(10)))
    assert sorted(answer.status for answer in answers) == [200] * 5 + [409] * 5
    assert (await service.get("/api/leaderboard"))["votes"] == 1


async def test_the_leaderboard(service: Service) -> None:
    assert await service.get("/api/leaderboard") == {"votes": 0, "models": []}
    for model in ("m", "m", "m", "n", None):
        compare = await ended(service, "m", "n")
        seen = await vote(service, compare, await number_of(service, compare, model))
        assert seen.status == 200
    board = await service.get("/api/leaderboard")
    assert board["votes"] == 5
    m, n = board["models"]
    assert {key: m[key] for key in ("model", "games", "wins", "losses", "ties")} == {
        "model": "m", "games": 5, "wins": 3, "losses": 1, "ties": 1,
    }  # fmt: skip
    assert (n["model"], n["games"], n["wins"], n["losses"], n["ties"]) == ("n", 5, 1, 3, 1)
    assert m["rating"] > 1000 > n["rating"]
    for one in (m, n):
        assert one["low"] < one["rating"] < one["high"]


async def test_the_list(service: Service) -> None:
    assert await service.get("/api/compare") == {"compares": []}
    made = [await service.compare("m", "n", message=str(number), blind=number == 1) for number in range(3)]
    found = (await service.get("/api/compare"))["compares"]
    assert [(one["compare_id"], one["prompt"], one["blind"], one["winner"]) for one in found] == [
        (compare["compare_id"], str(number), number == 1, None) for number, compare in reversed(list(enumerate(made)))
    ]
    assert set(found[0]) == {"compare_id", "prompt", "blind", "winner", "created_at"}
    page = await service.get(f"/api/compare?limit=1&before={found[0]['compare_id']}")
    assert page["compares"] == found[1:2]
    for query, status in (("?limit=0", 422), ("?limit=x", 422), ("?before=cmp_9", 404)):
        assert (await service.call("GET", f"/api/compare{query}")).status == status


async def test_everybody_has_compares_of_their_own(serve: Serve) -> None:
    """And one leaderboard together."""
    service = await serve(auth="jwt", auth_jwt_secret=SECRET)

    async def call(owner: str, method: str, path: str, json: Any = None) -> Answer:
        headers = {"Authorization": f"Bearer {hs256(claims(sub=owner))}"}
        return await service.call(method, path, json, headers=headers)

    body = {"message": "Hi", "models": ["m", "n"], "blind": True}
    made = (await call("ann", "POST", "/api/compare", body)).body
    for pane in made["panes"]:
        await call("ann", "GET", pane["stream"])
    path = f"/api/compare/{made['compare_id']}"
    assert (await call("bob", "GET", "/api/compare")).body == {"compares": []}
    assert (await call("bob", "GET", f"/api/compare?before={made['compare_id']}")).status == 404
    assert (await call("bob", "POST", f"{path}/vote", {"winner": 0})).status == 404
    assert (await call("ann", "POST", f"{path}/vote", {"winner": 0})).status == 200
    assert (await call("bob", "POST", f"{path}/vote", {"winner": 0})).status == 404
    assert (await call("bob", "GET", "/api/leaderboard")).body["votes"] == 1
