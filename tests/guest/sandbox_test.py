"""The guest itself: what is asked for is what the guest sees."""

import tempfile
import threading
from pathlib import Path

from harness import GuestCase, machine, main


class Sandbox(GuestCase):
    def test_ssds_are_as_asked_for_and_images_survive_a_power_cut(self):
        with tempfile.TemporaryDirectory() as folder:
            image = Path(folder) / "kept.img"
            options = machine.Options(ssds=[
                machine.Ssd(size=64 << 20, lba=4096, namespaces=2),
                machine.Ssd(size=32 << 20, lba=512, mdts=8192, images=[image])])
            with machine.Machine(options) as self.guest:
                self.assertEqual(self.guest.run("echo said; exit 3"), (3, "said\n"))
                for space in (1, 2):
                    queue = f"/sys/bus/pci/devices/{machine.address(0)}/nvme/nvme*/nvme*n{space}"
                    output = self.run_in_guest(f"cat {queue}/queue/logical_block_size {queue}/size")
                    self.assertEqual(output.split(), ["4096", str((64 << 20) // 512)])
                output = self.run_in_guest(
                    f"cat /sys/bus/pci/devices/{machine.address(1)}/nvme/nvme*/nvme*n1/queue/max_hw_sectors_kb")
                self.assertEqual(output.strip(), "8")
                disk = self.run_in_guest(
                    f"basename /sys/bus/pci/devices/{machine.address(1)}/nvme/nvme*/nvme*n1").strip()
                self.run_in_guest(f"echo persistent | dd of=/dev/{disk} bs=512 conv=sync,fsync")
                self.guest.start("sleep 60")
                threading.Timer(0.2, self.guest.power_cut).start()
                with self.assertRaises(machine.Died):
                    self.guest.wait(30)
            self.assertTrue(image.read_bytes().startswith(b"persistent\n"))

    def test_devices_go_to_the_drivers_that_a_user_space_driver_needs(self):
        with machine.Machine(machine.Options()) as self.guest:
            address = machine.address(0)
            self.run_in_guest(f"ssd-driver {address} vfio-pci && ls /dev/vfio/[0-9]*")
            self.run_in_guest(f"ssd-driver {address} uio_pci_generic && ls /dev/uio0")
            self.run_in_guest(f"ssd-driver {address} nvme | grep -x /dev/nvme0n1")


if __name__ == "__main__":
    main()
