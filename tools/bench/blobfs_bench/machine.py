"""Facts about the machine, its load, its caches, its processors' time."""

import os
import platform
import re
import subprocess
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


def is_root():
    return os.geteuid() == 0


def first_line(command):
    """The first line that a command prints, or None."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except OSError:
        return None
    lines = (done.stdout + done.stderr).strip().splitlines()
    return lines[0].strip() if lines else None


def _value(path, key):
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        if line.startswith(key):
            return line.split(":", 1)[1].strip()
    return "unknown"


def host_filesystem(directory):
    """(type, source, options) of the mount that a directory is on."""
    best = ("", "unknown", "unknown", "")
    path = os.path.realpath(directory)
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        left, right = line.split(" - ")
        point = left.split()[4]
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best[0]):
            kind, source = right.split()[:2]
            best = (point, kind, source, left.split()[5])
    return best[1:]


def load_average():
    return os.getloadavg()[0]


def facts(directory, programs):
    """What a reader of the results needs to know of the machine."""
    kind, source, options = host_filesystem(directory)
    governor = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    memory = int(_value("/proc/meminfo", "MemTotal").split()[0]) << 10
    versions = {}
    for name, arguments in (("blobfs-fuse", ["--version"]), ("fio", ["--version"]),
                            ("mkfs.ext4", ["-V"]), ("mkfs.xfs", ["-V"]), ("git", ["--version"])):
        path = programs.find(name)
        if path:
            versions[name] = first_line([path, *arguments])
    return {
        "processor": _value("/proc/cpuinfo", "model name"),
        "cores": len(os.sched_getaffinity(0)),
        "governor": governor.read_text(encoding="utf-8").strip() if governor.exists() else None,
        "memory_bytes": memory,
        "kernel": platform.release(),
        "system": _system_name(),
        "virtual": first_line(["systemd-detect-virt"]) or "unknown",
        "host_filesystem": f"{kind} on {source} ({options})",
        "versions": versions,
        "load_at_start": os.getloadavg(),
    }


def _system_name():
    text = Path("/etc/os-release").read_text(encoding="utf-8") if os.path.exists(
        "/etc/os-release") else ""
    found = re.search(r'^PRETTY_NAME="?([^"\n]*)', text, re.M)
    return found.group(1) if found else platform.system()


def drop_caches():
    """Makes the kernel forget what it has in its caches; root only. Whether it did."""
    return _drop("3")


def drop_names_and_inodes():
    """Makes the kernel forget names and inodes, but not what it has read of devices; root only.
    Whether it did."""
    return _drop("2")


def _drop(what):
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text(f"{what}\n", encoding="ascii")
    except OSError:
        return False
    return True


def busy_seconds():
    """Processor time that the whole machine has used, all cores together."""
    line = Path("/proc/stat").read_text(encoding="ascii").splitlines()[0].split()
    user, nice, system, _idle, _iowait, irq, softirq = (int(word) for word in line[1:8])
    return (user + nice + system + irq + softirq) / TICKS


def process_seconds(pid):
    """Processor time that the threads of a process have used, or 0 when it is gone."""
    total = 0
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            text = Path(f"/proc/{pid}/task/{thread}/schedstat").read_text(encoding="ascii")
            total += int(text.split()[0])
    except OSError:
        pass
    return total / 1e9


def resident_bytes(pid):
    """Memory that a process has resident."""
    try:
        return int(_value(f"/proc/{pid}/status", "VmRSS").split()[0]) << 10
    except (OSError, ValueError):
        return 0
