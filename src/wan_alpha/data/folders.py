"""Reading a folder of clips as it comes from an editor, a renderer or `data_prep.ingest`.

root/parrot.mov  root/smoke.webm  root/logo.png       RGBA files (a still is a clip of one frame)
root/fire/0001.png ...                                one folder of RGBA frames per clip
root/fgr/glass.mp4 + root/pha/glass.mp4               colour and matte apart, partners by name; files or folders
root/glass/fgr/... + root/glass/pha/...               the same, inside the clip's own folder
root/captions.csv | .json | .jsonl                    optional; key and caption
root/records.jsonl                                    written by data_prep.ingest; then it alone says what there is
root/annotations.jsonl                                captions, labels and verdicts of data_prep.caption and .review
root/curation.jsonl                                   verdicts of data_prep.curate
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unicodedata import normalize

from wan_alpha.data.annotations import read_annotations
from wan_alpha.data.errors import DataError
from wan_alpha.data.media import MEDIA_EXTENSIONS, PICTURES, VIDEOS, MediaInfo, Pair, media_files, read_frames
from wan_alpha.data.premultiplied import PREMULTIPLIED, Premultiplied, straighten
from wan_alpha.data.resize import Frames
from wan_alpha.data.source import Clip, clip_of, hash_manifest, key_problem, numbered_lines
from wan_alpha.data.usable import check_usable
from wan_alpha.data.verdicts import read_verdicts

RECORDS = "records.jsonl"
UNFINISHED = f"{RECORDS}.tmp"  # the journal of data_prep.ingest, gone when it ends
CAPTIONS = ("captions.csv", "captions.json", "captions.jsonl")
TEXTS = frozenset({".csv", ".json", ".jsonl", ".md", ".txt"})  # may lie beside the clips
Entry = tuple[str, Path | Pair]


class FolderSource:
    """The user's own clips (`ClipSource`); see the module's docstring for what a folder may hold.

    Clips that cannot be read, have no alpha channel, or one that is constant or looks inverted, are named in `problems`
    and left out, and so are clips that a reviewer rejected.  Captions and labels in `annotations.jsonl` replace the
    clips' own.

    Args:
        root: the folder.
        split: "train", "val", or "all".
        val_share: share of the clips held out, chosen by the hash of their keys; with two clips or more there is at
            least one on either side.  `records.jsonl` brings its own split.
        premultiplied: "yes" makes colours straight when they are read, "no" takes them as they are, "ask" leaves out
            what looks premultiplied, and says so.  `records.jsonl` is always straight.
        constant_rate: leave out clips of variable frame rate.
        annotated: honour `annotations.jsonl`; else the folder is as if nobody had said anything about it.
        curated: honour `curation.jsonl`: leave out what curation removed, unless a person accepted it, and move what it
            moved to the other split.
        keep_inverted: take alpha that looks inverted as it is, as for all that `records.jsonl` lists.

    Attributes:
        problems: what was left out, or is odd, each with its reason.
        removed: how many usable clips were left out because curation or a reviewer removed them.

    Raises:
        DataError: no clip can be used, or the split is empty.
    """

    def __init__(
        self,
        root: Path | str,
        split: str,
        val_share: float = 0.1,
        premultiplied: Premultiplied = "ask",
        constant_rate: bool = True,
        annotated: bool = True,
        curated: bool = False,
        keep_inverted: bool = False,
    ) -> None:
        if premultiplied not in PREMULTIPLIED:
            raise DataError(f"premultiplied={premultiplied}: expected one of {', '.join(PREMULTIPLIED)}")
        self.root = Path(root)
        self.premultiplied: Premultiplied = "no" if (self.root / RECORDS).exists() else premultiplied
        self.constant_rate, self.keep_inverted = constant_rate, keep_inverted
        self.problems: list[str] = []
        if not self.root.is_dir():
            raise DataError(f"{self.root}: expected a folder of clips, found nothing there")
        if not (self.root / RECORDS).exists() and (self.root / UNFINISHED).exists():
            raise DataError(f"{self.root}: data_prep.ingest has not ended there; give its command again, it continues")
        found = self._from_records() if (self.root / RECORDS).exists() else self._from_entries(val_share)
        # Names on a disk need not be UTF-8, and logs and files would stumble over those that are not.
        self.problems = [problem.encode(errors="backslashreplace").decode() for problem in self.problems]
        if not found:
            reasons = "\n  ".join(self.problems) or "it holds neither RGBA files nor folders of frames"
            raise DataError(f"{self.root}: no clip can be used:\n  {reasons}")
        usable = len(found)
        if curated:
            found = self._curated(found)
        if annotated:
            found = self._annotated(found)
        self.removed = usable - len(found)
        if not found:
            raise DataError(f"{self.root}: every clip is left out:\n  " + "\n  ".join(self.problems))
        chosen = [(clip, media) for clip, media in found if split in (clip.split, "all")]
        if not chosen:
            raise DataError(f"{self.root}: none of its {len(found)} clips is in split {split!r}; add clips")
        self.clips = [clip for clip, _ in chosen]
        self._media = [media for _, media in chosen]
        self._checksums: dict[int, int | None] = {}
        self.manifest_hash = hash_manifest(
            (clip.key, *_size_of(media), clip.num_frames, clip.height, clip.width, *self._made_straight)
            for clip, media in chosen
        )

    def __len__(self) -> int:
        return len(self.clips)

    def read(self, index: int, start: int, count: int, stride: int = 1) -> Frames:
        """See `ClipSource.read`."""
        frames = read_frames(self._media[index], None, start, count, stride)
        return straighten(frames, self.describe(index)) if self.premultiplied == "yes" else frames

    @property
    def _made_straight(self) -> tuple[str, ...]:
        """What the manifest hash says of it; nothing where colours are taken as they are."""
        return ("made straight",) if self.premultiplied == "yes" else ()

    def checksum(self, index: int) -> int | None:
        """See `ClipSource.checksum`; reads the clip's files, once."""
        if index not in self._checksums:
            try:
                self._checksums[index] = _crc32(self._media[index])
            except OSError:  # reading the clip will say so
                self._checksums[index] = None
        return self._checksums[index]

    def describe(self, index: int) -> str:
        """The file or folder of a clip."""
        media = self._media[index]
        return str(media.fgr if isinstance(media, Pair) else media)

    def media(self, index: int) -> Path | Pair:
        """Where the frames of a clip lie."""
        return self._media[index]

    def _annotated(self, found: list[tuple[Clip, Path | Pair]]) -> list[tuple[Clip, Path | Pair]]:
        """The clips with what `annotations.jsonl` says of them, without those that were rejected."""
        annotations = read_annotations(self.root)
        kept = []
        for clip, media in found:
            annotation = annotations.get(clip.key)
            if annotation and annotation.rejected:
                verdict = annotation.entries["verdict"]
                self.problems.append(f"{clip.key}: rejected by {verdict.by} on {verdict.time[:10]}")
            else:
                kept.append((annotation.apply(clip) if annotation else clip, media))
        return kept

    def _curated(self, found: list[tuple[Clip, Path | Pair]]) -> list[tuple[Clip, Path | Pair]]:
        """The clips that curation kept or a person accepted, in the splits where curation put them."""
        verdicts, annotations = read_verdicts(self.root), read_annotations(self.root)
        kept = []
        for clip, media in found:
            verdict = verdicts.get(clip.key)
            accepted = clip.key in annotations and annotations[clip.key].value("verdict") == "accepted"
            if verdict and verdict.dropped and not accepted:
                self.problems.append(f"{clip.key}: {verdict.dropped}")
            else:
                kept.append((replace(clip, split=verdict.split) if verdict and verdict.split else clip, media))
        return kept

    def _from_records(self) -> list[tuple[Clip, Path | Pair]]:
        found: list[tuple[Clip, Path | Pair]] = []
        seen: set[str] = set()
        for number, line in numbered_lines((self.root / RECORDS).read_text(encoding="utf-8")):
            try:
                record = json.loads(line)
                file = self._inside(record["media"])
                clip = clip_of(record["key"], record, record["split"])
                if clip.key in seen:
                    raise DataError(f"the key {clip.key!r} occurs twice")
            except (ValueError, KeyError, TypeError) as error:
                self.problems.append(f"{self.root / RECORDS}:{number}: not a record ({error!r})")
                continue
            seen.add(clip.key)
            if file.exists():
                found.append((clip, file))
            else:
                self.problems.append(f"{file}: missing; run data_prep.ingest again")
        return found

    def _inside(self, media: str) -> Path:
        """A file of the folder; a record that leads out of it is a trick."""
        file = self.root / media
        if not file.resolve().is_relative_to(self.root.resolve()):
            raise ValueError(f"media {media!r} is not inside the folder")
        return file

    def _check(self, media: Path | Pair) -> MediaInfo:
        return check_usable(media, self.premultiplied, self.constant_rate, self.keep_inverted)

    def _from_entries(self, val_share: float) -> list[tuple[Clip, Path | Pair]]:
        captions = read_captions(self.root)
        usable: dict[str, tuple[MediaInfo, Path | Pair]] = {}
        for key, media in _entries(self.root, self.problems):
            try:
                if problem := key_problem(key):
                    raise DataError(f"{media}: {problem}; rename it")
                if key in usable:
                    raise DataError(f"{media}: another clip has the key {key!r} too; rename one of them")
                usable[key] = (self._check(media), media)
            except DataError as error:
                self.problems.append(str(error))
        held_out = hold_out(list(usable), val_share)
        self.problems += [f"{self.root}: a caption for {key!r}, but no clip" for key in captions if key not in usable]
        return [
            (
                Clip(
                    key, info.num_frames, info.fps, info.height, info.width, captions.get(key, ""),
                    "val" if key in held_out else "train",
                ),
                media,
            )
            for key, (info, media) in sorted(usable.items())
        ]  # fmt: skip


