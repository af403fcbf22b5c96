#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Declares the snapshot schedule of one VM. Owns no rule of its own: the tool validates, normalises and compares."""

from __future__ import absolute_import, division, print_function

__metaclass__ = type

DOCUMENTATION = r"""
---
module: hypeman_snap_schedule
short_description: Snapshot schedule of a VM
version_added: "0.1.0"
description:
  - Declares or removes the schedule by which C(hypeman-snap) takes snapshots of a VM and removes old ones.
  - The schedule is declared as a whole. What is not given is not set, so leaving out O(max_age) removes the limit by age.
  - Values are compared by their meaning; V(60m) and V(1h) are the same interval.
  - Changing anything but O(interval), O(calendar) and O(jitter) keeps the times at which the schedule runs.
author: The hypeman-snap project
requirements:
  - hypeman-snap on the host
attributes:
  check_mode:
    description: Says what would change without changing it.
    support: full
  diff_mode:
    description: Shows the settings of the schedule before and after.
    support: full
options:
  instance:
    description:
      - The VM, by id, by name, or by a unique prefix of its id.
      - With O(state=absent), a VM that is gone is found by its id.
    type: str
    required: true
  state:
    description:
      - V(present) declares the schedule.
      - V(absent) removes it. Its snapshots stay.
    type: str
    choices: [present, absent]
    default: present
  interval:
    description:
      - Time between two snapshots, at least one minute, such as V(90m), V(1h30m) or V(7d).
      - With O(state=present), it or O(calendar) is required.
    type: str
  calendar:
    description:
      - When snapshots are taken, as five fields of crontab(5), or V(@hourly), V(@daily), V(@weekly), V(@monthly) or V(@yearly).
      - Mutually exclusive with O(interval).
    type: str
    version_added: "0.2.0"
  jitter:
    description: How much later than its time a run may be, by the VM's id; V(0s) makes it exact.
    type: str
    version_added: "0.2.0"
  max_pause:
    description: A snapshot that is foreseen to pause the guest for longer is not taken.
    type: str
    version_added: "0.2.0"
  first:
    description: When the first run is, V(now) or so much later. It counts only when the schedule is new or gets other run times.
    type: str
    version_added: "0.2.0"
  max_count:
    description:
      - How many scheduled snapshots stay, of those that the keep rules want.
      - With O(state=present), at least one of O(max_count), O(max_age) and the keep rules is required.
    type: int
  max_age:
    description: How old a scheduled snapshot may become, such as V(7d) or V(168h).
    type: str
  keep_last:
    description: How many of the newest snapshots the keep rules want.
    type: int
    version_added: "0.2.0"
  keep_hourly:
    description: Of how many hours the newest snapshot is wanted.
    type: int
    version_added: "0.2.0"
  keep_daily:
    description: Of how many days the newest snapshot is wanted.
    type: int
    version_added: "0.2.0"
  keep_weekly:
    description: Of how many ISO weeks the newest snapshot is wanted.
    type: int
    version_added: "0.2.0"
  keep_monthly:
    description: Of how many months the newest snapshot is wanted.
    type: int
    version_added: "0.2.0"
  keep_yearly:
    description: Of how many years the newest snapshot is wanted.
    type: int
    version_added: "0.2.0"
  keep_within:
    description: All snapshots younger than this are wanted, counted back from the newest one.
    type: str
    version_added: "0.2.0"
  min_keep:
    description: How many usable snapshots of each kind stay whatever the other rules say.
    type: int
    version_added: "0.2.0"
  timezone:
    description: Time zone of O(calendar) and of the keep rules, such as V(Europe/Berlin). Without it, the host's.
    type: str
    version_added: "0.2.0"
  name_prefix:
    description: Beginning of the snapshots' names, 1 to 47 lower-case letters, digits and dashes.
    type: str
  metadata:
    description:
      - Tags for every snapshot. Values are strings; numbers are taken as they are written.
    type: dict
  no_memory:
    description:
      - Leave out the memory of a VM that runs. It starts from such a snapshot as after a power cut.
      - Not with a hypeman server.
    type: bool
    version_added: "0.2.0"
  method:
    description: How memory is saved, V(full), V(diff) for a registered Firecracker that tracks dirty pages, or V(migrate) for Cloud Hypervisor.
    type: str
    version_added: "0.2.0"
  compress:
    description: How memory is compressed once the VM runs again, V(zstd) or V(zstd:1) to V(zstd:19), V(lz4) or V(lz4:0) to V(lz4:9), or V(none).
    type: str
    version_added: "0.2.0"
  min_free:
    description:
      - What stays free where snapshots are stored, such as V(20GiB) or V(10%).
      - Not with a hypeman server.
    type: str
    version_added: "0.2.0"
  expect:
    description:
      - Regular expression for a line that the guest's console must say in a rehearsal.
      - Not with a hypeman server.
    type: str
    version_added: "0.2.0"
  pre_hook:
    description:
      - Command to run before each snapshot; if it fails, none is taken.
      - A program with its arguments; no shell runs it.
    type: str
  post_hook:
    description: Command to run after each snapshot, also after one that failed.
    type: str
  failure_hook:
    description: Command to run when anything of a run failed.
    type: str
  hook_timeout:
    description: How long each hook may run, such as V(60s).
    type: str
  executable:
    description: The program, as a path or as a name that is looked for in the directories of E(PATH) and in C(/usr/local/bin).
    type: str
    default: hypeman-snap
  state_dir:
    description: Directory of the schedules. Without it, the program's default.
    type: path
  data_dir:
    description: The hypeman data directory. Without it, the program's default.
    type: path
  engine:
    description: Who takes the snapshots, the VMMs' own sockets or a hypeman server.
    type: str
    choices: [local, hypeman]
  base_url:
    description: URL of the hypeman server.
    type: str
  ca_file:
    description: File on the host with PEM certificates to trust besides the program's own.
    type: path
  api_key:
    description:
      - Key of the hypeman API. It is handed to the program by its environment, never on its command line.
      - Mutually exclusive with O(api_key_file).
    type: str
  api_key_file:
    description: File on the host that holds the key of the hypeman API.
    type: path
notes:
  - Runs as the user whose C(run-due) takes the snapshots, usually root.
"""

