"""A filesystem on QEMU's NVMe controller: made, mounted, filled, and its power cut."""

import re
import tempfile
import threading
from pathlib import Path

from harness import GuestCase, machine, main, program

DEVICE = machine.address(0)
MOUNT = "/tmp/mnt"
PROGRAMS = ("mkfs/mkfs.blobfs", "fs/fuse/blobfs-fuse", "tools/fsck/fsck.blobfs")


def guest_with(image, lba=512):
    return machine.Machine(machine.Options(
        ssds=[machine.Ssd(size=256 << 20, lba=lba, images=[image])],
        files=[program(relative) for relative in PROGRAMS]))


def ready(script):
    return f"set -e\nssd-driver {DEVICE} vfio-pci\nmkdir -p {MOUNT}\n{script}"


class Filesystem(GuestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.image = Path(self.folder.name) / "ssd.img"

    def test_tree_copied_is_the_same_after_a_remount(self):
        with guest_with(self.image, lba=4096) as self.guest:
            self.run_in_guest(ready(f"""
                mkfs.blobfs {DEVICE}
                blobfs-fuse {DEVICE} {MOUNT}
                cp -a /lib {MOUNT}/
                diff -r /lib {MOUNT}/lib
                umount {MOUNT}
                blobfs-fuse {DEVICE} {MOUNT}
                diff -r /lib {MOUNT}/lib
                umount {MOUNT}"""), 200)

    def test_power_cut_in_a_copy_loses_nothing_that_was_synced(self):
        with guest_with(self.image) as self.guest:
            # Each round puts a copy under a new name and has it durable before it says so.
            self.guest.start(ready(f"""
                mkfs.blobfs {DEVICE}
                blobfs-fuse {DEVICE} {MOUNT}
                for i in $(seq 1000); do
                    mkdir {MOUNT}/$i
                    for n in 1 2 3 4 5; do
                        head -c $((i * n * 1000)) /bin/busybox |
                            dd of={MOUNT}/$i/$n conv=fsync 2>/dev/null
                    done
                    echo synced $i
                done"""))
            log = Path(self.folder.name) / "log"
            with open(log, "wb") as out:
                cut = threading.Thread(target=self.cut_after_rounds, args=(log, 6))
                cut.start()
                with self.assertRaises(machine.Died):
                    self.guest.wait(200, out)
                cut.join()
            synced = [int(n) for n in re.findall(r"synced (\d+)", log.read_text(errors="replace"))]
        self.assertGreaterEqual(len(synced), 5)
        with guest_with(self.image) as self.guest:
            self.run_in_guest(ready(f"""
                fsck.blobfs -n -f {DEVICE}
                blobfs-fuse {DEVICE} {MOUNT}
                for i in $(seq {synced[-1]}); do
                    for n in 1 2 3 4 5; do
                        head -c $((i * n * 1000)) /bin/busybox | cmp - {MOUNT}/$i/$n
                    done
                done
                # What came after the last sync is there or not, but never wrong or unreadable.
                find {MOUNT} -type f -exec md5sum {{}} + >/dev/null
                echo new >{MOUNT}/new
                umount {MOUNT}
                blobfs-fuse {DEVICE} {MOUNT}
                grep -x new {MOUNT}/new
                umount {MOUNT}"""), 200)

    def test_fsck_repairs_through_the_driver(self):
        # busybox's umount does not wait for the daemon.
        ended = "while pidof blobfs-fuse >/dev/null; do sleep 0.2; done"
        with guest_with(self.image) as self.guest:
            self.run_in_guest(ready(f"""
                mkfs.blobfs {DEVICE}
                blobfs-fuse {DEVICE} {MOUNT}
                cp -a /lib {MOUNT}/
                umount {MOUNT}
                {ended}
                fsck.blobfs -n -f {DEVICE}"""), 200)
        with open(self.image, "r+b") as image:
            image.write(bytes(1 << 20))  # both superblocks, as dd(1) takes them
        with guest_with(self.image) as self.guest:
            self.run_in_guest(ready(f"""
                fsck.blobfs -n {DEVICE} && exit 1 || test $? = 4
                fsck.blobfs -y {DEVICE} && exit 1 || test $? = 1
                fsck.blobfs -n -f {DEVICE}
                blobfs-fuse {DEVICE} {MOUNT}
                diff -r /lib {MOUNT}/lib
                umount {MOUNT}
                {ended}"""), 200)

    def cut_after_rounds(self, log, rounds):
        """Pulls the plug in the middle of the round after that many."""
        pause = threading.Event()
        for _ in range(2000):
            if log.read_bytes().count(b"synced ") >= rounds:
                break
            pause.wait(0.1)
        pause.wait(0.05)
        self.guest.power_cut()


if __name__ == "__main__":
    main()