def hold_out(keys: list[str], share: float) -> set[str]:
    """The validation keys: those whose hash lies below `share`; of two clips or more, at least one and never all."""

    def position(key: str) -> float:
        return int(hashlib.sha256(key.encode()).hexdigest()[:12], 16) / 16**12

    ordered = sorted(keys, key=position)
    count = sum(position(key) < share for key in ordered)
    if len(ordered) >= 2 and share > 0:
        count = min(max(count, 1), len(ordered) - 1)
    return set(ordered[:count])


def read_captions(root: Path) -> dict[str, str]:
    """{key: caption} from captions.csv, captions.json or captions.jsonl, if there is one.

    Rows have `key` (or `file`, `name`: an extension is dropped) and `caption`; a JSON object may map key to caption.

    Raises:
        DataError: the file is not UTF-8, or does not hold such rows.
    """
    file = next((root / name for name in CAPTIONS if (root / name).exists()), None)
    if file is None:
        return {}
    text = _utf8(file)
    try:
        if file.suffix == ".csv":
            rows: Any = list(csv.DictReader(io.StringIO(text, newline="")))
        elif file.suffix == ".jsonl":
            rows = [json.loads(line) for _, line in numbered_lines(text)]
        else:
            rows = json.loads(text)
            rows = [{"key": k, "caption": v} for k, v in rows.items()] if isinstance(rows, dict) else rows
        return {key_of(Path(str(_first(row, "key", "file", "name")))): str(row["caption"] or "") for row in rows}
    except (ValueError, KeyError, TypeError, AttributeError, csv.Error) as error:
        raise DataError(f"{file}: expected rows with `key` and `caption` ({error})") from error


