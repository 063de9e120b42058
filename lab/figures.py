"""Every drawing of the repository; each function returns a matplotlib Figure, `save` writes it.

Only `matplotlib.figure.Figure` is used, never pyplot: importing this file selects no backend and opens no window.
"""

import io

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Polygon, Rectangle
from PIL import Image

from lab import stats, tables
from lab.files import atomic_write

# Colour-blind-safe (Okabe and Ito), in an order whose lightness also differs in print.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#E69F00", "#009E73", "#999999"
PALETTE = (BLUE, ORANGE, GREEN, "#D55E00", "#CC79A7", "#56B4E9", GREY)
COLUMNS, GAP, MARGIN = 8, 2, 8  # of a grid of digits: digits a row, pixels between them and around each with a frame


def save(figure, path):
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120, bbox_inches="tight", metadata={"Software": None})


def show(axes, image, title="", white=1, **title_style):
    """Show an image without axes: grey values from 0 to `white`, or colours."""
    axes.imshow(image, cmap="gray", vmin=0, vmax=white)
    axes.set_title(title, **title_style)
    axes.axis("off")


def draw_frame(axes, corners, linewidth=2):
    """Draw a quadrilateral over an image and return it. corners: (4, 2), (x, y) in pixels."""
    return axes.add_patch(Polygon(np.nan_to_num(corners), fill=False, edgecolor=ORANGE, linewidth=linewidth))


def confusion_matrix(counts, title):
    """Draw counts (10, 10), row = true digit, column = predicted digit, as a heat map with the numbers written in."""
    counts = np.asarray(counts)
    figure = Figure(figsize=(6, 5.4))
    axes = figure.add_subplot()
    title, texts = f"{title}\n{counts.trace()} of {counts.sum()} correct", np.where(counts, counts.astype(str), "·")
    image = draw_confusion(axes, counts, texts, title, 10, vmax=largest_error(counts))
    figure.colorbar(image, ax=axes, label="errors", shrink=0.8)
    return figure


def confusion_comparison(first, second, titles):
    """Draw two confusion matrices (10, 10), of a run on average, and the second minus the first."""
    first, second = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    figure = Figure(figsize=(9, 8.6), layout="constrained")
    panels = figure.subplots(2, 2)
    largest = max(largest_error(first), largest_error(second))
    for axes, matrix, title in zip(panels[0], (first, second), titles, strict=True):
        texts = np.where(np.eye(len(matrix), dtype=bool), np.char.mod("%.0f", matrix), np.char.mod("%.1f", matrix))
        draw_confusion(axes, matrix, np.where(matrix < 0.05, "", texts), title, 6, vmax=largest)
    change = second - first
    largest = largest_error(np.abs(change), 0.1)
    texts = np.where(np.abs(change) < 0.05, "", np.char.mod("%+.1f", change))
    title = f"{titles[1]}\nminus {titles[0]}"
    draw_confusion(panels[1, 0], change, texts, title, 6, cmap="PuOr", vmin=-largest, vmax=largest)
    explanation = "Images of each class in the test set,\nas a run takes them on average.\n\nIn the difference, "
    explanation += "beside the diagonal:\norange and −: confused less often,\nviolet and +: more often."
    panels[1, 1].axis("off")
    panels[1, 1].text(0, 0.5, explanation, va="center")
    return figure


def largest_error(matrix, least=1):
    return max(least, np.where(np.eye(len(matrix)), 0, matrix).max())


def draw_confusion(axes, matrix, texts, title, fontsize, vmax, vmin=0, cmap="Blues"):
    """Draw a matrix (10, 10) with a text in each cell; the diagonal has no colour, it would drown all others."""
    image = axes.imshow(np.where(np.eye(len(matrix)), 0, matrix), cmap=cmap, vmin=vmin, vmax=vmax)
    for (row, column), text in np.ndenumerate(texts):
        dark = row != column and abs(matrix[row, column]) > 0.65 * vmax
        style = {"weight": "bold" if row == column else "normal", "color": "white" if dark else "black"}
        axes.text(column, row, text, ha="center", va="center", fontsize=fontsize, **style)
    axes.set(xlabel="predicted", ylabel="true", xticks=range(len(matrix)), yticks=range(len(matrix)))
    axes.set_title(title, fontsize=min(fontsize + 3, 10))
    return image


