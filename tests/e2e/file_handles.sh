#!/bin/bash
# name_to_handle_at, open_by_handle_at: handles of files and directories lead there after a remount and
# after a killed daemon, whatever was renamed; those of what was deleted are stale, also when many new
# files were made since.
# shellcheck source-path=SCRIPTDIR
source "$(dirname "$0")/lib.sh"
needs_root
make_filesystem disk 256M
mount_filesystem disk
folder=$(mount_of disk)
keep() { "$BLOBFS_PROBE" keep-handle "$folder/$1" "$WORK/$2"; }
leads_to() { "$BLOBFS_PROBE" handle-is "$folder" "$WORK/$1" "$folder/$2"; }
is_stale() { "$BLOBFS_PROBE" handle-is-stale "$folder" "$WORK/$1"; }

mkdir -p "$folder/a/b" "$folder/c" "$folder/gone-directory"
echo content >"$folder/a/b/file"
ln "$folder/a/b/file" "$folder/second"
echo gone >"$folder/gone"
keep a/b/file file
keep a/b directory
keep . root
keep gone gone
keep gone-directory gone-directory
mv "$folder/a/b" "$folder/c/moved"
rm "$folder/gone"
rmdir "$folder/gone-directory"
(cd "$folder" && seq -f 'new-%g' 200 | xargs touch)

check() {
    leads_to file second
    leads_to file c/moved/file
    leads_to directory c/moved
    leads_to root .
    is_stale gone
    is_stale gone-directory
}
check
remount_filesystem disk
check
rm "$folder/second" "$folder/c/moved/file"
is_stale file
sync -f "$folder"
if [[ $BLOBFS_E2E_BACKEND == blobfs ]]; then
    touch "$folder/last" && sync "$folder/last"
    kill_daemon disk
    mount_filesystem disk
    leads_to directory c/moved
    is_stale file
    (cd "$folder" && seq -f 'newer-%g' 200 | xargs touch)
    is_stale file
    is_stale gone
fi
unmount_filesystem disk
