"""The page, in headless Chromium where there is one; what it is made of, everywhere."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.serve.conftest import PROBLEM, Running

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
INSTALL = "there is no browser: pip install playwright && playwright install chromium"


def test_the_page_needs_nothing_from_elsewhere(embedded: Running) -> None:
    reply = httpx.get(embedded.url)
    assert reply.status_code == 200
    assert not re.search(r"(src|href)\s*=|@import|url\(|https?://", reply.text)
    policy = reply.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy


def test_every_field_has_a_name(embedded: Running) -> None:
    text = httpx.get(embedded.url).text
    for field in re.findall(r"<(?:textarea|input|select)\b[^>]*>", text):
        before = text[: text.index(field)]
        assert before.rfind("<label") > before.rfind("</label>"), field
    assert '<html lang="en">' in text
    assert 'role="status"' in text


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason=INSTALL)
    with playwright.sync_playwright() as tools:
        own = Path(tools.chromium.executable_path)
        if CHROMIUM is None and not own.exists():
            pytest.skip(INSTALL)
        browser = tools.chromium.launch(executable_path=CHROMIUM or own, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any, embedded: Running) -> Iterator[Any]:  # noqa: ANN401
    page = browser.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text) if "Content Security" in message.text else None)
    page.goto(embedded.url)
    page.wait_for_selector(".strategy option", state="attached")
    yield page
    page.close()
    assert problems == []


def test_two_strategies_side_by_side(page: Any) -> None:  # noqa: ANN401
    page.get_by_role("textbox", name="Problem").fill(PROBLEM)
    page.get_by_label("compare two strategies").check()
    for field in page.get_by_label("Candidates").all():
        field.fill("4")
    samples = page.get_by_label("Verifier samples")  # self-consistency asks no verifier
    assert [field.is_visible() for field in samples.all()] == [True, False]
    page.get_by_role("button", name="Search").click()
    for run in page.locator(".run").all():
        run.locator(".cost tr").nth(1).wait_for(timeout=30_000)
    assert page.locator(".run h2").all_inner_texts() == ["beam", "self-consistency"]
    assert page.locator(".answer").all_inner_texts() == ["40", "40"]
    trees = page.get_by_role("tree")
    assert trees.nth(0).get_by_role("treeitem").count() >= 4
    assert trees.nth(1).get_by_role("treeitem").count() == 4
    assert "score" in trees.nth(0).get_by_role("treeitem").first.get_attribute("aria-label")
    assert page.locator(".chosen").count() >= 2
    assert page.locator(".solution").first.inner_text().startswith("Step 1: ")
    status = page.get_by_role("status").inner_text()  # what a screen reader reads out
    assert re.fullmatch(r"beam: 40, [\d,]+ tokens; self-consistency: 40, [\d,]+ tokens", status)


def test_the_keyboard_reaches_everything(page: Any) -> None:  # noqa: ANN401
    page.get_by_label("Candidates").first.fill("4")
    page.get_by_role("textbox", name="Problem").focus()
    for _ in range(4):
        page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "go"
    page.keyboard.press("Enter")
    page.locator(".cost tr").nth(1).wait_for(timeout=30_000)
    page.get_by_role("treeitem").first.focus()
    page.keyboard.press("End")
    page.keyboard.press("Home")
    page.keyboard.press("ArrowDown")
    selected = page.locator("[aria-selected=true]")
    assert selected.count() == 1
    assert selected.evaluate("item => item === document.activeElement")
    detail = page.locator(".detail").inner_text()
    assert "What the verifier said" in detail
    assert "Judgement" in detail
    assert "checks: ran" in detail


@pytest.mark.parametrize("name", ["budget-forcing", "mcts"])
def test_any_strategy_can_be_chosen(page: Any, name: str) -> None:  # noqa: ANN401
    page.get_by_label("Strategy").first.select_option(label=name)
    page.get_by_label("Candidates").first.fill("2")
    assert page.get_by_label("Verifier samples").first.is_visible() == (name == "mcts")
    page.get_by_role("button", name="Search").click()
    run = page.get_by_role("region", name=f"Search by {name}", exact=True)
    run.locator(".cost tr, .error").first.wait_for(timeout=30_000)
    assert run.locator(".error").all_inner_texts() == []


def test_it_fits_a_narrow_window(page: Any) -> None:  # noqa: ANN401
    page.set_viewport_size({"width": 320, "height": 700})
    page.get_by_label("compare two strategies").check()
    page.get_by_role("button", name="Search").click()
    for run in page.locator(".run").all():
        run.locator(".cost tr").nth(1).wait_for(timeout=30_000)
    assert page.evaluate("document.documentElement.scrollWidth") <= 320


def test_an_error_is_shown(page: Any) -> None:  # noqa: ANN401
    page.get_by_role("textbox", name="Budget").fill("tokens=none")
    page.get_by_role("button", name="Search").click()
    page.locator(".state.error").wait_for()
    assert "is not a number" in page.locator(".state").inner_text()
    assert "is not a number" in page.get_by_role("status").inner_text()
