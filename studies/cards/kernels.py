"""The loops of rendering.py, compiled by Numba. (Importing this file imports Numba.)

All numbers are float32, in loops over a row that LLVM vectorises. No sum depends on the width of the vectors, so the
bytes are the same on every machine. Rows are sliced in the innermost functions, because each slice in `render` would
count references.
"""

import numpy as np
from numba import njit

from fast.conv2d_kernels import OPTIONS, compiled
from studies.cards.geometry import (
    CARD_HEIGHT,
    CARD_WIDTH,
    CELL,
    N_DIGITS,
    NUMBER_WIDTH,
    NUMBER_X,
    NUMBER_Y,
    PITCH,
    SCENE,
)
from studies.cards.rendering import N_LINES

PAD = 2  # pixels around the frame, for the blur
F = np.float32
ZERO, HALF, ONE, TWO, THREE, WHITE = F(0), F(0.5), F(1), F(2), F(3), F(255)
SMALLEST = F(0.1)  # denominator, as in warps.py
RIGHT, LOW = F(CARD_WIDTH - 1), F(CARD_HEIGHT - 1)
LAST_COLUMN, LAST_LINE, WIDTH = np.int32(CARD_WIDTH - 2), np.int32(CARD_HEIGHT - 2), np.int32(CARD_WIDTH)
BOX = 6, 6, 26, 32  # the portrait: left, top, right, bottom
PRINT_X, PRINT_Y, PRINT_STEP = 34, 8, 7


@njit(**OPTIONS)
def draw_card(card, number, digits, chosen, look):
    """Draw the card (58·92,) as it is before it is photographed; `number` (16, 76) is overwritten."""
    card = card.reshape(CARD_HEIGHT, CARD_WIDTH)
    card[:] = look.paper
    card[0] = card[CARD_HEIGHT - 1] = card[:, 0] = card[:, CARD_WIDTH - 1] = look.border
    left, top, right, bottom = BOX
    narrow, broad = ONE / (look.head_radius * look.head_radius), ONE / (look.shoulders * look.shoulders)
    for y in range(top, bottom):
        up, down = F(y) - look.head_y, F(y - bottom)
        for x in range(left, right):
            side = F(x) - look.head_x
            head = ONE - (side * side + up * up * F(0.6)) * narrow
            shoulders = ONE - (side * side + down * down) * broad
            cover = min(max(max(head, shoulders) * THREE + HALF, ZERO), ONE)
            card[y, x] = look.box + (look.head - look.box) * cover
    for line in range(N_LINES):
        bits, y = look.bits[line], PRINT_Y + line * PRINT_STEP
        for k in range(16 + (bits >> 28) % 10):  # dark or not, 2 pixels wide and high
            if bits >> k & 1:
                card[y : y + 2, PRINT_X + 2 * k : PRINT_X + 2 * k + 2] = look.print
    number[:] = 0
    for k in range(N_DIGITS):
        for y in range(CELL):
            row, digit = number[y, k * PITCH : k * PITCH + CELL], digits[chosen[k], y]
            for x in range(CELL):
                row[x] = max(row[x], digit[x])
    dark = (look.ink - look.paper) / WHITE
    for y in range(CELL):
        row, ink = card[NUMBER_Y + y, NUMBER_X : NUMBER_X + NUMBER_WIDTH], number[y]
        for x in range(NUMBER_WIDTH):
            row[x] = look.paper + dark * F(ink[x])


@njit(**OPTIONS)
def background(frame, y, bank, look):
    row = frame[y + PAD, PAD : PAD + SCENE]
    line = look.texture_y + (SCENE - 1 - y if look.flipped else y)
    texture = bank[look.texture, line, look.texture_x : look.texture_x + SCENE]
    brightness, contrast = look.brightness, look.contrast
    for x in range(SCENE):
        row[x] = min(max(brightness + contrast * F(texture[x]), ZERO), WHITE)


@njit(**OPTIONS)
def mean(frame, top, bottom, left, right):
    """The mean byte from top to bottom and left to right: a sum of integers, whose order does not matter."""
    total = 0
    for y in range(top, bottom):
        row = frame[y + PAD, PAD + left : PAD + right]
        for x in range(len(row)):
            total += np.int32(row[x] + HALF)
    return np.uint8(total / ((bottom - top) * (right - left)) + 0.5)


