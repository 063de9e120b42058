"""Draw a digit, or photograph one, and watch two networks straighten and read it: a page in the browser.

    pip install -r requirements-demo.txt
    python demo.py                  http://127.0.0.1:7860
    python demo.py --host 0.0.0.0   lets other machines in the network open the page, too

Sliders turn, shift, scale and tilt the digit before the networks see it. The page needs no network connection and makes
no request to any other host: scripts and fonts are Gradio's own, and a content security policy forbids others. Pictures
are read in memory and never stored. Ctrl-C ends the program.
"""

import base64
import io
import math
import os
import socket
import sys
import tempfile
import webbrowser

from digits import gate
from lab import cli
from lab.figures import ORANGE
from lab.settings import RunError

FIRST = "exp_12", "exp_302"  # shown at the start: without a transformer, and what predict.py reads with
EXAMPLES = 20  # test images to choose from
MARGIN = 8  # pixels around an image, for frames that reach beyond it
AT_ONCE, MOST_WAITING = 3, 20  # pictures in which digits are looked for, and requests that wait
MOST_SESSIONS = 100  # whose digits are remembered; each reload of the page is a new one
MOST_CONNECTIONS = 300  # a page keeps two of them open
# name: minimum, maximum, step, neutral value
SLIDERS = {
    "Turn, degrees": (-90, 90, 1, 0),
    "Shift right, pixels": (-10, 10, 0.5, 0),
    "Shift down, pixels": (-10, 10, 0.5, 0),
    "Scale": (0.5, 1.5, 0.05, 1),
    "Tilt left to right": (-0.4, 0.4, 0.02, 0),
    "Tilt top to bottom": (-0.4, 0.4, 0.02, 0),
}
PAD_SIZE = 280  # pixels
AT_REST = tuple(rest for *_, rest in SLIDERS.values())
# The browser itself refuses requests to other hosts, and to show this page within another.
POLICY = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'none'"
# A pad to draw on. At the end of each stroke the drawing is sent as a data URL: a PNG in base64, or "" after Clear.
PAD = f'<canvas width="{PAD_SIZE}" height="{PAD_SIZE}" aria-label="a pad to draw on"></canvas><button>Clear</button>'
PEN = """
const canvas = element.querySelector('canvas'), pen = canvas.getContext('2d');
let last = null;
const at = event => {
  const box = canvas.getBoundingClientRect(), scale = canvas.width / box.width;
  return [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
};
const clear = () => { pen.fillStyle = 'white'; pen.fillRect(0, 0, canvas.width, canvas.height); };
const send = drawing => { props.value = drawing; trigger('change'); };
clear();
Object.assign(pen, {lineWidth: canvas.width / 12, lineCap: 'round', lineJoin: 'round'});
canvas.onpointerdown = event => {
  canvas.setPointerCapture(event.pointerId); last = at(event); canvas.onpointermove(event);
};
canvas.onpointermove = event => {
  if (!last) return;
  pen.beginPath(); pen.moveTo(...last); last = at(event); pen.lineTo(...last); pen.stroke();
};
canvas.onpointerup = canvas.onpointercancel = () => { last = null; send(canvas.toDataURL()); };
element.querySelector('button').onclick = () => { clear(); send(''); };
"""
# A field for a photograph, which is chosen, dropped or pasted, shown, and sent as a data URL.
FIELD = f"""<label>Choose a photograph, drop it here or paste it
<input type="file" accept="image/*" data-most="{gate.MOST_BYTES}"></label><img alt="the photograph" hidden>"""
SEND_FILE = """
const input = element.querySelector('input'), shown = element.querySelector('img');
const send = file => {
  if (!file) return;
  if (file.size > input.dataset.most) {
    return alert(`This picture has more than ${input.dataset.most / 1e6} MB; make it smaller first.`);
  }
  const reader = new FileReader();
  reader.onload = () => { shown.src = props.value = reader.result; trigger('change'); };
  reader.readAsDataURL(file);
};
shown.onload = shown.onerror = event => { shown.hidden = event.type == 'error'; };
input.onchange = () => send(input.files[0]);
document.addEventListener('paste', event => { if (element.offsetParent) send(event.clipboardData.files[0]); });
"""
# Small pictures to choose from.
PICK = """
element.onclick = event => {
  const button = event.target.closest('button');
  if (button) trigger('select', {index: [...button.parentNode.children].indexOf(button), value: null});
};
"""
CSS = """
.pad canvas {width: 100%; max-width: 360px; border: 1px solid #999; touch-action: none; cursor: crosshair}
.field input {display: block; width: 100%; padding: 2em 1em; border: 1px dashed #999} .field img {max-height: 300px}
.choice {display: grid; grid-template-columns: repeat(auto-fill, minmax(44px, 1fr)); gap: 6px}
.choice button {padding: 0} .choice img {width: 100%; image-rendering: pixelated}
.read svg {width: 100%; background: #333} .read image {image-rendering: pixelated} .read .pair {display: flex; gap: 8px}
.read figure {flex: 1; margin: 0; text-align: center} .read h2 {margin: 0; font-size: 2.2rem; text-align: center}
.read .bar {display: flex; align-items: center; gap: 8px; line-height: 1.3} .read .bar i {height: 0.7em}
.read .bar i {background: #0072B2; display: block} .read .bar span {flex: 1}
.read .bar b {width: 4em; text-align: right}
"""


