"""blobfs-nvme bind --persist with the real driverctl, which is taken out of Debian's package."""

import shutil

from harness import GuestCase, machine, main, package, program

DEVICE = machine.address(0)
SAVED = f"/etc/driverctl.d/pci-{DEVICE}"


def driverctl():
    return package.unpacked("driverctl", lambda: "driverctl") / "usr/sbin/driverctl"


class Persistence(GuestCase):
    def driver(self):
        return self.run_in_guest(
            f"basename $(readlink /sys/bus/pci/devices/{DEVICE}/driver)").strip()

    def test_driver_is_remembered_until_it_is_told_otherwise(self):
        options = machine.Options(ssds=[machine.Ssd(size=32 << 20)], files=[
            program("tools/nvme/blobfs-nvme"), (driverctl(), "/sbin/driverctl"),
            (shutil.which("bash"), "/bin/bash")])
        with machine.Machine(options) as self.guest:
            # /sbin/driverctl is what the service that starts with the machine calls.
            self.run_in_guest("modprobe vfio_iommu_type1 allow_unsafe_interrupts=1")
            self.run_in_guest(f"blobfs-nvme bind {DEVICE}")
            self.run_in_guest(f"! [ -e {SAVED} ]")
            self.run_in_guest(f"blobfs-nvme unbind {DEVICE}")
            self.assertEqual(self.driver(), "nvme")
            self.run_in_guest(f"blobfs-nvme bind --persist {DEVICE}")
            self.assertEqual(self.driver(), "vfio-pci")
            self.assertEqual(self.run_in_guest(f"cat {SAVED}").strip(), "vfio-pci")
            self.assertIn("vfio-pci", self.run_in_guest("driverctl list-overrides"))
            # As after a start of the machine: the kernel's driver has it, then the service runs.
            self.run_in_guest(f"ssd-driver {DEVICE} nvme")
            self.run_in_guest(f"driverctl load-override {DEVICE}")
            self.assertEqual(self.driver(), "vfio-pci")
            self.run_in_guest(f"blobfs-nvme unbind --persist {DEVICE}")
            self.assertEqual(self.driver(), "nvme")
            self.run_in_guest(f"! [ -e {SAVED} ] && ! driverctl load-override {DEVICE}")


if __name__ == "__main__":
    main(driverctl)