def transformed_digits(before, after, title, frames=None):
    """Draw images (N, 28, 28) in [0, 1] as a grid, and beside it the same images transformed.

    frames (N, 4, 2): where the corners of each transformed image lie in the image, (x, y) in pixels. They are drawn
    over the image, which has a margin then, as far as its cell of the grid reaches.
    """
    before, margin = np.asarray(before), 0
    if frames is not None:
        margin = MARGIN
        before = np.pad(before, ((0, 0), (margin, margin), (margin, margin)), constant_values=0.2)
    rows = -(-len(before) // COLUMNS)
    figure = Figure(figsize=(9, 0.5 * rows + 0.8), layout="constrained")
    panels = figure.subplots(1, 2)
    show(panels[0], grid_of(before), "test images")
    show(panels[1], grid_of(after), "transformed")
    height, width = before.shape[1:]
    for number, frame in enumerate(() if frames is None else frames):
        row, column = divmod(number, COLUMNS)
        corner = np.array([column * (width + GAP) + GAP, row * (height + GAP) + GAP])
        outline = draw_frame(panels[0], np.nan_to_num(np.asarray(frame)) + corner + margin, linewidth=1)
        outline.set_clip_path(Rectangle(corner - 0.5, width, height, transform=panels[0].transData))
    figure.suptitle(title, fontsize=10)
    return figure


def digits_read(image, frames, before, after, titles):
    """Draw an image (H, W) in [0, 1] with the frames that were read in it, and its digits before and after that.

    frames: (N, 4, 2), (x, y) in pixels, or None. before, after: (N, 28, 28). titles: of each digit.
    """
    columns = min(len(before), COLUMNS)
    rows = -(-len(before) // columns)
    widths = 4.5, 1.2 * columns + 0.4
    figure = Figure(figsize=(sum(widths), max(3.2, 2.8 * rows)), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=widths)
    axes, panels = left.subplots(), right.subplots(2 * rows, columns, squeeze=False)
    for panel in panels.flat:
        panel.axis("off")
    (height, width), margin = image.shape, max(image.shape) / 12  # a frame may reach beyond the image
    show(axes, image, "the frames that are read")
    axes.set(xlim=(-margin, width + margin), ylim=(height + margin, -margin))
    for frame in () if frames is None else frames:
        draw_frame(axes, frame)
    for number, (title, straight, read) in enumerate(zip(titles, before, after, strict=True)):
        row, column = divmod(number, columns)
        show(panels[2 * row, column], straight, title, fontsize=10)
        show(panels[2 * row + 1, column], read)
    return figure


def cards_read(scenes, outlines, strips, texts, title, columns=4):
    """Draw scenes (N, H, W) in [0, 255], each above the strip (N, h, w) in [0, 1] that is read, and what it says.

    outlines: (N, 4, 2), (x, y) in pixels, or None where the strips are all there is. texts: (number, whether right).
    """
    rows, per_card = -(-len(strips) // columns), 1 if outlines is None else 2  # panels
    height = rows * (1.0 if outlines is None else 3.3) + 0.4
    figure = Figure(figsize=(2.4 * columns, height), layout="constrained")
    grid = figure.subplots(rows * per_card, columns, squeeze=False, height_ratios=[4, 1][-per_card:] * rows)
    for axes in grid.flat:
        axes.axis("off")
    for number, (strip, (text, right)) in enumerate(zip(strips, texts, strict=True)):
        row, column = divmod(number, columns)
        if outlines is not None:
            show(grid[2 * row, column], scenes[number], white=255)
            draw_frame(grid[2 * row, column], outlines[number])
        style = {"fontsize": 9, "color": "black" if right else "#D55E00", "pad": 2}
        show(grid[(row + 1) * per_card - 1, column], strip, text, **style)
    figure.suptitle(title, fontsize=10)
    return figure


def card_found(outlined, card, number):
    """Draw a photograph with the outline of its card, (H, W, 3) bytes, beside the card (h, w, 3), with its number."""
    figure = Figure(figsize=(8, 3.8), layout="constrained")
    panels = figure.subplots(1, 2, width_ratios=[1, 1.1])
    show(panels[0], outlined, "the photograph, and the card in it")
    show(panels[1], card, number)
    return figure


def as_picture(figure):
    """Return a figure as bytes (H, W, 3)."""
    figure.savefig(rendered := io.BytesIO(), dpi=80)
    return np.asarray(Image.open(rendered).convert("RGB"))


def save_animation(pictures, path):
    """Write figures of one size as an animated GIF, three a second, that stays on the last one for a while."""
    images = [Image.fromarray(as_picture(picture)).quantize(64) for picture in pictures]
    durations = [300] * (len(images) - 1) + [3000]
    with atomic_write(path) as temporary:
        images[0].save(temporary, format="gif", save_all=True, append_images=images[1:], duration=durations, loop=0)


def class_statistics(before, after, title):
    """Draw the mean and the variance image of each class: before and after are (means, variances), of (10, H, W)."""
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    names = [f"{name}\n{when}" for when in ("before", "after") for name in ("mean", "variance")]
    rows = before[0], 4 * before[1], after[0], 4 * after[1]  # the variance of values in [0, 1] is at most 1/4
    for axes, name, images in zip(figure.subplots(4), names, rows, strict=True):
        axes.imshow(grid_of(images, columns=len(images)), cmap="gray", vmin=0, vmax=1)
        axes.set_ylabel(name, rotation=0, ha="right", va="center")
        axes.set(xticks=[], yticks=[])
    figure.suptitle(f"{title}: test images of each class before and after the transformer", fontsize=10)
    return figure


def grid_of(images, columns=COLUMNS, gap=GAP):
    """Join images (N, H, W) to one picture, `columns` to a row, `gap` pixels of mid-grey between them."""
    images = np.asarray(images)
    framed = np.pad(images, ((0, -len(images) % columns), (0, gap), (0, gap)), constant_values=0.5)
    n, height, width = framed.shape
    rows = framed.reshape(n // columns, columns, height, width).swapaxes(1, 2)
    return np.pad(rows.reshape(-1, columns * width), ((gap, 0), (gap, 0)), constant_values=0.5)


def values_by_row(*panels, images=None, least=None):
    """Draw every run as a point, and the centre of each row with its interval; the first row on top.

    panels: side by side, each (rows, xlabel, line). rows: (label, [values], mark, lost), where `mark`, or None, is a
    value of someone else's, drawn as a diamond, and `lost` tells of each value whether the run has lost its digits: it
    is drawn hollow. line: (x, name) of a vertical line, or None. images: how many one unit of the axis is, for a second
    axis on top in test images. least: where all axes begin, if it is given; the number of runs below it is written at
    the edge.
    """
    height = 0.46 * max(len(rows) for rows, _, _ in panels) + 1.6
    figure = Figure(figsize=(5 + 4 * len(panels), height), layout="constrained")
    legend = {}  # one for all panels, each name once
    grid = figure.subplots(1, len(panels), squeeze=False, sharex=least is not None)
    for axes, panel in zip(grid[0], panels, strict=True):
        draw_values(axes, *panel, sign="" if images is None else "+", least=least)
        legend |= {name: handle for handle, name in zip(*axes.get_legend_handles_labels(), strict=True)}
        if images is not None:
            top = axes.secondary_xaxis("top", functions=(lambda x: x * images, lambda x: x / images))
            top.set_xlabel("in test images", fontsize=9)
    if least is not None:
        axes.set_xlim(left=least)  # of all
    figure.legend(legend.values(), legend, frameon=False, fontsize=8, loc="outside lower right", ncols=len(legend))
    return figure


def draw_values(axes, rows, xlabel, line, sign, least):
    if line:
        axes.axvline(line[0], color=GREY, linestyle="--", linewidth=1, label=line[1])
    for y, (_, values, mark, lost) in enumerate(rows):
        interval = stats.centre_interval(values)
        offsets = np.linspace(-0.22, 0.22, len(values)) if len(values) > 1 else np.zeros(1)
        for is_lost, name, face in ((False, "a run", BLUE), (True, "a run that has lost its digits", "white")):
            if any(chosen := np.equal(lost, is_lost)):
                style = {"color": BLUE, "markerfacecolor": face, "alpha": 0.8 if is_lost else 0.45, "markersize": 4}
                axes.plot(np.asarray(values)[chosen], (y + offsets)[chosen], "o", label=name, **style)
        if len(values) > 1:
            axes.plot(interval.centre, y, "|", color="black", markersize=13, markeredgewidth=2.5, label="centre")
        if interval.low is not None:
            axes.plot([interval.low, interval.high], [y, y], color="black", linewidth=2, label="its 95 % interval")
        if mark is not None:
            style = {"markerfacecolor": "white", "markeredgecolor": ORANGE, "markersize": 7}
            axes.plot(mark, y, "D", label="the original's one run", **style)
        text = tables.format_interval(interval, sign)
        axes.text(1.01, y, text, va="center", fontsize=9, transform=axes.get_yaxis_transform())
        if least is not None and (below := sum(value < least for value in values)):
            note = f"◂ {below} below, to {min(values):.2f}"
            axes.text(0.01, y - 0.3, note, va="center", fontsize=7, color=BLUE, transform=axes.get_yaxis_transform())
    axes.set_yticks(range(len(rows)), [row[0] for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel(xlabel)
    axes.grid(axis="x", alpha=0.3)


def loss_curves(curves, ylabel):
    """Draw lines over epochs; curves: (label, [value of epoch 1, 2, ...])."""
    figure = Figure(figsize=(7, 4))
    axes = figure.add_subplot()
    styles = ((BLUE, "-"), (ORANGE, "--"), (GREEN, ":"), (GREY, "-."))
    for (label, values), (colour, style) in zip(curves, styles, strict=False):
        axes.plot(range(1, len(values) + 1), values, style, color=colour, label=label, linewidth=2)
    axes.set(xlabel="epoch", ylabel=ylabel)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    return figure


def strength_curves(panels, xlabel):
    """Draw lines over the strength of a distortion, a panel for each (title, [(label, strengths, values)])."""
    figure = Figure(figsize=(10, 6), layout="constrained")
    grid = figure.subplots(2, 2, sharex=True)
    legend, colours = {}, {}
    for axes, (title, lines) in zip(grid.flat, panels, strict=True):
        for name, strengths, values in lines:
            index = colours.setdefault(name, len(colours))
            style = {"color": PALETTE[index % len(PALETTE)], "marker": "os^vDPX"[index % 7], "markersize": 4}
            (legend[name],) = axes.plot(strengths, values, **style)
        axes.set_title(title, fontsize=10)
        axes.grid(alpha=0.3)
    for axes in grid[1]:
        axes.set_xlabel(xlabel)
    figure.legend(legend.values(), legend, frameon=False, fontsize=8, loc="outside lower center", ncols=4)
    return figure


def scenes(images, title, columns=COLUMNS):
    """Draw scenes (N, H, W) of bytes as a grid."""
    figure = Figure(figsize=(7.6, 0.95 * -(-len(images) // columns) + 0.3), layout="constrained")
    show(figure.add_subplot(), grid_of(np.asarray(images) / 255, columns, 4))
    figure.suptitle(title, fontsize=10)
    return figure


def run_curves(panels, ylabel, limits=None):
    """Draw one panel an experiment, (title, [[value of epoch 1, 2, ...] of each run]), all with the same axis.

    All runs are thin lines, their range is a band and their mean a thick line. The axis is cut at `limits`, or, without
    them, logarithmic.
    """
    columns = min(4, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(10, 2.3 * rows + 0.3), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes in grid.flat[len(panels) :]:
        axes.axis("off")
    for axes, (title, curves) in zip(grid.flat, panels, strict=False):
        shortest = min(map(len, curves))
        values = np.array([curve[:shortest] for curve in curves])
        epochs = np.arange(1, shortest + 1)
        axes.fill_between(epochs, values.min(0), values.max(0), color=BLUE, alpha=0.15, linewidth=0)
        axes.plot(epochs, values.T, color=BLUE, alpha=0.5, linewidth=0.7)
        axes.plot(epochs, values.mean(0), color="black", linewidth=1.6)
        axes.set_title(title, fontsize=9)
        axes.grid(alpha=0.3)
        axes.tick_params(labelbottom=True, labelsize=8)
        axes.set(ylim=limits) if limits else axes.set_yscale("log")
    figure.supxlabel("epoch", fontsize=9)
    figure.supylabel(ylabel, fontsize=9)
    return figure


PLAIN, WARP = "#EEEEEE", "#CFE8DC"
EITHER, WARPS = "2 × Conv or CoordConv", "affine map or\nhomography"
COLOURS = {"2 × Conv": "#BBD7EA", "2 × CoordConv": "#F6C667", EITHER: "#BBD7EA"}


def network_diagram(title, localisation=EITHER, classifier=EITHER, warp=WARPS, bypass=False, size="28×28", n_digits=1):
    """Draw a network as blocks: what its parts are made of, and its warp; with `bypass` the transformer is absent.

    size: of the image that it is given. n_digits: how many it reads.
    """
    figure = Figure(figsize=(9, 1.7))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, 18), ylim=(0, 3.4))  # a unit is half an inch, in both directions
    axes.axis("off")

    def block(x, y, width, text, colour, absent=False):
        style = {"linestyle": "--", "facecolor": "white", "edgecolor": GREY} if absent else {"facecolor": colour}
        axes.add_patch(FancyBboxPatch((x, y), width, 1, boxstyle="round,pad=0.08", linewidth=1.2, **style))
        text_colour = GREY if absent else "black"
        axes.text(x + width / 2, y + 0.5, text, ha="center", va="center", fontsize=9, color=text_colour)

    def arrow(start, end, absent=False, bend=None):
        style = {"color": GREY if absent else "black", "linestyle": "--" if absent else "-", "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", xy=end, xytext=start, arrowprops={"arrowstyle": "->", "connectionstyle": bend, **style})

    parts = "no localisation" if bypass else f"localisation\n{localisation}"
    block(0.2, 0.2, 1.8, f"image\n{size}", PLAIN)
    block(2.8, 2.2, 3.8, parts, COLOURS[localisation], bypass)
    block(6.8, 0.2, 3.2, "no warp" if bypass else warp, WARP, bypass)
    block(10.9, 0.2, 3.8, f"classifier\n{classifier}", COLOURS[classifier])
    block(15.6, 0.2, 1.8, f"{'digit' if n_digits == 1 else f'{n_digits} digits'}\n0–9", PLAIN)
    arrow((1.1, 1.28), (2.72, 2.7), bypass, "angle,angleA=90,angleB=0")
    arrow((6.68, 2.7), (8.4, 1.28), bypass, "angle,angleA=0,angleB=90")
    arrow((2.08, 0.7), (6.72, 0.7))
    arrow((10.08, 0.7), (10.82, 0.7))
    arrow((14.78, 0.7), (15.52, 0.7))
    axes.set_title(title, fontsize=10)
    return figure
