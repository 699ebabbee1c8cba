"""`python -m wan_alpha.demo [--base tiny] [--adapters tiny] [--port 7860]`: the demo page on this machine."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from wan_alpha.models.adapters import AdapterError
from wan_alpha.models.base import BaseError
from wan_alpha.models.device import choose_device
from wan_alpha.pipeline.loading import PreviewError, quiet_loading


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until Ctrl-C; the exit status: 0 ended, 1 refused with a sentence on stderr."""
    parser = argparse.ArgumentParser(prog="python -m wan_alpha.demo", description="A page to try it.")
    parser.add_argument("--base", default="tiny", help="tiny, a known name, a hub id or a path (default: %(default)s)")
    parser.add_argument("--adapters", nargs="+", default=["tiny"], help="exported adapters or runs (default: tiny)")
    parser.add_argument("--distill", help="distillation LoRA: 4 steps without guidance")
    parser.add_argument("--preview", help="TAEHV file: a tiny decoder instead of the two, for quick looks")
    parser.add_argument(
        "--out", type=Path, default=Path("outputs/demo"), help="where videos stay (default: %(default)s)"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    parser.add_argument("--port", type=int, default=7860, help="(default: %(default)s)")
    args = parser.parse_args(argv)
    console = Console()
    try:
        serve(args, console)
    except (AdapterError, BaseError, PreviewError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        console.print("ended")
    return 0


def serve(args: argparse.Namespace, console: Console) -> None:
    """Load the model, then serve the page."""
    try:
        import gradio as gr

        from wan_alpha.demo.page import CSS, build
    except ImportError as error:
        raise OSError(f"the demo needs Gradio ({error}): pip install -e '.[demo]'") from error
    from wan_alpha.demo.studio import Studio
    from wan_alpha.pipeline.jobs import digests
    from wan_alpha.pipeline.pipeline import AlphaWanPipeline

    quiet_loading()
    device = choose_device("auto")
    with console.status(f"loading {args.base}"):
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        options: dict[str, Any] = {"distill": args.distill, "preview": args.preview, "dtype": dtype}
        pipe = AlphaWanPipeline.from_pretrained(args.base, args.adapters, **options).to(device)
        pipe.set_progress_bar_config(disable=True)
    steps, guidance = (4, 1.0) if pipe.few_step else (20, 5.0)
    title = f"Base `{Path(args.base).name}` on {device}. Files stay in `{args.out}`."
    sizes = pipe.form.frames, pipe.form.height, pipe.form.width
    model = {"base": args.base} | digests(args.adapters, distill=args.distill, preview=args.preview)
    page = build(Studio(pipe, args.out, model), sizes, steps, guidance, title)
    fonts = ["system-ui", "sans-serif"]
    page.launch(
        server_name=args.host,
        server_port=args.port,
        share=False,
        quiet=True,
        prevent_thread_lock=True,
        allowed_paths=[str(args.out.resolve())],
        max_file_size="20mb",
        theme=gr.themes.Soft(font=fonts, font_mono=["ui-monospace", "monospace"]),
        css=CSS,
        ssr_mode=False,
        footer_links=[],
    )
    console.print(f"http://{args.host}:{args.port}  (Ctrl-C ends it)", highlight=False)
    page.block_thread()


if __name__ == "__main__":
    sys.exit(main())
