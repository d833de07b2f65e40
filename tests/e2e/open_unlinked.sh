#!/bin/bash
# A file that was unlinked while it is open can be read and written until it is closed, then its space
# comes back; also when the daemon dies in between, at the next mount.
# shellcheck source-path=SCRIPTDIR
source "$(dirname "$0")/lib.sh"
make_filesystem disk 512M
mount_filesystem disk
folder=$(mount_of disk)
mebibyte=1048576

head -c $((40 * mebibyte)) /dev/urandom >"$WORK/data"
cp "$WORK/data" "$folder/kept"
sync -f "$folder"
before=$(used_bytes "$folder")
cp "$WORK/data" "$folder/gone"
exec 5<>"$folder/gone"
rm "$folder/gone"
[[ ! -e $folder/gone ]] || fail "the name is still there"
equal "$(stat -Lc %h /dev/fd/5)" 0 "links of the unlinked file"
cmp /dev/fd/5 "$WORK/data" || fail "the unlinked file reads wrong"
echo more >>/proc/self/fd/5
equal "$(stat -Lc %s /dev/fd/5)" $((40 * mebibyte + 5)) "size of the unlinked file"
sync -f "$folder"
((($(used_bytes "$folder") - before) > 30 * mebibyte)) || fail "the space went while the file was open"
exec 5>&-
space_is_back() { sync -f "$folder" && (($(used_bytes "$folder") - before < 4 * mebibyte)); }
wait_until $((20 * SLOW)) space_is_back || fail "the space of the closed file did not come back: $before $(used_bytes "$folder")"

# A directory that is somebody's working directory.
mkdir "$folder/dir"
(cd "$folder/dir" && rmdir "$folder/dir" && [[ -z $(ls -A .) ]] && ! touch x 2>/dev/null) ||
    fail "a removed working directory does not behave"

if [[ $BLOBFS_E2E_BACKEND == blobfs ]]; then
    cp "$WORK/data" "$folder/orphan"
    sync -f "$folder"
    exec 5<"$folder/orphan"
    rm "$folder/orphan"
    sync "$folder/kept"
    sync -f "$folder"
    kill_daemon disk
    exec 5<&- || true
    mount_filesystem disk
    wait_until $((20 * SLOW)) space_is_back || fail "the orphan's space did not come back: $before $(used_bytes "$folder")"
    [[ ! -e $folder/orphan ]] || fail "the orphan has a name"
    cmp "$folder/kept" "$WORK/data"
fi
unmount_filesystem disk
