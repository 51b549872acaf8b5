# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The web page as people see it: a real browser, and workers that live, die and are recovered meanwhile."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from dramatiq_inflight import Inspector, Operations
from dramatiq_inflight.dashboard import create_app
from dramatiq_inflight.store.workers import Ended
from tests.conftest import CHROMIUM, missing
from tests.support.cluster import Cluster
from tests.support.lab import Lab, copy_of
from tests.support.letters import bury
from tests.support.scenes import Scene
from tests.support.served import find_chromium, served
from tests.support.servers import RedisServer, wait_until

pytestmark = [pytest.mark.once, pytest.mark.long]

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script>"

PATHS = ("/", "/?hours=24", "/queues", "/messages", "/delayed", "/dead", "/history", "/nowhere")

#: How long a page has to show something: only a page that never will takes so long.
PATIENCE = 120_000

#: What the console says of an answer that is an error, which is no error of the page.
OF_ANSWERS = "Failed to load resource"


class Tab:
    """A page in the browser; it notes what went wrong there."""

    def __init__(self, browser: Any, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.context.set_default_timeout(PATIENCE)
        self.page = self.context.new_page()
        self.wrong: list[str] = []
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("dialog", self._dismiss)
        self.page.on("request", self._see)
        self.address = ""

    def go(self, address: str) -> Any:
        self.address = "/".join(address.split("/")[:3]) + "/"
        return self.page.goto(address)

    def sees(self, text: str, *, within: str = "#main") -> None:
        """Wait until it is there to be seen."""
        try:
            self.page.locator(within).get_by_text(text).first.wait_for()
        except playwright.TimeoutError:
            raise AssertionError(f"{text!r} is not seen in:\n{self.page.inner_text('body')}") from None

    def width(self) -> int:
        """Return how wide the page would be."""
        return int(self.page.evaluate("document.documentElement.scrollWidth"))

    def focused(self) -> str:
        """The text or name of what has the keyboard."""
        return str(self.page.evaluate("document.activeElement.textContent.trim() || document.activeElement.name"))

    def tab_to(self, text: str) -> None:
        """Press Tab until that has the keyboard; it is to be seen there."""
        for _ in range(60):
            self.page.keyboard.press("Tab")
            if self.focused() == text:
                outline = self.page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
                assert outline != "none", f"nobody sees that {text!r} has the keyboard"
                return
        raise AssertionError(f"no Tab leads to {text!r}")

    def _hear(self, message: Any) -> None:
        if message.type in ("error", "warning") and OF_ANSWERS not in message.text:
            self.wrong.append(f"{message.type}: {message.text}")

    def _dismiss(self, dialog: Any) -> None:
        self.wrong.append(f"a dialog: {dialog.message}")
        dialog.dismiss()

    def _see(self, request: Any) -> None:
        if not (request.url + "/").startswith(self.address):
            self.wrong.append(f"it asks another server: {request.url}")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """For this module alone: while it runs, nothing else in this thread can have an event loop."""
    path = find_chromium()
    if path is None:
        missing(*CHROMIUM)
    with (
        playwright.sync_playwright() as started,
        started.chromium.launch(executable_path=path, args=["--no-sandbox"]) as browser,
    ):
        yield browser


@pytest.fixture
def open_tab(browser: Any) -> Iterator[Callable[..., Tab]]:
    """Opens pages; at the end nothing must have gone wrong in any."""
    tabs: list[Tab] = []

    def open_one(**options: Any) -> Tab:
        tabs.append(Tab(browser, **options))
        return tabs[-1]

    yield open_one
    for tab in tabs:
        tab.context.close()
    assert [wrong for tab in tabs for wrong in tab.wrong] == []


@pytest.fixture
def tab(open_tab: Callable[..., Tab]) -> Tab:
    return open_tab(viewport={"width": 1280, "height": 900})


@pytest.fixture
def shop(cluster: Callable[..., Cluster]) -> Cluster:
    """An application; its workers are pods by name."""
    return cluster()


@pytest.fixture
def address(shop: Cluster) -> Iterator[str]:
    """Its page, with actions."""
    with served(create_app(Inspector.of(shop.broker), Operations(shop.broker))) as address:
        yield address


def send(shop: Cluster, key: str, gate: Path) -> str:
    """A message that runs until its gate is there."""
    message = shop.app.gated.send(key, str(gate))
    shop.wait(lambda: [event for event in shop.history.events("start") if event.key == key], what=f"{key} starts")
    return str(message.message_id)


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    return tmp_path / "gate"


def test_a_death_and_its_recovery_are_seen_without_a_reload(
    shop: Cluster, address: str, gate: Path, tab: Tab, capsys: pytest.CaptureFixture[str]
) -> None:
    first = shop.worker(PROCESSING_INSTANCE_ID="pod-a")
    send(shop, "one", gate)
    shop.worker(PROCESSING_INSTANCE_ID="pod-b")
    tab.go(address)
    tab.page.evaluate("window.mine = 'still the same page'")
    tab.sees("pod-b", within="table")
    killed = time.monotonic()
    first.kill()
    tab.page.locator(".lanes .of-died").first.wait_for()
    died = time.monotonic() - killed
    tab.page.locator(".lanes .of-recovered").first.wait_for()
    recovered = time.monotonic() - killed
    tab.sees("recovered (", within=".events")
    tab.page.locator("table.workers").get_by_text("pod-a").wait_for(state="detached")
    assert tab.page.evaluate("window.mine") == "still the same page"
    with capsys.disabled():
        print(f"\nseen after the kill: the death {died:.1f} s, the recovery {recovered:.1f} s (heartbeats last 1.5 s)")
    gate.touch()
    tab.sees("nothing runs")


def test_actions_are_done_by_click(shop: Cluster, address: str, gate: Path, tab: Tab) -> None:
    worker = shop.worker(PROCESSING_INSTANCE_ID="pod-a")
    id = send(shop, "one", gate)
    tab.go(address)
    tab.page.get_by_role("link", name="Messages", exact=True).click()
    tab.page.get_by_role("link", name=id[:8]).click()
    tab.page.get_by_role("link", name="Requeue…").click()
    tab.page.get_by_role("button", name="Requeue").click()
    tab.sees("It takes force", within="[role=alert]")
    worker.kill()  # it is the last one: nobody is there to say that it is dead
    tab.page.get_by_role("checkbox").check()
    tab.page.get_by_role("button", name="Requeue").click()
    tab.sees("Requeue: done.")
    tab.sees("enqueued again by an operator", within=".events")
    shop.worker(PROCESSING_INSTANCE_ID="pod-b")
    tab.sees("pod-b", within=".facts")
    tab.page.get_by_role("link", name="Discard…").click()
    tab.page.get_by_role("checkbox").check()
    tab.page.get_by_role("button", name="Discard").click()
    tab.sees("Discard: done.")
    tab.sees("discarded by an operator", within=".events")
    assert Inspector.of(shop.broker).messages() == []
    gate.touch()


def test_a_hostile_argument_stays_text(shop: Cluster, address: str, gate: Path, tab: Tab) -> None:
    shop.worker(PROCESSING_INSTANCE_ID=HOSTILE)
    id = send(shop, HOSTILE, gate)
    tab.go(f"{address}/message?id={id}&payload=1")
    tab.sees("onerror=alert(1)", within=".payload")
    for path in PATHS:
        tab.go(address + path)
        if path == "/":
            tab.sees(HOSTILE, within=".lanes")
            tab.sees(HOSTILE, within="table")
        assert tab.page.locator("img").count() == 0
        assert tab.page.locator("script:not([src])").count() == 0
    gate.touch()


def test_a_form_without_its_token_is_refused(shop: Cluster, address: str, gate: Path, tab: Tab) -> None:
    shop.worker(PROCESSING_INSTANCE_ID="pod-a")
    id = send(shop, "one", gate)
    tab.go(f"{address}/message/discard?id={id}")
    tab.page.evaluate("document.querySelector('[name=token]').value = ''")
    tab.page.get_by_role("checkbox").check()
    tab.page.get_by_role("button", name="Discard").click()
    tab.sees("The form was not made by this page")
    assert tab.context.request.post(f"{address}/message/discard", form={"id": id, "force": "yes"}).status == 403
    (view,) = Inspector.of(shop.broker).messages()
    assert view.state == "running"
    gate.touch()


def test_a_keyboard_is_enough(shop: Cluster, address: str, gate: Path, tab: Tab) -> None:
    shop.worker(PROCESSING_INSTANCE_ID="pod-a")
    id = send(shop, "one", gate)
    tab.go(f"{address}/message?id={id}")
    tab.page.keyboard.press("Tab")
    assert tab.focused() == "To the content"
    tab.page.keyboard.press("Enter")
    tab.tab_to("Discard…")
    tab.page.keyboard.press("Enter")
    tab.sees("Discard this message?")
    tab.tab_to("force")
    tab.page.keyboard.press("Space")
    tab.tab_to("Discard")
    tab.page.keyboard.press("Enter")
    tab.sees("Discard: done.")
    assert Inspector.of(shop.broker).messages() == []
    gate.touch()


def test_times_are_local_and_utc_when_pointed_at(lab: Lab, open_tab: Callable[..., Tab]) -> None:
    """Also after the page has changed, and while it is away nothing else is said."""
    event = {"event": "joined", "worker": "w", "instance": "pod"}
    lab.client.xadd(f"{lab.prefix}history", event, id="1790280307000-0")
    tab = open_tab(timezone_id="Asia/Tokyo")
    with served(create_app(Inspector(lab.client, lab.namespace))) as address:
        tab.go(f"{address}/history")
        tab.sees("Times are those of Asia/Tokyo")
        time_there = tab.page.locator(".events time").first
        assert (time_there.inner_text(), time_there.get_attribute("title")) == ("05:05:07", "2026-09-24 20:05:07 UTC")
        tab.sees("2026-09-25", within=".day")
        tab.go(f"{address}/messages")
        assert "Asia/Tokyo" in tab.page.locator(".zone").inner_text(), "known from the second page on"


@pytest.mark.parametrize("has_clipboard", [True, False], ids=["https", "http"])
def test_a_whole_id_is_copied_by_a_click(lab: Lab, open_tab: Callable[..., Tab], has_clipboard: bool) -> None:
    """By the key as well.  Browsers have no clipboard for pages without HTTPS on another host."""
    copy = copy_of("a-whole-id-that-is-long")
    lab.runs(lab.incarnation("a"), copy)
    tab = open_tab(permissions=["clipboard-read", "clipboard-write"], viewport={"width": 1280, "height": 900})
    if not has_clipboard:
        tab.context.add_init_script("Object.defineProperty(navigator, 'clipboard', {get: () => undefined})")

    def pasted() -> str:
        search = tab.page.locator("input[name=text]")
        search.fill("")
        search.press("Control+V")
        return str(search.input_value())

    with served(create_app(Inspector(lab.client, lab.namespace))) as address:
        tab.go(f"{address}/messages")
        tab.page.locator("tbody tr").hover()
        tab.page.get_by_role("button", name="Copy the id").click()
        tab.sees("Copied", within="#status")
        assert pasted() == copy.message_id
        tab.page.locator("input[name=text]").fill("something else")
        tab.page.keyboard.press("Control+A")
        tab.page.keyboard.press("Control+C")
        assert pasted() == "something else"
        tab.page.locator("tbody a").focus()
        tab.page.keyboard.press("c")
        tab.sees("Copied", within="#status")
        assert pasted() == copy.message_id


def test_keys_lead_to_pages_rows_and_the_search(lab: Lab, tab: Tab) -> None:
    a = lab.incarnation("a")
    for id in ("first", "second", "third"):
        lab.runs(a, copy_of(id))
    press = tab.page.keyboard.press
    with served(create_app(Inspector(lab.client, lab.namespace))) as address:
        tab.go(address)
        press("3")
        tab.sees("Messages in flight")
        shown = tab.page.locator("tbody a").all_inner_texts()
        for key, expected in (("j", 0), ("j", 1), ("j", 2), ("j", 2), ("k", 1)):
            press(key)
            assert tab.focused() == shown[expected]
        press("/")
        assert tab.focused() == "text"
        press("3")
        press("?")
        assert tab.page.locator("input[name=text]").input_value() == "3?", "in a field a key is a letter"
        tab.page.locator("tbody a").nth(1).focus()
        press("Enter")
        tab.sees(shown[1], within=".whole-id")
        press("p")
        tab.sees("Paused", within="#status")
        press("?")
        tab.sees("the next row", within="dialog")
        press("1")
        tab.page.get_by_role("button", name="Turn the keys off").click()
        tab.page.get_by_role("button", name="Turn the keys off", pressed=True).wait_for()
        press("Escape")
        tab.page.locator("dialog").wait_for(state="hidden")
        press("1")
        press("?")
        assert not tab.page.locator("dialog").is_visible()
        assert tab.page.url.startswith(f"{address}/message?"), "they are off"
        tab.go(f"{address}/history")
        press("1")
        tab.page.get_by_role("button", name="Keyboard").click()
        tab.page.get_by_role("button", name="Turn the keys off").click()
        tab.page.get_by_role("button", name="Close").click()
        press("2")
        tab.page.wait_for_url(f"{address}/queues")


def test_a_chart_grows_while_it_is_looked_at(lab: Lab, tab: Tab) -> None:
    workers = lab.incarnation("a").workers
    with served(create_app(Inspector(lab.client, lab.namespace))) as address:
        tab.go(address)
        tab.sees("Nothing ended, and nothing was recovered.")
        ended = tab.page.locator(".is-ended")
        workers.count({"default": Ended(1200, 30, 60.0)}, {})
        ended.locator("rect").wait_for()
        assert "1\u202f200, peak 1\u202f200" in ended.inner_text()
        box = ended.locator("rect").bounding_box()
        frame = ended.locator("svg").bounding_box()
        assert box is not None
        assert frame is not None
        assert box["height"] == pytest.approx(frame["height"], abs=2)
        assert box["x"] + box["width"] == pytest.approx(frame["x"] + frame["width"], abs=2), "now is at the right"
        assert tab.page.locator(".is-failed rect title").text_content().endswith(": 30")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 390, 1280])
