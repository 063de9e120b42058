"""The page of `demo.py`, used as a person does, in a browser without a window, and as a program does."""

import base64
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from pictures import photographed, printed
from PIL import Image

from stn import mnist

gradio_client = pytest.importorskip("gradio_client", reason="needs requirements-demo.txt")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None)
DRIVER = shutil.which("chromedriver")
AT_REST = (0, 0, 0, 1, 0, 0)
# Corners of a stroke on the pad, of 280 × 280.
THREE = [(80, 60), (140, 45), (195, 75), (185, 115), (125, 135), (195, 160), (200, 205), (145, 240), (80, 220)]


class Address(str):
    """A URL, with the process that answers there as `pid`."""


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The address of a page that is served as `python demo.py` serves it, with hostile wishes in the environment."""
    port, folder = free_port(), tmp_path_factory.mktemp("demo")
    wishes = {"GRADIO_SHARE": "True", "GRADIO_SERVER_NAME": "0.0.0.0", "GRADIO_ANALYTICS_ENABLED": "True"}
    command = [sys.executable, ROOT / "demo.py", "--no-browser", "--port", str(port)]
    with open(folder / "log", "w+") as log:
        process = subprocess.Popen(
            command, cwd=folder, stdout=log, stderr=log, env=os.environ | wishes | {"TMPDIR": str(folder)}
        )
        try:
            for _ in range(2000):
                if process.poll() is not None or "The page is at" in (folder / "log").read_text():
                    break
                time.sleep(0.1)
            assert process.poll() is None, (folder / "log").read_text()
            address = Address(f"http://127.0.0.1:{port}")
            address.pid = process.pid
            yield address
            assert process.poll() is None, (folder / "log").read_text()
            assert "Traceback" not in (folder / "log").read_text()
        finally:
            process.terminate()
            process.wait()
    assert [path.name for path in folder.iterdir()] == ["log"]  # what was uploaded is gone


@pytest.fixture
def client(server):
    return new_client(server)


def new_client(server):
    return gradio_client.Client(server, verbose=False, httpx_kwargs={"timeout": 120})


def digit_in(html):
    return re.search(r"<h2>(\d)</h2>", html)[1]


def images_in(html):
    found = re.findall(r"data:image/png;base64,([^\"]+)", html)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))) for data in found]


def test_it_listens_to_this_machine_alone_and_offers_no_share(server):
    port = int(server.rpartition(":")[2])
    with socket.socket() as other, pytest.raises(OSError, match="refused"):
        other.connect(("127.0.0.2", port))  # this machine too, by an address that is not the one
    with urllib.request.urlopen(f"{server}/config") as answer:
        config = json.load(answer)
        assert "default-src 'self'" in answer.headers["Content-Security-Policy"]
    assert config["analytics_enabled"] is False
    assert not config.get("share_url")


def test_every_endpoint(client, tmp_path):
    """By name; together they are all that there are."""
    labels = mnist.read_mnist()[3]
    names = set(client.view_api(return_format="dict", print_info=False)["named_endpoints"])
    tried = set()

    def predict(*arguments, api_name):
        tried.add(api_name)
        return client.predict(*arguments, api_name=api_name)

    def compare(*sliders, left="exp_03", right="exp_16"):
        return predict(left, right, *sliders, api_name="/compare")

    for number in (0, 17, 9999):
        assert predict(number, api_name="/test_image") == f"test image {number:,}"
        assert [digit_in(html) for html in compare(*AT_REST)] == [str(labels[number])] * 2
    left, right = compare(*AT_REST)
    shown, seen = images_in(left)
    np.testing.assert_array_equal(shown, mnist.read_mnist()[2][9999])
    np.testing.assert_array_equal(seen, shown)  # without a transformer
    assert "<polygon" not in left
    assert "<polygon" in right
    assert (images_in(right)[1] != shown).any()
    turned = images_in(compare(90, *AT_REST[1:])[0])[0]
    np.testing.assert_allclose(turned, np.rot90(shown, -1), atol=1)  # clockwise
    moved = images_in(compare(0, 3, -2, 1, 0, 0)[0])[0]
    np.testing.assert_allclose(moved, np.roll(shown, (-2, 3), (0, 1)), atol=1)
    line = np.pad(printed("40", size=90), 40)
    Image.fromarray(((1 - line) * 255).astype(np.uint8)).save(tmp_path / "photo.png")
    assert predict(gradio_client.handle_file(tmp_path / "photo.png"), api_name="/photograph")[-1].endswith("2 found")
    assert digit_in(compare(*AT_REST)[1]) == "4"
    drawing = f"data:image/png;base64,{base64.b64encode((tmp_path / 'photo.png').read_bytes()).decode()}"
    assert predict("", False, api_name="/draw")[-1] == ""
    assert "2 found" in predict(drawing, False, api_name="/draw")[-1]
    assert predict(api_name="/put_back") == AT_REST
    assert tried == names


def test_ten_at_once(server):
    def ask(number):
        client = new_client(server)
        client.predict(number, api_name="/test_image")
        return digit_in(client.predict("exp_02", "exp_16", *AT_REST, api_name="/compare")[1])

    with ThreadPoolExecutor(10) as pool:
        read = list(pool.map(ask, range(10)))
    wrong = sum(int(digit) != label for digit, label in zip(read, mnist.read_mnist()[3], strict=False))
    assert wrong <= 1  # each has its own digit: no mixing of sessions


def test_large_and_bad_uploads(client, tmp_path):
    image = photographed(np.pad(printed("3", size=250), 10), np.random.default_rng(3))
    image.resize((5000, 4000)).save(tmp_path / "large.jpg")
    Image.new("1", (12_000, 12_000)).save(tmp_path / "huge.png")
    (tmp_path / "text.png").write_text("no image")
    started = time.perf_counter()
    remark = client.predict(gradio_client.handle_file(tmp_path / "large.jpg"), api_name="/photograph")[-1]
    assert time.perf_counter() - started < 10
    assert "shrunk from 5000×4000" in remark
    assert digit_in(client.predict("exp_02", "exp_16", *AT_REST, api_name="/compare")[1]) == "3"
    for name, reason in (("huge.png", "more than 89,478,485 pixels"), ("text.png", "is no image")):
        remark = client.predict(gradio_client.handle_file(tmp_path / name), api_name="/photograph")[-1]
        assert reason in remark


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="needs /proc of Linux")
def test_a_picture_takes_less_than_50_ms_of_one_core(server, client):
    """From the request to the HTML of both networks, counted by the server's process: others may use the machine."""

    def seconds():
        fields = (Path("/proc") / str(server.pid) / "stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    client.predict("exp_03", "exp_16", *AT_REST, api_name="/compare")  # warm
    before = seconds()
    for turn in range(50):
        client.predict("exp_03", "exp_16", turn, *AT_REST[1:], api_name="/compare")
    assert (seconds() - before) / 50 < 0.05


@pytest.fixture
def browser():
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium of requirements-dev.txt")
    if not CHROMIUM or not DRIVER:
        pytest.skip("needs Chromium and its driver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in ("headless=new", "no-sandbox", "disable-gpu", "no-first-run", "disable-background-networking"):
        options.add_argument(f"--{flag}")
    options.add_argument("--window-size=1400,1000")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    browser.set_script_timeout(60)
    yield browser
    browser.quit()


def until(condition, seconds=60):
    """Wait until `condition()` is true, and return it."""
    end = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < end:
        time.sleep(0.1)
    assert found
    return found


def test_a_person_draws_moves_and_uploads(server, browser, tmp_path, request):
    """A digit drawn by mouse is read; sliders change the picture; a photograph and a test image are read, too."""
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    def all_of(selector):
        return browser.find_elements(By.CSS_SELECTOR, selector)

    def read():
        return [title.text for title in all_of(".read h2")]

    def tab(name):
        next(button for button in all_of("button[role=tab]") if button.text == name).click()

    browser.get(server)
    pad = until(lambda: all_of(".pad canvas"))[0]
    time.sleep(1)
    pen = ActionChains(browser, duration=20)
    scale = pad.rect["width"] / 280
    corners = [((x - 140) * scale, (y - 140) * scale) for x, y in THREE]
    pen.move_to_element_with_offset(pad, *corners[0]).click_and_hold()
    for corner in corners[1:]:
        pen.move_to_element_with_offset(pad, *corner)
    before = read()
    pen.release().perform()
    assert before == ["7", "7"]  # test image 0
    until(lambda: read() == ["3", "3"])
    frame = all_of(".read polygon")[0].get_attribute("points")
    slider = all_of("input[type=range]")[0]
    slider.send_keys(Keys.ARROW_RIGHT * 25)
    until(lambda: all_of(".read polygon")[0].get_attribute("points") != frame)
    if request.config.getoption("--save-measurements"):
        time.sleep(3)
        browser.save_screenshot(ROOT / ".readme_figures" / "demo.png")
    tab("Test images")
    until(lambda: all_of("button.thumbnail-item"))[2].click()
    next(button for button in all_of("button") if button.text == "Put it back").click()
    until(lambda: read() == ["1", "1"])
    photographed(np.pad(printed("45", size=90), 60), np.random.default_rng(0)).save(tmp_path / "photo.jpg")
    tab("Photograph")
    until(lambda: all_of("input[type=file]"))[0].send_keys(str(tmp_path / "photo.jpg"))
    until(lambda: read() == ["4", "4"])
    assert "2 found" in browser.page_source
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = {m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"}
    assert {url for url in asked if not url.startswith((str(server), "data:", "blob:"))} == set()
    assert [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
