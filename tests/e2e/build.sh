#!/bin/bash
# This project configures and builds on the filesystem, and what was built runs from it: the driver
# library, and what mkfs looks at devices with, and that part's tests (the rest is left out for time).
# shellcheck source-path=SCRIPTDIR
source "$(dirname "$0")/lib.sh"
needs cmake ninja g++
export CCACHE_DISABLE=1
make_filesystem disk 4G
mount_filesystem disk
project="$(mount_of disk)/blobfs"
mkdir "$project"
tar -C "$BLOBFS_SOURCE" --exclude=./build --exclude=./.git -cf - . | tar -C "$project" -xf -
cd "$project"
cmake -G Ninja -S . -B build/e2e -DCMAKE_BUILD_TYPE=Debug >"$WORK/log/configure.log" 2>&1
cmake --build build/e2e -j2 --target blobfs_driver_reactor mkfs_survey_test >"$WORK/log/build.log" 2>&1
# Nothing is out of date: the times are right.
cmake --build build/e2e --target blobfs_driver_reactor mkfs_survey_test | tail -n 1 | grep -q 'no work to do' ||
    fail "a second build finds work to do"
cd "$WORK"
remount_filesystem disk
cd "$project"
cmake --build build/e2e --target blobfs_driver_reactor mkfs_survey_test | tail -n 1 | grep -q 'no work to do' ||
    fail "a build after the remount finds work to do"
TMPDIR=$project build/e2e/tests/mkfs/mkfs_survey_test >"$WORK/log/run.log"
cd "$WORK"
unmount_filesystem disk