@njit(**OPTIONS)
def interval(edges, y, left, right):
    """Return the first and last pixel (exclusive) of a row that may be inside all edges, or half a unit outside."""
    first, last = float(left), float(right)
    for k in range(len(edges)):
        slope, here = float(edges[k, 0]), edges[k, 1] * float(y) + edges[k, 2] + 0.5
        if slope > 0:
            first = max(first, np.floor(-here / slope))
        elif slope < 0:
            last = min(last, np.ceil(-here / slope) + 1)
        elif here <= 0:
            last = first
    return int(min(first, float(right))), int(max(last, float(left)))


@njit(**OPTIONS)
def locate(work, places, first, last, row, m, edges):
    """Compute the position in the card of each pixel of a row, and the share of the pixel that the card covers.

    For each pixel, write into `places` the index of the upper left of the four card pixels around its position, and
    into `work` the distance to the right of that pixel, the distance below it, and the share.
    """
    us, vs, covers, y = work[0], work[1], work[2], F(row)
    ux, vx, wx = m[0, 0], m[1, 0], m[2, 0]
    uy, vy, wy = m[0, 1] * y + m[0, 2], m[1, 1] * y + m[1, 2], m[2, 1] * y + m[2, 2]
    e0, e1, e2, e3 = edges[0, 0], edges[1, 0], edges[2, 0], edges[3, 0]
    k0, k1 = edges[0, 1] * y + edges[0, 2] + HALF, edges[1, 1] * y + edges[1, 2] + HALF
    k2, k3 = edges[2, 1] * y + edges[2, 2] + HALF, edges[3, 1] * y + edges[3, 2] + HALF
    start = F(first)
    for j in range(last - first):
        x = start + F(np.int32(j))
        w = ONE / max(wx * x + wy, SMALLEST)
        u = min(max((ux * x + uy) * w, ZERO), RIGHT)
        v = min(max((vx * x + vy) * w, ZERO), LOW)
        column, line = min(np.int32(u), LAST_COLUMN), min(np.int32(v), LAST_LINE)
        us[j], vs[j] = u - F(column), v - F(line)
        places[j] = line * WIDTH + column
        cover = min(min(e0 * x + k0, e1 * x + k1), min(e2 * x + k2, e3 * x + k3))
        covers[j] = min(max(cover, ZERO), ONE)


@njit(**OPTIONS)
def paste(frame, y, first, last, card, work, places):
    """Blend the card into a row."""
    row, us, vs, covers = frame[y + PAD, PAD + first : PAD + last], work[0], work[1], work[2]
    for j in range(len(row)):
        p = np.uint64(places[j])
        upper = card[p] + us[j] * (card[p + np.uint64(1)] - card[p])
        p += np.uint64(CARD_WIDTH)
        lower = card[p] + us[j] * (card[p + np.uint64(1)] - card[p])
        row[j] += covers[j] * (upper + vs[j] * (lower - upper) - row[j])


@njit(**OPTIONS)
def touch(frame, row, first, last, m, look):
    """Blend a finger into a row."""
    y, out, start = F(row), frame[row + PAD, PAD + first : PAD + last], F(first)
    ux, vx, wx = m[0, 0], m[1, 0], m[2, 0]
    uy, vy, wy = m[0, 1] * y + m[0, 2], m[1, 1] * y + m[1, 2], m[2, 1] * y + m[2, 2]
    tip_x, tip_y, dx, dy = look.finger_x, look.finger_y, look.finger_dx, look.finger_dy
    radius, grey = look.finger_radius, look.finger
    for j in range(len(out)):
        x = start + F(np.int32(j))
        w = ONE / max(wx * x + wy, SMALLEST)
        u, v = (ux * x + uy) * w - tip_x, (vx * x + vy) * w - tip_y
        along = max(u * dx + v * dy, ZERO)
        u -= along * dx
        v -= along * dy
        far = np.sqrt(u * u + v * v)
        cover = min(max(radius - far + HALF, ZERO), ONE)
        share = min(far / radius, ONE)
        out[j] += cover * (grey * (ONE - F(0.35) * share * share) - out[j])


