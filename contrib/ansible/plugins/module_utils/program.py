# SPDX-License-Identifier: Apache-2.0
"""The program hypeman-snap, as the modules of this collection run it."""

from __future__ import absolute_import, division, print_function

__metaclass__ = type

import json

# Exit code of the program when there is no such schedule or instance.
NOT_FOUND = 3


class Program:
    """The program on this host, with the options that each of its commands gets."""

    def __init__(self, module):
        self.module = module
        params = module.params
        self.path = module.get_bin_path(params["executable"], opt_dirs=["/usr/local/bin"])
        self.options = ["--output=json"]
        for name in ("state_dir", "data_dir", "engine", "base_url", "ca_file"):
            if params.get(name):
                self.options.append("--%s=%s" % (name.replace("_", "-"), params[name]))
        # Never on the command line: every user of the host sees those.
        self.environment = {}
        if params.get("api_key"):
            self.environment["HYPEMAN_API_KEY"] = params["api_key"]
        if params.get("api_key_file"):
            self.environment["HYPEMAN_API_KEY_FILE"] = params["api_key_file"]

    def run(self, command, *arguments, **kwargs):
        """Runs one command and returns its answer, or None when it says "not found" and that may be."""
        command_line = [self.path, command] + self.options + list(arguments)
        # Behind the two dashes nothing is taken for a flag.
        command_line += ["--", self.module.params["instance"]]
        rc, stdout, stderr = self.module.run_command(command_line, environ_update=self.environment)
        if rc == NOT_FOUND and kwargs.get("may_be_missing"):
            return None
        if rc != 0:
            reason = stderr.strip() or stdout.strip() or "it said nothing"
            self.fail("failed with exit code %d: %s" % (rc, reason), command, command_line, rc, stdout, stderr)
        try:
            return json.loads(stdout)
        except ValueError as error:
            self.fail("answered no JSON: %s" % error, command, command_line, rc, stdout, stderr)

    def fail(self, what, command, command_line, rc, stdout, stderr):
        """Ends the module with all that is known of a command that went wrong."""
        self.module.fail_json(
            msg="hypeman-snap %s %s %s" % (command, self.module.params["instance"], what),
            cmd=command_line,
            rc=rc,
            stdout=stdout,
            stderr=stderr,
        )

    def is_missing(self):
        """Whether the program is missing and that may be: in check mode a task before this one may be about to install it."""
        if self.path is not None:
            return False
        executable = self.module.params["executable"]
        if not self.module.check_mode:
            self.module.fail_json(
                msg="%s is no program on this host: install hypeman-snap, or set executable to its path" % executable
            )
        self.module.warn("%s is not installed yet: taking it that nothing is declared" % executable)
        return True
