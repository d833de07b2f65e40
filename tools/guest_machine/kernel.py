"""The guest's kernel and modules, out of a Debian package; nothing is installed.

The newest linux-image-*-cloud-amd64 that apt offers is fetched once and unpacked into a cache that
all checkouts of a user share. BLOBFS_GUEST_KERNEL_DEB names a package file to use instead.
"""

import fcntl
import lzma
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from . import Unavailable


def cache_directory():
    """Where the unpacked kernel is kept: $XDG_CACHE_HOME/blobfs/guest."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    path = Path(base) / "blobfs" / "guest"
    path.mkdir(parents=True, exist_ok=True)
    return path


class Kernel:
    """An unpacked kernel: its image, and its modules with what they depend on."""

    def __init__(self, root):
        self.image = next(root.glob("boot/vmlinuz-*"))
        self.release = self.image.name.removeprefix("vmlinuz-")
        modules = next(p for p in root.rglob(f"lib/modules/{self.release}") if p.is_dir())
        self._files = {}
        for path in modules.rglob("*.ko*"):
            name = path.name.split(".ko")[0].replace("-", "_")
            self._files[name] = path

    def modules(self, wanted):
        """(name, contents, all that it needs, to be loaded from the last to the first) of the
        wanted modules and of what they need.

        A name that is no module of this kernel is left out: it is built in, or the kernel
        has no such thing, which shows when the guest needs it.
        """
        result = {}
        pending = [name.replace("-", "_") for name in wanted]
        while pending:
            name = pending.pop()
            if name in result or name not in self._files:
                continue
            path = self._files[name]
            contents = path.read_bytes()
            if path.suffix == ".xz":
                contents = lzma.decompress(contents)
            found = re.search(rb"\0depends=([^\0]*)\0", contents)
            needs = found.group(1).decode().replace("-", "_").split(",") if found else []
            needs = [n for n in needs if n]
            result[name] = (contents, needs)
            pending += needs

        def in_loading_order(name, order):
            for need in result[name][1]:
                if need in result and need not in order:
                    in_loading_order(need, order)
                    order.append(need)
            return order

        return [(name, contents, in_loading_order(name, [])[::-1])
                for name, (contents, _) in result.items()]


def _run(command, **options):
    return subprocess.run(command, check=True, capture_output=True, text=True, **options)


def _newest_package():
    try:
        text = _run(["apt-cache", "depends", "linux-image-cloud-amd64"]).stdout
    except FileNotFoundError:
        raise Unavailable("a guest kernel comes from a Debian package, and there is no apt here; "
                          "BLOBFS_GUEST_KERNEL_DEB may name a package file") from None
    except subprocess.CalledProcessError as error:
        raise Unavailable("apt knows no linux-image-cloud-amd64 (apt-get update?): "
                          + error.stderr.strip()) from None
    found = re.search(r"Depends: (linux-image-\S+)", text)
    if not found:
        raise Unavailable("linux-image-cloud-amd64 names no kernel package")
    return found.group(1)


def _download(into):
    package = _newest_package()
    try:
        _run(["apt-get", "download", package], cwd=into)
    except subprocess.CalledProcessError as error:
        raise Unavailable(f"apt-get download {package} failed (apt-get update?): "
                          + error.stderr.strip().splitlines()[-1]) from None
    return next(Path(into).glob("*.deb"))


def obtain():
    """The kernel, fetched and unpacked if that has not been done before. Raises Unavailable."""
    cache = cache_directory()
    chosen = os.environ.get("BLOBFS_GUEST_KERNEL_DEB")
    root = cache / ("kernel-" + Path(chosen).stem if chosen else "kernel")
    with open(cache / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not root.exists():
            with tempfile.TemporaryDirectory(dir=cache) as scratch:
                package = Path(chosen) if chosen else _download(scratch)
                unpacked = Path(scratch) / "unpacked"
                try:
                    _run(["dpkg", "-x", str(package), str(unpacked)])
                except FileNotFoundError:
                    raise Unavailable("unpacking a guest kernel needs dpkg") from None
                except subprocess.CalledProcessError as error:
                    raise Unavailable(f"unpacking {package}: {error.stderr.strip()}") from None
                shutil.move(unpacked, root)
    return Kernel(root)
