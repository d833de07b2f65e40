"""blobfs-nvme and blobfs-perf on QEMU's NVMe controllers."""

import json

from harness import GuestCase, machine, main, program

PROGRAMS = ("tools/nvme/blobfs-nvme", "tools/perf/blobfs-perf")
FIRST, SECOND = machine.address(0), machine.address(1)


class Tools(GuestCase):
    @classmethod
    def setUpClass(cls):
        cls.guest = machine.Machine(machine.Options(
            ssds=[machine.Ssd(size=64 << 20), machine.Ssd(size=32 << 20, lba=4096, namespaces=2)],
            files=[program(relative) for relative in PROGRAMS], hugepages=0))

    @classmethod
    def tearDownClass(cls):
        cls.guest.close()

    def setUp(self):
        # The emulated IOMMU has no interrupt remapping.
        self.run_in_guest("modprobe vfio_iommu_type1 allow_unsafe_interrupts=1")

    def json_of(self, command):
        return json.loads(self.run_in_guest(f"{command} 2>/dev/null"))

    def bind(self, address):
        self.run_in_guest(f"blobfs-nvme bind --hugemem 256 {address}")

    def unbind(self, address):
        self.run_in_guest(f"blobfs-nvme unbind {address}\nfor i in $(seq 100); do "
                          f"ls /sys/bus/pci/devices/{address}/nvme/nvme*/nvme*n1 && exit 0; "
                          "sleep 0.1; done 2>/dev/null; exit 1")

    def refused(self, command, *reasons):
        status, output = self.guest.run(command)
        self.assertEqual(status, 1, output)
        for reason in reasons:
            self.assertIn(reason, output)

    def test_reports_are_the_same_whoever_has_the_controller(self):
        self.unbind(SECOND)
        by_kernel = self.json_of(f"blobfs-nvme identify --json {SECOND}")
        self.bind(SECOND)
        by_us = self.json_of(f"blobfs-nvme --json identify {SECOND}")
        self.assertEqual(by_kernel, by_us)
        self.assertEqual(by_us["serial"], "blobfs1")
        self.assertEqual([space["bytes"] for space in by_us["namespaces"]], [32 << 20] * 2)
        self.assertTrue(all(space["usable"] for space in by_us["namespaces"]))
        self.assertEqual(by_us["max_transfer_bytes"], 512 << 10)
        self.assertIn("QEMU NVMe Ctrl", self.run_in_guest(f"blobfs-nvme identify {SECOND}"))
        self.assertEqual(self.json_of(f"blobfs-nvme error-log --json {SECOND}"), {"errors": []})

    def test_health_is_what_the_controller_says(self):
        for hand_over in (self.unbind, self.bind):
            hand_over(FIRST)
            self.guest.set_critical_warning(0, 1 << 3)
            health = self.json_of(f"blobfs-nvme smart --json {FIRST}")
            self.assertEqual(health["critical_warnings"], ["the media are read-only"])
            self.guest.set_critical_warning(0, 0)
            health = self.json_of(f"blobfs-nvme smart --json {FIRST}")
            self.assertEqual(health["critical_warnings"], [])
            self.assertGreater(health["temperature"], 0)

    def test_controller_in_use_is_not_taken_and_the_user_named(self):
        self.unbind(FIRST)
        disk = "/dev/" + self.run_in_guest(
            f"basename /sys/bus/pci/devices/{FIRST}/nvme/nvme*/nvme*n1").strip()
        self.run_in_guest(f"mkswap {disk} && swapon {disk}")
        self.refused(f"blobfs-nvme bind {FIRST}", f"{FIRST} is in use", disk, "swap")
        self.assertIn("swap", self.run_in_guest("blobfs-nvme status"))
        self.run_in_guest(f"swapoff {disk}; dd if=/dev/zero of={disk} bs=1M count=1 conv=fsync")

    def test_dry_run_changes_nothing_and_persistence_is_only_on_request(self):
        self.unbind(FIRST)
        plan = self.run_in_guest(f"blobfs-nvme bind --dry-run --hugemem 512 {FIRST}")
        self.assertIn("modprobe vfio-pci", plan)
        self.assertIn("nr_hugepages", plan)
        self.assertNotIn("driverctl", plan)
        plan = self.run_in_guest(f"blobfs-nvme bind --dry-run --persist {FIRST}")
        self.assertIn(f"driverctl set-override {FIRST} vfio-pci", plan)
        self.assertNotIn("driver_override", plan)
        listed = self.json_of("blobfs-nvme list --json")["controllers"]
        self.assertEqual({c["address"]: c["driver"] for c in listed}[FIRST], "nvme")
        self.refused(f"blobfs-nvme bind --persist {FIRST}", "driverctl", "installed?")
        self.bind(FIRST)
        listed = self.json_of("blobfs-nvme --json status")
        first = next(c for c in listed["controllers"] if c["address"] == FIRST)
        self.assertEqual((first["driver"], first["missing"]), ("vfio-pci", []))
        self.run_in_guest(f"blobfs-nvme reset {FIRST}")

    def test_benchmark_measures_and_does_not_destroy(self):
        self.unbind(FIRST)
        disk = "/dev/" + self.run_in_guest(
            f"basename /sys/bus/pci/devices/{FIRST}/nvme/nvme*/nvme*n1").strip()
        self.run_in_guest(f"echo mine | dd of={disk} bs=512 seek=7 conv=sync,fsync")
        self.bind(FIRST)
        perf = f"blobfs-perf --time 0.3 --warm-up 0.1 --size 8M {FIRST} --json"
        status, output = self.guest.run(f"{perf} -w write")
        self.assertEqual(status, 1, output)
        self.assertIn("holds data (at byte 3584)", output)
        read = self.json_of(perf)
        self.assertGreater(read["read"]["ios"], 0)
        self.assertIn("never written", read["warnings"][0])
        self.assertEqual(read["device"]["serial"], "blobfs0")
        mixed = self.json_of(f"{perf} -w mixed --precondition --force")
        self.assertGreater(mixed["read"]["ios"] + mixed["write"]["ios"], 0)
        # An emulated processor's time-stamp counter earns a warning of its own.
        self.assertNotIn("never written", str(mixed["warnings"]))
        self.unbind(FIRST)
        # The whole region, and nothing behind it.
        self.run_in_guest(f"dd if={disk} bs=1M count=8 | tr -d '\\0' | head -c 1 | grep -q . && "
                          f"dd if={disk} bs=1M skip=8 | cmp -n $((56 << 20)) - /dev/zero")


if __name__ == "__main__":
    main()
