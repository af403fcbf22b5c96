#!/usr/bin/env python3
"""How fast a disk is copied, made durable, and given its name: by a snapshot of a VM that is off, and by cp and sync.

Started by copy.sh. Each disk is a sparse file, in which every second piece holds data: pieces of 64 MiB, and of 64 KiB as an
old disk has them. Where blocks can be shared (XFS, on a loop mount; needs root), against `cp --reflink=always`; else against
`cp --sparse=always`. Rounds by turns, so that both meet the same machine; the caches are warm.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PIECES = {"64 MiB pieces": 64 << 20, "64 KiB pieces": 64 << 10}


def make_disk(path, size, piece):
    """Random data in every second piece."""
    data = os.urandom(min(piece, 1 << 20))
    with open(path, "wb") as file:
        for at in range(0, size, 2 * piece):
            file.seek(at)
            for _ in range(piece // len(data)):
                file.write(data)
        file.truncate(size)
        os.fsync(file.fileno())


def seconds(command):
    begin = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - begin


def bench(directory, can_share, size, piece):
    """{method: seconds} of a disk in `directory`."""
    place = Path(tempfile.mkdtemp(prefix="copy-", dir=directory))
    try:
        disk, target = place / "disk.raw", place / "copy.raw"
        make_disk(disk, size, piece)
        tool = [OPTIONS.tool, "--engine", "local", "--state-dir", place / "state", "--data-dir", place / "data"]
        gone = ["--socket", place / "none.sock", "--force", "--disk", disk]
        register = tool + ["-q", "register", "vm", "--hypervisor", "qemu"] + gone
        subprocess.run(register, check=True, stdout=subprocess.DEVNULL)
        how = "--reflink=always" if can_share else "--sparse=always"
        rows = {"cp": [], "tool": []}
        for run in range(OPTIONS.runs + 1):
            target.unlink(missing_ok=True)
            copied = seconds(["cp", how, disk, target]) + seconds(["sync", target])
            target.unlink()
            taken = seconds(tool + ["-q", "snapshot", "vm", "--name", "bench"])
            subprocess.run(tool + ["-q", "delete-snapshot", "bench", "--yes"], check=True, stdout=subprocess.DEVNULL)
            print(f"    {copied:6.2f} s cp {how} and sync, {taken:6.2f} s snapshot", file=sys.stderr)
            # Round 0 warms the caches.
            if run > 0:
                rows["cp"].append(copied)
                rows["tool"].append(taken)
        return rows
    finally:
        shutil.rmtree(place, ignore_errors=True)


def main():
    size = int(OPTIONS.size * (1 << 30))
    results = {}

    def all_pieces(directory, name, can_share):
        for title, piece in PIECES.items():
            print(f"==> {name}, {title}", file=sys.stderr)
            results[f"{name}, {title}"] = bench(directory, can_share, size, piece)

    found = subprocess.run(["findmnt", "-n", "-o", "FSTYPE", "-T", OPTIONS.dir], capture_output=True, text=True, check=True)
    all_pieces(OPTIONS.dir, found.stdout.strip(), False)
    if os.geteuid() == 0:
        with tempfile.TemporaryDirectory(prefix="xfs-", dir=OPTIONS.dir) as place:
            image, mount = Path(place) / "image", Path(place) / "mnt"
            mount.mkdir()
            with open(image, "wb") as file:
                file.truncate(3 * size + (1 << 30))
            subprocess.run(["mkfs.xfs", "-q", "-m", "reflink=1", image], check=True)
            subprocess.run(["mount", "-o", "loop", image, mount], check=True)
            try:
                all_pieces(mount, "xfs", True)
            finally:
                subprocess.run(["umount", mount], check=True)
    print(
        f"Seconds, median (max) of {OPTIONS.runs}: a disk of {OPTIONS.size:g} GiB, half of it data; copied, durable, whole "
        f"processes, {os.cpu_count()} processors. cp --sparse=always, on XFS --reflink=always.\n"
    )
    print("| | cp and sync | hypeman-snap snapshot | cp / hypeman-snap |\n| --- | ---: | ---: | ---: |")
    for name, rows in results.items():
        cp, tool = (statistics.median(rows[key]) for key in ("cp", "tool"))
        print(f"| {name} | {cp:.2f} ({max(rows['cp']):.2f}) | {tool:.2f} ({max(rows['tool']):.2f}) | {cp / tool:.2f} |")


PARSER = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
PARSER.add_argument("--tool", required=True, help="the hypeman-snap to measure")
PARSER.add_argument("--runs", type=int, default=5)
PARSER.add_argument("--size", type=float, default=4.0, help="of the disk, in GiB")
PARSER.add_argument("--dir", default=tempfile.gettempdir(), help="where the disk and its copies are")
OPTIONS = PARSER.parse_args()

if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
    except subprocess.SubprocessError as error:
        sys.exit(f"error: {error}")
