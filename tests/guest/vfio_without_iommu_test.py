"""A controller taken over through VFIO on a machine that has no IOMMU.

Debian's kernels are built without CONFIG_VFIO_NOIOMMU. BLOBFS_GUEST_MODULES names a folder with
modules of the guest's kernel that were built with it (tests/README.md).
"""

from harness import GuestCase, Unavailable, kernel, machine, main, program

DEVICE = machine.address(0)
MODE = "enable_unsafe_noiommu_mode"


def require():
    if not kernel.obtain().has_parameter("vfio", MODE):
        raise Unavailable("the guest's kernel is built without CONFIG_VFIO_NOIOMMU; "
                          "BLOBFS_GUEST_MODULES may name a folder with modules that have it")


class VfioWithoutIommu(GuestCase):
    @classmethod
    def setUpClass(cls):
        cls.guest = machine.Machine(machine.Options(
            ssds=[machine.Ssd(size=64 << 20)], iommu=False,
            files=[program("tests/guest/nvme_exerciser"), program("tools/nvme/blobfs-nvme")]))

    @classmethod
    def tearDownClass(cls):
        cls.guest.close()

    def test_device_is_driven_shared_with_nobody_and_removed(self):
        # Where nobody has allowed it, it is refused and nothing has changed.
        status, output = self.guest.run(f"blobfs-nvme bind --driver vfio-pci {DEVICE}")
        self.assertEqual(status, 1, output)
        self.assertIn(MODE, output)
        self.run_in_guest(f"[ $(basename $(readlink /sys/bus/pci/devices/{DEVICE}/driver)) = nvme ]")
        self.run_in_guest(f"modprobe vfio {MODE}=1")
        self.run_in_guest(f"blobfs-nvme bind --driver vfio-pci {DEVICE}; ls /dev/vfio/noiommu-0")
        output = self.run_in_guest("blobfs-nvme status")
        self.assertIn("no IOMMU stands before it", output)
        output = self.run_in_guest(f"""set -e
            nvme_exerciser model {DEVICE} /tmp/model --operations 120 --bytes 16777216
            nvme_exerciser compare {DEVICE} /tmp/model""")
        self.assertIn("VFIO without an IOMMU", output)
        self.run_in_guest(f"""set -e
            disk=$(ssd-driver {DEVICE} nvme)
            cmp -n $(stat -c %s /tmp/model) /tmp/model $disk
            blobfs-nvme bind --driver vfio-pci {DEVICE}""")
        status, output = self.guest.run(f"""
            nvme_exerciser load {DEVICE} >/tmp/first 2>&1 & first=$!
            while ! grep -q 'under load' /tmp/first; do sleep 0.1; done
            nvme_exerciser show {DEVICE}; status=$?
            kill -9 $first; wait $first 2>/dev/null
            nvme_exerciser show {DEVICE} || exit 99
            exit $status""")
        self.assertEqual(status, 3, output)
        self.assertIn("another process uses it", output)
        output = self.under_load(DEVICE, lambda: self.guest.remove_ssd(0))
        self.assertEqual(output.count("ended: "), 8, output)


if __name__ == "__main__":
    main(require)
