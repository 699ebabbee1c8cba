"""The review page: Gradio for the form, one route of our own for the frames."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI, HTTPException, Response
from fastapi.middleware.trustedhost import TrustedHostMiddleware

from data_prep.review import markup
from data_prep.review.desk import FILTERS, Desk
from data_prep.review.sprites import sprite
from wan_alpha.data.captions import LABELS
from wan_alpha.data.errors import DataError
from wan_alpha.demo.uploads import keep_files_apart

HERE = Path(__file__).parent
TEXTS = {
    "caption": "Caption it came with", "short_en": "Short, English", "long_en": "Long, English",
    "short_zh": "Short, Chinese", "long_zh": "Long, Chinese", "note": "Note",
}  # fmt: skip
EDITABLE = (*TEXTS, *LABELS)
LOCAL_NAMES = ["127.0.0.1", "localhost", "[::1]"]
REFRESH_SECONDS = 3.0


def make_app(root: Path, who: str, only_local: bool = True) -> FastAPI:
    """The web application for one data set folder.

    Args:
        root: the folder.
        who: name of the reviewer until they give another.
        only_local: answer only to this machine's own names, so that no foreign web page can reach it under one of its
            own (DNS rebinding).

    Raises:
        DataError: the folder holds no clip.
    """
    desk = Desk(root)
    app = FastAPI(openapi_url=None)
    if only_local:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=LOCAL_NAMES)

    @app.get("/clips/{key}")
    def frames(key: str) -> Response:
        # Only keys of the folder's clips are known: there is no path to play tricks with.
        if key not in desk.index:
            raise HTTPException(404, f"no clip {key!r}")
        try:
            return Response(sprite(desk.source, desk.index[key]), media_type="image/png")
        except DataError as error:
            raise HTTPException(422, str(error)) from error

    page = Page(desk, who)
    script = (HERE / "player.js").read_text(encoding="utf-8")
    theme = gr.themes.Base(
        primary_hue="teal",
        neutral_hue="slate",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    )
    return gr.mount_gradio_app(
        app, page.blocks, path="/", allowed_paths=[], footer_links=[], theme=theme,
        css=(HERE / "style.css").read_text(encoding="utf-8"), head=f"<script>{script}</script>", ssr_mode=False,
    )  # fmt: skip


class Page:
    """The form and what its parts do."""

    def __init__(self, desk: Desk, who: str) -> None:
        self.desk = desk
        keep_files_apart()
        with gr.Blocks(title=f"Review of {desk.source.root.name}", analytics_enabled=False, fill_width=True) as blocks:
            self.blocks = blocks
            self._lay_out(who)
            self._connect()

    def _lay_out(self, who: str) -> None:
        with gr.Row(elem_id="top"):
            with gr.Column(scale=6, min_width=420):
                self.progress = gr.HTML(elem_id="progress")
            with gr.Column(scale=7, min_width=420), gr.Row():
                self.filter = gr.Dropdown(list(FILTERS), value=FILTERS[0], label="Show", min_width=120)
                self.search = gr.Textbox(label="Search", placeholder="key or words, then Enter", min_width=120)
                self.who = gr.Textbox(who, label="You are", elem_id="who", min_width=120, max_lines=1)
        with gr.Row():
            with gr.Column(scale=6, min_width=420):
                self.heading = gr.HTML(elem_id="heading")
                gr.HTML(markup.PLAYER, elem_id="player")
                with gr.Row(elem_id="buttons"):
                    self.previous = gr.Button("← Previous", elem_id="previous", min_width=80)
                    self.reject = gr.Button("Reject", elem_id="reject", min_width=80)
                    self.undecide = gr.Button("Undecided", elem_id="undecide", min_width=80)
                    self.accept = gr.Button("Accept", elem_id="accept", min_width=80)
                    self.following = gr.Button("Next →", elem_id="next", min_width=80)
                gr.HTML(markup.keys_line())
                self.status = gr.HTML(elem_id="status")
            with gr.Column(scale=7, min_width=420, elem_id="form"):
                self.fields: dict[str, Any] = {}
                with gr.Row():
                    self._text("short_en", 2)
                    self._text("short_zh", 2)
                with gr.Row():
                    self._text("long_en", 5)
                    self._text("long_zh", 5)
                with gr.Row():
                    for name, values in LABELS.items():
                        choices = [("not said", ""), *((value.replace("_", " "), value) for value in values)]
                        self.fields[name] = gr.Dropdown(choices, value="", label=name.title(), elem_id=f"field-{name}",
                                                        min_width=110)  # fmt: skip
                with gr.Row():
                    self._text("caption", 1)
                    self._text("note", 1)
                with gr.Row():
                    with gr.Column(scale=2, min_width=150), gr.Accordion("Scores", open=True):
                        self.scores = gr.HTML(elem_id="scores")
                    with gr.Column(scale=5, min_width=260), gr.Accordion("Who said what", open=True):
                        self.history = gr.HTML(elem_id="history")
        self.spec = gr.HTML(elem_id="spec")
        # The key travels with every event from the browser: an edit belongs to the clip that was on the screen.
        self.key = gr.Textbox(visible="hidden", elem_id="key")
        self.save = gr.Button("Save", visible="hidden", elem_id="save")
        self.timer = gr.Timer(REFRESH_SECONDS)

    def _text(self, name: str, lines: int) -> None:
        self.fields[name] = gr.Textbox(
            label=TEXTS[name], lines=lines, max_lines=max(lines, 8), elem_id=f"field-{name}", min_width=200
        )

    def _connect(self) -> None:
        values = [self.fields[name] for name in EDITABLE]
        shown = [self.key, self.heading, self.spec, self.progress, self.status, self.scores, self.history, *values]
        told = [self.key, self.who, *values]
        moving = [*told, self.filter, self.search]
        # One at a time and in order, so that what was typed last is written last.
        queue: dict[str, Any] = {"concurrency_id": "journal", "concurrency_limit": 1, "show_progress": "hidden"}
        self.blocks.load(self._open, [self.filter, self.search], shown, **queue)
        for button, act in (
            (self.previous, self._move(-1)), (self.following, self._move(1)), (self.accept, self._judge("accepted")),
            (self.reject, self._judge("rejected")), (self.undecide, self._judge("")),
        ):  # fmt: skip
            button.click(act, moving, shown, **queue)
        for changed in (self.filter.change, self.search.submit):
            changed(self._refilter, moving, shown, **queue)
        after = [self.status, self.history]
        # Gradio's own event for typing misses what input methods and pasting do, so the script presses a button.
        for event in (self.save.click, *(self.fields[name].input for name in LABELS)):
            event(self._edit, told, after, trigger_mode="always_last", **queue)
        self.timer.tick(self._news, [self.key, *values], [self.heading, self.progress, self.history, *values], **queue)
        self.blocks.unload(self._close)

    def _open(self, request: gr.Request, chosen: str, search: str) -> list[Any]:
        """The page was opened: on the clip that its address names, or on the first undecided one."""
        keys = self.desk.keys(chosen, search)
        undecided = self.desk.keys("undecided", "")
        wanted = request.query_params.get("clip", "")
        key = wanted if wanted in self.desk.index else (undecided or keys or list(self.desk.index))[0]
        return self._show(key, keys, request, "")

    def _show(self, key: str, keys: Sequence[str], request: gr.Request, status: str) -> list[Any]:
        """Everything about one clip."""
        clip, values = self.desk.clip(key), self.desk.show(_tab(request), key)
        place = keys.index(key) + 1 if key in keys else 0
        following = keys[place] if place < len(keys) else None
        return [
            key, markup.heading(clip, values, place, len(keys)), markup.spec(clip, following),
            markup.progress(self.desk.counts()), status, markup.scores(clip, self.desk.measures.get(key, {})),
            markup.history(self.desk.journal.history(key)), *(values[name] for name in EDITABLE),
        ]  # fmt: skip

    def _save(self, key: str, who: str, values: Sequence[Any], request: gr.Request, verdict: str | None = None) -> str:
        """Write what was edited and say so."""
        told = {name: str(value or "") for name, value in zip(EDITABLE, values, strict=True)}
        if verdict is not None:
            told["verdict"] = verdict
        try:
            saved = self.desk.save(_tab(request), key, who, told)
        except (DataError, OSError) as error:
            return markup.problem(f"NOT saved: {error}")
        return markup.status(saved.fields, saved.overwritten, f"{datetime.now():%H:%M:%S}")

    def _edit(self, request: gr.Request, key: str, who: str, *values: Any) -> list[Any]:
        status = self._save(key, who, values, request)
        return [status, markup.history(self.desk.journal.history(key))] if status else [gr.skip(), gr.skip()]

    def _move(self, step: int) -> Callable[..., list[Any]]:
        def move(request: gr.Request, key: str, who: str, *rest: Any) -> list[Any]:
            *values, chosen, search = rest
            status = self._save(key, who, values, request)
            keys = self.desk.keys(chosen, search)
            return self._show(_neighbour(key, keys, list(self.desk.index), step), keys, request, status)

        return move

    def _judge(self, verdict: str) -> Callable[..., list[Any]]:
        def judge(request: gr.Request, key: str, who: str, *rest: Any) -> list[Any]:
            *values, chosen, search = rest
            keys = self.desk.keys(chosen, search)  # before the verdict takes the clip out of the list
            status = self._save(key, who, values, request, verdict)
            following = _neighbour(key, keys, list(self.desk.index), 1) if verdict else key
            return self._show(following, self.desk.keys(chosen, search), request, status)

        return judge

    def _refilter(self, request: gr.Request, key: str, who: str, *rest: Any) -> list[Any]:
        *values, chosen, search = rest
        status = self._save(key, who, values, request)
        keys = self.desk.keys(chosen, search)
        status = status if keys else markup.problem("No clip is like that.")
        return self._show(keys[0] if keys and key not in keys else key, keys, request, status)

    def _news(self, request: gr.Request, key: str, *values: Any) -> list[Any]:
        told = {name: str(value or "") for name, value in zip(EDITABLE, values, strict=True)}
        verdict = self.desk.shown(_tab(request), key).get("verdict", "")  # has no field that could answer with it
        news = self.desk.news(_tab(request), key, told | {"verdict": verdict})
        if not news:
            return [gr.skip()] * (3 + len(EDITABLE))
        now = self.desk.values(key)
        heading = markup.heading(self.desk.clip(key), now, list(self.desk.index).index(key) + 1, len(self.desk.index))
        history = markup.history(self.desk.journal.history(key))
        fields = [news.get(name, gr.skip()) for name in EDITABLE]
        return [heading, markup.progress(self.desk.counts()), history, *fields]

    def _close(self, request: gr.Request) -> None:
        self.desk.forget(_tab(request))


def _tab(request: gr.Request) -> str:
    return str(request.session_hash)


def _neighbour(key: str, keys: Sequence[str], everything: Sequence[str], step: int) -> str:
    """The clip before or after `key` among `keys`, which need not hold it; at the ends, `key` itself."""
    place = everything.index(key)
    candidates = [other for other in keys if (everything.index(other) - place) * step > 0]
    return key if not candidates else candidates[0] if step > 0 else candidates[-1]
