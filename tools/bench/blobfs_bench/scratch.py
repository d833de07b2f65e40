"""The run's directory: whatever happens, nothing of the run is left behind.

Everything that a run makes lies in one directory, and every process that it starts has the
directory's name in its environment. So one function finds and ends all of it: processes, mounts,
loop devices, files. The run calls it at its end and on signals; should the run itself be killed, a
second process that waits for its end calls it (python3 -m blobfs_bench.scratch DIRECTORY).
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MARK = "BLOBFS_BENCH_DIRECTORY"
ROLE = "BLOBFS_BENCH_ROLE"  # "daemon": ends when its filesystem is unmounted
PATIENCE_S = 30


class Scratch:
    """A new directory below `parent`. A context manager: taken down at the end."""

    def __init__(self, parent):
        self.path = Path(tempfile.mkdtemp(prefix="blobfs-bench-", dir=parent)).resolve()
        self._watcher = subprocess.Popen(
            [sys.executable, "-m", "blobfs_bench.scratch", str(self.path)],
            stdin=subprocess.PIPE, start_new_session=True,
            env=dict(os.environ, PYTHONPATH=str(Path(__file__).resolve().parent.parent)))

    def environment(self, role="command"):
        return dict(os.environ, **{MARK: str(self.path), ROLE: role})

    def folder(self, name):
        path = self.path / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def __enter__(self):
        return self

    def __exit__(self, *_):
        # A second Ctrl-C does not stop the cleaning up.
        before = {number: signal.signal(number, signal.SIG_IGN)
                  for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        try:
            take_down(self.path)
            self._watcher.stdin.close()
            self._watcher.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _processes(directory, role):
    """Ids of the processes of the run that have a role."""
    mark = f"{MARK}={directory}".encode()
    wanted = f"{ROLE}={role}".encode()
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{entry}/environ").read_bytes().split(b"\0")
            if mark in words and wanted in words:
                found.append(int(entry))
    return found


def _end(directory, role, numbers, patience_s):
    """Sends the signals one after the other until no process of that role is left."""
    for number in numbers:
        deadline = time.monotonic() + patience_s
        if number:
            for pid in _processes(directory, role):
                with contextlib.suppress(OSError):
                    os.kill(pid, number)
        while _processes(directory, role):
            if time.monotonic() > deadline:
                break
            time.sleep(0.02)
        else:
            return


def mounts_below(directory):
    """Mount points below a directory, the deepest first."""
    prefix = str(directory).rstrip("/") + "/"
    points = []
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        point = line.split()[4].encode().decode("unicode_escape")
        if point.startswith(prefix):
            points.append(point)
    return sorted(points, reverse=True)


def loop_devices_of(directory):
    """Loop devices over files below a directory."""
    prefix = str(directory).rstrip("/") + "/"
    found = []
    for entry in Path("/sys/block").glob("loop*"):
        with contextlib.suppress(OSError):
            if (entry / "loop/backing_file").read_text(encoding="utf-8").startswith(prefix):
                found.append("/dev/" + entry.name)
    return found


def unmount(point, patience_s=PATIENCE_S):
    """Unmounts in good order, or, when that does not work in time, lets go of it. Whether it went
    in good order."""
    command = ["umount", point] if os.geteuid() == 0 else ["fusermount3", "-u", point]
    with contextlib.suppress(subprocess.TimeoutExpired):
        if subprocess.run(command, stderr=subprocess.DEVNULL, timeout=patience_s,
                          check=False).returncode == 0:
            return True
    lazily = ["umount", "-l", point] if os.geteuid() == 0 else ["fusermount3", "-u", "-z", point]
    subprocess.run(lazily, stderr=subprocess.DEVNULL, check=False)
    return False


def take_down(directory):
    """Ends, unmounts, detaches and removes everything of a run. Harmless when it is done already."""
    directory = Path(directory)
    _end(directory, "command", (signal.SIGTERM, signal.SIGKILL), 5)
    for point in mounts_below(directory):
        unmount(point)
    _end(directory, "daemon", (0, signal.SIGTERM, signal.SIGKILL), PATIENCE_S)
    for point in mounts_below(directory):
        unmount(point, 5)
    for device in loop_devices_of(directory):
        subprocess.run(["losetup", "-d", device], stderr=subprocess.DEVNULL, check=False)
    if mounts_below(directory):
        print(f"blobfs-bench: {directory} is left behind: something is still mounted below it",
              file=sys.stderr)
        return
    shutil.rmtree(directory, ignore_errors=True)


def main():
    # Whoever started us keeps the other end of our standard input open while it lives.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.read()
    if os.path.isdir(sys.argv[1]):
        take_down(sys.argv[1])


if __name__ == "__main__":
    main()
