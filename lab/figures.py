"""Every drawing of the repository; each function returns a matplotlib Figure, `save` writes it.

Only `matplotlib.figure.Figure` is used, never pyplot: importing this file selects no backend and opens no window.
"""

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Polygon, Rectangle
from PIL import Image

from lab.files import atomic_write

# Colour-blind-safe (Okabe and Ito), in an order whose lightness also differs in print.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#E69F00", "#009E73", "#999999"
COLUMNS, GAP, MARGIN = 8, 2, 8  # of a grid of digits: digits a row, pixels between them and around each with a frame


def save(figure, path):
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120, bbox_inches="tight", metadata={"Software": None})


def confusion_matrix(counts, title):
    """Draw counts (10, 10), row = true digit, column = predicted digit, as a heat map with the numbers written in.

    The colours show the errors: the diagonal is left out of the scale, it would drown everything else.
    """
    counts = np.asarray(counts)
    errors = counts * (1 - np.eye(len(counts), dtype=int))
    figure = Figure(figsize=(6, 5.4))
    axes = figure.add_subplot()
    image = axes.imshow(errors, cmap="Blues", vmin=0, vmax=max(1, errors.max()))
    for (row, column), count in np.ndenumerate(counts):
        dark = row != column and count > 0.6 * errors.max()
        weight = "bold" if row == column else "normal"
        axes.text(
            column,
            row,
            count or "·",
            ha="center",
            va="center",
            weight=weight,
            color="white" if dark else "black",
        )
    axes.set(xlabel="predicted", ylabel="true", xticks=range(len(counts)), yticks=range(len(counts)))
    axes.set_title(f"{title}\n{counts.trace()} of {counts.sum()} correct", fontsize=10)
    figure.colorbar(image, ax=axes, label="errors", shrink=0.8)
    return figure


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
    for axes, images, name in zip(panels, (before, after), ("test images", "transformed"), strict=True):
        axes.imshow(grid_of(images), cmap="gray", vmin=0, vmax=1)
        axes.set_title(name)
        axes.axis("off")
    height, width = before.shape[1:]
    for number, frame in enumerate(() if frames is None else frames):
        row, column = divmod(number, COLUMNS)
        corner = np.array([column * (width + GAP) + GAP, row * (height + GAP) + GAP])
        outline = Polygon(np.nan_to_num(np.asarray(frame)) + corner + margin, fill=False, edgecolor=ORANGE, linewidth=1)
        panels[0].add_patch(outline)
        outline.set_clip_path(Rectangle(corner - 0.5, width, height, transform=panels[0].transData))
    figure.suptitle(title, fontsize=10)
    return figure


def pixels(figure, dpi=80):
    """Render a figure as a picture: (H, W, 3) of bytes."""
    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[:, :, :3].copy()


def save_animation(pictures, path, seconds_per_picture=0.3):
    """Write figures of one size as an animated GIF that stays on the last one for a while."""
    images = [Image.fromarray(pixels(picture)).quantize(64) for picture in pictures]
    durations = [1000 * seconds_per_picture] * (len(images) - 1) + [3000]
    with atomic_write(path) as temporary:
        images[0].save(temporary, format="gif", save_all=True, append_images=images[1:], duration=durations, loop=0)


def class_statistics(before, after, title):
    """Draw the mean and the variance image of each class: before and after are (means, variances), of (10, H, W)."""
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    rows = [("mean", before[0], 1), ("variance", before[1], 0.25), ("mean", after[0], 1), ("variance", after[1], 0.25)]
    for axes, (name, images, largest), when in zip(
        figure.subplots(4), rows, ("before",) * 2 + ("after",) * 2, strict=True
    ):
        axes.imshow(grid_of(images / largest, columns=len(images)), cmap="gray", vmin=0, vmax=1)
        axes.set_ylabel(f"{name}\n{when}", rotation=0, ha="right", va="center")
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


