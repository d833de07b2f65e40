#!/bin/bash
# What the kernel may have wrong it is told to ask anew, a moment later: the attributes of a directory in
# which a name came or went, and of a file that lost one of several names. Seen by the requests that the
# daemon counts (SIGUSR1): nothing else makes a second stat(1) ask.
# shellcheck source-path=SCRIPTDIR
source "$(dirname "$0")/lib.sh"
needs_blobfs
make_filesystem disk 64M
mount_filesystem disk
folder=$(mount_of disk)
log=$WORK/log/disk.log

# asked: how many GETATTR the daemon has served.
asked() {
    local before
    before=$(grep -c "requests [0-9]" "$log" || true)
    kill -USR1 "${DAEMON[disk]}"
    # shellcheck disable=SC2317 # by wait_until
    told() { (($(grep -c "requests [0-9]" "$log") > before)); }
    wait_until 20 told || fail "the daemon does not say what it has served"
    grep "requests [0-9]" "$log" | tail -n 1 | grep -oE 'GETATTR [0-9]+' | cut -d ' ' -f 2 || echo 0
}
asks_anew() {
    stat -c '%h %Y' "$1" >/dev/null
    (($(asked) > known))
}
# refreshed PATH COMMAND...: after the command the kernel asks for the attributes of the path, and a
# moment later, when it has them, once more.
refreshed() {
    local path=$1
    shift
    "$@"
    stat -c '%h %Y' "$path" >/dev/null
    known=$(asked)
    wait_until $((20 * SLOW)) asks_anew "$path" || fail "the attributes of $path were never asked for anew after: $*"
}

mkdir "$folder/dir" "$folder/other"
refreshed "$folder/dir" touch "$folder/dir/file"
refreshed "$folder/dir" mkdir "$folder/dir/sub"
refreshed "$folder/dir" ln -s target "$folder/dir/link"
refreshed "$folder/dir" mkfifo "$folder/dir/pipe"
refreshed "$folder/dir" ln "$folder/dir/file" "$folder/dir/second"
refreshed "$folder/dir" rm "$folder/dir/pipe"
refreshed "$folder/dir" rmdir "$folder/dir/sub"
refreshed "$folder/dir" mv "$folder/dir/link" "$folder/dir/moved"
refreshed "$folder/other" mv "$folder/dir/moved" "$folder/other/moved"
refreshed "$folder/dir" mv "$folder/other/moved" "$folder/dir/moved"
# By a name in a directory in which nothing changes: looking a name up asks for its directory, too.
refreshed "$folder/other" ln "$folder/dir/file" "$folder/other/third"
refreshed "$folder/other/third" rm "$folder/dir/second"
ln "$folder/dir/file" "$folder/dir/second"
touch "$folder/dir/replacing"
refreshed "$folder/other/third" mv "$folder/dir/replacing" "$folder/dir/second"

# What nobody touched is not asked for again.
sleep 1
stat -c '%h %Y' "$folder/dir" "$folder/dir/file" >/dev/null
known=$(asked)
sleep 1
! asks_anew "$folder/dir" || fail "the attributes of a directory in which nothing changed were asked for anew"
unmount_filesystem disk
