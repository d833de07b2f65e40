"""The driver against QEMU's NVMe controllers, over PCIe."""

from harness import GuestCase, machine, main, program

LIMITS = [  # LBA bytes, longest transfer, namespaces
    (512, 512 << 10, 1),
    (4096, 512 << 10, 3),
    (512, 8 << 10, 1),
    (4096, None, 1),
]
BROKEN = len(LIMITS)  # an SSD with a sector that cannot be read
DOOMED = BROKEN + 1   # an SSD that is pulled out under load
METADATA = BROKEN + 2  # an SSD with a format that cannot be used
VFIO = "vfio-pci"
UIO = "uio_pci_generic"


def address(index):
    return machine.address(index)


class ThroughVfio(GuestCase):
    """Controllers of many shapes in one machine, behind its IOMMU."""

    @classmethod
    def setUpClass(cls):
        ssds = [machine.Ssd(size=64 << 20, lba=lba, mdts=mdts, namespaces=spaces)
                for lba, mdts, spaces in LIMITS]
        ssds += [machine.Ssd(size=64 << 20, read_errors=(1 << 20,)), machine.Ssd(size=64 << 20),
                 machine.Ssd(size=64 << 20, metadata=8)]
        cls.guest = machine.Machine(machine.Options(
            ssds=ssds, files=[program("tests/guest/nvme_exerciser")]))

    def setUp(self):
        self.run_in_guest("set -e\n" + "".join(
            f"[ ! -e /sys/bus/pci/devices/{address(i)} ] || ssd-driver {address(i)} {VFIO}\n"
            for i in range(METADATA + 1)))

    @classmethod
    def tearDownClass(cls):
        cls.guest.close()

    def properties(self, device):
        output = self.run_in_guest(f"nvme_exerciser show {device}")
        lines = (line.split(" ", 1) for line in output.splitlines() if not line.startswith("["))
        return {line[0]: line[1] for line in lines if len(line) == 2}

    def test_properties_are_those_of_the_controller(self):
        for index, (lba, mdts, _) in enumerate(LIMITS):
            with self.subTest(lba=lba, mdts=mdts):
                found = self.properties(address(index))
                self.assertEqual(found["serial"], f"blobfs{index}")
                self.assertEqual(found["model"], "QEMU NVMe Ctrl")
                self.assertEqual(int(found["bytes"]), 64 << 20)
                self.assertEqual(int(found["lba_bytes"]), lba)
                longest = int(found["max_transfer_bytes"])
                self.assertEqual(found["compare"], "1")
                # A command has one page of PRP list, so 2 MiB is what it can name at all.
                self.assertEqual(longest, mdts if mdts is not None else 2 << 20)

    def test_kernel_driver_reads_what_was_written_and_the_other_way_round(self):
        for index, (lba, mdts, _) in enumerate(LIMITS):
            with self.subTest(lba=lba, mdts=mdts):
                device = address(index)
                self.run_in_guest(f"""set -e
                    nvme_exerciser model {device} /tmp/model --seed {index + 1} \
                        --operations 120 --bytes 16777216
                    disk=$(ssd-driver {device} nvme)
                    cmp -n $(stat -c %s /tmp/model) /tmp/model $disk
                    dd if=/dev/urandom of=/tmp/model bs=1M count=16 2>/dev/null
                    dd if=/tmp/model of=$disk bs=1M conv=fsync 2>/dev/null
                    ssd-driver {device} {VFIO}
                    nvme_exerciser compare {device} /tmp/model
                    rm /tmp/model""")

    def test_threads_have_queues_of_their_own_and_what_qemu_offers_is_used(self):
        device = address(3)
        output = self.run_in_guest(f"""set -e
            nvme_exerciser model {device} /tmp/model --queues 4 --seed 7 \
                --operations 200 --bytes 16777216
            nvme_exerciser compare {device} /tmp/model
            rm /tmp/model""")
        self.assertIn("sgls 1", output)
        self.assertIn("unwritten_doorbells 1", output)

    def test_format_with_metadata_is_refused_by_name(self):
        status, output = self.guest.run(f"nvme_exerciser show {address(METADATA)}")
        self.assertEqual(status, 3, output)
        self.assertIn("formatted with 8 bytes of metadata per block", output)

    def test_media_that_become_read_only_take_no_more_writes(self):
        device = address(0)
        output = self.under_load(device, lambda: self.guest.set_critical_warning(0, 1 << 3))
        self.guest.set_critical_warning(0, 0)
        self.assertIn("its media have become read-only", output)
        self.assertEqual(output.count("ended: writing to the device"), 8, output)

    def test_each_namespace_is_a_device_of_its_own(self):
        device = address(1)
        self.run_in_guest(f"""set -e
            for n in 1 2 3; do
                nvme_exerciser model {device},ns=$n /tmp/model$n --seed 4$n \
                    --operations 40 --bytes 4194304
            done
            for n in 1 2 3; do nvme_exerciser compare {device},ns=$n /tmp/model$n; done
            ! cmp -s /tmp/model1 /tmp/model2
            rm /tmp/model?""")
        status, output = self.guest.run(f"nvme_exerciser show {device},ns=4")
        self.assertEqual(status, 3)
        self.assertIn("ns=4" if "ns=4" in output else "namespace", output)

    def test_second_process_is_refused(self):
        device = address(0)
        status, output = self.guest.run(f"""
            nvme_exerciser load {device} >/tmp/first 2>&1 & first=$!
            while ! grep -q 'under load' /tmp/first; do sleep 0.1; done
            nvme_exerciser show {device}; status=$?
            kill -9 $first; wait $first 2>/dev/null
            exit $status""")
        self.assertEqual(status, 3)
        self.assertIn("another process uses it", output)

    def test_controller_of_a_killed_process_comes_up_again(self):
        device = address(0)
        self.run_in_guest(f"""set -e
            nvme_exerciser load {device} >/tmp/killed 2>&1 & first=$!
            while ! grep -q 'under load' /tmp/killed; do sleep 0.1; done
            sleep 0.5; kill -9 $first; ! wait $first 2>/dev/null
            nvme_exerciser model {device} /tmp/model --operations 40 --bytes 4194304
            rm /tmp/model""")

    def test_member_of_a_group_with_the_right_needs_not_be_root(self):
        device = address(0)
        status, output = self.guest.run(f"su tester -c 'nvme_exerciser show {device}'")
        self.assertEqual(status, 3)
        self.assertIn("run as root or make the file yours", output)
        self.run_in_guest(f"""set -e
            group=$(basename $(readlink /sys/bus/pci/devices/{device}/iommu_group))
            chgrp tester /dev/vfio/$group; chmod 660 /dev/vfio/$group
            ulimit -l unlimited
            su tester -c 'nvme_exerciser model {device} /tmp/model --operations 40'
            rm /tmp/model; chgrp root /dev/vfio/$group""")

    def test_device_of_the_kernel_is_not_taken(self):
        device = address(3)
        self.run_in_guest(f"ssd-driver {device} nvme")
        status, output = self.guest.run(f"nvme_exerciser show {device}")
        self.assertEqual(status, 3)
        self.assertIn("the kernel's driver nvme has it", output)

    def test_unreadable_sector_is_an_error_and_the_others_are_not(self):
        device = address(BROKEN)
        self.run_in_guest("dd if=/dev/zero of=/tmp/one bs=1M count=1; "
                          f"nvme_exerciser compare {device} /tmp/one")
        status, output = self.guest.run("dd if=/dev/zero of=/tmp/two bs=1M count=2; "
                                        f"nvme_exerciser compare {device} /tmp/two")
        self.assertEqual(status, 2, output)
        self.assertRegex(output, "failed: .*(read|SCT|status)")

    def test_removed_device_ends_every_request_with_an_error(self):
        device = address(DOOMED)
        output = self.under_load(device, lambda: self.guest.remove_ssd(DOOMED))
        self.assertEqual(output.count("ended: "), 8, output)
        self.assertIn("the device is being removed", output)
        # The kernel had waited for us; now it is through with the removal.
        self.run_in_guest(f"""
            for i in $(seq 100); do
                [ -e /sys/bus/pci/devices/{device} ] || exit 0
                sleep 0.1
            done
            exit 1""")


