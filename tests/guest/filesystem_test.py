"""A filesystem on QEMU's NVMe controller: made, mounted, filled, and its power cut."""

import re
import tempfile
import threading
from pathlib import Path

from harness import GuestCase, machine, main, program

DEVICE = machine.address(0)
MOUNT = "/tmp/mnt"
# busybox's umount does not wait for the daemon.
ENDED = "while pidof blobfs-fuse >/dev/null; do sleep 0.2; done"
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
                {ENDED}
                blobfs-fuse {DEVICE} {MOUNT}
                diff -r /lib {MOUNT}/lib
                umount {MOUNT}"""), 200)

    def test_power_cut_in_a_tree_copy_loses_nothing_that_was_synced(self):
        with guest_with(self.image) as self.guest:
            # Trees are copied all the time; beside that, each round puts files under a new name and
            # has them durable before it says so.
            self.guest.start(ready(f"""
                mkfs.blobfs {DEVICE}
                blobfs-fuse {DEVICE} {MOUNT}
                mkdir {MOUNT}/trees
                while :; do
                    for t in 1 2 3; do
                        echo "copying $t"
                        cp -a /lib {MOUNT}/trees/$t
                        echo "copied $t"
                    done
                    rm -r {MOUNT}/trees/1 {MOUNT}/trees/2 {MOUNT}/trees/3
                done &
                for i in $(seq 1000); do
                    mkdir {MOUNT}/$i
                    for n in 1 2 3 4 5; do
                        head -c $((i * n * 1000)) /bin/busybox |
                            dd of={MOUNT}/$i/$n conv=fsync 2>/dev/null
                    done
                    echo "synced $i"
                    echo "in the trees $(find {MOUNT}/trees -type f | wc -l)"
                done"""))
            log = Path(self.folder.name) / "log"
            with open(log, "wb") as out:
                cut = threading.Thread(target=self.cut_in_a_copy, args=(log, 6))
                cut.start()
                with self.assertRaises(machine.Died):
                    self.guest.wait(200, out)
                cut.join()
            said = log.read_text(errors="replace")
        synced = [int(n) for n in re.findall(r"synced (\d+)", said)]
        self.assertGreaterEqual(len(synced), 5)
        self.assertGreater(said.count("copying"), said.count("copied"), "not within a copy")
        with guest_with(self.image) as self.guest:
            output = self.run_in_guest(ready(f"""
                fsck.blobfs -n -f {DEVICE}
                blobfs-fuse {DEVICE} {MOUNT}
                for i in $(seq {synced[-1]}); do
                    for n in 1 2 3 4 5; do
                        head -c $((i * n * 1000)) /bin/busybox | cmp - {MOUNT}/$i/$n
                    done
                done
                # What was not synced is there or not, up to where it had come, but never other data.
                files=0
                for t in 1 2 3; do
                    [ -d {MOUNT}/trees/$t ] || continue
                    cd {MOUNT}/trees/$t
                    find . -type f >/tmp/found
                    while read -r name; do
                        head -c $(stat -c %s "$name") "/lib/$name" | cmp - "$name"
                        files=$((files + 1))
                    done </tmp/found
                    find . -type l >/tmp/found
                    while read -r name; do
                        [ "$(readlink "$name")" = "$(readlink "/lib/$name")" ]
                    done </tmp/found
                    cd /
                done
                echo "compared $files"
                # And the copy can be done now.
                rm -r {MOUNT}/trees
                cp -a /lib {MOUNT}/new
                umount {MOUNT}
                {ENDED}
                blobfs-fuse {DEVICE} {MOUNT}
                diff -r /lib {MOUNT}/new
                umount {MOUNT}"""), 300)
        self.assertRegex(output, r"compared [1-9]")

    def test_fsck_repairs_through_the_driver(self):
        with guest_with(self.image) as self.guest:
            self.run_in_guest(ready(f"""
                mkfs.blobfs {DEVICE}
                blobfs-fuse {DEVICE} {MOUNT}
                cp -a /lib {MOUNT}/
                umount {MOUNT}
                {ENDED}
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
                {ENDED}"""), 200)

    def cut_in_a_copy(self, log, rounds):
        """Pulls the plug after that many rounds, while a tree is half copied."""
        pause = threading.Event()
        for _ in range(4000):
            said = log.read_text(errors="replace")
            if (said.count("synced ") >= rounds
                    and re.search(r"copying \d\n(?:(?!copied)[^\n]*\n)*in the trees \d+\n"
                                  r"(?:(?!copied)[^\n]*\n)*$", said)):
                break
            pause.wait(0.05)
        self.guest.power_cut()


if __name__ == "__main__":
    main()