def _utf8(file: Path) -> str:
    """The text of a file, which must be UTF-8: another encoding cannot be told from the bytes.

    Raises:
        DataError: it is not; the message names the first line that is not.
    """
    data = file.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        kind = "UTF-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "not UTF-8"
        raise DataError(f"{file}:{line}: {kind} (byte {data[error.start]:#04x}); save the file as UTF-8") from None


def key_of(path: Path) -> str:
    """The key of a file or folder: its name without media extension, dots replaced, as shards split names at dots.

    Unicode is composed (NFC), for Macs write names apart that captions and other systems write as one.
    """
    name = path.stem if path.suffix.lower() in PICTURES | VIDEOS else path.name
    return normalize("NFC", name.replace(".", "_"))


def _first(row: dict[str, Any], *names: str) -> Any:
    for name in names:
        if row.get(name):
            return row[name]
    raise KeyError(f"none of {', '.join(names)} in {row}")


def _entries(root: Path, problems: list[str]) -> Iterator[Entry]:
    """(key, media) of everything below `root` that looks like a clip."""
    for entry in sorted(root.iterdir()):
        if entry.name.startswith(".") or entry.suffix == ".tmp" or _ingested(entry):
            continue
        if entry.name == "fgr" and entry.is_dir():
            yield from _pairs(entry, root / "pha", problems)
        elif entry.is_dir() and entry.name != "pha":
            halves = {child.stem: child for child in sorted(entry.iterdir()) if child.stem in ("fgr", "pha")}
            yield key_of(entry), Pair(halves["fgr"], halves["pha"]) if len(halves) == 2 else entry
        elif entry.suffix.lower() in MEDIA_EXTENSIONS:
            yield key_of(entry), entry
        elif entry.is_file() and entry.suffix.lower() not in TEXTS:
            kinds = ", ".join(sorted(MEDIA_EXTENSIONS))
            problems.append(
                f"{entry}: expected a file that carries alpha ({kinds}) or a folder of frames; export it as one, or "
                "give colour and matte as a pair fgr/ + pha/"
            )


def _ingested(folder: Path) -> bool:
    """Whether data_prep.ingest wrote, or has begun to write, this folder."""
    return any((folder / name).exists() for name in (RECORDS, UNFINISHED))


def _pairs(fgr: Path, pha: Path, problems: list[str]) -> Iterator[Entry]:
    """Partners of equal name in two folders."""
    mattes = {key_of(file): file for file in sorted(pha.iterdir()) if file.name[0] != "."} if pha.is_dir() else {}
    for colour in sorted(file for file in fgr.iterdir() if file.name[0] != "."):
        matte = mattes.pop(key_of(colour), None)
        if matte is None:
            problems.append(f"{colour}: no matte of that name in {pha}")
        else:
            yield key_of(colour), Pair(colour, matte)
    problems += [f"{matte}: no colour of that name in {fgr}" for matte in mattes.values()]


def _size_of(media: Path | Pair) -> tuple[int, ...]:
    """Bytes of each file of a clip."""
    return tuple(file.stat().st_size for file in media_files(media))


def _crc32(media: Path | Pair) -> int:
    """crc32 of the contents of a clip's files, one after the other."""
    checksum = 0
    for file in media_files(media):
        with file.open("rb") as handle:
            while block := handle.read(1 << 24):
                checksum = zlib.crc32(block, checksum)
    return checksum
