"""The dashboard in a real browser, on a real server."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser import ARTEFACTS, ROOT, browsing, built, found, page_of
from tests.feeds.conftest import T0, quote, trade, write_csv
from tests.servers import Server, serving
from tests.test_replays import day
from ticker.access import Rights
from ticker.keys import add

AXE = ROOT / "ticker" / "web" / "node_modules" / "axe-core" / "axe.min.js"
NO_PAGE = pytest.mark.skipif(not built(), reason="the dashboard is not built: make web takes Node.js 20 or newer")
NO_BROWSER = pytest.mark.skipif(not (built() and found()), reason="there is no Chromium, or the dashboard is not built")
BANNER = ".banner p"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    source = day(tmp_path_factory.mktemp("sources") / "day.csv", 40_000)
    with serving("sim:?symbols=40&rate=400&seed=5", flags=["--source", f"day={source}"]) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsing() as running:
        yield running


def row(page: Page, symbol: str) -> Any:
    return page.locator(f'tr[data-symbol="{symbol}"]')


def until(ready: Callable[[], bool], what: str, seconds: float = 15) -> None:
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, f"expected {what} within {seconds} s"
        time.sleep(0.05)


def first_prices(page: Page) -> None:
    page.wait_for_selector("tr[data-seq] td.last")


# -- the files -----------------------------------------------------------------------------------------------------


@NO_PAGE
def test_the_page_and_its_files_come_under_a_strict_policy(server: Server) -> None:
    answer = server.get("/")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["cache-control"] == "no-cache"
    assert "<script>" not in answer.text
    assert "style=" not in answer.text
    assets = re.findall(r'(?:src|href)="\./(assets/[^"]+)"', answer.text)
    assert len(assets) == 2
    for asset in assets:
        served = server.get(f"/{asset}")
        assert served.status_code == 200
        assert "immutable" in served.headers["cache-control"]
        assert served.headers["x-content-type-options"] == "nosniff"
    assert server.get("/assets/none.js").status_code == 404
    assert server.get("/../pyproject.toml").status_code == 404


# -- prices --------------------------------------------------------------------------------------------------------


@NO_BROWSER
def test_a_first_visit_shows_prices_within_a_second_or_so(browser: Browser, server: Server) -> None:
    with page_of(browser, "about:blank") as page:
        began = time.monotonic()
        page.goto(server.url)
        first_prices(page)
        assert time.monotonic() - began < 3, "a busy machine takes longer than a second now and then"
        assert page.locator("tr[data-symbol]").count() == 12
        expect(page.locator(".connection summary")).to_contain_text("open · WebSocket")


@NO_BROWSER
def test_a_symbol_that_is_added_ticks_and_shows_what_the_server_has(browser: Browser, server: Server) -> None:
    with page_of(browser, server.url) as page:
        first_prices(page)
        page.get_by_role("combobox", name="Add symbols").fill("SIM03")
        page.get_by_role("option", name="SIM033").click()
        cells = row(page, "SIM033")
        cells.wait_for()
        seqs = set()

        def compared() -> bool:
            shown = cells.evaluate("row => [row.dataset.seq, row.querySelector('[data-column=bid]').textContent]")
            if shown[0] is None:
                return False
            seqs.add(shown[0])
            (item,) = server.get("/v1/snapshot?symbols=SIM033&fields=bid").json()["items"]
            if str(item["seq"]) != shown[0]:
                return False
            assert float(shown[1].replace(",", "")) == item["bid"]
            return len(seqs) > 2

        until(compared, "the price of the same seq, more than once")


@NO_BROWSER
def test_the_list_is_kept_shared_and_changed_by_keyboard_alone(browser: Browser, server: Server) -> None:
    no_clipboard = "Object.defineProperty(navigator, 'clipboard', { value: undefined })"
    with page_of(browser, server.url, script=no_clipboard) as page:
        first_prices(page)
        page.keyboard.press("/")
        page.keyboard.type("SIM040")
        page.keyboard.press("Enter")
        row(page, "SIM040").wait_for()
        page.keyboard.press("Escape")
        row(page, "SIM001").focus()
        page.keyboard.press("ArrowDown")
        expect(row(page, "SIM002")).to_be_focused()
        page.keyboard.press("Alt+ArrowUp")
        expect(page.locator("tr[data-symbol]").first).to_have_attribute("data-symbol", "SIM002")
        expect(row(page, "SIM002")).to_be_focused()
        page.keyboard.press("Delete")
        expect(row(page, "SIM002")).to_have_count(0)
        page.keyboard.press("End")
        expect(row(page, "SIM040")).to_be_focused()
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name="SIM040")).to_be_focused()
        page.keyboard.press("Escape")
        expect(page.get_by_role("heading", name="SIM040")).to_have_count(0)
        page.keyboard.press("?")
        expect(page.get_by_role("dialog", name="Keyboard")).to_be_visible()
        page.keyboard.press("Escape")
        expect(page.get_by_role("dialog")).to_have_count(0)
        page.get_by_role("button", name="Share").press("Enter")
        page.wait_for_url("**#list=Watch+list&symbols=*")
        address = page.url
        page.goto("about:blank")
        page.goto(server.url)
        first_prices(page)
        assert [tr.get_attribute("data-symbol") for tr in page.locator("tr[data-symbol]").all()][-1] == "SIM040"
    with page_of(browser, address) as other:
        first_prices(other)
        expect(other.locator(".offer")).to_contain_text("A shared list: Watch list")
        assert row(other, "SIM040").count() == 1
        other.get_by_role("button", name="Keep it").click()
        expect(other.locator(".choose select option:checked")).to_have_text("Watch list 2 (12)")


@NO_BROWSER
def test_columns_are_chosen_and_rows_sorted(browser: Browser, server: Server) -> None:
    with page_of(browser, server.url) as page:
        first_prices(page)
        page.locator("summary", has_text="Columns").click()
        page.get_by_label("High").check()
        page.get_by_label("Volume").uncheck()
        expect(page.get_by_role("columnheader", name="High")).to_be_visible()
        expect(page.get_by_role("columnheader", name="Volume")).to_have_count(0)
        page.keyboard.press("Escape")
        page.get_by_role("button", name="Bid", exact=True).click()
        expect(page.get_by_role("columnheader", name="Bid")).to_have_attribute("aria-sort", "descending")

        def falling() -> bool:
            bids = page.locator("td[data-column=bid]").all_text_contents()
            values = [float(bid.replace(",", "")) for bid in bids if bid != "\N{EN DASH}"]
            return len(values) > 5 and values == sorted(values, reverse=True)

        until(falling, "bids in falling order")


@NO_BROWSER
def test_a_symbol_has_candles_and_trades_that_go_on(browser: Browser, server: Server) -> None:
    with page_of(browser, server.url) as page:
        first_prices(page)
        row(page, "SIM001").click()
        page.get_by_role("radiogroup").get_by_text("1s", exact=True).click()
        page.wait_for_selector(".chart canvas")
        until(lambda: "open" in (page.locator("figcaption").text_content() or ""), "a candle")
        said = page.locator("figcaption").text_content()
        until(lambda: page.locator("figcaption").text_content() != said, "another candle")
        listed = page.locator(".trades tbody tr")
        until(lambda: listed.count() > 2, "trades")
        newest = listed.first.text_content()
        until(lambda: listed.first.text_content() != newest, "another trade")


@NO_BROWSER
def test_the_script_that_the_readme_embeds_shows_a_price(browser: Browser, server: Server) -> None:
    (shown,) = re.findall(r"```html\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    context = browser.new_context()
    page = context.new_page()
    page.route("**/embedded", lambda route: route.fulfill(body=shown, content_type="text/html"))
    page.goto(f"{server.url}/embedded")
    until(lambda: bool(re.fullmatch(r"[\d.]+", page.locator("#price").text_content() or "")), "a price")
    context.close()


# -- trouble -------------------------------------------------------------------------------------------------------


@NO_BROWSER
def test_a_server_that_is_killed_makes_prices_stale_and_one_that_comes_back_resumes(browser: Browser) -> None:
    port = free_port()
    flags = ["--port", str(port)]
    with serving("sim:?symbols=12&rate=100&seed=5", flags=flags) as server:
        context = page_of(browser, f"http://127.0.0.1:{port}/", quiet=False)
        page = context.__enter__()
        first_prices(page)
        expect(page.locator(BANNER)).to_have_count(0)
        server.process.kill()
        server.process.wait()
    expect(page.locator(BANNER)).to_contain_text("Prices are stale: not connected")
    expect(page.locator(".scroll")).to_have_attribute("data-stale", "true")
    page.screenshot(path=picture("stale"))
    with serving("sim:?symbols=12&rate=100&seed=6", flags=flags):
        expect(page.locator(BANNER)).to_have_count(0, timeout=40_000)
        seq = row(page, "SIM001").get_attribute("data-seq")
        until(lambda: row(page, "SIM001").get_attribute("data-seq") != seq, "another tick")
        page.locator(".connection summary").click()
        assert page.locator(".connection dl div", has_text="Reconnects").locator("dd").text_content() != "0"
    context.__exit__(None, None, None)


@NO_BROWSER
def test_where_websockets_are_blocked_events_bring_the_same(browser: Browser, server: Server) -> None:
    with page_of(browser, server.url, script="delete globalThis.WebSocket") as page:
        first_prices(page)
        expect(page.locator(".connection summary")).to_contain_text("events (SSE)")
        seq = row(page, "SIM001").get_attribute("data-seq")
        until(lambda: row(page, "SIM001").get_attribute("data-seq") != seq, "another tick")
        row(page, "SIM001").click()
        until(lambda: page.locator(".trades tbody tr").count() > 0, "trades")


@NO_BROWSER
def test_a_stale_feed_is_told(browser: Browser, tmp_path: Path) -> None:
    path = write_csv(tmp_path / "few.csv", [quote(T0, "A", bid=1.0, ask=2.0)])
    with serving(f"replay:{path}") as server, page_of(browser, server.url) as page:
        first_prices(page)
        expect(page.locator(BANNER)).to_contain_text("is ended")


@NO_BROWSER
def test_where_the_browser_keeps_nothing_the_page_works_and_says_so(browser: Browser, server: Server) -> None:
    blocked = "Object.defineProperty(globalThis, 'localStorage', { get() { throw new DOMException('blocked', 'SecurityError'); } })"
    with page_of(browser, server.url, script=blocked) as page:
        first_prices(page)
        expect(page.get_by_text("This browser keeps nothing for this page")).to_be_visible()


@NO_BROWSER
def test_a_hostile_name_is_text(browser: Browser, tmp_path: Path) -> None:
    name = "<img/src=x/onerror=document.title=1>"
    path = write_csv(
        tmp_path / "hostile.csv", [trade(T0, name, price=1.5, size=1.0), quote(T0, name, bid=1.0, ask=2.0)]
    )
    with serving(f"replay:{path}") as server, page_of(browser, server.url) as page:
        first_prices(page)
        expect(page.locator("tbody th")).to_have_text(name)
        page.locator("tbody tr[data-symbol]").click()
        expect(page.get_by_role("heading", level=2)).to_have_text(name)
        assert page.locator("img").count() == 0
        assert page.title() == "ticker"


# -- a replay ------------------------------------------------------------------------------------------------------


@NO_BROWSER
def test_a_replay_is_controlled(browser: Browser, server: Server) -> None:
    with page_of(browser, f"{server.url}/?replay=day") as page:
        time_shown = page.locator(".replay output")
        begin = time_shown.text_content()
        assert begin
        expect(page.get_by_role("button", name="Play")).to_be_enabled()
        for _ in range(3):
            page.get_by_role("button", name="Step").click()
        until(lambda: page.locator("tr[data-seq]").count() == 3, "the symbols of the recording")
        page.get_by_label("Speed").select_option("10")
        page.get_by_role("button", name="Play").click()
        until(lambda: time_shown.text_content() != begin, "time to go by")
        page.get_by_role("button", name="Pause").click()
        expect(page.get_by_role("button", name="Play")).to_be_visible()
        slider = page.get_by_role("slider")
        slider.focus()
        before = time_shown.text_content()
        page.keyboard.press("PageUp")
        until(lambda: time_shown.text_content() != before, "a seek")
        seq = row(page, "A").get_attribute("data-seq")
        for _ in range(2):  # the first ends the round that the seek went into, be it a tick long
            page.get_by_role("button", name="Step").click()
        until(lambda: row(page, "A").get_attribute("data-seq") != seq, "a step")
        page.get_by_label("Speed").select_option("max")
        page.get_by_role("button", name="Play").click()
        expect(time_shown).to_contain_text("completed")
        page.screenshot(path=picture("replay"))
        page.locator("summary", has_text="Replays").click()
        page.get_by_role("link", name="Back to live").click()
        first_prices(page)


# -- for everybody -------------------------------------------------------------------------------------------------


@NO_BROWSER
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_there_is_nothing_that_an_accessibility_check_finds(browser: Browser, server: Server, scheme: Any) -> None:
    with page_of(browser, server.url, color_scheme=scheme) as page:
        first_prices(page)
        assert violations(page) == []
        row(page, "SIM001").click()
        until(lambda: page.locator(".trades tbody tr").count() > 0, "trades")
        assert violations(page) == []
        page.locator(".connection summary").click()
        page.locator("summary", has_text="Columns").click()
        assert violations(page) == []
        page.get_by_role("button", name="Keyboard shortcuts").click()
        assert violations(page) == []


def violations(page: Page) -> list[str]:
    page.evaluate(AXE.read_text())
    found = page.evaluate("axe.run({ resultTypes: ['violations'] })")
    return [
        f"{violation['id']}: {node['target']} {node.get('failureSummary', '')}"
        for violation in found["violations"]
        for node in violation["nodes"]
    ]


@NO_BROWSER
def test_no_price_is_announced(browser: Browser, server: Server) -> None:
    with page_of(browser, server.url) as page:
        first_prices(page)
        live = page.locator("[aria-live], [role=status], [role=alert]")
        told = [element.text_content() for element in live.all()]
        time.sleep(1.5)
        assert [element.text_content() for element in live.all()] == told


@NO_BROWSER
@pytest.mark.parametrize(
    ("name", "width", "height", "scheme"),
    [
        ("dark", 1280, 800, "dark"),
        ("light", 1280, 800, "light"),
        ("phone", 390, 780, "dark"),
        ("wide", 1920, 1000, "dark"),
    ],
)
def test_pictures(browser: Browser, server: Server, name: str, width: int, height: int, scheme: Any) -> None:
    options = {"viewport": {"width": width, "height": height}, "color_scheme": scheme}
    with page_of(browser, server.url, **options) as page:
        first_prices(page)
        time.sleep(1)
        page.screenshot(path=picture(name))
        across = page.evaluate("document.documentElement.scrollWidth")
        assert across <= width, "the page does not scroll sideways"
        assert cut_off(page) == []
        row(page, "SIM001").click()
        page.get_by_role("radiogroup").get_by_text("1s", exact=True).click()
        page.wait_for_selector(".chart canvas")
        time.sleep(1)
        page.screenshot(path=picture(f"{name}-symbol"))
        assert cut_off(page) == []


def cut_off(page: Page) -> Any:
    """What of the list's columns is wider than there is room for, and whether the list scrolls sideways."""
    return page.evaluate("""() => {
      const list = document.querySelector(".scroll");
      const cells = [list, ...list.querySelectorAll("th, td:not(.act)")].filter(cell => cell.clientWidth > 0);
      return cells.filter(cell => cell.scrollWidth > cell.clientWidth).map(cell => cell.textContent);
    }""")


