"""The operator's page in a real Chromium, before a real fleet: what an operator sees, does and is refused."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import yaml
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Locator, Page, expect

from tests.page.chromium import chromium
from tests.page.seen import Seen, browser_of, enter, seen_fleet

VIEWS = ("Fleet", "Traffic", "Requests", "Learning", "Models", "Configuration")
PATIENCE_MS = 20_000

found = chromium()
if found is None:
    pytest.skip("no Chromium: install one, or npm and `make chromium`", allow_module_level=True)

expect.set_options(timeout=PATIENCE_MS)


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    with seen_fleet(tmp_path_factory.mktemp("fleet")) as started:
        yield started


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    assert found is not None
    with browser_of(found) as started:
        yield started


@contextmanager
def visit(browser: Browser, seen: Seen, **options: Any) -> Iterator[Page]:
    """The page, before anybody has said who he is. Nothing may come from elsewhere, and no script may fail."""
    with browser.new_context(base_url=f"http://{seen.address}", locale="en-US", **options) as context:
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        wrong: list[str] = []
        asked: list[str] = []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        page.on("request", lambda request: asked.append(request.url))
        # It runs as any clock does, and can be put forward: every timer of the page is then one of ours.
        page.clock.install()
        page.goto("/")
        yield page
        assert not [text for text in wrong if "status of 40" not in text], "but refusals, which the browser notes, too"
        assert all(url.startswith(f"http://{seen.address}/") for url in asked)
        assert not context.cookies()


@pytest.fixture
def page(browser: Browser, seen: Seen) -> Iterator[Page]:
    """The page as an operator has it before him."""
    with visit(browser, seen) as opened:
        enter(opened, seen.operator)
        expect(opened.get_by_role("heading", name="Fleet")).to_be_visible()
        yield opened


def go(page: Page, view: str) -> None:
    page.get_by_role("navigation", name="Views").get_by_role("link", name=view).click()
    expect(page.get_by_role("heading", name=view, exact=True)).to_be_focused()


def row(page: Page, caption: str, name: str) -> Locator:
    return (
        page.get_by_role("table", name=caption)
        .get_by_role("row")
        .filter(has=page.get_by_role("rowheader", name=name, exact=True))
    )


def answer_to(page: Page, button: str) -> None:
    """Click a button of the question that was asked."""
    page.get_by_role("dialog").get_by_role("button", name=button, exact=True).click()
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_nobody_sees_anything_without_the_role(browser: Browser, seen: Seen) -> None:
    with visit(browser, seen) as page:
        expect(page.get_by_role("heading", name="Who are you?")).to_be_visible()
        expect(page.get_by_label("Token")).to_be_focused()
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.clock.run_for(10_000)
        assert not asked, "no refusals are counted while somebody looks for a token"
        for token, why in (("forerun_wrong", "not known"), (seen.caller, "role is call"), (seen.operator, "")):
            expect(page.get_by_role("navigation")).to_be_hidden()
            expect(page.get_by_role("button", name="kill switch")).to_be_hidden()
            enter(page, token)
            if why:
                expect(page.get_by_role("alert").filter(has_text=why)).to_be_visible()
        expect(row(page, "Workers", "target")).to_contain_text("serving")
        expect(row(page, "Workers", "code")).to_contain_text("serving")

        page.get_by_role("button", name="Forget the token").click()
        expect(page.get_by_role("heading", name="Who are you?")).to_be_visible()
        page.reload()
        expect(page.get_by_role("heading", name="Who are you?")).to_be_visible()


def test_traffic_is_shown_as_it_comes_until_it_is_paused(page: Page, seen: Seen) -> None:
    go(page, "Traffic")
    in_all = row(page, "Rounds in the window", "code").get_by_role("cell").nth(5)
    for _ in range(2):
        seen.answer()
        rounds = counted(seen, "code")
        expect(in_all).to_have_text(f"{rounds:,}")
    pause = page.get_by_role("button", name="Pause")
    pause.click()
    expect(pause).to_have_attribute("aria-pressed", "true")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    seen.answer()
    page.clock.run_for(10_000)
    assert not asked
    expect(in_all).to_have_text(f"{rounds:,}")

    pause.click()
    expect(in_all).to_have_text(f"{counted(seen, 'code'):,}")
    expect(page.get_by_role("img", name="Tokens per second of a request")).to_be_visible()


def counted(seen: Seen, drafters: str) -> int:
    """Rounds with these drafters, as the controller counts them."""
    return sum(arm.rounds for arm in seen.fleet.show().arms if list(arm.drafters) == [drafters])


def test_a_request_is_opened_round_by_round_with_its_trees(page: Page, seen: Seen) -> None:
    answer = seen.answer(seen.open_caller, request_id="of/an open tenant", explain=True)
    go(page, "Requests")
    page.get_by_role("link", name="Open request of/an open tenant").click()
    expect(page.get_by_role("heading", name="Request of/an open tenant")).to_be_focused()

    rounds = page.get_by_role("main").locator("li > details")
    expect(rounds).to_have_count(len(answer.rounds))
    for place, report in enumerate(answer.rounds):
        card = rounds.nth(place)
        came = f"kept {len(report.accepted)} of {len(report.tree)}" if len(report.tree) else "plain decoding"
        expect(card.locator("summary").first).to_contain_text(came)
        if place:
            card.locator("summary").first.click()
        expect(card).to_contain_text(report.decision.explanation)
        expect(card.locator(".node.kept")).to_have_count(len(report.accepted))
        expect(card.locator(".node.refused")).to_have_count(len(report.tree) - len(report.accepted))
    first = rounds.first
    first.get_by_text("As a table").click()
    shown = [cell.inner_text() for cell in first.get_by_role("table").locator("tbody td:nth-child(5)").all()]
    assert shown == [visible(text) for text in answer.rounds[0].node_texts]


def visible(text: str) -> str:
    """As the page shows white space."""
    return text.replace(" ", "·").replace("\n", "⏎").replace("\t", "→") or "∅"


def test_texts_that_nobody_may_keep_are_not_even_sent(page: Page, seen: Seen) -> None:
    answer = seen.answer(request_id="of a closed tenant", explain=True)
    go(page, "Requests")
    with page.expect_response("**/RouterService/Explain") as response:
        page.get_by_role("link", name="Open request of a closed tenant").click()

    expect(page.get_by_text("The texts of this tenant are not shown")).to_be_visible()
    expect(page.locator(".node.kept, .node.refused").first).to_contain_text("rank 1")
    told = response.value.json()
    assert len(told["rounds"]) == len(answer.rounds)
    assert not any(report["node_texts"] or report["extra_text"] for report in told["rounds"])
    trees = [list(report.tree.token_ids) for report in answer.rounds]
    assert [report["tree"]["token_ids"] for report in told["rounds"] if "tree" in report] != trees


def test_a_version_is_compared_promoted_and_rolled_back(page: Page, seen: Seen) -> None:
    one, two = seen.publish(1), seen.publish(2)
    go(page, "Models")
    page.get_by_role("combobox", name="From").select_option(str(one))
    page.get_by_role("combobox", name="to", exact=True).select_option(str(two))
    page.get_by_role("button", name="Compare").click()
    expect(row(page, "What was measured of them", "gain")).to_contain_text("1.1")
    assert page.get_by_role("table", name="Tables of numbers that differ").get_by_role("row").count() > 1

    for version in (one, two):
        page.get_by_role("button", name=f"Promote version {version}").click()
        answer_to(page, "Promote")
        expect(page.get_by_role("status")).to_have_text(f"Version {version} is in charge.")
        expect(row(page, "Versions", str(version))).to_contain_text("yes")
        assert seen.history().active == version
    before = seen.history().before
    page.get_by_role("button", name=f"Roll back to version {before}").click()
    answer_to(page, "Roll back")
    expect(page.get_by_role("status")).to_have_text(f"Version {before} is in charge again.")
    expect(row(page, "Versions", str(before))).to_contain_text("yes")
    assert seen.history().active == before


def test_the_kill_switch_asks_first_and_then_stops_all_speculation(page: Page, seen: Seen) -> None:
    def drafted() -> int:
        return seen.answer().acceptance.num_draft_tokens

    switch = page.get_by_role("button", name="Engage the kill switch")
    switch.click()
    answer_to(page, "Cancel")
    assert drafted() > 0
    switch.click()
    answer_to(page, "Engage")
    expect(page.get_by_text("Kill switch engaged: nothing is speculated")).to_be_visible()
    assert drafted() == 0
    page.get_by_role("button", name="Release the kill switch").click()
    answer_to(page, "Release")
    expect(page.get_by_text("Policy static, mode apply")).to_be_visible()
    assert drafted() > 0


def test_configuration_and_acts_are_told(page: Page, seen: Seen) -> None:
    page.get_by_label("Policy where a request names none").select_option("none")
    page.get_by_role("button", name="Put in charge").click()
    answer_to(page, "Put in charge")
    expect(page.get_by_text("Policy none, mode apply")).to_be_visible()
    settings = yaml.safe_load(seen.file.read_text())
    settings["router"] = {"exploration": 0.25}
    seen.file.write_text(yaml.safe_dump(settings))
    go(page, "Configuration")
    page.get_by_role("button", name="Read the file now").click()

    changes = page.get_by_role("table", name="Changes of")
    expect(changes.get_by_role("row").nth(1)).to_have_text("router.exploration1.00.25")
    expect(page.get_by_role("region", name="Configuration in force")).to_contain_text("exploration: 0.25")
    acts = page.get_by_role("table", name="What operators did")
    expect(acts.get_by_role("row").filter(has_text="policy put in charge")).to_contain_text("none, in place of static")
    seen.file.write_text(yaml.safe_dump({**settings, "router": {"exploration": 7}}))
    page.get_by_role("button", name="Read the file now").click()
    expect(page.get_by_role("status")).to_contain_text("router.exploration")


@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.slow)])
def test_every_view_can_be_used_without_seeing_it(browser: Browser, seen: Seen, scheme: Any) -> None:
    seen.answer(request_id=f"seen in the {scheme}")
    seen.publish(1)
    with visit(browser, seen, color_scheme=scheme) as page:
        violations = {"Who are you?": Axe().run(page).response["violations"]}
        enter(page, seen.operator)
        for view in VIEWS:
            go(page, view)
            violations[view] = Axe().run(page).response["violations"]
        go(page, "Requests")
        page.get_by_role("link", name=f"Open request seen in the {scheme}").click()
        expect(page.locator(".tree").first).to_be_visible()
        violations["Request"] = Axe().run(page).response["violations"]

    told = {
        view: [(one["id"], one["nodes"][0]["html"]) for one in found] for view, found in violations.items() if found
    }
    assert not told


def test_the_keyboard_is_enough(page: Page) -> None:
    expect(page.get_by_role("heading", name="Fleet")).to_be_focused()
    page.get_by_role("link", name="Skip to the content").press("Enter")
    expect(page.get_by_role("main")).to_be_focused()
    switch = page.get_by_role("button", name="Engage the kill switch")
    switch.press("Enter")
    expect(page.get_by_role("button", name="Cancel")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(switch).to_be_focused()
    page.get_by_role("link", name="Models").press("Enter")
    expect(page.get_by_role("heading", name="Models")).to_be_focused()
