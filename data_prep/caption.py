"""Step 3: captions and labels from a vision model, through any OpenAI-compatible endpoint.

    python -m data_prep.caption root=DIR endpoint=http://127.0.0.1:8000/v1 model=NAME [fields=short_en,labels] ...

The model sees some frames of each clip on a checkerboard and on a flat colour.  What it says goes into
`annotations.jsonl`, beside what people said, and never over it.  Answers are cached by the clip's content, the question
and the model, so that the same command continues an interrupted run and asks nothing twice.  What failed is in
`caption_failures.jsonl`, with the reason.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from data_prep.captioner import FAILURES, Captioner, Counts, curated_measures, fields_of
from data_prep.cli import fail, parse, told
from data_prep.endpoint import Endpoint, EndpointError
from data_prep.journal import Journal
from data_prep.questions import FIELDS
from wan_alpha.data.errors import DataError
from wan_alpha.data.folders import FolderSource
from wan_alpha.schema import Count, Natural, NonNegative, Positive


@dataclass
class Options:
    """Let a vision model write captions and labels for a data set folder."""

    root: Annotated[Path, "the data set folder"]
    endpoint: Annotated[str, "base URL of an OpenAI-compatible API, such as http://127.0.0.1:8000/v1"]
    model: Annotated[str, "name of the model there"]
    fields: Annotated[str, f"what to ask for, with commas between: {', '.join(FIELDS)}"] = ",".join(FIELDS)
    api_key_env: Annotated[str | None, "name of the environment variable that holds the API key; none: no key"] = None
    concurrency: Annotated[Count, "clips that are on their way at once"] = 8
    per_minute: Annotated[Positive | None, "most requests a minute; none: no limit"] = None
    timeout: Annotated[Positive, "seconds to wait for an answer"] = 180.0
    retries: Annotated[Natural, "further tries when the endpoint fails, with growing pauses"] = 5
    attempts: Annotated[Count, "times that a question is asked until its answer makes sense"] = 3
    patience: Annotated[Count, "questions in a row without any answer, after which the endpoint counts as down"] = 5
    frames: Annotated[Count, "frames of each clip that the model sees"] = 6
    side: Annotated[Count, "longer side of each of them in pixels"] = 336
    temperature: Annotated[NonNegative, "of the model's choice of words"] = 0.2
    hint: Annotated[bool, "tell the model the caption that the clip came with"] = True
    limit: Annotated[Count | None, "stop after so many clips"] = None
    removed: Annotated[bool, "ask about the clips that data_prep.curate removed, too"] = False


def caption(options: Options) -> Counts:
    """Run the step and say what became of it.

    Raises:
        DataError: a field is unknown, the folder holds no clip, or the endpoint is down or refuses.
        OSError: the disk is full, or the folder cannot be written.
    """
    fields_of(options)
    key = api_key(options.api_key_env)
    source = FolderSource(options.root, "all", curated=not options.removed)
    for problem in source.problems:
        print(f"skipped: {problem}", file=sys.stderr)
    if source.removed:
        hint = "" if options.removed else "; removed=true asks about those of curation"
        print(f"not asked about, as curation or a reviewer removed them: {source.removed}{hint}", file=sys.stderr)
    (options.root / FAILURES).unlink(missing_ok=True)
    return asyncio.run(_caption_all(options, source, key))


async def _caption_all(options: Options, source: FolderSource, key: str | None) -> Counts:
    columns = (TextColumn("caption"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    clips = iter(range(min(len(source), options.limit or len(source))))
    total = min(len(source), options.limit or len(source)) * len(fields_of(options))
    endpoint = Endpoint(options.endpoint, options.model, key, options.timeout, options.retries, options.per_minute)
    with Progress(*columns, console=Console(stderr=True)) as progress:
        progress.add_task("caption", total=total)
        run = Captioner(options, source, endpoint, Journal(options.root), progress, curated_measures(options.root))
        ended: Exception | None = None  # raised below: from an except* before Python 3.11.4, it would come in a group
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(options.concurrency):
                    group.create_task(_work(run, clips))
        except* EndpointError as errors:
            first = errors.exceptions[0]
            ended = DataError(f"{first}\n{run.counts.asked} questions were answered before; the same command continues")
        except* OSError as errors:  # a full disk, say: one of the workers speaks for all
            ended = ended or errors.exceptions[0]
        finally:
            await endpoint.close()
    if ended:
        raise ended
    return run.counts


async def _work(run: Captioner, clips: Iterator[int]) -> None:
    for index in clips:
        await run.clip(index)


def api_key(variable: str | None) -> str | None:
    """The API key from the environment.

    Raises:
        DataError: the variable is not set.
    """
    if variable is None:
        return None
    if not (key := os.environ.get(variable)):
        raise DataError(f"api_key_env={variable}: the environment has no such variable, or it is empty")
    return key


def main(arguments: list[str]) -> None:
    """The command line."""
    options = parse(Options, arguments, "python -m data_prep.caption")
    with told():
        counts = caption(options)
    said = f"{counts.asked} answers, {counts.cached} from the cache, {counts.measured} labels measured"
    print(f"{said}, {counts.theirs} left as people wrote them, {counts.failed} failed -> {options.root}")
    if counts.failed:
        fail(
            f"{counts.failed} questions have no answer: {options.root / FAILURES} says why; the same command asks again"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
