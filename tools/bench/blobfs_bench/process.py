"""Daemons and commands that the run starts."""

import json
import os
import re
import signal
import subprocess
import time

from . import Failed, machine

START_PATIENCE_S = 60


def run(scratch, command, timeout_s=1800, cwd=None, environment=None, input_file=None):
    """Runs a command to its end; its standard output. Failed, with what it said, when it fails."""
    words = [str(word) for word in command]
    try:
        done = subprocess.run(words, capture_output=True, text=True, errors="replace", cwd=cwd,
                              stdin=input_file or subprocess.DEVNULL, timeout=timeout_s,
                              env={**scratch.environment(), **(environment or {})}, check=False)
    except subprocess.TimeoutExpired:
        raise Failed(f"{' '.join(words)}: not done after {timeout_s} s") from None
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()[-5:]
        raise Failed(f"{' '.join(words)}: status {done.returncode}: {' | '.join(said)}")
    return done.stdout


def _device_of(path):
    try:
        return os.stat(path).st_dev
    except OSError:  # mounted, and the daemon has died
        return None


class Daemon:
    """A process that serves a mount point. Its messages go to a log in the run's directory."""

    def __init__(self, scratch, name, command, mountpoint, piped=False):
        self.name = name
        self.mountpoint = str(mountpoint)
        self._log_path = scratch.folder("log") / f"{name}.log"
        before = os.stat(self.mountpoint).st_dev
        with open(self._log_path, "ab") as log:
            self.process = subprocess.Popen(
                [str(word) for word in command], stderr=log,
                stdin=subprocess.PIPE if piped else subprocess.DEVNULL,
                stdout=subprocess.PIPE if piped else log, text=piped, process_group=0,
                env=scratch.environment("daemon"))
        deadline = time.monotonic() + START_PATIENCE_S
        while _device_of(self.mountpoint) in (before, None):
            if self.process.poll() is not None:
                raise Failed(f"{name} did not mount: {self.last_words()}")
            if time.monotonic() > deadline:
                raise Failed(f"{name} did not mount within {START_PATIENCE_S} s: "
                             f"{self.last_words()}")
            time.sleep(0.001)

    @property
    def pid(self):
        return self.process.pid

    def last_words(self):
        text = self._log_path.read_text(encoding="utf-8", errors="replace")
        return " | ".join(text.strip().splitlines()[-3:]) or "it said nothing"

    def cpu_seconds(self):
        return machine.process_seconds(self.pid)

    def wait_end(self):
        """After unmounting: until it has let go of everything."""
        try:
            status = self.process.wait(START_PATIENCE_S)
        except subprocess.TimeoutExpired:
            raise Failed(f"{self.name} goes on after its filesystem was unmounted") from None
        if status != 0:
            raise Failed(f"{self.name} ended with status {status}: {self.last_words()}")

    def kill(self):
        """As a crash would end it."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def ask(self, command):
        """A daemon that takes commands on its standard input: one line there, one line of JSON
        back."""
        try:
            self.process.stdin.write(command + "\n")
            self.process.stdin.flush()
            return json.loads(self.process.stdout.readline())
        except (OSError, ValueError):
            raise Failed(f"{self.name} does not answer: {self.last_words()}") from None

    def log_after_signal(self, number, pattern):
        """The first match of a regular expression that a signal makes it write to its log."""
        with open(self._log_path, encoding="utf-8", errors="replace") as log:
            log.seek(0, os.SEEK_END)
            self.process.send_signal(number)
            said = ""
            deadline = time.monotonic() + START_PATIENCE_S
            while time.monotonic() < deadline and self.process.poll() is None:
                said += log.read()
                found = re.search(pattern, said)
                if found:
                    return found
                time.sleep(0.0005)
        raise Failed(f"{self.name} does not tell its statistics: {self.last_words()}")
