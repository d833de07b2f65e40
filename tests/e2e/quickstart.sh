#!/bin/bash
# tools/quickstart as a user runs it: makes an image, formats, mounts; run again says that it is
# mounted; after umount mounts what is there; never touches a file that is something else.
# shellcheck source-path=SCRIPTDIR
source "$(dirname "$0")/lib.sh"
needs_blobfs
[[ $BLOBFS_BUILD == "$BLOBFS_SOURCE/build/release" ]] || skip "builds into build/release, this is another build"
quickstart=$BLOBFS_SOURCE/tools/quickstart
image=$WORK/place/disk.img
folder=$WORK/mnt/blobfs
export HOME=$WORK/home
mkdir "$HOME"

"$quickstart" "$image" "$folder" >"$WORK/log/first.txt"
grep -q "Unmount it" "$WORK/log/first.txt" || fail "quickstart does not say how to unmount"
mountpoint -q "$folder" || fail "quickstart did not mount"
equal "$(stat -c %s "$image")" $((8 << 30)) "size of the image"
(($(du -m "$image" | cut -f1) < 200)) || fail "the image is not sparse"
# What it says to try works.
sed -n 's/^    //p' "$WORK/log/first.txt" >"$WORK/tour"
echo "$(wc -l <"$WORK/tour") commands to try"
bash -euo pipefail "$WORK/tour" || fail "what quickstart says to try fails"
unlocked() { ! "$BLOBFS_PROBE" locked "$image" 2>/dev/null; }
! mountpoint -q "$folder" || fail "the tour does not end with umount"
wait_until 10 unlocked

start=$SECONDS
"$quickstart" "$image" "$folder" >"$WORK/log/second.txt"
((SECONDS - start < 30)) || fail "the second run took $((SECONDS - start)) s"
[[ -d $folder/include ]] || fail "what was there is gone"
"$quickstart" "$image" "$folder" >"$WORK/log/third.txt"
grep -q "mounted already" "$WORK/log/third.txt" || fail "quickstart does not notice its mount"
umount "$folder"
wait_until 10 unlocked

echo "not a filesystem" >"$WORK/letter"
before=$(stat -c '%s %y %z' "$WORK/letter")
refused "left alone" "$quickstart" "$WORK/letter" "$folder"
equal "$(stat -c '%s %y %z' "$WORK/letter")" "$before" "a file that is something else"
mkdir "$WORK/full" && touch "$WORK/full/x"
refused "not empty" "$quickstart" "$image" "$WORK/full"
refused "usage" "$quickstart" --nonsense
