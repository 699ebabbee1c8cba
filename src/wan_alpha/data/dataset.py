"""From clips to training samples.

Sample number n is a pure function of (source, seed, n): which clip, which frames, which crop, which colours.  Worker
processes, ranks and interruptions have no part in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, TypedDict

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from wan_alpha.data.buckets import Bucket
from wan_alpha.data.captions import CaptionStyle, compose
from wan_alpha.data.errors import AlphaError, DataError, MediaError
from wan_alpha.data.order import Integers, SampleOrder
from wan_alpha.data.resize import Frames, empty, resize_clip, resize_rgba
from wan_alpha.data.source import Clip, ClipSource
from wan_alpha.data.windows import WindowPath, draw_path, integer_windows, slide
from wan_alpha.rendering import COLOURS

Stills = Literal["smooth", "integer", "static"]

# Streams of their own, apart from the samples' other random numbers: integer windows, captions.
_STILL_STREAM, _CAPTION_STREAM = 2, 4  # 1 and 5: `data.order`, 3: `losses.draws`

MAX_REPLACEMENTS = 16
"""After so many unreadable clips in a row the data set counts as lost."""
HELD_OUT_SEED = 0
"""Of the colours behind held-out clips in training, whatever the run's own seed: figures of runs are comparable."""
CROP_TRIES = 4
"""A random window in which alpha is constant is drawn again, so many times at most."""


class Sample(TypedDict):
    """One training sample; see `ClipDataset`."""

    rgb: Tensor
    alpha: Tensor
    background: Tensor
    canvas: Tensor
    caption: str
    key: str
    index: int
    problem: str


class Batch(TypedDict):
    """Samples stacked along a leading dimension B; captions, keys and problems as lists, index int64 (B,)."""

    rgb: Tensor
    alpha: Tensor
    background: Tensor
    canvas: Tensor
    caption: list[str]
    key: list[str]
    index: Tensor
    problem: list[str]


class _Draws(NamedTuple):
    """All random numbers of a sample, drawn before anything is read: `start`, `windows` as fractions in [0, 1)."""

    start: float
    flip: bool
    zoom: float
    windows: npt.NDArray[np.float64]  # (CROP_TRIES, 2): vertical, horizontal
    background: int
    canvas: int
    path: WindowPath | None  # of a still that becomes a clip
    stride: float  # where in the range of strides


