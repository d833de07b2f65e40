#!/bin/sh
# ssd-driver ADDRESS DRIVER: hands a PCI device to vfio-pci, uio_pci_generic or nvme, with no
# question asked; with nvme it waits for the disk and names it. For a real machine, where questions
# matter, there is blobfs-nvme.
set -e
device=/sys/bus/pci/devices/$1
driver=$2
case $driver in
vfio-pci)
    modprobe vfio-pci
    # The emulated IOMMU has no interrupt remapping.
    modprobe vfio_iommu_type1 allow_unsafe_interrupts=1
    ;;
uio_pci_generic) modprobe uio_pci_generic ;;
esac
[ "$(basename "$(readlink "$device/driver")")" = "$driver" ] && [ "$driver" != nvme ] && exit 0
[ -e "$device/driver" ] && echo "$1" >"$device/driver/unbind"
echo "$driver" >"$device/driver_override"
echo "$1" >/sys/bus/pci/drivers_probe
[ "$(basename "$(readlink "$device/driver")")" = "$driver" ]
[ "$driver" = nvme ] || exit 0
for i in $(seq 100); do
    for disk in "$device"/nvme/nvme*/nvme*n1; do
        disk=/dev/$(basename "$disk")
        [ -b "$disk" ] && echo "$disk" && exit 0
    done
    sleep 0.1
done
exit 1
