"""The page's files: what is answered, to whom, and with which headers. How they behave is tested in `tests/page`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.web.conftest import Serve, Service

STATIC = Path(__file__).parents[2] / "odysseus" / "web" / "static"
FILES = sorted(path.name for path in STATIC.iterdir())
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


@pytest.mark.parametrize("path", ["/", "/leaderboard", *(f"/static/{name}" for name in FILES)])
async def test_every_file_comes_with_its_type_and_the_headers(service: Service, path: str) -> None:
    answer = await service.call("GET", path)
    assert answer.status == 200
    name = {"/": "index.html", "/leaderboard": "leaderboard.html"}.get(path) or path.rpartition("/")[2]
    assert answer.headers["Content-Type"].split(";")[0] == TYPES[Path(name).suffix]
    policy = dict(part.split(" ", 1) for part in answer.headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == policy["base-uri"] == policy["frame-ancestors"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert "unsafe" not in answer.headers["Content-Security-Policy"]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert answer.headers["Cache-Control"] == "no-cache"
    again = await service.call("GET", path, headers={"If-None-Match": answer.headers["ETag"]})
    assert (again.status, again.body) == (304, b"")
    assert again.headers["Content-Security-Policy"] == answer.headers["Content-Security-Policy"]


async def test_it_is_open_to_everybody(serve: Serve, tmp_path: Path) -> None:
    service = await serve(data_dir=tmp_path / "own", auth="token")
    for path in ("/", "/leaderboard", "/static/app.js"):
        assert (await service.call("GET", path)).status == 200
    assert (await service.call("GET", "/api/models")).status == 401


@pytest.mark.parametrize(
    "name", ["nothing.js", "..%2Fpage.py", "%2E%2E%2F%2E%2E%2Fpage.py", "__init__.py", "app.js%00", ""]
)
async def test_nothing_else_comes_out(service: Service, name: str) -> None:
    assert (await service.call("GET", f"/static/{name}")).status == 404


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith(".html")])
def test_no_document_has_anything_inline(name: str) -> None:
    text = (STATIC / name).read_text()
    assert not re.search(r"\sstyle=|\son\w+=|<style|javascript:", text)
    assert re.findall(r"<script[^>]*>([^<]*)</script>", text) == [""]
    assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//""", text)  # nothing from other hosts


def test_every_file_that_is_named_is_there() -> None:
    for path in STATIC.iterdir():
        for name in re.findall(r"""["'](?:/static|\.)/([\w.]+)["']""", path.read_text()):
            assert (STATIC / name).exists(), f"{path.name} names {name}"
    sprite = set(re.findall(r'symbol id="(i-\w+)"', (STATIC / "index.html").read_text()))
    named = {
        f"i-{name}"
        for path in STATIC.glob("*.js")
        for name in re.findall(r'(?:icon|iconButton|labelled)\("(\w+)"', path.read_text())
    }
    named |= set(re.findall(r'href="#(i-\w+)"', (STATIC / "index.html").read_text()))
    assert named == sprite