EXAMPLES = r"""
- name: A snapshot each hour, a day of them kept
  hypeman.snap.hypeman_snap_schedule:
    instance: web
    interval: 1h
    max_count: 24

- name: A snapshot each hour; a day of hours, a week of days and a year of months are kept
  hypeman.snap.hypeman_snap_schedule:
    instance: web
    interval: 1h
    keep_hourly: 24
    keep_daily: 7
    keep_monthly: 12
    timezone: Europe/Berlin

- name: A snapshot each night at half past two in Berlin, kept for a month
  hypeman.snap.hypeman_snap_schedule:
    instance: web
    calendar: 30 2 * * *
    timezone: Europe/Berlin
    max_age: 31d

- name: A snapshot each night, kept for two weeks, under a name of its own
  hypeman.snap.hypeman_snap_schedule:
    instance: mk3v9t0xq2r7w5d8h1c6b4za
    interval: 24h
    max_age: 14d
    name_prefix: nightly
    metadata:
      team: infra

- name: A snapshot each night, right after the database has written its own, and a word when it fails
  hypeman.snap.hypeman_snap_schedule:
    instance: db
    interval: 24h
    max_count: 7
    pre_hook: ssh db psql --command CHECKPOINT
    failure_hook: /usr/local/bin/tell-the-admins
    hook_timeout: 5m

- name: No more snapshots of this one
  hypeman.snap.hypeman_snap_schedule:
    instance: web
    state: absent

- name: Through the API of a hypeman server
  hypeman.snap.hypeman_snap_schedule:
    instance: web
    interval: 6h
    max_count: 8
    base_url: https://hypeman.example.org
    api_key: "{{ vault_hypeman_api_key }}"
"""

