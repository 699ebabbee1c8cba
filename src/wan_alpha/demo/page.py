"""The demo page, in Gradio: prompt on the left, preview over any background on the right, history below."""

from __future__ import annotations

import html
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import gradio as gr
import torch

from wan_alpha.demo.studio import FIELDS, Entry, RequestError, Studio
from wan_alpha.demo.uploads import keep_files_apart
from wan_alpha.pipeline.composite import PICTURES, parse_colour
from wan_alpha.pipeline.video import FORMATS

log = logging.getLogger(__name__)

QUEUE = 8
GROUNDS = {"black": "#000000", "white": "#ffffff", "green": "#00b140"}
BACKGROUNDS = ("checkerboard", *GROUNDS, "colour", "your own")
_CHECKERS = "repeating-conic-gradient(#cfcfcf 0 25%, #f5f5f5 0 50%) 0 0 / 24px 24px"
EXAMPLES = ("a grinning face with smiling eyes", "a beating heart", "a woman astronaut")
CSS = """
#preview .stage { display: flex; justify-content: center; align-items: center; border-radius: 8px; padding: 12px;
                  min-height: 240px; position: relative; overflow: hidden; }
#preview video { position: absolute; inset: 0; width: 100%; height: 100%; object-fit: cover; }
#preview img { position: relative; width: min(100%, 560px); max-height: 38vh; object-fit: contain; }
/* Gradio spreads a few pictures over the whole width and cuts what is higher than the gallery. */
#history .grid-container { grid-template-columns: repeat(8, minmax(80px, 1fr)); }
#preview .empty { color: #555; background: #fff8; padding: 8px 14px; border-radius: 6px; }
footer { display: none !important; }
"""


def build(studio: Studio, sizes: tuple[int, int, int], steps: int, guidance: float, title: str) -> gr.Blocks:
    """The page.

    Args:
        studio: does the work.
        sizes: frames, height and width that the base was made for.
        steps, guidance: to begin with.
        title: which model this is.
    """
    keep_files_apart()
    with gr.Blocks(title="wan-alpha", analytics_enabled=False, fill_width=True) as page:
        gr.Markdown(f"## wan-alpha: video with transparency\n{title}")
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                prompt = gr.Textbox(
                    label="Prompt", lines=2, placeholder="a red heart", elem_id="prompt", max_length=1000
                )
                gr.Examples([[text] for text in EXAMPLES], [prompt], label="For example")
                with gr.Row():
                    seed = gr.Number(0, label="Seed", precision=0, minimum=0, elem_id="seed")
                    step = gr.Slider(1, 60, steps, step=1, label="Steps", elem_id="steps")
                with gr.Accordion("More", open=False):
                    negative = gr.Textbox(label="Negative prompt", max_length=1000)
                    scale = gr.Slider(0, 12, guidance, step=0.5, label="Guidance (1: none)")
                    with gr.Row():
                        frames = gr.Number(sizes[0], label="Frames", precision=0)
                        height = gr.Number(sizes[1], label="Height", precision=0)
                        width = gr.Number(sizes[2], label="Width", precision=0)
                go = gr.Button("Generate", variant="primary", elem_id="go")
            with gr.Column(scale=3, min_width=360):
                preview = gr.HTML(_preview(None, "checkerboard", "#3366cc", None), elem_id="preview")
                with gr.Row():
                    over = gr.Radio(
                        BACKGROUNDS, value="checkerboard", label="Background", elem_id="background", scale=3
                    )
                    colour = gr.ColorPicker("#3366cc", label="Colour", scale=1, elem_id="colour")
                own = gr.File(label="Your picture or video", file_types=["image", "video"], visible=False, height=110,
                              elem_id="own")  # fmt: skip
                kind = gr.Dropdown([(f"{name}: {f.purpose}", name) for name, f in FORMATS.items()], value="webm",
                                   label="Format", elem_id="format")  # fmt: skip
                prepare = gr.Button("Prepare download", elem_id="prepare")
                download = gr.File(label="Download", visible=False, elem_id="download")
        gallery = gr.Gallery(label="History", columns=8, height=190, allow_preview=False, elem_id="history",
                             buttons=[])  # fmt: skip
        current = gr.State("")
        names = gr.State([])

        def history() -> tuple[list[tuple[str, str]], list[str]]:
            entries = studio.history()[:64]
            return [(str(e.thumbnail), e.caption) for e in entries], [e.name for e in entries]

        def generate(*values: Any, progress: gr.Progress = gr.Progress()) -> Any:  # noqa: B008
            *request, background, tint, file = values
            with _in_sentences():
                wish = dict(zip(FIELDS, request, strict=True))
                entry = studio.make(wish, lambda share, what: progress(share, desc=what))
                return _preview(entry, background, tint, file), entry.name, gr.File(visible=False), *history()

        def shown(name: str, background: str, tint: str, file: str | None) -> Any:
            entry = next((e for e in studio.history() if e.name == name), None)
            return _preview(entry, background, tint, file), gr.File(visible=background == "your own")

        def chosen(known: list[str], background: str, tint: str, file: str | None, event: gr.SelectData) -> Any:
            name = known[event.index] if isinstance(event.index, int) and event.index < len(known) else ""
            return shown(name, background, tint, file)[0], name, gr.File(visible=False)

        def written(name: str, wanted: str, background: str, tint: str, file: str | None) -> Any:
            with _in_sentences():
                if not name:
                    raise RequestError("Generate a video first.")
                return gr.File(str(studio.export(name, wanted, _ground(background, tint, file))), visible=True)

        ground: list[Any] = [over, colour, own]  # Gradio gives components their events when it makes their classes
        request = [prompt, negative, seed, step, scale, frames, height, width, *ground]
        outputs = [preview, current, download, gallery, names]
        gr.on([go.click, prompt.submit], generate, request, outputs, concurrency_limit=1, show_progress_on=preview,
              api_visibility="private")  # fmt: skip
        for part in ground:
            part.change(shown, [current, *ground], [preview, own], show_progress="hidden", api_visibility="private")
        gallery.select(chosen, [names, *ground], [preview, current, download], api_visibility="private")
        prepare.click(written, [current, kind, *ground], download, api_visibility="private")
        page.load(history, None, [gallery, names], api_visibility="private")
    page.queue(max_size=QUEUE, default_concurrency_limit=2)
    return page


