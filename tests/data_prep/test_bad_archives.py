"""Archives and folders that are broken or mean harm, keys that occur twice, and a disk that is full."""

from __future__ import annotations

import gzip
import io
import json
import resource
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from matting_trees import rgba, run, save

from data_prep import archives, ingest, shard
from data_prep.archives import read_members
from data_prep.files import write_atomic
from wan_alpha.data.errors import DataError
from wan_alpha.data.folders import FolderSource
from wan_alpha.data.media import write_ffv1

NAME = "lobehub-fluent-emoji-anim-1-1.0.0.tgz"


def package(folder: Path, *members: tarfile.TarInfo, contents: bytes = b"x") -> Path:
    file = folder / NAME
    with tarfile.open(file, "w:gz") as tar:
        for member in members:
            member.size = len(contents) if member.isfile() else 0
            tar.addfile(member, io.BytesIO(contents))
    return file


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


@pytest.mark.parametrize(
    "member",
    [
        tarfile.TarInfo("../1f99c.webp"),
        tarfile.TarInfo("package/../../1f99c.webp"),
        tarfile.TarInfo("/etc/1f99c.webp"),
        tarfile.TarInfo(r"..\1f99c.webp"),
        link("1f99c.webp", "/etc/passwd"),
        link("1f99c.webp", "other.webp", tarfile.LNKTYPE),
        link("1f99c.webp", "", tarfile.CHRTYPE),
    ],
    ids=lambda member: f"{member.name}-{member.type.decode()}",
)
def test_path_tricks_are_refused(tmp_path: Path, member: tarfile.TarInfo) -> None:
    file = package(tmp_path, tarfile.TarInfo("package/assets/1f525.webp"), member)
    with pytest.raises(DataError, match=r"the member '.*' is a (path out of the archive|link or device)"):
        list(read_members(file, ".webp"))
    with pytest.raises(DataError, match=r"is a (path|link)"):
        run("fluent", tmp_path, tmp_path / "out")


def test_bombs_are_refused_before_they_are_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / NAME
    member = tarfile.TarInfo("1f99c.webp")
    member.size = 2**40
    with gzip.open(file, "w") as raw:
        raw.write(member.tobuf(tarfile.GNU_FORMAT))
        raw.write(bytes(10**6))
    with pytest.raises(DataError, match=r"1f99c\.webp unpacks to 1099511627776 bytes, more than"):
        list(read_members(file, ".webp"))
    header = tarfile.TarInfo("long")  # a header that wants a gigabyte of memory for a name
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 2**30
    with gzip.open(file, "w") as raw:
        raw.write(header.tobuf(tarfile.GNU_FORMAT))
        raw.write(bytes(10**6))
    with pytest.raises(DataError, match="a header unpacks to 1073741824 bytes"):
        list(read_members(file, ".webp"))
    monkeypatch.setattr(archives, "MAX_TOTAL", 25)
    package(tmp_path, *(tarfile.TarInfo(f"{n}.webp") for n in range(4)), contents=b"ten bytes!")
    with pytest.raises(DataError, match="it unpacks to over 30 bytes"):
        list(read_members(file, ".webp"))


@pytest.mark.parametrize("keep", [0, 30, 200])
def test_broken_archives_are_named(packages: Path, tmp_path: Path, keep: int) -> None:
    data = next(iter(sorted(packages.iterdir()))).read_bytes()
    (tmp_path / NAME).write_bytes(data[:keep] if keep else b"no archive at all")
    with pytest.raises(DataError, match=r"anim-1-1\.0\.0\.tgz: a broken archive .*fetch it again"):
        run("fluent", tmp_path, tmp_path / "out")


