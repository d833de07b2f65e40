"""Where the programs under test and the other tools are."""

import os
import shutil
from pathlib import Path

from . import Unavailable

# Of this project: name, folder within a build directory.
OURS = {
    "blobfs-fuse": "fs/fuse",
    "mkfs.blobfs": "mkfs",
    "blobfs-perf": "tools/perf",
    "blobfs-bench-empty": "tools/bench/empty",
    "blobfs-bench-load": "tools/bench/load",
    "blobfs-bench-store": "tools/bench/store",
}
PACKAGES = {
    "fio": "fio",
    "mkfs.ext4": "e2fsprogs",
    "fuse2fs": "fuse2fs",
    "mkfs.xfs": "xfsprogs",
    "losetup": "mount",
    "git": "git",
    "tar": "tar",
    "cmake": "cmake",
    "ninja": "ninja-build",
    "c++": "g++",
}
SYSTEM_FOLDERS = ("/usr/local/sbin", "/usr/sbin", "/sbin")
LIBEXEC_FOLDERS = ("/usr/libexec/blobfs", "/usr/local/libexec/blobfs")


class Programs:
    """Finds programs: ours in a build directory when one is given, else where they are installed."""

    def __init__(self, build=None):
        self.build = Path(build).resolve() if build else None

    def find(self, name):
        """The path of a program, or None."""
        if name in OURS and self.build:
            path = self.build / OURS[name] / name
            return str(path) if os.access(path, os.X_OK) else None
        folders = os.pathsep.join([os.environ.get("PATH", ""), *SYSTEM_FOLDERS, *LIBEXEC_FOLDERS])
        return shutil.which(name, path=folders)

    def need(self, name):
        """The path of a program; Unavailable, saying how to get it, when it is not there."""
        path = self.find(name)
        if path:
            return path
        if name in OURS and self.build:
            raise Unavailable(f"{name} is not in {self.build}; build it with: "
                              f"cmake --build {self.build} --target {name}")
        if name in OURS:
            raise Unavailable(f"{name} is not installed; name a build directory with --build")
        package = PACKAGES.get(name, name)
        raise Unavailable(f"{name} is not installed; get it with: apt-get install {package}")
