#!/usr/bin/env python3
"""How long a guest is paused for a snapshot, by QEMU's own STOP and RESUME events.

Started by pause.sh. One VM per size and file system; its guest (tests/support/guest) counts in RAM and writes to its
disk as fast as it can. Every round takes one snapshot with each method, so that they meet the same machine:

  tool     hypeman-snap run-due --force: memory and disks, of the same instant
  floor    RAM alone: background-snapshot of the memory, disks left out, the VMM's own floor
  copy     stop, save, copy: stop; migrate to a file; cp --sparse=always; cont
  reflink  the same with cp --reflink=always, where the file system can

The very first snapshot of a VM is the tool's and is told apart: each save by QEMU splits the guest's huge pages, and what
the guest has in them before the first and after the last is told as well. In the end the guest's own
speed is measured around as many snapshots more.

Needs root for the part on XFS only (a loop mount).
"""

import argparse
import array
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# Seconds that anything may take: a whole save under software emulation on a busy machine.
DEADLINE = 300
INSTANCE = "bench"

# The rows of the table.
COPY = "stop, save, copy (`cp --sparse`)"
REFLINK = "stop, save, reflink (`cp --reflink`)"
FLOOR = "RAM alone by background snapshot: the VMM's own floor"
TOOL = "**hypeman-snap**: memory and disks"
FIRST = "**hypeman-snap**: the first snapshot of the VM"
SPEED = "the guest's own speed before, during and after a snapshot, rounds of RAM and disk per second"
HUGE = "huge pages of the guest before and after all of them, MiB"
NAMES = {"tool": TOOL, "floor": FLOOR, "copy": COPY, "reflink": REFLINK}