class ThroughUio(GuestCase):
    """No IOMMU: physical addresses."""

    def test_data_is_what_was_written_and_a_second_process_is_refused(self):
        device = address(0)
        options = machine.Options(ssds=[machine.Ssd(size=64 << 20)], iommu=False,
                                  files=[program("tests/guest/nvme_exerciser"),
                                         program("tools/nvme/blobfs-nvme")])
        with machine.Machine(options) as self.guest:
            status, output = self.guest.run(f"blobfs-nvme bind --driver {VFIO} {device}")
            self.assertEqual(status, 1, output)
            self.assertIn("has no IOMMU before it", output)
            output = self.run_in_guest(f"""set -e
                blobfs-nvme bind {device}
                [ $(basename $(readlink /sys/bus/pci/devices/{device}/driver)) = {UIO} ]
                nvme_exerciser model {device} /tmp/model --operations 120 --bytes 16777216
                nvme_exerciser compare {device} /tmp/model""")
            self.assertIn("safer", output)
            status, output = self.guest.run(f"""
                nvme_exerciser load {device} >/tmp/first 2>&1 & first=$!
                while ! grep -q 'under load' /tmp/first; do sleep 0.1; done
                nvme_exerciser show {device}; status=$?
                kill -9 $first; wait $first 2>/dev/null
                nvme_exerciser show {device} || exit 99
                exit $status""")
            self.assertEqual(status, 3, output)
            self.assertIn("another process uses it", output)
            self.removal(device)

    def removal(self, device):
        output = self.under_load(device, lambda: self.guest.remove_ssd(0))
        self.assertEqual(output.count("ended: "), 8, output)


if __name__ == "__main__":
    main()
