#!/bin/bash
# Three mounts of three devices work at the same time, and one that dies does not touch the others.
# shellcheck source-path=SCRIPTDIR
source "$(dirname "$0")/lib.sh"
for name in one two three; do
    make_filesystem $name 256M
    mount_filesystem $name
done
work() {
    cp -a "$BLOBFS_SOURCE/driver" "$(mount_of "$1")/tree"
    head -c 20000000 /dev/urandom >"$(mount_of "$1")/random"
    echo "$1" >"$(mount_of "$1")/name"
    b2sum <"$(mount_of "$1")/random" >"$WORK/$1.sum"
}
workers=()
for name in one two three; do
    work $name &
    workers+=($!)
done
for pid in "${workers[@]}"; do wait "$pid"; done
if [[ $BLOBFS_E2E_BACKEND == blobfs ]]; then
    # What was answered more than a second ago survives the end of the daemon.
    sleep 1.6
    kill_daemon two
    mount_filesystem two
fi
for name in one two three; do
    remount_filesystem $name
    equal "$(<"$(mount_of $name)/name")" $name "whose filesystem this is"
    equal "$(b2sum <"$(mount_of $name)/random")" "$(<"$WORK/$name.sum")" "the file of $name"
    diff -r "$BLOBFS_SOURCE/driver" "$(mount_of $name)/tree"
done
for name in three one two; do unmount_filesystem $name; done