@njit(**OPTIONS)
def shine(frame, y, light):
    """Multiply a row by a linear gradient of light."""
    row, lx, ly = frame[y + PAD, PAD : PAD + SCENE], light[0], light[1] * F(y) + light[2]
    for x in range(SCENE):
        row[x] *= lx * F(np.int32(x)) + ly


@njit(**OPTIONS)
def shade(frame, y, shadow, depth):
    """Darken the part of a row that lies in the shadow."""
    row, sx, sy = frame[y + PAD, PAD : PAD + SCENE], shadow[0], shadow[1] * F(y) + shadow[2]
    if sy <= ZERO and sx * F(SCENE) + sy <= ZERO:
        return
    for x in range(SCENE):
        t = min(max(sx * F(np.int32(x)) + sy, ZERO), ONE)
        row[x] *= ONE - depth * t * t * (THREE - TWO * t)


@njit(**OPTIONS)
def surround(frame, top, bottom, left, right):
    """Replicate the edges of the visible box into the padding around it."""
    for y in range(top + PAD, bottom + PAD):
        for k in range(PAD):
            frame[y, left + k] = frame[y, left + PAD]
            frame[y, right + PAD + k] = frame[y, right + PAD - 1]
    for k in range(PAD):
        frame[top + k] = frame[top + PAD]
        frame[bottom + PAD + k] = frame[bottom + PAD - 1]


@njit(**OPTIONS)
def finish(image, y, frame, noise, look):
    """Blur a row, add noise, and round it to bytes."""
    out, dx, dy = image[y, look.left : look.right], look.blur_x, look.blur_y
    left, right = PAD + look.left, PAD + look.right
    here = frame[y + PAD, left:right]
    before, after = frame[y + PAD - dy, left - dx : right - dx], frame[y + PAD + dy, left + dx : right + dx]
    grain = noise[look.noise_y + y, look.noise_x : look.noise_x + SCENE]
    blur, middle, sigma = look.blur, ONE - TWO * look.blur, look.noise
    for x in range(len(out)):
        value = middle * here[x] + blur * (before[x] + after[x]) + sigma * F(grain[x])
        out[x] = np.uint8(np.int32(min(max(value, ZERO), WHITE) + HALF))


def render(images, digits, chosen, bank, noise, maps, edges, fingers, looks, with_card):
    """Draw the images (n, 128, 128).

    maps (n, 3, 3): from pixels of the scene to those of the card.
    edges (n, 4, 3): lines a·x + b·y + c along the card's sides; their values are distances in pixels, positive inside.
    fingers (n, 3, 3): such lines around the finger, in other units.
    """
    frame = np.empty((SCENE + 2 * PAD, SCENE + 2 * PAD), np.float32)
    card = np.empty(CARD_HEIGHT * CARD_WIDTH, np.float32)
    number = np.empty((CELL, NUMBER_WIDTH), np.uint8)
    work, places = np.empty((3, SCENE), np.float32), np.empty(SCENE, np.int32)
    for i in range(len(images)):
        look = looks[i]
        top, bottom, left, right = look.top, look.bottom, look.left, look.right
        for y in range(top, bottom):
            background(frame, y, bank, look)
        if bottom - top + right - left < 2 * SCENE:
            bars = mean(frame, top, bottom, left, right)
            images[i, :top], images[i, bottom:], images[i, :, :left], images[i, :, right:] = bars, bars, bars, bars
        if with_card:
            draw_card(card, number, digits, chosen[i], look)
            for y in range(top, bottom):
                first, last = interval(edges[i], y, left, right)
                if first < last:
                    locate(work, places, first, last, y, maps[i], edges[i])
                    paste(frame, y, first, last, card, work, places)
            if look.finger_radius > ZERO:
                for y in range(top, bottom):
                    first, last = interval(fingers[i], y, left, right)
                    if first < last:
                        touch(frame, y, first, last, maps[i], look)
        for y in range(top, bottom):
            shine(frame, y, look.light)
            if look.depth > ZERO:
                shade(frame, y, look.shadow, look.depth)
        surround(frame, top, bottom, left, right)
        for y in range(top, bottom):
            finish(images[i], y, frame, noise, look)


# Numba recompiles when this file changes, but not for constants from others, so they are named here.
render = compiled(render, SCENE, CARD_WIDTH, CARD_HEIGHT, N_DIGITS, N_LINES, CELL, PITCH, NUMBER_X, NUMBER_Y)