def move_digit(image, turn, right, down, scale, tilt_x, tilt_y):
    """Return an image (28, 28) with its digit moved by the values of SLIDERS; it turns clockwise."""
    import torch

    from stn import warps

    cos, sin = scale * math.cos(math.radians(turn)), scale * math.sin(math.radians(turn))
    half = len(image) / 2
    similarity = torch.tensor([[cos, -sin, right / half], [sin, cos, down / half], [0.0, 0.0, 1.0]])
    tilt = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [tilt_x, tilt_y, 1.0]])
    back = torch.linalg.inv(similarity @ tilt)  # destination to source
    return warps.homography_warp(torch.as_tensor(image)[None, None], (back / back[2, 2])[None])[0, 0].numpy()


def encode_png(image):
    """Return an image (28, 28) in [0, 1] as the data URL of a PNG."""
    import numpy as np
    from PIL import Image

    Image.fromarray((image * 255).round().astype(np.uint8)).save(file := io.BytesIO(), "png")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def decode_file(url):
    """Return the file in a data URL in base64, as io.BytesIO. Raise ImageError."""
    from digits.image_files import ImageError

    try:
        return io.BytesIO(base64.b64decode(url.partition(",")[2], validate=True))
    except (AttributeError, ValueError):  # another type, other letters
        raise ImageError("is no data URL in base64") from None


def draw_choice(images, name):
    """Draw images (N, 28, 28) in [0, 1] as buttons in HTML, which `PICK` makes a choice of. name: of one of them."""
    buttons = (f'<button><img src="{encode_png(image)}" alt="{name} {n}"></button>' for n, image in enumerate(images))
    return f'<div class="choice">{"".join(buttons)}</div>'


def draw_svg(image, label, frame=None):
    """Draw an image (28, 28) in [0, 1], and its frame (4, 2) if given, (x, y) in pixels from the first one's centre."""
    import numpy as np

    size, outline = len(image), ""
    if frame is not None:
        points = " ".join(f"{x:.2f},{y:.2f}" for x, y in np.nan_to_num(frame + 0.5).clip(-999, 999))
        outline = f'<polygon points="{points}" fill="none" stroke="{ORANGE}" stroke-width="0.7"/>'
    box = f"{-MARGIN} {-MARGIN} {size + 2 * MARGIN} {size + 2 * MARGIN}"
    shown = f'<image href="{encode_png(image)}" width="{size}" height="{size}"/>{outline}'
    drawing = f'<svg viewBox="{box}" role="img" aria-label="{label}">{shown}</svg>'
    return f"<figure>{drawing}<figcaption>{label}</figcaption></figure>"


