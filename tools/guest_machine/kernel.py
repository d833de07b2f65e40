"""The guest's kernel and modules, out of a Debian package; nothing is installed.

The newest linux-image-*-cloud-amd64 that apt offers, unless BLOBFS_GUEST_KERNEL_DEB names a package
file. Modules (NAME.ko) in the folder that BLOBFS_GUEST_MODULES names take the place of its own.
"""

import lzma
import os
import re
from pathlib import Path

from . import Unavailable, package


class Kernel:
    """An unpacked kernel: its image, and its modules with what they depend on."""

    def __init__(self, root):
        self.image = next(root.glob("boot/vmlinuz-*"))
        self.release = self.image.name.removeprefix("vmlinuz-")
        modules = next(p for p in root.rglob(f"lib/modules/{self.release}") if p.is_dir())
        self._files = {}
        others = os.environ.get("BLOBFS_GUEST_MODULES")
        for path in [*modules.rglob("*.ko*"), *(Path(others).rglob("*.ko") if others else [])]:
            name = path.name.split(".ko")[0].replace("-", "_")
            self._files[name] = path

    def _contents(self, name):
        path = self._files[name]
        contents = path.read_bytes()
        return lzma.decompress(contents) if path.suffix == ".xz" else contents

    def has_parameter(self, module, parameter):
        """True when that module is there and takes that parameter."""
        return (module in self._files
                and f"\0parmtype={parameter}:".encode() in self._contents(module))

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
            contents = self._contents(name)
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


def _newest_package():
    found = re.search(r"Depends: (linux-image-\S+)", package.dependencies("linux-image-cloud-amd64"))
    if not found:
        raise Unavailable("linux-image-cloud-amd64 names no kernel package; "
                          "BLOBFS_GUEST_KERNEL_DEB may name a package file")
    return found.group(1)


def obtain():
    """The kernel, fetched and unpacked if that has not been done before. Raises Unavailable."""
    chosen = os.environ.get("BLOBFS_GUEST_KERNEL_DEB")
    folder = "kernel-" + Path(chosen).stem if chosen else "kernel"
    return Kernel(package.unpacked(folder, _newest_package, chosen))
