#!/usr/bin/env python3
"""How long a guest of Cloud Hypervisor or Firecracker is paused for a snapshot.

Started by pause.sh for each of them that a variable names (HYPEMAN_SNAP_TEST_CLOUD_HYPERVISOR,
HYPEMAN_SNAP_TEST_FIRECRACKER). Its guest (tests/support/guest/micro.S) counts; a save writes all of its memory. Every round
takes one snapshot with each method, so that they meet the same machine:

  by hand       pause, save, resume by the VMM's own API: from the first request to the last answer
  hypeman-snap  run-due --force: memory and disks, by its own account
"""

import argparse
import http.client
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

DEADLINE = 300
HAND, FIRST, TOOL = "pause, save, resume by hand: memory alone", "**hypeman-snap**: the first snapshot", "**hypeman-snap**: memory and disks"


class Connection(http.client.HTTPConnection):
    """HTTP over the VMM's socket."""

    def __init__(self, path):
        super().__init__("localhost", timeout=DEADLINE)
        self.path = str(path)

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(DEADLINE)
        self.sock.connect(self.path)


def ask(vmm_socket, method, path, body=None):
    connection = Connection(vmm_socket)
    connection.request(method, path, None if body is None else json.dumps(body), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    said = answer.read().decode()
    if answer.status >= 300:
        raise RuntimeError(f"{method} {path}: {answer.status} {said}")


def wait_for(what, is_true):
    deadline = time.monotonic() + DEADLINE
    while not is_true():
        if time.monotonic() > deadline:
            raise RuntimeError(f"waited too long for {what}")
        time.sleep(0.02)


def command(options, directory, ram_mib):
    """Starts the VMM in `directory`, with its socket `s`, the guest's output in `serial` and one disk."""
    disk = directory / "disk.raw"
    disk.write_bytes(os.urandom(4 << 20))
    if options.hypervisor == "cloud-hypervisor":
        return [
            options.vmm, "--api-socket", "path=s", "--console", "off", "--serial", f"file={directory}/serial",
            "--cpus", "boot=1,nested=off", "--memory", f"size={ram_mib}M", "--kernel", options.guest,
            "--disk", f"path={disk},readonly=off,image_type=raw",
        ]  # fmt: skip
    config = {
        "boot-source": {"kernel_image_path": options.guest},
        "drives": [{"drive_id": "disk", "path_on_host": str(disk), "is_root_device": False, "is_read_only": False}],
        "machine-config": {"vcpu_count": 1, "mem_size_mib": ram_mib},
    }
    (directory / "config").write_text(json.dumps(config))
    return [options.vmm, "--no-seccomp", "--api-sock", "s", "--config-file", "config"]


def by_hand(options, directory):
    """Milliseconds of a pause by the VMM's API."""
    saved, vmm_socket = directory / "saved", directory / "s"
    saved.mkdir()
    begin = time.monotonic()
    if options.hypervisor == "cloud-hypervisor":
        ask(vmm_socket, "PUT", "/api/v1/vm.pause")
        ask(vmm_socket, "PUT", "/api/v1/vm.snapshot", {"destination_url": f"file://{saved}"})
        ask(vmm_socket, "PUT", "/api/v1/vm.resume")
    else:
        ask(vmm_socket, "PATCH", "/vm", {"state": "Paused"})
        files = {"snapshot_path": str(saved / "state"), "mem_file_path": str(saved / "memory")}
        ask(vmm_socket, "PUT", "/snapshot/create", {"snapshot_type": "Full", **files})
        ask(vmm_socket, "PATCH", "/vm", {"state": "Resumed"})
    pause = (time.monotonic() - begin) * 1e3
    shutil.rmtree(saved)
    return pause


def bench(options, ram_mib):
    """All methods on one VM; returns the rows {method: pauses in ms}."""
    directory = Path(tempfile.mkdtemp(prefix="vmm-", dir=options.dir))
    tool = [options.tool, "--state-dir", str(directory / "state"), "--data-dir", str(directory / "data"), "--engine", "local"]

    def run(*arguments):
        done = subprocess.run([*tool, *arguments], capture_output=True, text=True, timeout=DEADLINE, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"hypeman-snap {' '.join(arguments)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def by_tool():
        return json.loads(run("-o", "json", "run-due", "--force"))["results"][0]["pause_ms"]

    serial = directory / "serial"
    with open(serial, "wb") as output:
        vmm = subprocess.Popen(
            command(options, directory, ram_mib),
            cwd=directory, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.DEVNULL,
        )  # fmt: skip
    try:
        wait_for("the guest", lambda: "tick" in serial.read_text(errors="replace"))
        vm_disk = ["--disk", str(directory / "disk.raw")]
        run("register", "bench", "--hypervisor", options.hypervisor, "--socket", str(directory / "s"), *vm_disk)
        run("set", "bench", "--interval", "1h", "--max-count", "1")
        rows = {FIRST: [by_tool()], HAND: [], TOOL: []}
        for number in range(options.runs):
            print(f"==> {options.hypervisor}, {ram_mib} MiB: round {number + 1} of {options.runs}", file=sys.stderr)
            for method, take in ((HAND, lambda: by_hand(options, directory)), (TOOL, by_tool)):
                rows[method].append(take())
                print(f"    {rows[method][-1]:8.1f} ms  {method}", file=sys.stderr)
        return rows
    finally:
        vmm.kill()
        vmm.wait()
        shutil.rmtree(directory, ignore_errors=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tool", required=True, help="the hypeman-snap to measure")
    parser.add_argument("--hypervisor", required=True, choices=["cloud-hypervisor", "firecracker"])
    parser.add_argument("--vmm", required=True, help="its binary")
    parser.add_argument("--guest", required=True, help="the built guest")
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--sizes", default="256,1024", help="RAM in MiB, separated by commas; what follows a colon is passed over")
    parser.add_argument("--dir", default=tempfile.gettempdir(), help="where the VM and its snapshots are kept")
    options, _ = parser.parse_known_args()
    sizes = [int(size.split(":")[0]) for size in options.sizes.split(",")]
    results = {ram_mib: bench(options, ram_mib) for ram_mib in sizes}
    version = subprocess.run([options.vmm, "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]
    print(f"\nPause of the guest in milliseconds, median (max) of {options.runs}. {version}, {os.cpu_count()} processors.\n")
    print("| method | " + " | ".join(f"{ram_mib} MiB RAM" for ram_mib in results) + " |")
    print("| --- |" + " ---: |" * len(results))
    for method in (HAND, FIRST, TOOL):
        cells = [f"{statistics.median(rows[method]):.0f} ({max(rows[method]):.0f})" for rows in results.values()]
        print(f"| {method} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        sys.exit(f"error: {error}")