def test_every_page_fits_and_breaks_no_rule(
    client: redis.Redis, lab: Lab, open_tab: Callable[..., Tab], scheme: str, width: int
) -> None:
    Scene(client, lab.namespace).afternoon()
    inspector = Inspector(lab.client, lab.namespace)
    tab = open_tab(viewport={"width": width, "height": 800}, color_scheme=scheme)
    id = inspector.messages()[0].id
    with served(create_app(inspector)) as address:
        for path in (*PATHS, "/messages?text=x&sort=actor", f"/message?id={id}&payload=1"):
            tab.go(address + path)
            assert tab.width() <= width, path
            if path == "/":  # and after a swap
                client.xadd(lab.prefix + "history", {"event": "joined", "worker": "w", "instance": "i" * 200})
                tab.sees("i" * 200, within=".events")
                assert tab.width() <= width
    ground = tab.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(244, 246, 248)" if scheme == "light" else "rgb(15, 20, 26)")


def test_it_works_without_javascript(shop: Cluster, address: str, gate: Path, open_tab: Callable[..., Tab]) -> None:
    worker = shop.worker(PROCESSING_INSTANCE_ID="pod-a")
    id = send(shop, "one", gate)
    worker.kill()
    wait_until(lambda: not Inspector.of(shop.broker).messages()[0].worker_alive, what="the worker is silent")
    tab = open_tab(java_script_enabled=False, viewport={"width": 375, "height": 800})
    tab.go(address)
    tab.sees("silent")
    assert tab.page.locator("meta[http-equiv=refresh]").count() == 1
    assert tab.page.get_by_role("button", name="Pause").count() == 0
    tab.page.get_by_role("link", name="Messages", exact=True).click()
    tab.page.get_by_label("Older than").fill("0 s")
    tab.page.get_by_role("button", name="Filter").click()
    tab.page.get_by_role("link", name=id[:8]).click()
    tab.page.get_by_role("link", name="Discard…").click()
    tab.page.get_by_role("button", name="Discard").click()
    tab.sees("It takes force", within="[role=alert]")  # nobody is there to say that the worker is dead
    tab.page.get_by_role("checkbox").check()
    tab.page.get_by_role("button", name="Discard").click()
    tab.sees("Discard: done.")