def render_prediction(network, image):
    """Return a network's prediction for an image (28, 28) as HTML: the frame, the straightened digit, probabilities."""
    from digits.doubt import mark

    read = network.read(image[None])
    row, frame = read.probabilities[0], None if read.frames is None else read.frames[0]
    label = "no frame" if frame is None else "the frame that is read"
    pair = draw_svg(image, label, frame) + draw_svg(read.straightened[0], "what the classifier sees")
    bars = "".join(
        f'<div class="bar">{digit} <span><i style="width:{p:.1%}"></i></span><b>{p:.1%}</b></div>'
        for digit, p in enumerate(row)
    )
    (told,) = mark([row.argmax()], read.doubtful)
    return f'<div class="read"><div class="pair">{pair}</div><h2>{told}</h2>{bars}</div>'


def build_page(networks, examples):
    """Return the page as gradio.Blocks. networks: {name: Trained}. examples: test images (N, 28, 28) in [0, 1]."""
    import gradio as gr

    from digits.doubt import mark
    from digits.image_files import ImageError
    from digits.own_images import SIZE, find_digits, read_grey, resize

    def take(picture, as_it_is):
        """Find the digits in a data URL; return the first, all, a choice of them, and a remark: rows and steps."""
        try:
            if as_it_is:
                grey, steps = read_grey(decode_file(picture))
                if len(set(grey.shape)) > 1:
                    raise ImageError("is not square as the pad is")
                images = (1 - resize(grey, SIZE / max(grey.shape)))[None]
            else:
                found = find_digits(decode_file(picture))
                images, steps = found.images, found.steps
        except ImageError as error:
            return gr.skip(), gr.skip(), gr.skip(), f"This image {error}."
        several = len(images) > 1
        remark = "; ".join(steps)
        if several:
            read = networks[FIRST[1]].read(images)
            rows = " / ".join(found.split_rows(mark(read.probabilities.argmax(1), read.doubtful)))
            remark = f"{FIRST[1]} reads **{rows}**. Choose one of them. {remark}"
        return images[0], images, gr.HTML(draw_choice(images, "digit"), visible=several), remark

    def draw(drawing, as_it_is):
        return take(drawing, as_it_is) if drawing else (gr.skip(),) * 3 + ("",)

    def photograph(photo):  # the session need not remember the photograph
        return (*take(photo, False), "") if photo else gr.skip()

    def test_image(number):
        if not 0 <= number < len(examples):
            raise gr.Error(f"Test images are numbered from 0 to {len(examples) - 1:,}.")
        return examples[int(number)], f"test image {number:,.0f}"

    def number_of(event: gr.SelectData):
        return event.index

    def choose(images, event: gr.SelectData):
        return images[event.index]

    def compare(image, left, right, *sliders):
        image = move_digit(image, *sliders)
        return render_prediction(networks[left], image), render_prediction(networks[right], image)

    choices = [(f"{name}: {network.description}", name) for name, network in networks.items()]
    with gr.Blocks(title="Spatial transformers by hand", analytics_enabled=False) as blocks:
        digit, digits_found = gr.State(examples[0]), gr.State(examples[:1])
        gr.Markdown(
            "# Spatial transformers by hand\nDraw a digit, then move it: the orange frame is what is read. "
            f'{FIRST[1]} writes "?" after a digit that may be none.'
        )
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                with gr.Tab("Draw"):
                    pad = gr.HTML(html_template=PAD, js_on_load=PEN, elem_classes="pad")
                    as_it_is = gr.Checkbox(label="Leave it where I draw it, do not centre it as MNIST's digits are")
                with gr.Tab("Photograph"):
                    photo = gr.HTML(html_template=FIELD, js_on_load=SEND_FILE, elem_classes="field")
                with gr.Tab("Test images"):
                    shown = draw_choice(examples[:EXAMPLES], "test image")
                    gallery = gr.HTML(shown, js_on_load=PICK)
                    number = gr.Number(0, precision=0, minimum=0, maximum=len(examples) - 1, label="or by number")
                remark = gr.Markdown()
                several = gr.HTML(visible=False, js_on_load=PICK)
            with gr.Column(scale=4, min_width=320):
                sliders, sides = [], []
                for row in zip(*2 * [iter(SLIDERS)], strict=True):
                    with gr.Row():
                        for name in row:
                            low, high, step, rest = SLIDERS[name]
                            sliders.append(gr.Slider(low, high, rest, step=step, label=name, min_width=140))
                reset = gr.Button("Put it back", size="sm")
                with gr.Row():
                    for name in FIRST:
                        with gr.Column(min_width=260):
                            select = gr.Dropdown(choices, value=name, label="Network")
                            sides.append((select, gr.HTML(render_prediction(networks[name], examples[0]))))
        selects, results = zip(*sides, strict=True)
        new = [digit, digits_found, several, remark]
        limits = {"concurrency_limit": AT_ONCE, "concurrency_id": "pictures"}
        gr.on([pad.change, as_it_is.change], draw, [pad, as_it_is], new, show_progress="hidden", **limits)
        photo.change(photograph, photo, [*new, photo], **limits)
        number.change(test_image, number, [digit, remark], show_progress="hidden")
        gallery.select(number_of, None, number, api_visibility="private")
        several.select(choose, digits_found, digit, api_visibility="private")
        reset.click(lambda: AT_REST, None, sliders, api_name="put_back")
        inputs = [digit, *selects, *sliders]
        fast = {"show_progress": "hidden", "trigger_mode": "always_last", "queue": False}
        gr.on([item.change for item in inputs], compare, inputs, results, **fast)
    blocks.queue(max_size=MOST_WAITING, api_open=False)
    blocks.state_session_capacity = MOST_SESSIONS
    return blocks


