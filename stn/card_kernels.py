"""The loops of `cards`, compiled by Numba. (Importing this file imports Numba.)

Everything is float32, in loops over a row that LLVM turns into vectors; no sum depends on their width, so the bytes are
the same on every machine.
"""

import numpy as np
from numba import njit

from stn.cards import CARD_HEIGHT, CARD_WIDTH, CELL, N_DIGITS, N_LINES, NUMBER_WIDTH, NUMBER_X, NUMBER_Y, PITCH, SCENE

OPTIONS = {"boundscheck": False, "error_model": "numpy", "cache": True, "_nrt": False}  # no fastmath: see above
PAD = 2  # pixels around the frame, for the blur
F = np.float32
ZERO, HALF, ONE, TWO, THREE, WHITE = F(0), F(0.5), F(1), F(2), F(3), F(255)
SMALLEST = F(0.1)  # denominator, as in warps.py
RIGHT, LOW = F(CARD_WIDTH - 1), F(CARD_HEIGHT - 1)
BOX = 6, 6, 26, 32  # the portrait: left, top, right, bottom
PRINT_X, PRINT_Y, PRINT_STEP = 34, 8, 7


@njit(**OPTIONS)
def render(frame, card, number, ramp, sums, places, us, vs, covers, images, digits, chosen, bank, noise, maps, edges, looks, with_card):
    """Draw the images (n, 128, 128).

    The maps (n, 3, 3) are from pixels of the scene to those of the card; edges (n, 4, 3) are the distances from the
    card's sides, positive inside.
    """
    for i in range(len(images)):
        look = looks[i]
        top, bottom, left, right = look.top, look.bottom, look.left, look.right
        xs = ramp[left:right]
        if with_card:
            draw_number(number, digits, chosen[i])
            draw_card(card, number, look)
        sums[:] = ZERO
        for y in range(top, bottom):
            fy = F(y)
            row = frame[y + PAD, PAD + left : PAD + right]
            start = look.texture_x + left
            texture = bank[look.texture, look.texture_y + (SCENE - 1 - y if look.flipped else y), start : start + right - left]
            background(row, texture, look.brightness, look.contrast)
            if (right - left) * (bottom - top) < SCENE * SCENE:
                add(sums, row)
            if with_card:
                first, last = interval(edges[i], y, left, right)
                if first < last:
                    n = last - first
                    locate(ramp[first:last], fy, maps[i], edges[i], places, us, vs, covers)
                    paste(frame[y + PAD, PAD + first : PAD + last], card.reshape(CARD_HEIGHT * CARD_WIDTH), places[:n], us[:n], vs[:n], covers[:n])
                if look.finger_radius > ZERO:
                    touch(row, xs, fy, maps[i], look)
            shine(row, xs, fy, look.light)
            if look.depth > ZERO:
                shade(row, xs, fy, look.shadow, look.depth)
        total = ZERO
        for x in range(right - left):
            total += sums[x]
        surround(frame, top + PAD, bottom + PAD, left + PAD, right + PAD)
        image = images[i]
        image[:] = np.uint8(total / F((right - left) * (bottom - top)) + HALF)
        for y in range(top, bottom):
            here, dx, dy = y + PAD, look.blur_x, look.blur_y
            start, stop = PAD + left, PAD + right
            finish(
                image[y, left:right],
                frame[here, start:stop],
                frame[here - dy, start - dx : stop - dx],
                frame[here + dy, start + dx : stop + dx],
                noise[look.noise_y + y, look.noise_x + left : look.noise_x + right],
                look.blur,
                look.noise,
            )


@njit(**OPTIONS)
def draw_number(number, digits, chosen):
    """Put digits side by side; where their cells overlap the greater one counts."""
    number[:] = 0
    for k in range(N_DIGITS):
        for y in range(CELL):
            row, digit = number[y, k * PITCH : k * PITCH + CELL], digits[chosen[k], y]
            for x in range(CELL):
                row[x] = max(row[x], digit[x])


@njit(**OPTIONS)
def draw_card(card, number, look):
    """Draw the card (58, 92) as it is before it is photographed."""
    card[:] = look.paper
    card[0] = look.border
    card[CARD_HEIGHT - 1] = look.border
    card[:, 0] = look.border
    card[:, CARD_WIDTH - 1] = look.border
    left, top, right, bottom = BOX
    narrow, broad = ONE / (look.head_radius * look.head_radius), ONE / (look.shoulders * look.shoulders)
    for y in range(top, bottom):
        up, down = F(y) - look.head_y, F(y) - F(bottom)
        for x in range(left, right):
            side = F(x) - look.head_x
            head = ONE - (side * side + up * up * F(0.6)) * narrow
            shoulders = ONE - (side * side + down * down) * broad
            cover = min(max(max(head, shoulders) * THREE + HALF, ZERO), ONE)
            card[y, x] = look.box + (look.head - look.box) * cover
    for line in range(N_LINES):
        bits = look.bits[line]
        y = PRINT_Y + line * PRINT_STEP
        for k in range(16 + (bits >> 28) % 10):  # runs of 2 pixels
            if bits >> k & 1:
                x = PRINT_X + 2 * k
                card[y, x] = card[y, x + 1] = card[y + 1, x] = card[y + 1, x + 1] = look.print
    dark = (look.ink - look.paper) / WHITE
    for y in range(CELL):
        row, ink = card[NUMBER_Y + y, NUMBER_X : NUMBER_X + NUMBER_WIDTH], number[y]
        for x in range(NUMBER_WIDTH):
            row[x] = look.paper + dark * F(ink[x])


