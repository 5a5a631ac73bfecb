"""The colours of drawn objects and classes."""

from __future__ import annotations

Colour = tuple[int, int, int]
"""Blue, green, red."""

# Sixteen hues of one lightness (OKLCH, L = 0.72), BGR, each far from the one before it: 2.3 to
# 2.8 times the luminance contrast against white, 7.5 to 9.2 against black, so they show on both,
# and black text shows on them.
COLOURS = (
    (99, 115, 255),
    (177, 190, 2),
    (200, 91, 255),
    (6, 198, 46),
    (254, 138, 179),
    (1, 163, 192),
    (255, 167, 93),
    (6, 123, 252),
    (205, 185, 17),
    (147, 107, 254),
    (138, 194, 1),
    (254, 98, 230),
    (3, 178, 155),
    (255, 155, 141),
    (5, 147, 220),
    (238, 179, 10),
)
BLACK, WHITE, GREY = (0, 0, 0), (255, 255, 255), (48, 48, 48)
