"""The page of `demo.py`, used as a person does, in a browser without a window, and as a program does."""

import base64
import contextlib
import http.client
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from own_pictures import stack
from pictures import dots, endless_jpeg, photographed, printed
from PIL import Image

from stn import mnist

gradio_client = pytest.importorskip("gradio_client", reason="needs requirements-demo.txt")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None)
DRIVER = shutil.which("chromedriver")
needs_proc = pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="needs /proc of Linux")
AT_REST = (0, 0, 0, 1, 0, 0)
# Corners of a stroke on the pad, of 280 × 280.
THREE = [(80, 60), (140, 45), (195, 75), (185, 115), (125, 135), (195, 160), (200, 205), (145, 240), (80, 220)]


class Address(str):
    """A URL, with the process that answers there as `pid`, and the only folder in which it may store files."""


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextlib.contextmanager
def served(folder, *options):
    """The address of a page that is served as `python demo.py` serves it, with hostile wishes in the environment."""
    port = free_port()
    wishes = {"GRADIO_SHARE": "True", "GRADIO_SERVER_NAME": "0.0.0.0", "GRADIO_ANALYTICS_ENABLED": "True"}
    command = [sys.executable, ROOT / "demo.py", "--no-browser", "--port", str(port), *options]
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
            address.pid, address.folder, address.is_open = process.pid, folder, bool(options)
            yield address
            assert process.poll() is None, (folder / "log").read_text()
            assert "Traceback" not in (folder / "log").read_text()
        finally:
            process.terminate()
            process.wait()
    assert [path.name for path in folder.iterdir()] == ["log"]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with served(tmp_path_factory.mktemp("demo")) as address:
        yield address


@pytest.fixture(scope="module")
def open_server(tmp_path_factory):
    """The same page, which other machines can open."""
    with served(tmp_path_factory.mktemp("open"), "--host", "0.0.0.0") as address:
        yield address


@pytest.fixture(params=["server", "open_server"])
def either(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def client(server):
    return new_client(server)


def new_client(server):
    return gradio_client.Client(server, verbose=False, httpx_kwargs={"timeout": 120})


def ask(server, method, path, body=None, **headers):
    """Send one request; return the status and the text of the answer, or of its beginning if it goes on."""
    address = server.partition("://")[2]
    with contextlib.closing(http.client.HTTPConnection(address, timeout=30)) as connection:
        body = body if body is None or isinstance(body, bytes) else json.dumps(body)
        connection.request(method, path, body, {"Content-Type": "application/json", **headers})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def call_endpoint(server, name, *data):
    """Call an endpoint without Gradio's client, in a session of its own; return what it answers."""
    status, text = ask(server, "POST", f"/gradio_api/call/{name}", {"data": data})
    assert status == 200, text
    status, text = ask(server, "GET", f"/gradio_api/call/{name}/{json.loads(text)['event_id']}")
    return json.loads(re.search("event: complete\ndata: (.*)", text)[1])


def data_url(content):
    """A file's bytes, or a PIL image, as the page sends them."""
    if isinstance(content, Image.Image):
        content.save(file := io.BytesIO(), "png")
        content = file.getvalue()
    return f"data:application/octet-stream;base64,{base64.b64encode(content).decode()}"


def remark_on(server, picture):
    """What the page says of a photograph, named or as a data URL."""
    return call_endpoint(server, "photograph", str(picture))[-2]


def stored_files(server):
    return [path.name for path in server.folder.rglob("*") if not path.is_dir()]


def drawn_three():
    return Image.fromarray(255 - np.pad((printed("3", size=90) * 255).astype(np.uint8), 40))


def on_its_side(text, size):
    """A photograph of digits, a JPEG as bytes, whose EXIF data say that it is to be turned clockwise."""
    image = photographed(np.pad(printed(text, size=100), 60), np.random.default_rng(3)).resize(size)
    exif = Image.Exif()
    exif[0x0112] = 6
    image.transpose(Image.Transpose.ROTATE_90).save(file := io.BytesIO(), "jpeg", exif=exif)
    return file.getvalue()


def digit_in(html):
    return re.search(r"<h2>(\d)</h2>", html)[1]


def seconds_of(server):
    """The processor time that a server has used."""
    fields = (Path("/proc") / str(server.pid) / "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def images_in(html):
    found = re.findall(r"data:image/png;base64,([^\"]+)", html)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))) for data in found]