def picture(name: str) -> Path:
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    return ARTEFACTS / f"{name}.png"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


# -- tokens --------------------------------------------------------------------------------------------------------


@NO_BROWSER
def test_a_server_that_asks_for_a_token_is_given_one_by_hand(browser: Browser, tmp_path: Path) -> None:
    keys, now = tmp_path / "keys.json", time.time_ns() // 1000
    good = add(keys, "desk-7", Rights(("SIM00*",), 0), now)
    with (
        serving("sim:?symbols=20&rate=400", flags=["--api-keys-file", str(keys)]) as guarded,
        page_of(browser, guarded.url, quiet=False) as page,
    ):
        dialog = page.get_by_role("dialog", name="This server asks for a token")
        expect(dialog).to_be_visible(timeout=2000)
        for token, works in (("tk_wrong", False), (good, True)):
            dialog.get_by_label("Token").fill(token)
            page.keyboard.press("Enter")
            if not works:
                expect(dialog).to_contain_text("the API key is not known here")
                page.screenshot(path=picture("token"))
        first_prices(page)
        expect(dialog).not_to_be_visible()
        until(lambda: page.locator("tr[data-seq]").count() == 9, "what the token is for")
        assert good not in page.url
        assert good not in page.evaluate("JSON.stringify({...localStorage, ...sessionStorage})")


@NO_BROWSER
def test_prices_that_are_late_are_said_to_be_and_are_not_stale(browser: Browser, tmp_path: Path) -> None:
    keys, now = tmp_path / "keys.json", time.time_ns() // 1000
    late = add(keys, "desk-7", Rights(("*",), 2), now)
    flags = ["--api-keys-file", str(keys), "--delays", "2"]
    with serving("sim:?symbols=5&rate=400", flags=flags) as guarded, page_of(browser, guarded.url, quiet=False) as page:
        dialog = page.get_by_role("dialog", name="This server asks for a token")
        dialog.get_by_label("Token").fill(late)
        page.keyboard.press("Enter")
        expect(page.locator(".connection summary")).to_contain_text("prices are 2m late")
