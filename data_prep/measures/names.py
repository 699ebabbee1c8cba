"""What is measured on a clip for curation, by name."""

from typing import NamedTuple


class About(NamedTuple):
    """What a measure is: its unit, and one line about it."""

    unit: str
    text: str


MEASURES: dict[str, About] = {
    "change": About("/s", "how fast pixels change over alpha > 0, in full ranges per second"),
    "flow": About("sides/s", "how fast things move over alpha > 0: optical flow, in short sides per second"),
    "coverage": About("", "mean alpha of the picture"),
    "soft": About("", "share of the foreground with 0 < alpha < 255"),
    "translucent": About("", "share of the foreground that is truly translucent"),
    "glass": About("", "share of the foreground whose surroundings are translucent too: glass, smoke"),
    "edge_width": About("px", "mean width of the transition from transparent to opaque"),
    "glow": About("", "bright light in translucent areas of the foreground: fire, halos"),
    "brightness": About("", "mean luma of the foreground"),
    "contrast": About("", "spread of the foreground's luma, 5th to 95th percentile"),
    "greyness": About("", "1: no colour at all, 0: the purest colours"),
    "sharpness": About("", "1 / (1 + blur of the sharpest quarter of the edges in pixels)"),
    "noise": About("of 255", "standard deviation of noise in alpha, away from edges"),
    "haze": About("", "share of the empty ground whose alpha is not zero"),
    "frames": About("", "number of frames; a still has none, it becomes a clip when it is loaded"),
    "short_side": About("px", "height or width, the smaller one"),
}
