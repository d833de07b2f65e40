"""The guest's whole system as one cpio archive (newc), which the kernel unpacks into memory."""

import os
import shutil
import stat
import subprocess
from pathlib import Path

from . import Unavailable

MODULES = ["fuse", "vfio", "vfio-pci", "vfio_iommu_type1", "uio_pci_generic", "nvme", "nvme-core",
           "loop", "ext4", "overlay"]


class Archive:
    """A cpio archive under construction. Directories of a path are made as they are needed."""

    def __init__(self):
        self._parts = []
        self._names = set()
        self._inode = 0

    def _entry(self, name, mode, data=b""):
        self._inode += 1
        header = "070701" + "".join(f"{field:08x}" for field in (
            self._inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0))
        head = header.encode() + name.encode() + b"\0"
        self._parts += [head, b"\0" * (-len(head) % 4), data, b"\0" * (-len(data) % 4)]

    def __contains__(self, path):
        return path.strip("/") in self._names

    def directory(self, path):
        path = path.strip("/")
        if not path or path in self._names:
            return
        self.directory(os.path.dirname(path))
        self._names.add(path)
        self._entry(path, stat.S_IFDIR | 0o755)

    def file(self, path, data, mode=0o644):
        path = path.strip("/")
        if path in self._names:
            return
        self.directory(os.path.dirname(path))
        self._names.add(path)
        self._entry(path, stat.S_IFREG | mode, data)

    def link(self, path, target):
        path = path.strip("/")
        if path in self._names:
            return
        self.directory(os.path.dirname(path))
        self._names.add(path)
        self._entry(path, stat.S_IFLNK | 0o777, target.encode())

    def write(self, path):
        self._entry("TRAILER!!!", 0)
        with open(path, "wb") as out:
            out.writelines(self._parts)


def libraries(program):
    """The paths of the shared libraries that a program needs, as the loader looks for them."""
    result = subprocess.run(["ldd", str(program)], capture_output=True, text=True, check=False)
    paths = []
    for line in result.stdout.splitlines():
        if "not found" in line:
            raise Unavailable(f"{program} needs a library that is not there: {line.strip()}")
        words = line.split()
        path = words[2] if "=>" in words and len(words) > 2 else words[0] if words else ""
        if path.startswith("/"):
            paths.append(path)
    return paths


def _stripped(path):
    """The contents without debug information, which would only fill the guest's memory."""
    data = Path(path).read_bytes()
    if len(data) < 4 << 20 or shutil.which("strip") is None:
        return data
    result = subprocess.run(["strip", "--strip-debug", "-o", "/dev/stdout", str(path)],
                            capture_output=True, check=False)
    return result.stdout if result.returncode == 0 and result.stdout else data


def add_program(archive, host, guest):
    """A program and its libraries; a script or static program has none."""
    archive.file(guest, _stripped(host), 0o755)
    for library in libraries(host):
        if library not in archive:
            archive.file(library, _stripped(library), 0o755)


def _add_file(archive, host, guest):
    host = Path(host)
    if host.is_dir():
        archive.directory(guest)
        for entry in sorted(host.iterdir()):
            _add_file(archive, entry, f"{guest}/{entry.name}")
        return
    with open(host, "rb") as file:
        elf = file.read(4) == b"\x7fELF"
    if elf:
        add_program(archive, host, guest)
    else:
        archive.file(guest, host.read_bytes(), host.stat().st_mode & 0o777)


def build(path, kernel, files):
    """Writes the archive. files: (host path, guest path) of what is wanted besides the system."""
    archive = Archive()
    add_program(archive, shutil.which("busybox"), "/bin/busybox")
    archive.file("/init", (Path(__file__).parent / "init.sh").read_bytes(), 0o755)
    archive.file("/bin/ssd-driver", (Path(__file__).parent / "ssd_driver.sh").read_bytes(), 0o755)
    archive.file("/etc/passwd", b"root:x:0:0::/root:/bin/sh\ntester:x:1000:1000::/tmp:/bin/sh\n")
    archive.file("/etc/group", b"root:x:0:\ntester:x:1000:\n")
    archive.link("/etc/mtab", "/proc/self/mounts")
    archive.link("/var/run", "/run")
    archive.link("/sbin/modprobe", "/bin/busybox")  # where other programs look for it
    for name in ("proc", "sys", "dev", "tmp", "run", "root", "mnt", "var", "sbin"):
        archive.directory("/" + name)
    dependencies = []
    for name, contents, needs in kernel.modules(MODULES):
        archive.file(f"/lib/modules/{kernel.release}/{name}.ko", contents)
        dependencies.append(f"{name}.ko:" + "".join(f" {need}.ko" for need in needs))
    archive.file(f"/lib/modules/{kernel.release}/modules.dep",
                 ("\n".join(dependencies) + "\n").encode())
    fusermount = shutil.which("fusermount3")
    if fusermount is not None:
        add_program(archive, fusermount, "/bin/fusermount3")
    for host, guest in files:
        _add_file(archive, host, guest)
    archive.write(path)
