"""The built documentation site (``make docs``), file by file and in a headless browser."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from conftest import ROOT

pytestmark = pytest.mark.slow
MODULES = ("sphinx", "sphinx_gallery", "myst_parser", "pydata_sphinx_theme")
DESK, PHONE = (1280, 900), (390, 844)
PAGES = ["index.html", "auto_examples/index.html", "auto_examples/plot_inpainting.html", "reference/api.html",
         "reference/api/ei.physics.html", "reference/run_keys.html", "guides/ct_scan.html"]  # fmt: skip


@pytest.fixture(scope="module")
def site() -> Path:
    """Built as by ``make docs``; unchanged pages are kept from the last build."""
    for module in MODULES:
        pytest.importorskip(module, reason=f"{module} is not installed: pip install -e '.[docs]'")
    out = ROOT / "docs" / "_build" / "html"
    command = [sys.executable, "-m", "sphinx", "-b", "html", "-W", "--keep-going", "-q", str(ROOT / "docs"), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr[-3000:]
    return out


class Links(HTMLParser):
    """What a page links to (``href``, ``src``), and the names that it can be linked to by."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.names: set[str] = set()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        self.names.update(value for key in ("id", "name") if (value := values.get(key)))
        self.links += [value for key in ("href", "src") if (value := values.get(key))]


def test_no_link_is_broken_and_no_image_missing(site: Path) -> None:
    pages = {page.resolve(): Links(page) for page in site.rglob("*.html") if "_static" not in page.parts}
    assert len(pages) > 40
    broken = []
    for page, content in pages.items():
        for link in content.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            named = not parts.fragment or target not in pages or unquote(parts.fragment) in pages[target].names
            if not target.is_file() or not named:
                broken.append(f"{page.relative_to(site.resolve())}: {link}")
    assert not broken, "\n".join(sorted(broken)[:40])


@pytest.fixture(scope="module")
def browser() -> Iterator:
    selenium = pytest.importorskip("selenium", reason="selenium is not installed: pip install selenium")
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (binary and driver):
        pytest.skip("there is no browser: apt-get install chromium chromium-driver")
    from selenium.webdriver import Chrome, ChromeOptions, ChromeService

    assert selenium
    options = ChromeOptions()
    options.binary_location = binary
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    chrome = Chrome(options=options, service=ChromeService(driver))
    yield chrome
    chrome.quit()


def open_page(browser, page: str, site: Path, size: tuple[int, int]) -> None:
    width, height = size
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.get((site / page.partition("?")[0]).as_uri() + page[len(page.partition("?")[0]) :])


@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
@pytest.mark.parametrize("page", PAGES)
def test_page(browser, site: Path, page: str, size: tuple[int, int]) -> None:
    open_page(browser, page, site, size)
    assert browser.find_element("tag name", "h1").text
    wide = browser.execute_script("return document.documentElement.scrollWidth")
    assert wide <= size[0], f"{page} is {wide} pixels wide at {size[0]}"
    missing = browser.execute_script(
        "return [...document.images].filter(i => { i.loading = 'eager'; return i.complete && !i.naturalWidth })"
        ".map(i => i.src)"
    )
    assert not missing
    if folder := os.environ.get("EI_SCREENSHOTS"):
        browser.save_screenshot(str(Path(folder) / f"{page.replace('/', '_')}_{size[0]}.png"))


@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_search(browser, site: Path, size: tuple[int, int]) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    open_page(browser, "search.html?q=Tomography", site, size)
    found = "return [...document.querySelectorAll('#search-results li a')].map(a => a.textContent)"
    titles = WebDriverWait(browser, 60).until(lambda driver: driver.execute_script(found))
    assert any("Tomography" in title for title in titles)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= size[0]
    if folder := os.environ.get("EI_SCREENSHOTS"):
        browser.save_screenshot(str(Path(folder) / f"search_{size[0]}.png"))