def test_records_that_lead_out_of_the_folder_or_repeat_a_key(tmp_path: Path) -> None:
    root = tmp_path / "set"
    root.mkdir()
    for file in (root / "a.mkv", tmp_path / "secret.mkv"):
        write_ffv1(rgba(num_frames=2), 24, file)
    record = {"key": "a", "media": "a.mkv", "caption": "", "split": "train", "fps": 24.0}
    record |= {"num_frames": 2, "height": 32, "width": 48}
    rows = [record, record, record | {"key": "b", "media": "../secret.mkv"}, record | {"key": "../../c"}]
    rows.append(record | {"key": "d", "media": str(tmp_path / "secret.mkv")})
    (root / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = FolderSource(root, "all")
    assert [clip.key for clip in source.clips] == ["a"]
    for line, what in ((2, "occurs twice"), (3, "not inside"), (4, "slashes"), (5, "not inside")):
        assert any(f"records.jsonl:{line}: " in problem and what in problem for problem in source.problems)


def test_lists_that_lead_out_of_the_set(tmp_path: Path) -> None:
    root = tmp_path / "VideoMatting108"
    for name in ("good", "../../secret"):
        save(rgba()[0], root / "FG_done" / name / "0.png")
    (root / "train_videos.txt").write_text(f"good\n../../secret\n{tmp_path / 'secret'}\n")
    (root / "val_videos.txt").write_text("")
    out = tmp_path / "out"
    assert set(run("videomatting108", root, out)) == {"videomatting108-good"}
    assert (out / "skipped.txt").read_text().count("leads out of the set") == 2


def noisy(root: Path) -> Path:
    """Clips that no codec makes small: about 50 kB each."""
    root.mkdir()
    rng = np.random.default_rng(0)
    for clip in range(3):
        for number in range(4):
            save(rng.integers(0, 256, (60, 60, 4), dtype=np.uint8), root / f"clip{clip}" / f"{number}.png")
    return root


@contextmanager
def file_size_limit(limit: int) -> Iterator[None]:
    """No file of this process may grow beyond `limit` bytes, as with a quota."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


@pytest.mark.parametrize("step", ["ingest", "shard"])
def test_no_room_is_said_and_the_same_command_continues(
    tmp_path: Path, step: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = noisy(tmp_path / "own")

    def work(out: Path) -> None:
        if step == "ingest":
            ingest.main(["source=generic", f"root={root}", f"out={out}", "workers=0"])
        else:
            shard.main([f"root={root}", f"out={out}", "workers=0", "shard_mb=0.04"])

    work(tmp_path / "whole")
    with file_size_limit(40_000), pytest.raises(SystemExit) as stopped:
        work(tmp_path / "out")
    assert stopped.value.code == 1
    error = capsys.readouterr().err
    assert "cannot be written" in error
    assert "make room and run the same command again" in error
    assert not [file for file in (tmp_path / "out").rglob("*.tmp") if not file.name.startswith("records.jsonl")]
    assert not list((tmp_path / "out").glob("*.mkv"))
    work(tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    with file_size_limit(1000), pytest.raises(OSError, match="File too large") as caught:
        write_atomic(tmp_path / "clip.webp", bytes(2000))
    assert caught.value.filename == str(tmp_path / "clip.webp")
    assert not list(tmp_path.iterdir())


def test_a_disk_that_is_really_full(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, disk = noisy(tmp_path / "own"), tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100k", "none", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting is not allowed here; the quota above is tested instead")
    arguments = [f"root={root}", f"out={disk / 'out'}", "workers=0", "shard_mb=0.04"]
    try:
        with pytest.raises(SystemExit):
            shard.main(arguments)
        assert "No space left on device" in capsys.readouterr().err
        assert not list(disk.rglob("*.tmp"))
        subprocess.run(["mount", "-o", "remount,size=2m", str(disk)], check=True)
        shard.main(arguments)
        shard.main([f"root={root}", f"out={tmp_path / 'whole'}", "workers=0", "shard_mb=0.04"])
        assert contents(disk / "out") == contents(tmp_path / "whole")
    finally:
        subprocess.run(["umount", str(disk)], check=True)
