#!/bin/bash
# The conformance suite (tests/posix): each case is proven on ext4 first, then it judges blobfs.
# shellcheck source-path=SCRIPTDIR
source "$(dirname "$0")/lib.sh"
needs_root
: "${BLOBFS_POSIX:?run this by ctest}"

# suite BACKEND: all cases on a filesystem of that kind.
suite() {
    local name=$1
    BLOBFS_E2E_BACKEND=$1
    make_filesystem "$name" 512M
    mount_filesystem "$name"
    mkdir "$(mount_of "$name")/cases"
    chmod 755 "$WORK/mnt"
    say "on $name"
    BLOBFS_POSIX_FILESYSTEM=$name BLOBFS_POSIX_FOLDER=$(mount_of "$name")/cases \
        "$BLOBFS_POSIX" --gtest_brief=1 --gtest_filter="${BLOBFS_POSIX_FILTER:-*}" ||
        fail "cases fail on $name"
    remount_filesystem "$name"
    unmount_filesystem "$name"
}

if losetup -f >/dev/null 2>&1; then
    suite ext4
else
    say "no loop devices here: the cases are not held against ext4"
fi
suite blobfs
