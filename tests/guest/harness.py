"""What every test in the guest needs: the machine's package, the build directory, a way to skip."""

import os
import sys
import unittest
from pathlib import Path

sys.dont_write_bytecode = True
ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tools"))

from guest_machine import Unavailable, initramfs, kernel, machine, package  # noqa: E402

BUILD = Path(os.environ.get("BLOBFS_BUILD", ROOT / "build" / "dev"))
EXIT_SKIP = 77


def program(relative):
    """(host path, guest path) of a program of the build directory, to go along."""
    path = BUILD / relative
    if not path.exists():
        raise Unavailable(f"{relative} has not been built in {BUILD}")
    return path, f"/files/{path.name}"


class GuestCase(unittest.TestCase):
    """A case that runs commands in self.guest."""

    guest = None

    def run_in_guest(self, script, timeout_s=120):
        """The output of a script that must succeed."""
        status, output = self.guest.run(script, timeout_s)
        self.assertEqual(status, 0, f"{script}\n{output}\n{self.guest.console()[-1500:]}")
        return output

    def under_load(self, device, action):
        """Has nvme_exerciser load the device until that ends by what action() does; its output."""
        self.run_in_guest(f"""
            (nvme_exerciser load {device}; echo "exit status $?") >/tmp/load 2>&1 &
            while ! grep -q -e 'under load' -e 'exit status' /tmp/load; do sleep 0.1; done""")
        action()
        output = self.run_in_guest(
            "while ! grep -q 'exit status' /tmp/load; do sleep 0.1; done; cat /tmp/load")
        self.assertIn("exit status 0", output)
        return output


def main(require=lambda: None):
    """Runs the cases of the calling file. Skips, saying why, where there can be no guest, or where
    require() raises Unavailable."""
    try:
        machine.require()
        require()
        unittest.main(verbosity=2)
    except Unavailable as error:
        print(f"skipped: {error}")
        sys.exit(EXIT_SKIP)