def test_it_listens_to_this_machine_alone_and_offers_no_share(server):
    port = int(server.rpartition(":")[2])
    with socket.socket() as other, pytest.raises(OSError, match="refused"):
        other.connect(("127.0.0.2", port))  # this machine too, by an address that is not the one
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port)) as connection:
        connection.request("GET", "/config")
        answer = connection.getresponse()
        config = json.load(answer)
    assert "default-src 'self'" in answer.headers["Content-Security-Policy"]
    assert config["analytics_enabled"] is False
    assert config["run_history"] is False  # Gradio would keep all pictures in the browser
    assert not config.get("share_url")


def test_every_endpoint(client):
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
    picture = data_url(Image.fromarray(((1 - line) * 255).astype(np.uint8)))
    several, remark, photo = predict(picture, api_name="/photograph")
    assert remark == "exp_302 reads **40**. Choose one of them. dark ink on light, 2 found"
    assert len(images_in(several["value"])) == 2
    assert photo == ""  # forgotten
    assert digit_in(compare(*AT_REST)[1]) == "4"
    rows = np.pad(stack([printed(text, size=90) for text in ("1,2", "7")], 50), 40)
    remark = predict(data_url(Image.fromarray(((1 - rows) * 255).astype(np.uint8))), api_name="/photograph")[1]
    assert remark.startswith("exp_302 reads **12 / 7**. ")
    assert remark.endswith("; left out: marks (1)")
    assert predict("", False, api_name="/draw")[-1] == ""
    assert "2 found" in predict(picture, False, api_name="/draw")[-1]
    letters = np.pad(printed("3K", size=90), 40)
    remark = predict(data_url(Image.fromarray(((1 - letters) * 255).astype(np.uint8))), api_name="/photograph")[1]
    assert re.match(r"exp_302 reads \*\*3\d\?\*\*\. ", remark)
    assert predict(picture, True, api_name="/draw")[-1] == "This image is not square as the pad is."
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


def test_a_large_photograph_that_lies_on_its_side(client):
    """It is turned as its EXIF data say, shrunk and read."""
    photo = on_its_side("3", (4000, 5000))
    started = time.perf_counter()
    remark = client.predict(data_url(photo), api_name="/photograph")[1]
    assert time.perf_counter() - started < 10
    assert remark == "turned as its EXIF data say; shrunk from 5000×4000; dark ink on light, 1 found"
    assert digit_in(client.predict("exp_02", "exp_16", *AT_REST, api_name="/compare")[1]) == "3"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (Image.new("1", (12_000, 12_000)), "has more than 89,478,485 pixels"),
        (b"no image", "is no image"),
        (dots(), "falls into 20,449 parts"),
    ],
    ids=["pixels", "text", "halftone"],
)
@needs_proc
def test_what_takes_too_much_is_refused_in_words(server, content, reason):
    url, before = data_url(content), seconds_of(server)
    assert reason in remark_on(server, url)
    assert seconds_of(server) - before < 2


def test_a_slow_picture_does_not_hold_up_others(server):
    with ThreadPoolExecutor(2) as pool:
        slow = [pool.submit(remark_on, server, data_url(endless_jpeg())) for _ in range(2)]
        time.sleep(0.5)
        assert remark_on(server, data_url(drawn_three())).endswith("1 found")
        assert call_endpoint(server, "test_image", 17)[-1] == "test image 17"
        assert not any(answer.done() for answer in slow)
        assert all("takes more than 2 seconds" in answer.result() for answer in slow)