RETURN = r"""
schedule:
  description:
    - The schedule as C(hypeman-snap get --output json) shows it, with its times and the result of its newest run.
    - In check mode, what it would be. With O(state=absent), what it was; empty when there was none.
  returned: success
  type: dict
  sample:
    instance_id: mk3v9t0xq2r7w5d8h1c6b4za
    interval: 24h0m0s
    name_prefix: nightly
    metadata:
      team: infra
    retention:
      max_count: 0
      max_age: 336h0m0s
    next_run_at: "2026-09-03T03:15:20Z"
    created_at: "2026-08-20T03:11:05Z"
    updated_at: "2026-08-20T03:11:05Z"
rc:
  description: Exit code of the program when it failed. See hypeman-snap(1).
  returned: failure
  type: int
  sample: 2
stdout:
  description: What the program wrote to its standard output.
  returned: failure
  type: str
stderr:
  description: What the program wrote to its standard error.
  returned: failure
  type: str
  sample: 'hypeman-snap: error: --interval "30s": must be at least 1m'
cmd:
  description: The command that failed.
  returned: failure
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.hypeman.snap.plugins.module_utils.program import Program

# What a user declares: the part of a schedule that a diff shows.
SETTINGS = ("interval", "calendar", "jitter", "timezone", "max_pause", "expect", "name_prefix", "metadata", "retention", "hooks", "no_memory", "method", "compress", "min_free")

# What limits a schedule; one of them is required.
LIMITS = (
    "max_count",
    "max_age",
    "keep_last",
    "keep_hourly",
    "keep_daily",
    "keep_weekly",
    "keep_monthly",
    "keep_yearly",
    "keep_within",
)
OTHERS = ("interval", "calendar", "jitter", "max_pause", "expect", "first", "min_keep", "timezone", "name_prefix", "no_memory", "method", "compress", "min_free", "pre_hook", "post_hook", "failure_hook", "hook_timeout")


def settings(schedule):
    """What the user declared in a schedule, for the diff."""
    return {name: schedule[name] for name in SETTINGS if schedule and schedule.get(name)}


def flags(module):
    """The flags of `set` for the module's parameters."""
    params = module.params
    found = []
    for name in LIMITS + OTHERS:
        if params[name] is not None:
            value = params[name]
            if isinstance(value, bool):
                value = "true" if value else "false"
            found.append("--%s=%s" % (name.replace("_", "-"), value))
    for key, value in sorted((params["metadata"] or {}).items()):
        if isinstance(value, bool) or value is None or isinstance(value, (dict, list)):
            module.fail_json(
                msg="metadata: the value of %s is %r, but has to be a string: put it in quotes" % (key, value)
            )
        found.append("--metadata=%s=%s" % (key, value))
    return found


def declare(module, program):
    """Declares the schedule; returns whether that changed it, and the schedule before and after."""
    before = program.run("get", may_be_missing=True)
    arguments = flags(module)
    if module.check_mode:
        arguments.append("--dry-run")
    answer = program.run("set", *arguments)
    return answer["changed"], before, answer["schedule"]


def remove(module, program):
    """Removes the schedule; returns whether there was one, and that."""
    before = program.run("get", may_be_missing=True)
    if before is None:
        return False, None, None
    if not module.check_mode:
        program.run("delete", "--ignore-not-found")
    return True, before, None


def main():
    """Runs the module."""
    module = AnsibleModule(
        argument_spec={
            "instance": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "interval": {"type": "str"},
            "calendar": {"type": "str"},
            "jitter": {"type": "str"},
            "max_pause": {"type": "str"},
            "expect": {"type": "str"},
            "first": {"type": "str"},
            "max_count": {"type": "int"},
            "max_age": {"type": "str"},
            "keep_last": {"type": "int"},
            "keep_hourly": {"type": "int"},
            "keep_daily": {"type": "int"},
            "keep_weekly": {"type": "int"},
            "keep_monthly": {"type": "int"},
            "keep_yearly": {"type": "int"},
            "keep_within": {"type": "str"},
            "min_keep": {"type": "int"},
            "timezone": {"type": "str"},
            "name_prefix": {"type": "str"},
            "metadata": {"type": "dict"},
            "no_memory": {"type": "bool"},
            "method": {"type": "str"},
            "compress": {"type": "str"},
            "min_free": {"type": "str"},
            "pre_hook": {"type": "str"},
            "post_hook": {"type": "str"},
            "failure_hook": {"type": "str"},
            "hook_timeout": {"type": "str"},
            "executable": {"type": "str", "default": "hypeman-snap"},
            "state_dir": {"type": "path"},
            "data_dir": {"type": "path"},
            "engine": {"type": "str", "choices": ["local", "hypeman"]},
            "base_url": {"type": "str"},
            "ca_file": {"type": "path"},
            "api_key": {"type": "str", "no_log": True},
            # The name of a file, not a secret.
            "api_key_file": {"type": "path", "no_log": False},
        },
        required_if=[
            ("state", "present", ["interval", "calendar"], True),
            ("state", "present", list(LIMITS), True),
        ],
        mutually_exclusive=[("api_key", "api_key_file"), ("interval", "calendar")],
        supports_check_mode=True,
    )
    program = Program(module)
    if program.is_missing():
        module.exit_json(changed=module.params["state"] == "present", schedule={})
    change = declare if module.params["state"] == "present" else remove
    changed, before, after = change(module, program)
    module.exit_json(
        changed=changed,
        schedule=after or before or {},
        diff={"before": settings(before), "after": settings(after)},
    )


if __name__ == "__main__":
    main()
