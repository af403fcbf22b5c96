#!/usr/bin/env python3
"""What commands take on a store with many snapshots: seconds, and the most memory that they had.

Started by store.sh. 100 VMs that are registered and scheduled, with snapshots of a few small files each; nothing is due.
Whole processes, warm caches, median (max) of the runs.
"""

import argparse
import datetime
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

INSTANCES = 100
NOW = datetime.datetime.now(datetime.timezone.utc)

COMMANDS = {
    "run-due, none due": ["run-due"],
    "list": ["list"],
    "check": ["check"],
    "snapshots": ["snapshots"],
    "snapshots of one VM": ["snapshots", "vm-007"],
    "prune --dry-run": ["prune", "--dry-run"],
    "prune --dry-run of one VM": ["prune", "--dry-run", "vm-007"],
}


def time_of(number):
    """One an hour, the newest half an hour ago."""
    return (NOW - datetime.timedelta(hours=number, minutes=30)).strftime("%Y-%m-%dT%H:%M:%SZ")


def make(place, count):
    """The store, and the schedules that go with it."""
    state, data = place / "state", place / "data"
    (state / "instances").mkdir(parents=True)
    (state / "snapshot-schedules").mkdir()
    (data / "guests").mkdir(parents=True)
    for number in range(INSTANCES):
        name = f"vm-{number:03}"
        subprocess.run(
            [OPTIONS.tool, "--engine", "local", "--state-dir", state, "--data-dir", data, "register", name]
            + ["--hypervisor", "qemu", "--socket", place / "none.sock", "--force"],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        schedule = {
            "instance_id": name,
            "interval": "24h0m0s",
            "retention": {"max_count": 0, "keep_hourly": 24, "keep_daily": 30, "keep_monthly": 120},
            "next_run_at": (NOW + datetime.timedelta(hours=12)).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "created_at": NOW.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "updated_at": NOW.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        (state / f"snapshot-schedules/{name}.json").write_text(json.dumps(schedule, indent=2))
    for number in range(count):
        name, index = f"vm-{number % INSTANCES:03}", number // INSTANCES
        identity = f"s{number:023}"
        directory = data / "snapshots" / identity
        guest = directory / "guest"
        (guest / "disks").mkdir(parents=True)
        (guest / "disks/0-disk.raw").write_bytes(b"disk")
        record = {
            "snapshot": {
                "id": identity,
                "name": f"scheduled-{index}",
                "kind": "Stopped",
                "tags": {"hypeman.scheduled": "true", "hypeman.schedule_instance_id": name},
                "source_instance_id": name,
                "source_instance_name": name,
                "SourceHypervisor": "qemu",
                "created_at": time_of(index),
                "size_bytes": 4,
                "compression_state": "none",
            },
            "stored_metadata": {"Id": name, "Name": name},
        }
        (directory / "snapshot.json").write_text(json.dumps(record))
        manifest = {
            "version": 2,
            "snapshot_id": identity,
            "disks": [{"source": f"/srv/{name}.raw", "file": "disks/0-disk.raw"}],
            "files": [{"path": "disks/0-disk.raw", "size_bytes": 4}],
        }
        (guest / "hypeman-snap.json").write_text(json.dumps(manifest))
        (guest / "metadata.json").write_text("{}")
    return state, data


def measure(state, data, words):
    """Seconds and the most memory in MiB of each run, after one that warms the caches."""
    command = [OPTIONS.tool, "--engine", "local", "--state-dir", state, "--data-dir", data] + words
    seconds, memory = [], []
    for run in range(OPTIONS.runs + 1):
        begin = time.monotonic()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        said = process.stderr.read().decode()
        _, status, usage = os.wait4(process.pid, 0)
        if os.waitstatus_to_exitcode(status) not in (0, 1):
            sys.exit(f"error: {words}: {status}: {said[:400]}")
        if run > 0:
            seconds.append(time.monotonic() - begin)
            memory.append(usage.ru_maxrss / 1024)
    return seconds, memory


def main():
    columns = {}
    for count in OPTIONS.snapshots:
        place = Path(tempfile.mkdtemp(prefix="store-", dir=OPTIONS.dir))
        try:
            print(f"==> making {count} snapshots", file=sys.stderr)
            state, data = make(place, count)
            columns[count] = {}
            for name, words in COMMANDS.items():
                print(f"==> {count}: {name}", file=sys.stderr)
                columns[count][name] = measure(state, data, words)
        finally:
            shutil.rmtree(place, ignore_errors=True)
    print(
        f"Seconds, median (max) of {OPTIONS.runs}, and the most memory; whole processes, warm caches, "
        f"{os.cpu_count()} processors.\n"
    )
    print("| command | " + " | ".join(f"{count} snapshots" for count in columns) + " |")
    print("| --- |" + " ---: |" * len(columns))
    for name in COMMANDS:
        cells = []
        for measured in columns.values():
            seconds, memory = measured[name]
            cells.append(f"{statistics.median(seconds):.2f} ({max(seconds):.2f}), {max(memory):.0f} MiB")
        print(f"| {name} | " + " | ".join(cells) + " |")


PARSER = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
PARSER.add_argument("--tool", required=True, help="the hypeman-snap to measure")
PARSER.add_argument("--runs", type=int, default=5)
PARSER.add_argument("--dir", default=tempfile.gettempdir(), help="where the store is made")
PARSER.add_argument("snapshots", type=int, nargs="*", default=[10_000, 100_000])
OPTIONS = PARSER.parse_args()

if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