def test_focus_and_scrolling_stay_when_the_page_changes(client: redis.Redis, lab: Lab, tab: Tab) -> None:
    a = lab.incarnation("a")
    for _ in range(60):
        lab.runs(a, copy_of())
    kept = copy_of("kept")
    lab.runs(a, kept)
    with served(create_app(Inspector(lab.client, lab.namespace))) as address:
        tab.go(address + "/messages?sort=age&dir=desc")
        link = tab.page.get_by_role("link", name="kept")
        link.focus()
        tab.page.evaluate("document.activeElement.mine = true")
        before = tab.page.evaluate("scrollY")
        assert before > 0
        new = copy_of("new")
        lab.runs(a, new)
        tab.sees("new", within="tbody")
        assert tab.page.evaluate("[document.activeElement.mine, scrollY]") == [True, before]
        tab.page.get_by_role("button", name="Pause").click()
        tab.sees("Paused", within="#status")
        tab.page.get_by_role("button", name="Go on").click()
        tab.sees("Live", within="#status")


def test_the_page_reports_an_outage_and_goes_on_after_it(
    own_server: RedisServer, namespace: str, open_tab: Callable[..., Tab]
) -> None:
    inspector = Inspector.from_url(own_server.url, namespace)
    seen, late = open_tab(), open_tab()
    with contextlib.ExitStack() as stack:
        address = stack.enter_context(served(create_app(inspector)))
        seen.go(address)
        seen.sees("Live", within="#status")
        own_server.stop()
        seen.sees("Redis is away", within="#status")
        late.go(address)
        late.sees("Redis cannot be reached")
        own_server.start()
        seen.sees("Live", within="#status")
        late.sees("No worker is there.")
        stack.close()
        seen.sees("The server cannot be reached", within="#status")
        seen.sees("No worker is there.")