class ClipDataset(Dataset[Sample]):
    """RGBA clips as tensors; `dataset[n]` is defined for every global sample number n >= 0.

    A sample holds
        rgb         float32 (3, T, H, W) in [-1, 1], straight colour, black (-1) where alpha is 0
        alpha       float32 (1, T, H, W) in [0, 1], exactly 0 below 1/255
        background  float32 (3,), canvas float32 (3,): two independent draws from the colour set
        caption, key, index (n), problem ("" or why the clip at this place of the order had to be replaced)

    With `augment`, sample n is clip n of the endless shuffled order with random start frame, frame stride, horizontal
    flip and crop.  Without, it is clip n mod N: frames from the middle, whole picture (centred, as far as the shape of
    `size` allows).  A clip shorter than the window runs forth and back.  A clip that cannot be decoded, or that is
    opaque in the whole window, is replaced by the next readable one.

    Args:
        source: where clips come from.
        num_frames: T, at least 1.
        size: side of the square sample, or (height, width), in pixels.
        seed: of order and augmentation.
        frame_stride: take every so-manyth frame; a range (low, high) draws it for each sample, as far as the clip is
            long enough (without `augment`: low).
        augment: see above.
        scale: range of the zoom, at least 1: at 2 a random window of half the height and width is taken.
        stills: what `augment` makes of clips of one frame: a window that slides "smooth"ly, the authors' "integer"
            steps (windows of exactly `size`), or a "static" clip.
        order: which clip is sample n with `augment`; by default the source's clips as one set.
        buckets, labels: with `augment`, clip i becomes a sample of the shape `buckets[labels[i]]` instead.
        captions: how the text is composed from captions and labels, see `compose`; none: the clip's caption as it is.
        flip: whether `augment` mirrors every second sample; not where captions say left and right.

    Raises:
        ValueError: an argument is out of range.
        DataError: on reading, when `MAX_REPLACEMENTS` clips in a row are unreadable; the message lists them.
    """

    def __init__(
        self,
        source: ClipSource,
        num_frames: int,
        size: int | tuple[int, int],
        seed: int = 0,
        frame_stride: int | tuple[int, int] = 1,
        augment: bool = True,
        scale: tuple[float, float] = (1.0, 1.0),
        stills: Stills = "smooth",
        order: SampleOrder | None = None,
        buckets: Sequence[Bucket] = (),
        labels: Integers | None = None,
        captions: CaptionStyle | None = None,
        flip: bool = True,
    ) -> None:
        height, width = (size, size) if isinstance(size, int) else size
        strides = (frame_stride, frame_stride) if isinstance(frame_stride, int) else frame_stride
        if num_frames < 1 or not 1 <= strides[0] <= strides[1] or min(height, width) < 1:
            raise ValueError(
                "expected num_frames, frame_stride and size of at least 1, "
                f"got num_frames={num_frames}, frame_stride={frame_stride}, size={height}x{width}"
            )
        if not 1 <= scale[0] <= scale[1]:
            raise ValueError(f"expected scale=(low, high) with 1 <= low <= high, got {tuple(scale)}")
        if not len(source):
            raise DataError("the source holds no clips")
        self.source, self.seed, self.strides, self.stills = source, seed, strides, stills
        self.augment, self.scale, self.flip = augment, scale, flip
        self.order = SampleOrder([len(source)], seed) if order is None else order
        self.shapes = list(buckets) if augment and labels is not None else [Bucket(num_frames, (height, width))]
        self.labels = labels if augment else None
        self.captions = captions

    def __len__(self) -> int:
        """Clips of one epoch; larger sample numbers are valid too."""
        return len(self.source)

    def __getitem__(self, n: int) -> Sample:
        shape = self.shape(n)
        rgb, alpha = empty(3, shape.num_frames, *shape.size), empty(1, shape.num_frames, *shape.size)
        return self._fill(n, shape, rgb, alpha)

    def __getitems__(self, numbers: list[int]) -> Batch:
        """The batch of these samples, which loaders ask for; every sample is written straight into its place there.

        Raises:
            ValueError: the samples are of different shapes.
        """
        shape, *others = {self.shape(n) for n in numbers}
        if others:
            raise ValueError(f"samples {numbers} are of different shapes, {shape} and {others[0]}; they make no batch")
        rgb, alpha = (empty(len(numbers), planes, shape.num_frames, *shape.size) for planes in (3, 1))
        return _batch(
            [self._fill(n, shape, *places) for n, *places in zip(numbers, rgb, alpha, strict=True)], rgb, alpha
        )

    def _fill(self, n: int, shape: Bucket, rgb: Tensor, alpha: Tensor) -> Sample:
        """Sample `n`, whose pictures are written into `rgb` and `alpha`."""
        draws = self._draw(n)
        index, frames, problem = self._read(n, draws, shape.num_frames)
        clip = self.source.clips[index]
        if draws.path is not None and clip.num_frames == 1 < shape.num_frames:
            planes = self._slide(frames[0], draws, n, shape).permute(1, 0, 2, 3)
            torch.sub(planes[:3] * 2, 1, out=rgb)
            alpha.copy_(planes[3:])
        else:
            resize_clip(_crop(frames, draws, shape.size), shape.size, (rgb, alpha))
        return Sample(
            rgb=rgb,
            alpha=alpha,
            background=COLOURS[draws.background].clone(),
            canvas=COLOURS[draws.canvas].clone(),
            caption=self._compose(clip, n),
            key=clip.key,
            index=n,
            problem=problem,
        )

    def shape(self, n: int) -> Bucket:
        """Frames and size of sample `n`: its bucket's, also when its clip has to be replaced."""
        return self.shapes[0 if self.labels is None else int(self.labels[self.clip(n)])]

    def clip(self, n: int) -> int:
        """Which clip of the source sample `n` is of, unless that one cannot be read."""
        return self.order.locate(n)[1] if self.augment else n % len(self.source)

    def caption(self, n: int) -> str:
        """The text of sample `n`, without reading its clip."""
        return self._compose(self.source.clips[self.clip(n)], n)

    def _draw(self, n: int) -> _Draws:
        rng = np.random.default_rng((self.seed, n))
        background, canvas = (int(colour) for colour in rng.integers(len(COLOURS), size=2))
        if not self.augment:
            return _Draws(0.5, False, 1.0, np.full((1, 2), 0.5), background, canvas, None, 0.0)
        start, flip, zoom = rng.random(), bool(rng.integers(2)) and self.flip, rng.uniform(*self.scale)
        windows = rng.random((CROP_TRIES, 2))
        path = None if self.stills == "static" else draw_path(rng, self.scale)
        return _Draws(start, flip, zoom, windows, background, canvas, path, rng.random())

    def _compose(self, clip: Clip, n: int) -> str:
        if self.captions is None:
            return clip.caption
        rng = np.random.default_rng((self.seed, n, _CAPTION_STREAM)) if self.augment else None
        return compose(clip, rng, self.captions)

    def _read(self, n: int, draws: _Draws, count: int) -> tuple[int, Frames, str]:
        """(clip index, frames, problem) of the first readable clip from place `n` of the order on."""
        problems: list[str] = []
        for place in range(n, n + min(len(self.source), MAX_REPLACEMENTS)):
            index = self.clip(place)
            try:
                return index, self._read_window(index, draws, count), "; ".join(problems)
            except MediaError as error:
                problems.append(str(error))
        raise DataError(f"{len(problems)} clips in a row are unreadable:\n  " + "\n  ".join(problems))

    def _read_window(self, index: int, draws: _Draws, count: int) -> Frames:
        """The frames of a window; one that is opaque throughout is drawn again, for a clip may be so for a while."""
        available, start = self.source.clips[index].num_frames, draws.start
        stride = draw_stride(self.strides, available, count, draws.stride)
        for place in (start, (start + 1 / 3) % 1, (start + 2 / 3) % 1):
            frames = self._read_positions(index, frame_window(available, count, stride, place), stride)
            if any(frame[..., 3].min() < 255 for frame in frames):  # nearly always the first one tells
                return frames
        raise AlphaError(f"{self.source.describe(index)}: alpha is 1 throughout three windows; has it an alpha?")

    def _read_positions(self, index: int, positions: Integers, stride: int) -> Frames:
        first, last = int(positions.min()), int(positions.max())
        if np.all(np.diff(positions) == stride):
            return self.source.read(index, first, len(positions), stride)
        return self.source.read(index, first, last - first + 1)[positions - first]

    def _slide(self, still: Frames, draws: _Draws, n: int, shape: Bucket) -> Tensor:
        """A moving window over a still, float32 (T, 4, height, width) as `resize_rgba` gives it."""
        count, size = shape.num_frames, shape.size
        still = still[:, ::-1] if draws.flip else still
        fits = still.shape[0] >= size[0] and still.shape[1] >= size[1]
        if self.stills == "integer" and fits:  # whole-pixel windows cannot enlarge a small picture
            rng = np.random.default_rng((self.seed, n, _STILL_STREAM))
            return resize_rgba(integer_windows(rng, still, count, size), size)
        assert draws.path is not None
        return slide(still, draws.path.boxes(count, still.shape[:2], size), size)


