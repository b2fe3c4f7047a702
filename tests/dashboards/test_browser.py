"""The console and the report in a real Chromium: on a phone and a desk, in light and dark, live."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from rollout.reporting.week import IsoWeek
from rollout.reporting.weekly import write_report
from rollout.store.session import Store
from tests.reporting.seed import MONDAY, add, make_spec, outcome

from .conftest import NOW

PHONE, DESK = 360, 1200
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        message = "chromium and chromedriver are missing: apt-get install chromium chromium-driver"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    options = Options()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = Chrome(options=options, service=Service(driver))
    yield chrome
    chrome.quit()


def show(browser: Chrome, url: str, width: int, scheme: str) -> None:
    """Open a page at a width in CSS pixels, in the light or the dark scheme."""
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.get_log("browser")  # type: ignore[no-untyped-call]
    browser.get(url)


def wait(browser: Chrome) -> WebDriverWait[Chrome]:
    return WebDriverWait(browser, 20)


def assert_sound(browser: Chrome, width: int, scheme: str) -> None:
    """No sideways scroll, no complaint, and the colours of the scheme."""
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert browser.get_log("browser") == []  # type: ignore[no-untyped-call]
    paper = browser.execute_script(
        "return getComputedStyle(document.documentElement).backgroundColor.match(/\\d+/g)"
    )
    assert (int(paper[0]) < 128) == (scheme == "dark")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [PHONE, DESK])
def test_pages_fit_the_screen_without_complaint(
    browser: Chrome, server: str, width: int, scheme: str
) -> None:
    for path in ("/", "/domains/billing"):
        show(browser, server + path, width, scheme)
        assert_sound(browser, width, scheme)
    wait(browser).until(lambda page: page.find_element(By.ID, "live").text == "live")
    shapes = browser.execute_script(
        "return [...document.querySelectorAll('svg')].filter(s => s.getBoundingClientRect().width)"
        ".map(s => s.classList[1])"
    )
    assert shapes == ["narrow" if width == PHONE else "wide"] * 4
    sizes = browser.execute_script(
        "return [...document.querySelectorAll('svg text')].map(t => t.getBoundingClientRect())"
        ".filter(box => box.width).map(box => box.height)"
    )
    assert min(sizes) >= 9


def test_charts_take_their_colours_from_the_page(browser: Chrome, server: str) -> None:
    colours = []
    for scheme in ("light", "dark"):
        show(browser, f"{server}/domains/billing", DESK, scheme)
        colours.append(
            browser.execute_script(
                "return getComputedStyle(document.querySelector('svg text')).fill"
            )
        )
    assert colours[0] != colours[1]


def test_a_new_outcome_appears_without_reloading(
    browser: Chrome, server: str, week_store: Store
) -> None:
    show(browser, f"{server}/domains/billing", DESK, "light")
    wait(browser).until(lambda page: page.find_element(By.ID, "live").text == "live")
    assert "2,408 requests" in browser.find_element(By.TAG_NAME, "main").text
    browser.execute_script("window.notReloaded = true")
    add(week_store, [outcome("new", MONDAY + timedelta(hours=140), agreement=1.0)])
    wait(browser).until(
        lambda page: "2,409 requests" in page.find_element(By.TAG_NAME, "main").text
    )
    assert browser.execute_script("return window.notReloaded") is True
    assert_sound(browser, DESK, "light")


def test_the_keyboard_reaches_the_content_and_the_way_back(browser: Chrome, server: str) -> None:
    show(browser, f"{server}/domains/billing", DESK, "light")
    texts = []
    for _ in range(2):
        browser.execute_cdp_cmd(
            "Input.dispatchKeyEvent", {"type": "keyDown", "key": "Tab", "windowsVirtualKeyCode": 9}
        )
        texts.append(browser.execute_script("return document.activeElement.textContent"))
    assert texts == ["Skip to the content", "Early exit"]


@pytest.mark.parametrize("width", [PHONE, DESK])
def test_the_report_opens_from_disk_and_prints_from_its_first_page(
    browser: Chrome, week_store: Store, tmp_path: Path, width: int
) -> None:
    week = IsoWeek.parse("2026-W47")
    paths = write_report(week_store, make_spec(), "billing", week, tmp_path, NOW)
    show(browser, paths.html.as_uri(), width, "light")
    assert_sound(browser, width, "light")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": []})
    metrics = {"width": 665, "height": 996, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    first_page = browser.execute_script(
        "return document.querySelector('.page').getBoundingClientRect().bottom"
    )
    assert first_page < 996, "what management reads must fit one A4 page"
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