def name_paths(folder):
    """Paths that someone might name; only the first leads nowhere."""
    (folder / "within").mkdir()
    drawn_three().save(folder / "picture.png")
    os.mkfifo(folder / "pipe.png")
    names = "missing.png", "picture.png", "within", "within/../picture.png", "pipe.png"
    return [*(folder / name for name in names), "/dev/zero", "http://192.0.2.1/picture.png"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_no_path_is_opened_and_none_is_told_to_exist(either, tmp_path):
    """Whatever endpoint, whatever place of its arguments, in all spellings of a file that Gradio knows.

    Not even a file where Gradio would keep what another session has uploaded is opened.
    """
    (uploaded := next(either.folder.rglob("gradio*"), either.folder) / "uploaded.png").write_bytes(b"x")
    mark = {"meta": {"_type": "gradio.FileData"}}
    config = json.loads(ask(either, "GET", "/config")[1])
    shapes = {part["api_name"]: len(part["inputs"]) for part in config["dependencies"]}
    answers = set()
    for path in map(str, [*name_paths(tmp_path), uploaded]):
        for name, inputs in shapes.items():
            for file in ({"path": path}, {"path": path, **mark}, {"path": path, "url": path, **mark}, {"url": path}):
                body = {"data": [file] * max(1, inputs)}
                answers.add(ask(either, "POST", f"/gradio_api/call/{name}", body))
        joined = {"data": [{"path": path, **mark}], "fn_index": 1, "session_hash": "x", "event_data": None}
        answers.add(ask(either, "POST", "/gradio_api/queue/join", joined))
        answers.add(ask(either, "POST", "/gradio_api/run/predict", joined))
        answers.add(ask(either, "POST", "/gradio_api/call/v2/photograph", {"photo": {"path": path, **mark}}))
    assert answers == {(403, "This page opens no files: send the content of a picture, in base64.")}
    uploaded.unlink()
    # As a string it is the content of a picture, which it is not.
    remarks = {remark_on(either, path) for path in (tmp_path, tmp_path / "missing.png")}
    (remark,) = remarks
    assert remark.startswith("This image is no image, or none of these: PNG, JPEG, WEBP, GIF, BMP, TIFF, PPM")
    assert stored_files(either) == ["log"]


def test_nothing_is_uploaded_and_no_file_is_given_out(either, tmp_path):
    (tmp_path / "picture.png").write_bytes(b"x")
    form = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\nx\r\n--b--\r\n'
    header = {"Content-Type": "multipart/form-data; boundary=b"}
    refused = (404, "This page offers no such thing.")
    assert ask(either, "POST", "/gradio_api/upload", form, **header) == refused
    assert ask(either, "POST", "/gradio_api/component_server", {"data": [], "fn_name": "x"}) == refused
    for path in (tmp_path / "picture.png", tmp_path / "missing.png", ROOT / "demo.py", "http://192.0.2.1/"):
        for way in ("file=", "file/", "proxy=", "custom_component/", "deep_link?session_hash="):
            assert ask(either, "GET", f"/gradio_api/{way}{path}") == refused
    assert stored_files(either) == ["log"]


def test_a_body_is_json_of_a_limited_size(server):
    def pieces():  # without a Content-Length
        yield from (b"x" * 1_000_000 for _ in range(27))

    words = (413, "A picture may have 20 MB at most; make it smaller first.")
    assert ask(server, "POST", "/gradio_api/call/draw", b"x" * 26_700_000) == words
    with contextlib.closing(http.client.HTTPConnection(server.partition("://")[2], timeout=30)) as connection:
        connection.request("POST", "/gradio_api/call/draw", pieces(), encode_chunked=True)
        answer = connection.getresponse()
        assert (answer.status, answer.read().decode()) == words
    for body in (b"", b"data=1", b"[" * 100_000, b"\xff\xfe"):
        assert ask(server, "POST", "/gradio_api/call/draw", body) == (400, "The request is no JSON.")


@pytest.mark.parametrize("way", [("GET", "/"), ("GET", "/config"), ("POST", "/gradio_api/call/put_back")])
def test_foreign_hosts_and_origins_are_refused(either, way):
    """A page of another origin may not ask; nor one whose own name leads to this machine (DNS rebinding)."""
    port = either.rpartition(":")[2]
    body = {"data": []} if way[0] == "POST" else None

    def status(**headers):
        return ask(either, *way, body, **headers)[0]

    machine = socket.gethostname()
    for host in (f"127.0.0.1:{port}", f"localhost:{port}", "localhost", f"LOCALHOST:{port}"):
        assert status(Host=host) == 200
        assert status(Host=host, Origin=f"http://{host}") == 200
    assert status(Host=f"{machine}:{port}") == (200 if either.is_open else 403)
    assert status(Host=f"{machine}.local:{port}") == (200 if either.is_open else 403)
    for host in ("evil.example", f"evil.example:{port}", f"127.0.0.1.evil.example:{port}", f"192.0.2.1:{port}", "[::1"):
        assert status(Host=host) in (400, 403)
        assert status(Host=host, Origin=f"http://{host}") in (400, 403)
    for origin in ("http://evil.example", f"http://evil.example:{port}", "http://localhost:1", "null", "file://", ""):
        assert status(Origin=origin) == 403
    assert status(**{"Host": f"127.0.0.1:{port}", "host": "evil.example"}) == 400
    assert ask(either, "OPTIONS", way[1], **{"Access-Control-Request-Method": "POST"})[0] == 404


def test_it_answers_at_each_address_of_this_machine_if_others_may_open_it(open_server):
    port = open_server.rpartition(":")[2]
    assert ask(f"http://127.0.0.2:{port}", "GET", "/config")[0] == 200  # by the address at which it is reached
    assert ask(open_server, "GET", "/config", Host=f"127.0.0.2:{port}")[0] == 403


@pytest.mark.slow
@needs_proc
def test_a_picture_takes_less_than_50_ms_of_one_core(server, client):
    """From the request to the HTML of both networks, counted by the server's process: others may use the machine."""
    client.predict("exp_03", "exp_16", *AT_REST, api_name="/compare")  # warm
    before = seconds_of(server)
    for turn in range(50):
        client.predict("exp_03", "exp_16", turn, *AT_REST[1:], api_name="/compare")
    assert (seconds_of(server) - before) / 50 < 0.05


@pytest.fixture
def browser():
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium of requirements-dev.txt")
    if not CHROMIUM or not DRIVER:
        pytest.skip("needs Chromium and its driver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in ("headless=new", "no-sandbox", "disable-gpu", "no-first-run", "disable-background-networking"):
        options.add_argument(f"--{flag}")
    options.add_argument("--window-size=1400,1250")
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
    until(lambda: all_of(".choice button"))[2].click()
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


@pytest.mark.parametrize("width", [360, 412])
def test_it_fits_a_phone(server, browser, tmp_path, width):
    """Nothing lies beyond the side of the screen, and a photograph is shown upright and read."""
    from selenium.webdriver.common.by import By

    def all_of(selector):
        return browser.find_elements(By.CSS_SELECTOR, selector)

    def fits():
        return browser.execute_script("return document.documentElement.scrollWidth") <= width

    screen = {"width": width, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    browser.get(server)
    until(lambda: all_of(".pad canvas") and all_of(".read svg"))
    time.sleep(1)
    assert fits()
    slider, picture = all_of("input[type=range]")[-1].rect, all_of(".read svg")[0].rect
    assert picture["y"] + picture["height"] - slider["y"] < 740  # who moves a slider sees what it does
    for element in all_of(".pad canvas, input[type=range], .read svg, .read h2"):
        assert 0 <= element.rect["x"] <= element.rect["x"] + element.rect["width"] <= width
    next(button for button in all_of("button[role=tab]") if button.text == "Photograph").click()
    (tmp_path / "photo.jpg").write_bytes(on_its_side("45", (900, 1200)))
    until(lambda: all_of("input[type=file]"))[0].send_keys(str(tmp_path / "photo.jpg"))
    until(lambda: [title.text for title in all_of(".read h2")] == ["4", "4"])
    assert "turned as its EXIF data say" in browser.page_source
    photo = until(lambda: all_of(".field img"))[0].rect
    assert photo["height"] > photo["width"] > 0
    assert fits()
    until(lambda: [button for button in all_of(".choice button") if button.is_displayed()])[1].click()
    until(lambda: [title.text for title in all_of(".read h2")] == ["5", "5"])
