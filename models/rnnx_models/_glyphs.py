"""Images of digits, made on the fly from a small bitmap font: shifted, scaled, turned and noisy."""

from typing import Final

import torch
from torch import Tensor, nn

SIDE: Final = 16  # pixels

# 5 × 7 pixels each, in the manner of dot-matrix displays.
_FONT: Final = (
    ".###. #...# #..## #.#.# ##..# #...# .###.",
    "..#.. .##.. ..#.. ..#.. ..#.. ..#.. .###.",
    ".###. #...# ....# ...#. ..#.. .#... #####",
    "##### ...#. ..#.. ...#. ....# #...# .###.",
    "...#. ..##. .#.#. #..#. ##### ...#. ...#.",
    "##### #.... ####. ....# ....# #...# .###.",
    "..##. .#... #.... ####. #...# #...# .###.",
    "##### ....# ...#. ..#.. .#... .#... .#...",
    ".###. #...# #...# .###. #...# #...# .###.",
    ".###. #...# #...# .#### ....# ...#. .##..",
)


def clean_images(digits: Tensor) -> Tensor:
    """The glyphs in the middle, without noise: `(N,)` → `(N, 16, 16)` in [0, 1]."""
    return _draw(digits, torch.zeros(len(digits)), torch.ones(len(digits)), torch.zeros(len(digits), 2))


def noisy_images(digits: Tensor, generator: torch.Generator) -> Tensor:
    """Each glyph at another place, size, angle and brightness, under noise: `(N,)` → `(N, 16, 16)` in [0, 1]."""
    count = len(digits)
    turn = _between(-0.2, 0.2, (count,), generator)  # radians
    scale = _between(0.8, 1.1, (count,), generator)
    shift = _between(-2.0, 2.0, (count, 2), generator)  # pixels
    brightness = _between(0.6, 1.0, (count, 1, 1), generator)
    noise = torch.randn(count, SIDE, SIDE, generator=generator) * 0.1
    return (_draw(digits, turn, scale, shift) * brightness + noise).clamp(0, 1)


def _draw(digits: Tensor, turn: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    rows = [[[float(pixel == "#") for pixel in row] for row in glyph.split()] for glyph in _FONT]
    font = torch.tensor(rows)  # (10, 7, 5)
    # From a pixel of the image to the place in the font that it shows, both in [-1, 1]: shift back, turn back, scale back.
    # At scale 1 a pixel of the font is two of the image.
    back = torch.stack([turn.cos(), turn.sin(), -turn.sin(), turn.cos()], dim=1).view(-1, 2, 2)  # (N, 2, 2)
    back = back * torch.tensor([SIDE / (2 * 5), SIDE / (2 * 7)])[:, None] / scale[:, None, None]
    offset = -back @ (shift / (SIDE / 2))[:, :, None]  # (N, 2, 1)
    grid = nn.functional.affine_grid(torch.cat([back, offset], dim=2), [len(digits), 1, SIDE, SIDE], align_corners=False)
    return nn.functional.grid_sample(font[digits][:, None], grid, align_corners=False)[:, 0]  # (N, 16, 16)


def _between(low: float, high: float, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=generator) * (high - low) + low
