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
SEVEN = [(60, 60), (220, 60), (120, 230)]  # corners of a stroke on the pad, of 280 × 280


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
            for _ in range(600):
                if process.poll() is not None or "The page is at" in (folder / "log").read_text():
                    break
                time.sleep(0.1)
            assert process.poll() is None, (folder / "log").read_text()
            yield f"http://127.0.0.1:{port}"
            assert process.poll() is None, (folder / "log").read_text()
            assert "Traceback" not in (folder / "log").read_text()
        finally:
            process.terminate()
            process.wait()
    assert [path.name for path in folder.iterdir()] == ["log"]  # what was uploaded is gone


@pytest.fixture
def client(server):
    with gradio_client.Client(server, verbose=False) as client:
        yield client


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
    assert (config["enable_queue"], config["analytics_enabled"], config["is_space"]) == (True, False, False)
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


def test_twenty_at_once(server):
    def ask(number):
        with gradio_client.Client(server, verbose=False) as client:
            client.predict(number, api_name="/test_image")
            return digit_in(client.predict("exp_02", "exp_16", *AT_REST, api_name="/compare")[1])

    with ThreadPoolExecutor(20) as pool:
        read = list(pool.map(ask, range(20)))
    wrong = sum(int(digit) != label for digit, label in zip(read, mnist.read_mnist()[3], strict=False))
    assert wrong <= 2  # each has its own digit: no mixing of sessions


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


def test_a_picture_comes_within_50_ms(client):
    """From the request to the HTML of both networks, the median of many; the first ones warm up."""
    times = []
    for number in range(40):
        started = time.perf_counter()
        client.predict("exp_03", "exp_16", number, *AT_REST[1:], api_name="/compare")
        times.append(time.perf_counter() - started)
    assert sorted(times)[len(times) // 2] < 0.15  # a busy machine; alone it takes a tenth
    return times
