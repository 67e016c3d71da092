"""Who asks: where the service wants a token, the page asks for it, once."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from playwright.async_api import Browser, expect

from tests.fake_upstream import say
from tests.page.axe import check
from tests.page.pages import visiting
from tests.process.models import Models
from tests.process.service import APP, REPOSITORY, environment, serving

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="package")]


def new_token(folder: Path) -> str:
    added = subprocess.run(
        [*APP, "token", "add", "alice"],
        cwd=REPOSITORY,
        env={"PATH": "", **environment(None, folder, {"auth": "token"})},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return added.stdout.strip()


async def test_a_token_lets_in_and_a_logout_out(browser: Browser, models: Models, tmp_path: Path) -> None:
    async with serving(models, tmp_path, auth="token") as service, visiting(browser, service.port) as visit:
        token = new_token(tmp_path)
        chat = await visit.chat()
        login = chat.page.get_by_role("dialog", name="Log in")
        await expect(login).to_be_visible()
        await check(chat.page, "login")
        await login.get_by_label("API token").fill("ody_wrong")
        await login.get_by_label("API token").press("Enter")
        await expect(login.get_by_role("alert")).to_have_text("The service doesn't know this token.")
        await login.get_by_label("API token").fill(token)
        await login.get_by_role("button", name="Log in").click()
        await expect(login).to_be_hidden()
        await chat.send(models.plan(say("Hello, Alice.")))
        await chat.shows("Hello, Alice.")
        await chat.ended()
        await chat.page.reload()
        await chat.shows("Hello, Alice.")
        assert token not in await chat.page.evaluate("() => document.cookie + JSON.stringify(localStorage)")
        await chat.page.get_by_role("button", name="Log out").click()
        await expect(login).to_be_visible()
        await expect(chat.answers).to_have_count(0)
