#!/bin/bash
# fio writes and verifies every block by checksum: buffered, direct (the first argument), from several
# jobs at once, and once more after a remount.
# shellcheck source-path=SCRIPTDIR
source "$(dirname "$0")/lib.sh"
kind=${1:?buffered or direct}
needs fio
make_filesystem disk 1G
mount_filesystem disk
direct=0
engines=(psync mmap)
[[ $kind == direct ]] && direct=1 && engines=(psync libaio)

run() { # name, further arguments
    local name=$1
    shift
    fio --name="$name" --directory="$(mount_of disk)" --minimal --output="$WORK/log/fio-$name.log" \
        --direct=$direct --verify=crc32c --verify_fatal=1 --randrepeat=1 --fallocate=none "$@" ||
        fail "fio $name: $(tail -n 5 "$WORK/log/fio-$name.log")"
}

size=$((96 / SLOW))M
for engine in "${engines[@]}"; do
    depth=1
    [[ $engine == libaio ]] && depth=16
    run "random-$engine" --ioengine="$engine" --iodepth=$depth --rw=randwrite --bs=4k --size=$((48 / SLOW))M
    run "mixed-$engine" --ioengine="$engine" --iodepth=$depth --rw=randrw --bsrange=4k-256k --bs_unaligned=0 \
        --blockalign=4k --size=$size --numjobs=2
done
run sequential --ioengine=psync --rw=write --bs=1M --size=$size --fsync=16 --do_verify=1
[[ $kind == buffered ]] && run odd --ioengine=psync --rw=randwrite --bsrange=1k-100k --bs_unaligned=1 --norandommap --verify=0 --size=$size
remount_filesystem disk
run sequential --ioengine=psync --rw=write --bs=1M --size=$size --verify_only
run "random-psync" --ioengine=psync --rw=randwrite --bs=4k --size=$((48 / SLOW))M --verify_only
unmount_filesystem disk