def values_by_row(rows, xlabel, line=None, images=None):
    """Draw every run as a point, and the mean of each row with its interval; the first row on top.

    rows: (label, [values], mean, low, high, mark): low and high None for a single run; `mark`, or None, is a value of
    someone else's, drawn as a diamond. line: (x, name) of a vertical line. images: how many one unit of the axis is,
    for a second axis on top in test images.
    """
    figure = Figure(figsize=(9, 0.46 * len(rows) + 1.6), layout="constrained")
    axes = figure.add_subplot()
    draw_values(axes, rows, xlabel, line, sign="" if images is None else "+")
    if images is not None:
        top = axes.secondary_xaxis("top", functions=(lambda x: x * images, lambda x: x / images))
        top.set_xlabel("in test images", fontsize=9)
    add_legend(figure)
    return figure


def two_panels(left, right):
    """Draw two of `values_by_row` side by side; each (rows, xlabel, line)."""
    figure = Figure(figsize=(13, 0.46 * max(len(left[0]), len(right[0])) + 1.6), layout="constrained")
    for axes, panel in zip(figure.subplots(1, 2), (left, right), strict=True):
        draw_values(axes, *panel)
    add_legend(figure)
    return figure


def draw_values(axes, rows, xlabel, line=None, sign=""):
    if line:
        axes.axvline(line[0], color=GREY, linestyle="--", linewidth=1, label=line[1])
    for y, (_, values, mean, low, high, mark) in enumerate(rows):
        offsets = np.linspace(-0.22, 0.22, len(values)) if len(values) > 1 else [0]
        axes.plot(values, y + np.array(offsets), "o", color=BLUE, alpha=0.45, markersize=4, label="a run")
        text = f"{mean:{sign}.2f}"
        if low is not None:
            axes.plot([low, high], [y, y], color="black", linewidth=2, label="mean, 95 % interval")
            axes.plot(mean, y, "|", color="black", markersize=13, markeredgewidth=2.5)
            text += f" ± {(high - low) / 2:.2f}"
        if mark is not None:
            style = {"markerfacecolor": "white", "markeredgecolor": ORANGE, "markersize": 7}
            axes.plot(mark, y, "D", label="the original's one run", **style)
        axes.text(1.01, y, text, va="center", fontsize=9, transform=axes.get_yaxis_transform())
    axes.set_yticks(range(len(rows)), [row[0] for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel(xlabel)
    axes.grid(axis="x", alpha=0.3)


def add_legend(figure):
    """Add one legend for all panels below them, each name once."""
    shown = {}
    for axes in figure.axes:
        shown |= {name: handle for handle, name in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(shown.values(), shown.keys(), frameon=False, fontsize=8, loc="outside lower right", ncols=len(shown))


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


def run_curves(panels, ylabel, limits=None, logarithmic=False):
    """Draw one panel an experiment, (title, [[value of epoch 1, 2, ...] of each run]), all with the same axis.

    All runs are thin lines, their range is a band and their mean a thick line. The axis is cut at `limits` if given.
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
        if logarithmic:
            axes.set_yscale("log")
    if limits:
        grid.flat[0].set_ylim(*limits)
    figure.supxlabel("epoch", fontsize=9)
    figure.supylabel(ylabel, fontsize=9)
    return figure


def confusion_comparison(first, second, titles):
    """Draw two confusion matrices (10, 10) and the second minus the first, the diagonals left out of all colours.

    The numbers are those of a run on average: row = true digit, column = predicted digit.
    """
    figure = Figure(figsize=(9, 8.6), layout="constrained")
    matrices = [np.asarray(first, dtype=float), np.asarray(second, dtype=float)]
    matrices.append(matrices[1] - matrices[0])
    off_diagonal = ~np.eye(len(matrices[0]), dtype=bool)
    largest = max(1.0, *(matrix[off_diagonal].max() for matrix in matrices[:2]))
    change = max(0.1, np.abs(matrices[2][off_diagonal]).max())
    scales = [{"cmap": "Blues", "vmin": 0, "vmax": largest}] * 2 + [{"cmap": "PuOr", "vmin": -change, "vmax": change}]
    panels = figure.subplots(2, 2)
    panels[1, 1].axis("off")
    explanation = "Images of each class in the test set,\nas a run takes them on average.\n\nIn the difference, "
    explanation += "beside the diagonal:\norange and −: confused less often,\nviolet and +: more often."
    panels[1, 1].text(0, 0.5, explanation, va="center")
    for axes, matrix, title, scale in zip(
        panels.flat[:3], matrices, [*titles, f"{titles[1]}\nminus {titles[0]}"], scales, strict=True
    ):
        axes.imshow(np.where(off_diagonal, matrix, 0), **scale)
        for (row, column), value in np.ndenumerate(matrix):
            if abs(value) >= 0.05:
                text = f"{value:+.1f}" if scale["vmin"] else f"{value:.0f}" if row == column else f"{value:.1f}"
                dark = row != column and abs(value) > 0.65 * scale["vmax"]
                axes.text(
                    column,
                    row,
                    text,
                    ha="center",
                    va="center",
                    fontsize=6,
                    color="white" if dark else "black",
                    weight="bold" if row == column else "normal",
                )
        axes.set(xlabel="predicted", ylabel="true", xticks=range(len(matrix)), yticks=range(len(matrix)))
        axes.set_title(title, fontsize=9)
    return figure


CONV, COORDCONV, PLAIN, WARP = "#BBD7EA", "#F6C667", "#EEEEEE", "#CFE8DC"


def network_diagram(title, *, coordconv_localisation, coordconv_classifier, bypass, transform):
    """Draw one experiment as blocks: which part is CoordConv, which is absent, and which transform is used."""

    def part(name, coordconv):
        return f"{name}\n2 × {'CoordConv' if coordconv else 'Conv'}", COORDCONV if coordconv else CONV

    localisation = ("no localisation", CONV) if bypass else part("localisation", coordconv_localisation)
    warp = "no warp" if bypass else f"{transform}\nwarp"
    return block_diagram(title, localisation, warp, part("classifier", coordconv_classifier), bypass)


def general_diagram():
    """Draw what all experiments have in common as blocks."""
    layers = "2 × Conv or CoordConv"
    localisation, classifier = (f"localisation\n{layers}", CONV), (f"classifier\n{layers}", CONV)
    return block_diagram("", localisation, "affine map or\nhomography", classifier, False)


def block_diagram(title, localisation, warp, classifier, bypass):
    """Draw the parts of a network, (text, colour) or text; with `bypass` the transformer is drawn as absent."""
    figure = Figure(figsize=(8, 2.2))
    axes = figure.add_subplot()
    axes.set(xlim=(0, 16), ylim=(0, 4))
    axes.axis("off")

    def block(x, y, width, text, colour, absent=False):
        style = {"linestyle": "--", "facecolor": "white", "edgecolor": GREY} if absent else {"facecolor": colour}
        axes.add_patch(FancyBboxPatch((x, y), width, 1, boxstyle="round,pad=0.08", linewidth=1.2, **style))
        text_colour = GREY if absent else "black"
        axes.text(x + width / 2, y + 0.5, text, ha="center", va="center", fontsize=9, color=text_colour)

    def arrow(start, end, absent=False):
        style = {"color": GREY if absent else "black", "linestyle": "--" if absent else "-"}
        axes.annotate("", xy=end, xytext=start, arrowprops={"arrowstyle": "->", **style})

    block(0.2, 1, 1.7, "image\n28×28", PLAIN)
    block(3.2, 2.8, 3.6, *localisation, bypass)
    block(7.3, 1, 2.6, warp, WARP, bypass)
    block(10.8, 1, 3.1, *classifier)
    block(14.5, 1, 1.3, "digit\n0–9", PLAIN)
    arrow((2.0, 1.8), (3.1, 3.2), bypass)
    arrow((6.9, 3.2), (8.6, 2.1), bypass)
    arrow((2.0, 1.5), (7.2, 1.5))
    arrow((10.0, 1.5), (10.7, 1.5))
    arrow((14.0, 1.5), (14.4, 1.5))
    axes.set_title(title, fontsize=10)
    return figure
