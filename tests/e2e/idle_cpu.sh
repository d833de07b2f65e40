#!/bin/bash
# A mount that nobody uses takes less than 1 % of a core: right after mounting, and after work.
# shellcheck source-path=SCRIPTDIR
source "$(dirname "$0")/lib.sh"
needs_blobfs
make_filesystem disk 256M
mount_filesystem disk
pid=${DAEMON[disk]}

cpu_nanoseconds() { cat "/proc/$pid"/task/*/schedstat | awk '{ sum += $1 } END { print sum }'; }
measure() { # what, seconds
    local before after start end
    before=$(cpu_nanoseconds)
    start=$(date +%s%N)
    sleep "$2"
    after=$(cpu_nanoseconds)
    end=$(date +%s%N)
    awk -v what="$1" -v cpu=$((after - before)) -v wall=$((end - start)) -v name="$SCENARIO" 'BEGIN {
        printf "%s: %s: %.3f %% of a core over %.1f s (limit 1 %%)\n", name, what, cpu / wall * 100, wall / 1e9
        exit !(cpu / wall < 0.01) }' || fail "an idle mount uses too much CPU"
}
sleep 1
measure "idle after mounting" 5
cp -a "$BLOBFS_SOURCE/driver" "$(mount_of disk)/"
sleep 7
measure "idle after work" 8
unmount_filesystem disk
