"""The live page: nothing without the token, nothing executed that a client sent, and rounds as they come."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from flwr_faa.ledger import live
from tests.ledger.ledgers import HONEST, HOSTILE, LIAR, SILENT, report, write

TOKEN = "t" * 43


@pytest.fixture
def client(tmp_path: Path) -> TestClient:
    write(tmp_path, 4)
    return TestClient(live.application(tmp_path, TOKEN))


def test_nothing_without_the_token(client: TestClient) -> None:
    for wrong in ({}, {"Authorization": "Bearer x"}, {"Authorization": TOKEN}, {"Cookie": f"{live.COOKIE}=x"}):
        for path in ("/", "/api/state", "/live.js", "/live.html", "/nothing", "/ledger.sqlite"):
            reply = client.get(path, headers=wrong)
            assert reply.status_code == 401
            assert str(LIAR) not in reply.text and TOKEN not in reply.text
        assert client.post("/login", headers=wrong).status_code == 403
    assert client.get("/api/state", headers={"Authorization": "Bearer é".encode()}).status_code == 401


def test_the_token_opens_it_by_header_and_by_cookie(client: TestClient) -> None:
    reply = client.get("/api/state", headers={"Authorization": f"Bearer {TOKEN}"})
    assert [r["round"] for r in reply.json()["rounds"]] == [1, 2, 3, 4]
    assert {n["node"]: n["state"] for n in reply.json()["nodes"]} == {
        str(LIAR): "banned", str(SILENT): "watched", str(HONEST): "watched",
    }  # fmt: skip
    entered = client.post("/login", headers={"Authorization": f"Bearer {TOKEN}"})
    assert entered.status_code == 204
    assert {"HttpOnly", "SameSite=strict"} <= set(entered.headers["set-cookie"].split("; "))
    assert client.get("/").status_code == 200  # with the cookie
    assert client.get("/live.js").headers["content-type"].startswith("text/javascript")
    assert client.get("/..%2fcli.py").status_code == 404  # which is beside the page's folder
    assert "default-src 'self'" in client.get("/").headers["content-security-policy"]
    for method in ("post", "put", "delete", "patch"):  # read-only
        assert getattr(client, method)("/api/state").status_code == 405


def test_it_uses_nothing_from_the_network() -> None:
    for file in Path(live.__file__).parent.glob("*.[hjc]*"):
        assert not re.search(r"https?://|//cdn|@import|innerHTML|insertAdjacentHTML|document\.write", file.read_text())


def test_a_token_that_can_be_guessed_is_refused(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret\n")
    with pytest.raises(ValueError, match="at least 20"):
        live.read_token(tmp_path / "token")


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, Path, Path]]:
    """The command itself: URL with the token, folder, and log."""
    ledger, log = tmp_path / "ledger", tmp_path / "log"
    write(ledger, 4).close()
    (tmp_path / "token").write_text(TOKEN)
    program = "from flwr_faa.ledger.cli import main; main()"
    command = [sys.executable, "-c", program, "serve", str(ledger), "--port", "0", "--token-file", tmp_path / "token"]
    with log.open("w") as output:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=output, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
        )
        assert process.stdout is not None
        greeting = process.stdout.readline()
        try:
            yield re.search(r"http://127\.0\.0\.1:\d+", greeting).group() + f"/#{TOKEN}", ledger, log  # type: ignore[union-attr]
        finally:
            process.terminate()
            rest = process.communicate(timeout=60)[0]
    assert TOKEN not in greeting + rest + log.read_text()


@pytest.mark.slow
def test_in_chromium(served: tuple[str, Path, Path], tmp_path: Path) -> None:
    webdriver = pytest.importorskip("selenium.webdriver", reason="expected selenium: pip install --group dev")
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        pytest.skip("expected chromium and chromedriver: apt-get install chromium chromium-driver")
    url, ledger, _ = served
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", f"--user-data-dir={tmp_path / 'c'}"):
        options.add_argument(argument)
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    with webdriver.Chrome(options=options, service=service) as browser:
        browser.set_window_size(1200, 900)
        wait = WebDriverWait(browser, 60)

        browser.get(url.partition("#")[0])  # without a token: the form, and nothing else
        assert not browser.find_elements(By.TAG_NAME, "article")
        browser.get("about:blank")
        browser.get(url)
        wait.until(lambda b: len(b.find_elements(By.TAG_NAME, "article")) == 3)
        assert TOKEN not in browser.current_url
        told = "return document.getElementById('status').textContent"
        assert "The run has ended" in browser.execute_script(told)
        rounds = "return document.querySelectorAll('#grid thead th').length - 1"
        assert browser.execute_script(rounds) == 4

        assert browser.title == "flwr-anomaly"  # what the liar sent is text
        assert HOSTILE.split(">")[0] in browser.find_element(By.CSS_SELECTOR, "article.banned .why").text
        assert not browser.find_elements(By.CSS_SELECTOR, "article script, article img")
        browser.find_element(By.CSS_SELECTOR, "#grid button.convicted.observed").click()
        assert "would have been removed" in browser.find_element(By.ID, "detail").text

        more = write(ledger, 0)  # rounds as they come
        for server_round in (5, 6):
            more.record(report(server_round))
        wait.until(lambda b: b.execute_script(rounds) == 6)
        assert browser.execute_script(told).startswith("running")
        words = "return [...document.querySelectorAll('#key span')].map((e) => e.textContent)"
        assert browser.execute_script(words) == ["\u2022trusted", "\u2713cleared", "\u2717convicted", "?missing"]
        states = "return [...document.querySelectorAll('.badge')].map((e) => e.textContent)"
        assert browser.execute_script(states) == ["\u2717 banned", "! watched", "! watched"]
        squares = "return [...document.querySelectorAll('#grid button:enabled')].every((e) => e.textContent)"
        assert browser.execute_script(squares)
        assert browser.find_elements(By.CSS_SELECTOR, "link[rel=icon]")
        assert "2 of 2" not in browser.find_element(By.ID, "figures").text  # the silent one is out in round 6

        if folder := os.environ.get("FAA_SCREENSHOTS"):
            browser.save_screenshot(f"{folder}/live.png")
        width = "return document.documentElement.scrollWidth <= document.documentElement.clientWidth"
        browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride", {"width": 375, "height": 800, "deviceScaleFactor": 1, "mobile": True}
        )
        wait.until(lambda b: b.execute_script("return window.innerWidth") == 375)
        assert browser.execute_script(width)
        assert browser.get_log("browser") == [] or all("401" in e["message"] for e in browser.get_log("browser"))
        if folder := os.environ.get("FAA_SCREENSHOTS"):
            browser.save_screenshot(f"{folder}/live-phone.png")