def test_a_hidden_page_asks_for_nothing(lab: Lab, tab: Tab) -> None:
    """Hidden by decree: a headless browser hides nothing."""
    lab.incarnation("a")
    asked: list[str] = []
    tab.context.add_init_script("Object.defineProperty(document, 'hidden', {get: () => window.away === true})")
    with served(create_app(Inspector(lab.client, lab.namespace))) as address:
        tab.go(address)
        tab.page.on("request", lambda request: asked.append(request.url))
        with tab.page.expect_response(lambda response: True):
            pass  # a poll has just been answered
        tab.page.evaluate("window.away = true")
        lab.incarnation("b")
        tab.page.clock.install()
        seen = len(asked)
        tab.page.clock.run_for(60_000)
        assert len(asked) <= seen + 1, "one may have been under way"
        tab.page.evaluate("window.away = false; document.dispatchEvent(new Event('visibilitychange'))")
        tab.sees("pod-b")


def test_30_of_500_dead_letters_are_found_and_requeued(
    shop: Cluster, address: str, tab: Tab, open_tab: Callable[..., Tab]
) -> None:
    """As somebody on call does it: by cause, by selecting some, and on a phone."""
    gated = shop.app.gated
    buried = bury(shop.broker, gated, [f"TimeoutError: no answer in {n} s" for n in range(470)])
    wanted = bury(shop.broker, gated, [f"CardDeclined: card {n}" for n in range(30)])
    tab.go(f"{address}/dead")
    tab.sees("1 to 100 of 500, newest first")
    tab.page.get_by_role("link", name="CardDeclined: card #").click()
    tab.sees("1 to 30 of 30, newest first; there are 500")
    tab.page.get_by_role("link", name="Requeue all 30 that match").click()
    tab.sees("Requeue 30 dead letters?")
    tab.page.get_by_role("button", name="Requeue").click()
    tab.sees("30 dead letters requeued")
    inspector = Inspector.of(shop.broker)
    assert {view.id for view in inspector.dead_letters() or ()} == set(buried)
    queued = {view.name: view.depth for view in inspector.queues() or ()}
    assert queued[gated.queue_name] == len(wanted) == 30

    tab.page.get_by_role("link", name="Back").click()
    tab.sees("1 to 100 of 470")
    tab.page.get_by_label("Select all on this page").check()
    tab.page.get_by_label("Select", exact=False).nth(3).uncheck()
    checked = "document.querySelectorAll('td input:checked').length"
    assert tab.page.evaluate(checked) == 99
    gated.send("x", "nowhere")  # a refresh comes
    tab.page.wait_for_timeout(1500)
    assert tab.page.evaluate(checked) == 99, "what was selected stays selected"
    tab.page.get_by_role("button", name="Discard selected").click()
    tab.sees("Discard 99 dead letters?")
    tab.page.get_by_role("button", name="Discard").click()
    tab.sees("99 dead letters discarded")

    for width, scheme in ((390, "dark"), (1280, "light")):
        other = open_tab(viewport={"width": width, "height": 800}, color_scheme=scheme)
        for path in ("/dead", "/dead?cause=nothing", "/dead/act?action=requeue", "/queues", "/delayed"):
            other.go(address + path)
            other.page.locator("main").wait_for()
            assert other.width() <= width, path
            if folder := os.environ.get("TEST_PICTURES"):
                other.page.screenshot(path=f"{folder}/{width}{re.sub('[^a-z]+', '-', path)}.png", full_page=True)