@contextmanager
def _in_sentences() -> Iterator[None]:
    """Whatever goes wrong inside is said on the page; what nobody foresaw stands in the log of the server, too."""
    try:
        yield
    except Exception as error:
        is_ours = type(error).__module__.startswith("wan_alpha")
        if not is_ours:
            log.exception("the demo page: a request failed")
        raise gr.Error(str(error) if is_ours else _sentence(error), print_exception=False) from error


def _sentence(error: Exception) -> str:
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error):
        return "There is not enough memory for this: take fewer or smaller frames."
    if isinstance(error, OSError):
        return f"A file could not be read or written: {error.strerror or error}."
    return f"This went wrong ({type(error).__name__}); the terminal in which the page was started says more."


def _preview(entry: Entry | None, background: str, colour: str, own: str | None) -> str:
    """The animation over the chosen background; everything that came from outside is escaped."""
    below = _ground(background, colour, None).replace("checkerboard", _CHECKERS)
    plate = Path(own) if background == "your own" and own else None
    film = ""
    if plate is not None and plate.suffix.lower() in PICTURES:
        below = f"url('{_url(plate)}') center / cover"
    elif plate is not None:
        film = f'<video src="{_url(plate)}" autoplay loop muted playsinline></video>'
    if entry is None:
        inside = '<span class="empty">Say what is to be seen, and press Generate.</span>'
    else:
        inside = f'<img src="{_url(entry.preview)}" alt="{html.escape(entry.caption, quote=True)}">'
    return f'<div class="stage" style="background: {below}">{film}{inside}</div>'


def _ground(background: str, colour: str, own: str | None) -> str:
    """The background of a file, see `composite`: what the page sends is looked up or parsed, never opened."""
    return (GROUNDS | {"colour": _hex(colour), "your own": own or "checkerboard"}).get(background, "checkerboard")


def _hex(colour: str) -> str:
    """A colour of the picker (`#rrggbb` or `rgba(r, g, b, a)`) as `#rrggbb`; whatever is none becomes blue."""
    if parse_colour(colour) is not None:
        return colour
    numbers = re.findall(r"\d+(?:\.\d+)?", colour or "")[:3]
    values = [min(255, int(float(number))) for number in numbers] if len(numbers) == 3 else [51, 102, 204]
    return "#" + "".join(f"{value:02x}" for value in values)


def _url(path: Path) -> str:
    return f"/gradio_api/file={quote(str(path))}"