def _crop(frames: Frames, draws: _Draws, size: tuple[int, int]) -> Frames:
    """The window of the picture that becomes the sample: cover `size`, zoomed; flipped if so drawn."""
    full_height, full_width = frames.shape[1:3]
    fit = min(full_height / size[0], full_width / size[1]) / draws.zoom
    height = min(max(round(size[0] * fit), 1), full_height)
    width = min(max(round(size[1] * fit), 1), full_width)
    for vertical, horizontal in draws.windows:
        top, left = int(vertical * (full_height - height + 1)), int(horizontal * (full_width - width + 1))
        window = frames[:, top : top + height, left : left + width]
        if _alpha_varies(window):
            break
    return window[:, :, ::-1] if draws.flip else window


def _alpha_varies(frames: Frames) -> bool:
    """Whether alpha has more than one value; nearly always the first frame tells."""
    level = frames[0, 0, 0, 3]
    return any((frame[..., 3] != level).any() for frame in frames)


def draw_stride(strides: tuple[int, int], available: int, count: int, draw: float) -> int:
    """A frame stride from low to high, drawn evenly among those for which the clip is long enough (at least low)."""
    low, high = strides
    longest = (available - 1) // max(count - 1, 1)
    return low + int(draw * (max(min(high, longest), low) - low + 1))


def frame_window(available: int, count: int, stride: int, start: float) -> npt.NDArray[np.int64]:
    """Which frames of a clip of `available` frames make a window; int64 (count,).

    `start` in [0, 1) is where the window lies among the places it can take (0.5: the middle).  A clip that is too short
    runs forth and back: 0 1 2 1 0 1 ...
    """
    steps = np.arange(count, dtype=np.int64) * stride
    places = available - int(steps[-1])
    if places > 0:
        return int(start * places) + steps
    if available == 1:
        return np.zeros(count, dtype=np.int64)
    period = 2 * available - 2
    positions = (int(start * available) + steps) % period
    return np.minimum(positions, period - positions)


def collate(samples: list[Sample] | Batch) -> Batch:
    """Stack samples into a batch; what `ClipDataset.__getitems__` made for a loader is one already."""
    if isinstance(samples, dict):
        return samples
    rgb, alpha = (torch.stack([sample[name] for sample in samples]) for name in ("rgb", "alpha"))
    return _batch(samples, rgb, alpha)


def _batch(samples: list[Sample], rgb: Tensor, alpha: Tensor) -> Batch:
    return Batch(
        rgb=rgb,
        alpha=alpha,
        background=torch.stack([sample["background"] for sample in samples]),
        canvas=torch.stack([sample["canvas"] for sample in samples]),
        caption=[sample["caption"] for sample in samples],
        key=[sample["key"] for sample in samples],
        index=torch.tensor([sample["index"] for sample in samples]),
        problem=[sample["problem"] for sample in samples],
    )