class Qmp:
    """The bench's own monitor; hypeman-snap has the other one."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(DEADLINE)
        wait_for("QEMU's monitor", lambda: self.try_connect(path))
        self.lines = self.socket.makefile("r")
        self.events = []
        self.read()
        self.run("qmp_capabilities")

    def try_connect(self, path):
        try:
            self.socket.connect(str(path))
            return True
        except OSError:
            return False

    def read(self):
        line = self.lines.readline()
        if not line:
            raise RuntimeError("QEMU is gone")
        return json.loads(line)

    def run(self, command, fd=None, **arguments):
        """Runs a command; `fd` travels in the very message, as `getfd` wants it."""
        message = json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n"
        rights = [] if fd is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
        self.socket.sendmsg([message], rights)
        while True:
            reply = self.read()
            if "return" in reply:
                return reply["return"]
            if "error" in reply:
                raise RuntimeError(f"{command}: {reply['error']['desc']}")
            self.events.append(reply)

    def pause_ms(self, begin):
        """The time from STOP to RESUME among the events since `begin`, in milliseconds; all pauses together."""
        self.run("query-name")
        total, stopped = 0.0, None
        for event in self.events[begin:]:
            at = event["timestamp"]["seconds"] * 1e3 + event["timestamp"]["microseconds"] / 1e3
            if event["event"] == "STOP":
                stopped = at
            elif event["event"] == "RESUME" and stopped is not None:
                total, stopped = total + at - stopped, None
        if total == 0.0 or stopped is not None:
            raise RuntimeError("the guest did not stop and go on")
        return total

    def save_memory(self, path):
        """Migrates to a file and waits for the end; the caller has stopped the guest or turned background-snapshot on."""
        with open(path, "wb") as file:
            self.run("getfd", fd=file.fileno(), fdname="memory")
        self.run("migrate", uri="fd:memory")

        def done():
            state = self.run("query-migrate")
            if state["status"] in ("failed", "cancelled"):
                raise RuntimeError(f"migration {state['status']}: {state.get('error-desc')}")
            return state["status"] == "completed"

        wait_for("end of the migration", done, pause=0.001)


class Vm:
    """The VM that is snapshotted: its directory, its QEMU and the tool's registration of it."""

    def __init__(self, options, directory, ram_mib, disk_mib):
        self.directory = directory
        self.disk = directory / "disk.raw"
        self.serial = directory / "serial"
        window = ram_mib // 2
        with open(self.disk, "wb") as disk:
            disk.truncate(disk_mib << 20)
            # Old data, behind the sectors that the guest goes on writing.
            disk.seek(64 << 20)
            for _ in range(disk_mib // 8):
                disk.write(os.urandom(1 << 20))
            os.fsync(disk.fileno())
        command = [
            os.environ.get("HYPEMAN_SNAP_TEST_QEMU", "qemu-system-x86_64"),
            "-nodefaults", "-no-user-config", "-display", "none", "-machine", "pc,accel=tcg", "-m", str(ram_mib),
            "-kernel", options.guest, "-append", f"hz=0 tick=100 window={window}",
            "-blockdev", f"file,node-name=file,filename={self.disk}", "-blockdev", "raw,node-name=disk,file=file",
            "-device", "ide-hd,drive=disk",
            "-chardev", f"file,id=serial,path={self.serial}", "-serial", "chardev:serial",
            "-qmp", f"unix:{directory}/tool.sock,server=on,wait=off",
            "-qmp", f"unix:{directory}/bench.sock,server=on,wait=off",
        ]  # fmt: skip
        self.qemu = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        try:
            self.qmp = Qmp(directory / "bench.sock")
            self.qmp.run("migrate-set-parameters", **{"max-bandwidth": 1 << 40})
            wait_for("the guest", lambda: "tick" in self.serial.read_text())
        except BaseException:
            self.end()
            raise
        self.tool = [options.tool, "--state-dir", str(directory / "state"), "--data-dir", str(directory / "data")]
        self.environment = {**os.environ, "HYPEMAN_SNAP_ENGINE": "local"}

    def end(self):
        self.qemu.kill()
        self.qemu.wait()

    def run_tool(self, *arguments):
        done = subprocess.run(
            [*self.tool, *arguments], env=self.environment, capture_output=True, text=True, timeout=DEADLINE, check=False
        )
        if done.returncode != 0:
            raise RuntimeError(f"hypeman-snap {' '.join(arguments)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def register(self):
        self.run_tool(
            "register", INSTANCE, "--hypervisor", "qemu",
            "--socket", str(self.directory / "tool.sock"), "--disk", str(self.disk),
        )  # fmt: skip
        self.run_tool("set", INSTANCE, "--interval", "1h", "--max-count", "1")

    def stop_save_copy(self, *how):
        copy = self.directory / "copy.raw"
        self.qmp.run("stop")
        self.qmp.save_memory(self.directory / "memory")
        subprocess.run(["cp", *how, str(self.disk), str(copy)], check=True)
        self.qmp.run("cont")

    def memory_alone(self):
        on = {"capability": "background-snapshot", "state": True}
        self.qmp.run("migrate-set-capabilities", capabilities=[on])
        self.qmp.save_memory(self.directory / "memory")
        self.qmp.run("migrate-set-capabilities", capabilities=[{**on, "state": False}])

    def methods(self, wanted):
        all_methods = {
            TOOL: lambda: self.run_tool("run-due", "--instance", INSTANCE, "--force"),
            FLOOR: self.memory_alone,
            COPY: lambda: self.stop_save_copy("--reflink=never", "--sparse=always"),
        }
        if can_reflink(self.directory):
            all_methods[REFLINK] = lambda: self.stop_save_copy("--reflink=always")
        return {name: take for name, take in all_methods.items() if name in wanted}

    def huge_mib(self):
        """What QEMU has in transparent huge pages."""
        lines = Path(f"/proc/{self.qemu.pid}/smaps_rollup").read_text().splitlines()
        return sum(int(line.split()[1]) >> 10 for line in lines if line.startswith("AnonHugePages:"))

    def measure(self, method):
        """One snapshot: milliseconds of pause. What it left on the disk is removed afterwards, not measured."""
        begin = len(self.qmp.events)
        method()
        pause = self.qmp.pause_ms(begin)
        for left in ("memory", "copy.raw"):
            (self.directory / left).unlink(missing_ok=True)
        counted = self.ticks()
        wait_for("the guest to go on", lambda: self.ticks() > counted)
        if "TORN" in self.serial.read_text():
            raise RuntimeError("RAM and disk of the guest disagree")
        return pause

    def rate(self, seconds=None, during=None):
        """The guest's rounds per second, for so long or while something is done: RAM and disk are written in each."""
        begin, counted = time.monotonic(), self.ticks()
        if during:
            during()
        else:
            time.sleep(seconds)
        # It prints each hundredth round.
        return 100 * (self.ticks() - counted) / (time.monotonic() - begin)

    def speed(self):
        """Before, during and after a snapshot; during means until the tool has ended, all of it."""
        take = self.methods([TOOL])[TOOL]
        rates = [self.rate(3), self.rate(during=take), self.rate(3)]
        (self.directory / "memory").unlink(missing_ok=True)
        return rates

    def ticks(self):
        return self.serial.read_text().count("tick")


def wait_for(what, is_true, pause=0.02):
    deadline = time.monotonic() + DEADLINE
    while not is_true():
        if time.monotonic() > deadline:
            raise RuntimeError(f"waited too long for {what}")
        time.sleep(pause)


def can_reflink(directory):
    probe = directory / "probe"
    probe.write_bytes(b"x" * 4096)
    copied = subprocess.run(["cp", "--reflink=always", probe, directory / "probe2"], stderr=subprocess.DEVNULL, check=False)
    return copied.returncode == 0


def bench(options, directory, name, ram_mib, disk_mib):
    """All methods on one VM; returns the rows {method: pauses in ms}."""
    place = Path(tempfile.mkdtemp(prefix="vm-", dir=directory))
    vm = None
    try:
        vm = Vm(options, place, ram_mib, disk_mib)
        vm.register()
        methods = vm.methods([NAMES[name] for name in options.methods.split(",")])
        rows = {method: [] for method in methods}
        huge = [vm.huge_mib()]
        for run in range(options.runs + 1):
            print(f"==> {name}, {ram_mib} MiB: round {run} of {options.runs}", file=sys.stderr)
            for method, take in methods.items():
                pause = vm.measure(take)
                print(f"    {pause:8.1f} ms  {method}", file=sys.stderr)
                # Round 0 warms caches and is not counted.
                if run > 0:
                    rows[method].append(pause)
                elif method == TOOL:
                    rows[FIRST] = [pause]
                if method == TOOL:
                    huge[1:] = [vm.huge_mib()]
        rows[HUGE] = huge
        if TOOL in methods:
            rates = [vm.speed() for _ in range(options.runs)]
            rows[SPEED] = [statistics.median(some) for some in zip(*rates)]
        return rows
    finally:
        if vm:
            vm.end()
        shutil.rmtree(place, ignore_errors=True)


class Xfs:
    """A loop-mounted XFS in a directory of our own; None where that is not possible."""

    def __init__(self, size_mib):
        self.place = Path(tempfile.mkdtemp(prefix="xfs-"))
        self.size_mib = size_mib

    def __enter__(self):
        try:
            image, mount = self.place / "image", self.place / "mnt"
            mount.mkdir()
            with open(image, "wb") as file:
                file.truncate(self.size_mib << 20)
            subprocess.run(["/usr/sbin/mkfs.xfs", "-q", "-m", "reflink=1", image], check=True)
            subprocess.run(["mount", "-o", "loop", image, mount], check=True)
            return mount
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"==> without XFS: {error}", file=sys.stderr)
            return None

    def __exit__(self, *_):
        if (self.place / "mnt").is_mount():
            subprocess.run(["umount", self.place / "mnt"], check=False)
        shutil.rmtree(self.place, ignore_errors=True)


def file_system(directory):
    found = subprocess.run(["findmnt", "-n", "-o", "FSTYPE", "-T", directory], capture_output=True, text=True, check=True)
    return found.stdout.strip()


def print_table(results, options):
    qemu = os.environ.get("HYPEMAN_SNAP_TEST_QEMU", "qemu-system-x86_64")
    version = subprocess.run([qemu, "--version"], capture_output=True, text=True, check=True).stdout.split()[3]
    print(
        f"Pause of the guest in milliseconds, median (max) of {options.runs}. QEMU {version}, software emulation, "
        f"{os.cpu_count()} processors; half of the RAM and an eighth of the disk hold data.\n"
    )
    print("| method | " + " | ".join(results) + " |")
    print("| --- |" + " ---: |" * len(results))
    for method in (COPY, REFLINK, FLOOR, FIRST, TOOL):
        measured = [rows.get(method) for rows in results.values()]
        cells = [f"{statistics.median(some):.1f} ({max(some):.1f})" if some else "–" for some in measured]
        print(f"| {method} | " + " | ".join(cells) + " |")
    speeds = [rows.get(SPEED) for rows in results.values()]
    print(f"| {SPEED} | " + " | ".join(" → ".join(f"{it:.0f}" for it in some) if some else "–" for some in speeds) + " |")
    print(f"| {HUGE} | " + " | ".join(" → ".join(map(str, rows[HUGE])) for rows in results.values()) + " |")
    for what, other, over in (("times shorter than stop, save, copy", COPY, TOOL), ("times the floor", TOOL, FLOOR)):
        if all(rows.get(other) and rows.get(over) for rows in results.values()):
            ratios = [statistics.median(rows[other]) / statistics.median(rows[over]) for rows in results.values()]
            print(f"| {what} | " + " | ".join(f"{ratio:.1f}" for ratio in ratios) + " |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tool", required=True, help="the hypeman-snap to measure")
    parser.add_argument("--guest", required=True, help="the test guest")
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--sizes", default="256:1024,1024:8192,4096:8192", help="RAM:DISK in MiB, separated by commas")
    parser.add_argument("--methods", default=",".join(NAMES), help="which of them, separated by commas (default: all)")
    parser.add_argument("--dir", default=tempfile.gettempdir(), help="where the VM and its snapshots are kept")
    options = parser.parse_args()
    sizes = [tuple(map(int, size.split(":"))) for size in options.sizes.split(",")]
    for sent in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(sent, lambda *_: sys.exit("interrupted"))

    results = {}

    def all_sizes(directory):
        name = file_system(directory)
        for ram_mib, disk_mib in sizes:
            column = f"{name}, {ram_mib} MiB RAM, {disk_mib / 1024:g} GiB disk"
            results[column] = bench(options, directory, name, ram_mib, disk_mib)

    all_sizes(options.dir)
    if os.geteuid() == 0 and file_system(options.dir) != "xfs":
        with Xfs(4096 + sum(2 * ram + disk for ram, disk in sizes)) as mount:
            if mount:
                all_sizes(mount)
    print_table(results, options)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
    except (RuntimeError, subprocess.SubprocessError) as error:
        sys.exit(f"error: {error}")
