"""`make page-screenshots`: what docs/page.md shows, of a real fleet at work."""

import io
import sys
import tempfile
from itertools import cycle
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

import yaml
from PIL import Image
from playwright.sync_api import Page, expect

from tests.page.chromium import chromium
from tests.page.seen import Seen, browser_of, enter, seen_fleet

FOLDER = Path(__file__).parent.parent.parent / "docs" / "page"
SIZE: Any = {"width": 1120, "height": 700}
COLOURS = 64
"""Enough for flat areas and lines; the files are a quarter of what they would be."""

PROMPTS = (
    ("code", "def area(radius):"),
    ("math", "What is 12 times 31?"),
    ("json", '{"name": "'),
    ("code", "import os\n\ndef walk("),
)
REQUESTS = 36
VIEWS = ("Fleet", "Traffic", "Requests", "Learning", "Models", "Configuration")


def main() -> int:
    """Let a fleet serve while somebody looks at it."""
    found = chromium()
    if found is None:
        print("no Chromium: install one, or npm and `make chromium`", file=sys.stderr)
        return 1
    FOLDER.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        seen_fleet(Path(folder), target="zoo:target@deep", drafters=("code", "math")) as seen,
        browser_of(found) as browser,
        browser.new_context(base_url=f"http://{seen.address}", locale="en-US", viewport=SIZE) as context,
    ):
        page = context.new_page()
        page.goto("/")
        keep(page, "entrance")
        enter(page, seen.operator)
        expect(page.get_by_role("heading", name="Fleet")).to_be_focused()
        tour(page, seen)
        page.emulate_media(color_scheme="dark")
        keep(page, "request-dark")
    return 0


def tour(page: Page, seen: Seen) -> None:
    """Every view, after some traffic and some acts."""
    open_view(page, "Fleet")
    page.get_by_label("Policy where a request names none").select_option("planner")
    page.get_by_role("button", name="Put in charge").click()
    page.get_by_role("dialog").get_by_role("button", name="Put in charge").click()
    open_view(page, "Traffic")
    serve(seen)
    seen.publish(1)
    seen.publish(2)
    for view in VIEWS:
        open_view(page, view)
        page.wait_for_timeout(1500)
        if view == "Models":
            page.get_by_role("button", name="Promote version 1").click()
            page.get_by_role("dialog").get_by_role("button", name="Promote").click()
            expect(page.get_by_role("status")).to_contain_text("is in charge")
        if view == "Configuration":
            settings = yaml.safe_load(seen.file.read_text())
            seen.file.write_text(yaml.safe_dump(settings | {"router": {"exploration": 0.5, "scoring_share": 0.2}}))
            page.get_by_role("button", name="Read the file now").click()
            expect(page.get_by_role("table", name="Changes of")).to_be_visible()
        keep(page, view.lower())
    seen.answer(seen.open_caller, request_id="an-example", policy="merged", max_new_tokens=32, temperature=0.6)
    open_view(page, "Requests")
    page.get_by_role("link", name="Open request an-example").click()
    page.locator("summary").nth(2).click()
    keep(page, "request")


def serve(seen: Seen) -> None:
    """Requests of several tasks, some of them without speculation."""
    for number, (task, prompt) in zip(range(REQUESTS), cycle(PROMPTS), strict=False):
        policy = "none" if number % 7 == 6 else "planner"
        seen.answer(prompt=prompt, task=task, policy=policy, max_new_tokens=40, temperature=0.7, seed=number)


def open_view(page: Page, view: str) -> None:
    page.get_by_role("navigation", name="Views").get_by_role("link", name=view).click()
    expect(page.get_by_role("heading", name=view, exact=True)).to_be_focused()


def keep(page: Page, name: str) -> None:
    """A picture of what is seen, in few colours."""
    page.evaluate("window.scrollTo(0, 0)")
    # Where the files of this machine are is nobody's business.
    places = [page.get_by_role("region", name="Configuration in force"), page.get_by_text("/tmp/")]
    seen = Image.open(io.BytesIO(page.screenshot(mask=places, mask_color="#9aa4ad")))
    seen.convert("RGB").quantize(COLOURS).save(FOLDER / f"{name}.png", optimize=True)


if __name__ == "__main__":
    sys.exit(main())
