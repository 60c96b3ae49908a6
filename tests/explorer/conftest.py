"""A real headless Chromium, and pages for it to open."""

import shutil
from pathlib import Path

import pytest

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
"""Without a display, and without a word to anybody."""


def chromium() -> tuple[str, str] | None:
    """The paths of a Chromium and its driver, where both are installed."""
    browsers = ("chromium", "chromium-browser", "google-chrome")
    browser = next(filter(None, map(shutil.which, browsers)), None)
    driver = shutil.which("chromedriver")
    return (browser, driver) if browser and driver else None


def start(profile: Path, width: int = 1280, height: int = 900, dark: bool = False):
    """A browser with an empty profile; logs its console and all that it asks a network for."""
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    browser, driver = chromium()
    options = Options()
    options.binary_location = browser
    for flag in (*FLAGS, f"--user-data-dir={profile}", f"--window-size={width},{height}"):
        options.add_argument(flag)
    if dark:
        options.add_argument("--force-prefers-color-scheme=dark")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    made = webdriver.Chrome(options=options, service=Service(driver))
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    made.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    if dark:
        scheme = [{"name": "prefers-color-scheme", "value": "dark"}]
        made.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
    return made


@pytest.fixture(scope="session")
def browsers(tmp_path_factory):
    """Gives browsers, by the options of `start`; they end with the tests."""
    pytest.importorskip("selenium", reason="selenium isn't installed: pip install -e '.[dev]'")
    if chromium() is None:
        pytest.skip("no chromium and chromedriver here: apt-get install chromium chromium-driver")
    running = {}

    def browser(**options):
        key = tuple(sorted(options.items()))
        if key not in running:
            running[key] = start(tmp_path_factory.mktemp("profile"), **options)
        return running[key]

    yield browser
    for made in running.values():
        made.quit()
