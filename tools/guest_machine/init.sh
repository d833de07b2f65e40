#!/bin/busybox sh
# The guest's first process: mounts what every system has, then either gives a shell on the console
# or carries out what comes over the second serial line: one line of base64 is one shell script,
# its answer is its output and a line with the marker that the script's first line names.
/bin/busybox --install -s /bin
export PATH=/files:/bin:/sbin HOME=/root TERM=linux
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
mkdir -p /dev/pts /dev/shm /dev/hugepages
mount -t devpts none /dev/pts
mount -t tmpfs none /dev/shm
mount -t tmpfs none /tmp
mount -t tmpfs none /run
mount -t hugetlbfs none /dev/hugepages
chmod 1777 /tmp
hostname guest
for word in $(cat /proc/cmdline); do
    case $word in
    blobfs.*) export "${word#blobfs.}" ;;
    esac
done
echo "${hugepages:-0}" >/proc/sys/vm/nr_hugepages
modprobe fuse
modprobe loop 2>/dev/null

if [ -n "$interactive" ]; then
    cat <<'TEXT'

A machine with emulated NVMe SSDs. The programs under test are in /files and on the PATH.
  ssd-driver ADDRESS vfio-pci|uio_pci_generic|nvme   hands an SSD to a driver
  exit                                               switches the machine off
TEXT
    for ssd in /sys/class/nvme/nvme*; do
        [ -e "$ssd" ] && echo "  SSD $(basename "$(readlink -f "$ssd/device")") $(cat "$ssd/serial")"
    done
    setsid cttyhack sh -l
    poweroff -f
fi

stty raw -echo </dev/ttyS1
exec 3<>/dev/ttyS1
echo ready >&3
while read -r line <&3; do
    echo "$line" | base64 -d >/run/script
    marker=$(sed -n '1s/^# //p' /run/script)
    sh /run/script </dev/null >&3 2>&1 3>&-
    printf '\n%s %s\n' "$marker" $? >&3
done
poweroff -f