@njit(**OPTIONS)
def background(row, texture, brightness, contrast):
    for x in range(len(row)):
        row[x] = min(max(brightness + contrast * F(texture[x]), ZERO), WHITE)


@njit(**OPTIONS)
def add(sums, row):
    for x in range(len(row)):
        sums[x] += row[x]


@njit(**OPTIONS)
def interval(edges, y, left, right):
    """From which pixel of a row to which (exclusive) the card may be."""
    first, last = float(left), float(right)
    for k in range(4):
        slope, here = float(edges[k, 0]), edges[k, 1] * float(y) + edges[k, 2] + 0.5
        if slope > 0:
            first = max(first, np.floor(-here / slope))
        elif slope < 0:
            last = min(last, np.ceil(-here / slope) + 1)
        elif here <= 0:
            last = first
    return int(first), int(last)


@njit(**OPTIONS)
def locate(xs, y, m, edges, places, us, vs, covers):
    """Find where in the card the pixels xs of a row lie, and which share of each it covers."""
    ux, vx, wx = m[0, 0], m[1, 0], m[2, 0]
    uy, vy, wy = m[0, 1] * y + m[0, 2], m[1, 1] * y + m[1, 2], m[2, 1] * y + m[2, 2]
    e0, e1, e2, e3 = edges[0, 0], edges[1, 0], edges[2, 0], edges[3, 0]
    k0, k1 = edges[0, 1] * y + edges[0, 2] + HALF, edges[1, 1] * y + edges[1, 2] + HALF
    k2, k3 = edges[2, 1] * y + edges[2, 2] + HALF, edges[3, 1] * y + edges[3, 2] + HALF
    for j in range(len(xs)):
        x = xs[j]
        w = ONE / max(wx * x + wy, SMALLEST)
        u = min(max((ux * x + uy) * w, ZERO), RIGHT)
        v = min(max((vx * x + vy) * w, ZERO), LOW)
        column, line = min(np.int32(u), np.int32(CARD_WIDTH - 2)), min(np.int32(v), np.int32(CARD_HEIGHT - 2))
        us[j], vs[j] = u - F(column), v - F(line)
        places[j] = line * np.int32(CARD_WIDTH) + column
        cover = min(min(e0 * x + k0, e1 * x + k1), min(e2 * x + k2, e3 * x + k3))
        covers[j] = min(max(cover, ZERO), ONE)


@njit(**OPTIONS)
def paste(row, card, places, us, vs, covers):
    """Lay the card over a row."""
    for j in range(len(row)):
        p = np.uint64(places[j])
        upper = card[p] + us[j] * (card[p + np.uint64(1)] - card[p])
        p += np.uint64(CARD_WIDTH)
        lower = card[p] + us[j] * (card[p + np.uint64(1)] - card[p])
        row[j] += covers[j] * (upper + vs[j] * (lower - upper) - row[j])


@njit(**OPTIONS)
def touch(row, xs, y, m, look):
    """Lay a finger over a row."""
    ux, vx, wx = m[0, 0], m[1, 0], m[2, 0]
    uy, vy, wy = m[0, 1] * y + m[0, 2], m[1, 1] * y + m[1, 2], m[2, 1] * y + m[2, 2]
    tip_x, tip_y, dx, dy = look.finger_x, look.finger_y, look.finger_dx, look.finger_dy
    radius, grey = look.finger_radius, look.finger
    for j in range(len(row)):
        x = xs[j]
        w = ONE / max(wx * x + wy, SMALLEST)
        u, v = (ux * x + uy) * w - tip_x, (vx * x + vy) * w - tip_y
        along = max(u * dx + v * dy, ZERO)
        u -= along * dx
        v -= along * dy
        far = np.sqrt(u * u + v * v)
        cover = min(max(radius - far + HALF, ZERO), ONE)
        share = min(far / radius, ONE)
        row[j] += cover * (grey * (ONE - F(0.35) * share * share) - row[j])


@njit(**OPTIONS)
def shine(row, xs, y, light):
    """Light a row from one side."""
    lx, ly = light[0], light[1] * y + light[2]
    for j in range(len(row)):
        row[j] *= lx * xs[j] + ly


@njit(**OPTIONS)
def shade(row, xs, y, shadow, depth):
    """Darken what lies in the shadow."""
    sx, sy = shadow[0], shadow[1] * y + shadow[2]
    for j in range(len(row)):
        t = min(max(sx * xs[j] + sy, ZERO), ONE)
        row[j] *= ONE - depth * t * t * (THREE - TWO * t)


@njit(**OPTIONS)
def surround(frame, top, bottom, left, right):
    """Continue what is seen beyond its edges."""
    for y in range(top, bottom):
        row = frame[y]
        for k in range(1, PAD + 1):
            row[left - k] = row[left]
            row[right - 1 + k] = row[right - 1]
    for k in range(1, PAD + 1):
        for x in range(left - PAD, right + PAD):
            frame[top - k, x] = frame[top, x]
            frame[bottom - 1 + k, x] = frame[bottom - 1, x]


@njit(**OPTIONS)
def finish(out, here, before, after, noise, blur, sigma):
    """Blur and disturb a row, and round it to bytes."""
    middle = ONE - TWO * blur
    for x in range(len(out)):
        value = middle * here[x] + blur * (before[x] + after[x]) + sigma * F(noise[x])
        out[x] = np.uint8(np.int32(min(max(value, ZERO), WHITE) + HALF))