def serve(options, folder):
    """Serve the page until the program is interrupted; return the exit code. folder: for what Gradio may store."""
    environment = {"GRADIO_TEMP_DIR": folder, "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"}
    environment["GRADIO_RUN_HISTORY"] = "False"  # which would keep all pictures in the browser
    os.environ |= environment  # before Gradio is imported
    try:
        import gradio as gr
    except ImportError as error:
        print(f"demo.py: it needs Gradio ({error}): pip install -r requirements-demo.txt", file=sys.stderr)
        return 2
    import fastapi
    import torch
    import uvicorn

    from digits import pretrained
    from stn import data
    from stn.mnist import DataError

    torch.set_num_threads(1)  # images are small
    try:
        listener = socket.create_server((options.host, options.port))
        loaded = map(pretrained.load, pretrained.names())
        networks = {network.name: network for network in loaded if network.reads == "digits"}
        digits = data.load()
    except (RunError, DataError, OSError) as error:
        print(f"demo.py: {error}", file=sys.stderr)
        return 2
    page = build_page(networks, digits.pixels(digits.test_images)[:, 0].numpy())
    app = gr.mount_gradio_app(
        fastapi.FastAPI(openapi_url=None), page, "/", options.host, options.port,
        footer_links=["api"], ssr_mode=False, mcp_server=False, css=CSS,
        theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
    )  # fmt: skip
    address = f"http://{options.host.replace('0.0.0.0', 'localhost')}:{options.port}"
    print(f"The page is at {address}; Ctrl-C ends it.", flush=True)
    if not options.no_browser:
        webbrowser.open(address)
    headers = [("content-security-policy", POLICY)]
    config = uvicorn.Config(
        gate.guard(app, options.host), log_level="warning", timeout_graceful_shutdown=1, headers=headers,
        limit_concurrency=MOST_CONNECTIONS, ws="none",
    )  # fmt: skip
    uvicorn.Server(config).run(sockets=[listener])
    return 0


def main():
    parser = cli.new_parser(__doc__)
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="the address to listen on (default: 127.0.0.1, this machine alone)")
    add("--port", type=cli.whole_number(1, 65535), default=7860, metavar="N", help="the port (default: 7860)")
    add("--no-browser", action="store_true", help="open no browser")
    options = cli.parse(parser)
    try:
        cli.raise_when_interrupted()
        with tempfile.TemporaryDirectory() as folder:
            return serve(options, folder)
    except cli.Interrupted:
        return 0


if __name__ == "__main__":
    sys.exit(main())
