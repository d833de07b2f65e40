"""What is compared. Each competitor makes its filesystem on an image of its own (of the same size, in
the same directory of the host), mounts it, mounts it again, ends it.

All images are written once from end to end before they are used: the host's filesystem has then
found their blocks, and nobody pays for that while being measured. For the same reason nobody's mkfs
tells the image's blocks free.
"""

import os
import shutil
import signal
import subprocess
from pathlib import Path

from . import Failed, Unavailable, machine, scratch
from .process import Daemon, run

CHUNK = bytes(1 << 20)


class Competitor:
    """One of those that are compared."""

    name = ""
    title = ""
    keeps_data = True  # what is written can be read after the kernel's cache was dropped
    remounts = True    # a remount keeps the files
    has_files = True   # is a filesystem, not a bare device
    has_daemon = True  # else it is the kernel's, and its processor time the machine's
    on_image = True    # takes space on the host
    program = None     # the daemon's

    def __init__(self, setup, suffix=""):
        # suffix: of the name of a second one beside the one that runs.
        self.setup = setup  # the run's Setup: scratch, programs, sizes
        self.daemon = None
        self.full_name = self.name + suffix
        self.image = setup.scratch.path / f"{self.full_name}.img"
        self.mountpoint = setup.scratch.path / "mnt" / self.full_name

    def require(self):
        """Raises Unavailable, saying why, where there can be no such competitor."""

    def start(self, image_bytes=None, sparse=False):
        """Makes it, new and empty, and mounts it. sparse: do not write the image first."""
        self.mountpoint.mkdir(parents=True, exist_ok=True)
        size = image_bytes or self.setup.sizes.image_bytes
        self.make_image(size, sparse)
        self.make()
        self.mount()

    def make_image(self, size, sparse):
        with open(self.image, "wb") as file:
            file.truncate(size)
            if not sparse:
                for _ in range(0, size, len(CHUNK)):
                    file.write(CHUNK)
            file.flush()
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def make(self):
        """mkfs."""

    def mount(self):
        pass

    def unmount(self):
        if not scratch.unmount(str(self.mountpoint)):
            raise Failed(f"{self.name}: {self.mountpoint} cannot be unmounted")
        if self.daemon:
            self.daemon.wait_end()
            self.daemon = None

    def remount(self):
        if self.remounts:
            self.unmount()
            self.mount()

    def crash(self):
        """The daemon is killed; what it left is cleared away. Not mounted afterwards."""
        self.daemon.kill()
        self.daemon = None
        if not scratch.unmount(str(self.mountpoint)):
            raise Failed(f"{self.name}: {self.mountpoint} cannot be unmounted after a crash")

    def stop(self):
        """Unmounts and removes it."""
        if self.mountpoint.is_dir() and str(self.mountpoint) in scratch.mounts_below(
                self.setup.scratch.path):
            self.unmount()
        self.image.unlink(missing_ok=True)

    def settle(self):
        """What it was given is on its device: nothing of it goes on while others are measured."""
        if self.has_files:
            descriptor = os.open(self.mountpoint, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            run(self.setup.scratch, ["sync", "-f", self.mountpoint])

    def forget_caches(self):
        """What is read next comes from the device (or from the daemon's own memory where a remount
        would lose everything)."""
        self.settle()
        self.remount()
        machine.drop_caches()

    def drop_caches(self):
        """Drops the kernel's caches, but not the program that is about to mount: a cold start of
        that says nothing of the filesystem."""
        machine.drop_caches()
        if self.program:
            subprocess.run([self.setup.programs.need(self.program), "--version"],
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)

    def before_measuring(self):
        pass

    def after_measuring(self):
        pass

    def cpu_seconds(self):
        """Processor time of the daemon; None where there is none."""
        return self.daemon.cpu_seconds() if self.daemon else None

    def requests(self):
        """(requests so far by name, bytes read, bytes written), or None where nobody counts."""
        return None

    def device_reads(self):
        """Reads of its device since it was mounted, or None where nobody counts."""
        return None

    def used_bytes(self):
        status = os.statvfs(self.mountpoint)
        return (status.f_blocks - status.f_bfree) * status.f_frsize


class Raw(Competitor):
    """The file itself: the device of all the others."""

    name = "raw"
    title = "the raw file"
    has_files = False
    has_daemon = False

    def start(self, image_bytes=None, sparse=False):
        self.make_image(image_bytes or self.setup.sizes.image_bytes, sparse)

    def stop(self):
        self.image.unlink(missing_ok=True)

    def remount(self):
        pass


class Blobfs(Competitor):
    name = "blobfs"
    title = "blobfs on a file"
    program = "blobfs-fuse"
    STATISTICS = (r"statistics: requests \d+.*? bytes read (\d+), written (\d+);([^\n]*)\n")

    def require(self):
        for program in ("blobfs-fuse", "mkfs.blobfs"):
            self.setup.programs.need(program)

    def device(self):
        return self.image

    def make(self):
        run(self.setup.scratch, [self.setup.programs.need("mkfs.blobfs"), "-q", "--force",
                                 "--no-discard", self.image])

    def mount(self):
        self.daemon = Daemon(self.setup.scratch, self.full_name,
                             [self.setup.programs.need("blobfs-fuse"), "-f",
                              *self.setup.blobfs_options, self.device(), self.mountpoint],
                             self.mountpoint)

    def requests(self):
        found = self.daemon.log_after_signal(signal.SIGUSR1, self.STATISTICS)
        words = found.group(3).split()
        counts = dict(zip(words[::2], map(int, words[1::2])))
        return counts, int(found.group(1)), int(found.group(2))

    def device_reads(self):
        found = self.daemon.log_after_signal(signal.SIGUSR1, r"statistics: device reads (\d+) ")
        return int(found.group(1))


class BlobfsInMemory(Blobfs):
    name = "blobfs-mem"
    title = "blobfs on memory"
    remounts = False
    on_image = False

    def __init__(self, setup, suffix=""):
        super().__init__(setup, suffix)
        self.memory_bytes = setup.sizes.image_bytes

    def device(self):
        return f"mem:{self.memory_bytes}"

    def make_image(self, size, sparse):
        self.memory_bytes = size

    def make(self):
        pass


class Empty(Competitor):
    """The floor that FUSE sets. Two ways to wait for requests, each a competitor of its own; the
    report takes the better one of each workload."""

    keeps_data = False
    remounts = False
    on_image = False
    waiting = ""

    def require(self):
        self.setup.programs.need("blobfs-bench-empty")

    def make_image(self, size, sparse):
        pass

    def mount(self):
        self.daemon = Daemon(self.setup.scratch, self.full_name,
                             [self.setup.programs.need("blobfs-bench-empty"), self.mountpoint],
                             self.mountpoint, piped=True)

    def before_measuring(self):
        # Only now: spinning all the time it would take a core from the others.
        self.daemon.ask(self.waiting)

    def after_measuring(self):
        self.daemon.ask("block")

    def requests(self):
        counted = self.daemon.ask("statistics")
        return counted["requests"], counted["bytes_read"], counted["bytes_written"]


class EmptyBlocking(Empty):
    name = "empty-blocking"
    title = "empty FUSE filesystem, blocking"
    waiting = "block"


class EmptySpinning(Empty):
    name = "empty-spinning"
    title = "empty FUSE filesystem, spinning"
    waiting = "spin"


class OnLoopDevice(Competitor):
    """A filesystem of the kernel on a loop device with direct I/O."""

    has_daemon = False
    kind = ""
    make_program = ""
    make_options = ()

    def __init__(self, setup, suffix=""):
        super().__init__(setup, suffix)
        self.loop = None

    def require(self):
        if not machine.is_root():
            raise Unavailable("loop devices and mounting them need root")
        self.setup.programs.need(self.make_program)
        self.setup.programs.need("losetup")
        if shutil.which("modprobe"):
            subprocess.run(["modprobe", "-q", self.kind], check=False)
        if f"\t{self.kind}\n" not in Path("/proc/filesystems").read_text(encoding="ascii"):
            raise Unavailable(f"this kernel has no {self.kind}")

    def make(self):
        losetup = self.setup.programs.need("losetup")
        try:
            self.loop = run(self.setup.scratch, [losetup, "--find", "--show", "--direct-io=on",
                                                 self.image]).strip()
        except Failed as failure:
            raise Unavailable(f"no loop device with direct I/O: {failure}") from None
        direct = Path(f"/sys/block/{Path(self.loop).name}/loop/dio")
        if direct.read_text(encoding="ascii").strip() != "1":
            raise Unavailable("the host's filesystem gives loop devices no direct I/O, and with the "
                              "page cache in between the comparison would be false")
        run(self.setup.scratch, [self.setup.programs.need(self.make_program), *self.make_options,
                                 self.loop])

    def mount(self):
        run(self.setup.scratch, ["mount", "-t", self.kind, self.loop, self.mountpoint])

    def device_reads(self):
        counts = Path(f"/sys/block/{Path(self.loop).name}/stat").read_text(encoding="ascii")
        return int(counts.split()[0])

    def stop(self):
        if str(self.mountpoint) in scratch.mounts_below(self.setup.scratch.path):
            self.unmount()
        if self.loop:
            run(self.setup.scratch, [self.setup.programs.need("losetup"), "--detach", self.loop])
            self.loop = None
        self.image.unlink(missing_ok=True)


class Ext4(OnLoopDevice):
    name = "ext4"
    title = "ext4 on a loop device"
    kind = "ext4"
    make_program = "mkfs.ext4"
    # Everything at once, so that no background initialization is measured. Inodes for 1 KiB files.
    make_options = ("-q", "-F", "-i", "4096", "-E",
                    "nodiscard,lazy_itable_init=0,lazy_journal_init=0")


class Xfs(OnLoopDevice):
    name = "xfs"
    title = "XFS on a loop device"
    kind = "xfs"
    make_program = "mkfs.xfs"
    make_options = ("-q", "-f", "-K")


class Fuse2fs(Competitor):
    """ext4 in user space, on the file through the host's page cache: it has no direct I/O."""

    name = "fuse2fs"
    title = "fuse2fs on a file"

    def require(self):
        self.setup.programs.need("fuse2fs")
        self.setup.programs.need("mkfs.ext4")

    def make(self):
        run(self.setup.scratch, [self.setup.programs.need("mkfs.ext4"), *Ext4.make_options,
                                 self.image])

    def mount(self):
        self.daemon = Daemon(self.setup.scratch, self.full_name,
                             [self.setup.programs.need("fuse2fs"), "-f", self.image,
                              self.mountpoint], self.mountpoint)


ALL = (Blobfs, BlobfsInMemory, EmptyBlocking, EmptySpinning, Ext4, Xfs, Fuse2fs, Raw)
NAMES = tuple(kind.name for kind in ALL)
