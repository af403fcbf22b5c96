#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Registers one VM with the local engine. Owns no rule of its own: the tool validates and compares."""

from __future__ import absolute_import, division, print_function

__metaclass__ = type

DOCUMENTATION = r"""
---
module: hypeman_snap_register
short_description: VM that hypeman-snap snapshots by its VMM's control socket
version_added: "0.2.0"
description:
  - Makes a VM that hypeman does not run known to C(hypeman-snap), or makes it forget the VM. Snapshots stay in any case.
  - The VM is declared as a whole. What is not given is not set.
author: The hypeman-snap project
requirements:
  - hypeman-snap on the host
attributes:
  check_mode:
    description: Says what would change without changing it. Values are compared, not validated.
    support: full
  diff_mode:
    description: Shows what is declared before and after.
    support: full
options:
  instance:
    description: The id to give the VM, a plain file name.
    type: str
    required: true
  state:
    description:
      - V(present) registers the VM.
      - V(absent) makes the tool forget it. Its schedule stays; M(hypeman.snap.hypeman_snap_schedule) removes that.
    type: str
    choices: [present, absent]
    default: present
  hypervisor:
    description:
      - What runs the VM.
      - Required with O(state=present).
    type: str
    choices: [cloud-hypervisor, firecracker, qemu, qemu-microvm]
  socket:
    description:
      - The VMM's control socket. QEMU needs a QMP monitor of its own for this.
      - Required with O(state=present).
    type: path
  name:
    description: A name to call the VM by; without it, its id.
    type: str
  disks:
    description: The VM's disks, by their paths, to copy while it is off.
    type: list
    elements: path
    default: []
  disk_roots:
    description:
      - Directories in which the VM's disks live; what its VMM calls a disk elsewhere is refused.
      - Without any, those of the host count.
    type: list
    elements: path
    default: []
  force:
    description:
      - Registers a VM whose socket nobody serves and of which no disk is known.
      - Not compared.
    type: bool
    default: false
  executable:
    description: The program, as a path or as a name that is looked for in the directories of E(PATH) and in C(/usr/local/bin).
    type: str
    default: hypeman-snap
  state_dir:
    description: Directory of the schedules. Without it, root's default, C(/var/lib/hypeman-snap).
    type: path
  data_dir:
    description: The hypeman data directory. Without it, the program's default.
    type: path
notes:
  - Runs as the user whose C(run-due) takes the snapshots, usually root.
"""

EXAMPLES = r"""
- name: A QEMU of one's own, whose disk is copied while it is off, too
  hypeman.snap.hypeman_snap_register:
    instance: web-1
    hypervisor: qemu
    socket: /run/web-1.qmp
    disks:
      - /srv/vms/web-1.qcow2

- name: Its schedule
  hypeman.snap.hypeman_snap_schedule:
    instance: web-1
    interval: 1h
    max_count: 24

- name: A VM that is no more
  hypeman.snap.hypeman_snap_register:
    instance: web-1
    state: absent
"""

RETURN = r"""
registration:
  description: The VM as it is declared. With O(state=absent), as it was; empty when it was not registered.
  returned: success
  type: dict
  sample:
    id: web-1
    name: web-1
    hypervisor: qemu
    socket: /run/web-1.qmp
    disks:
      - /srv/vms/web-1.qcow2
    disk_roots: []
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
  sample: 'hypeman-snap: error: name "a b" must be 1 to 63 letters, digits, dashes, dots and underscores'
cmd:
  description: The command that failed.
  returned: failure
  type: list
  elements: str
"""

import json
import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.hypeman.snap.plugins.module_utils.program import Program

# What a user declares: the part of a registration that a diff shows. See hypeman-snap(5), REGISTERED INSTANCES.
SETTINGS = ("id", "name", "hypervisor", "socket", "disks")
# The same, where it is not written when it is empty.
LISTS = ("disk_roots",)


def registered(module):
    """What is declared of the VM on this host, or None."""
    state_dir = module.params["state_dir"] or os.environ.get("HYPEMAN_SNAP_STATE_DIR") or "/var/lib/hypeman-snap"
    path = os.path.join(state_dir, "instances", module.params["instance"] + ".json")
    try:
        with open(path) as file:
            found = json.load(file)
    except (OSError, IOError, ValueError):
        # Whatever else is wrong with it, the program will say.
        return None
    settings = {name: found.get(name) for name in SETTINGS}
    settings.update({name: found.get(name) or [] for name in LISTS})
    return settings


def declared(params):
    """What the module's parameters declare."""
    return {
        "id": params["instance"],
        "name": params["name"] or params["instance"],
        "hypervisor": params["hypervisor"],
        "socket": params["socket"],
        "disks": params["disks"],
        "disk_roots": params["disk_roots"],
    }


def flags(params):
    """The flags of `register` for the module's parameters."""
    found = ["--hypervisor=%s" % params["hypervisor"], "--socket=%s" % params["socket"]]
    if params["name"]:
        found.append("--name=%s" % params["name"])
    if params["force"]:
        found.append("--force")
    found += ["--disk-root=%s" % root for root in params["disk_roots"]]
    return found + ["--disk=%s" % disk for disk in params["disks"]]


def declare(module, program, before):
    """Registers the VM; returns whether that changed anything, and what is declared then."""
    after = declared(module.params)
    if module.check_mode:
        return before != after, after
    answer = program.run("register", *flags(module.params))
    return answer["changed"], after


def forget(module, program, before):
    """Unregisters the VM; returns whether it was registered, and that nothing is declared then."""
    if module.check_mode:
        return before is not None, None
    answer = program.run("unregister", may_be_missing=True)
    return answer is not None and answer["changed"], None


def main():
    """Runs the module."""
    module = AnsibleModule(
        argument_spec={
            "instance": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "hypervisor": {"type": "str", "choices": ["cloud-hypervisor", "firecracker", "qemu", "qemu-microvm"]},
            "socket": {"type": "path"},
            "name": {"type": "str"},
            "disks": {"type": "list", "elements": "path", "default": []},
            "disk_roots": {"type": "list", "elements": "path", "default": []},
            "force": {"type": "bool", "default": False},
            "executable": {"type": "str", "default": "hypeman-snap"},
            "state_dir": {"type": "path"},
            "data_dir": {"type": "path"},
        },
        required_if=[("state", "present", ["hypervisor", "socket"])],
        supports_check_mode=True,
    )
    # A host with a server has one engine for all else.
    module.params["engine"] = "local"
    program = Program(module)
    if program.is_missing():
        module.exit_json(changed=module.params["state"] == "present", registration={})
    before = registered(module)
    change = declare if module.params["state"] == "present" else forget
    changed, after = change(module, program, before)
    module.exit_json(
        changed=changed,
        registration=after or before or {},
        diff={"before": before or {}, "after": after or {}},
    )


if __name__ == "__main__":
    main()
