#!/bin/bash
# kill -9 of the daemon in the middle of writing: what fsync promised is whole, what was closed more
# than a second ago too, names are those of a prefix of what was done, nothing holds foreign data. And
# in the middle of a tree copy: what is there comes from the source. The store is sound, and the copy
# can be done again on top.
# shellcheck source-path=SCRIPTDIR
source "$(dirname "$0")/lib.sh"
needs_blobfs
needs rsync
make_filesystem disk 2G
# Old data of other files, so that a stale cluster would show.
mount_filesystem disk
folder=$(mount_of disk)
mkdir "$folder/old"
for i in $(seq 1 40); do head -c 10000000 /dev/zero | tr '\0' S >"$folder/old/$i"; done
sync -f "$folder"
rm -rf "$folder/old"
remount_filesystem disk

lines_in() { [[ -f $1 && $(wc -l <"$1") -ge $2 ]]; }

rounds=${BLOBFS_CRASH_ROUNDS:-4}
for ((round = 1; round <= rounds; round++)); do
    mkdir "$folder/round$round"
    sync -f "$folder"
    background "$BLOBFS_PROBE" crash-writer "$folder/round$round" "$WORK/round$round.log"
    writer=$!
    wait_until 60 lines_in "$WORK/round$round.log" 30 || fail "the writer makes no files"
    sleep "$(awk -v r="$round" -v s="$SLOW" 'BEGIN { print 1.8 + (r * 0.37) % 1.1 + (s > 1 ? 2 : 0) }')"
    crash=$(date +%s.%N)
    kill_daemon disk
    wait "$writer" 2>"$WORK/writer.txt" || true
    mount_filesystem disk
    # Not within the arguments of say: its status would be lost.
    result=$("$BLOBFS_PROBE" crash-verify "$folder/round$round" "$WORK/round$round.log" "$crash")
    say "round $round: $result"
done
remount_filesystem disk
for ((round = 1; round <= rounds; round++)); do
    [[ -d $folder/round$round ]] || fail "round$round is gone after a clean remount"
done
rm -rf "$folder"/round*

mkdir "$WORK/source"
find /usr/include -type f -size -300k -readable -print0 >"$WORK/all" 2>/dev/null || true
head -z -n 8000 "$WORK/all" >"$WORK/list"
tar -C / -cf - --null --files-from="$WORK/list" 2>/dev/null | tar -C "$WORK/source" -xf -
for delay in 0.4 1.3; do
    background cp -a "$WORK/source" "$folder/copy" 2>"$WORK/cp.txt"
    copier=$!
    sleep "$(awk -v d=$delay -v s="$SLOW" 'BEGIN { print d * (s > 1 ? 3 : 1) }')"
    kill_daemon disk
    wait "$copier" 2>/dev/null || true
    mount_filesystem disk
    if [[ -d $folder/copy ]]; then
        result=$("$BLOBFS_PROBE" partial-copy "$WORK/source" "$folder/copy")
        say "killed in a copy: $result"
    fi
    rm -rf "$folder/copy"
done
# Another time, and now the copy is finished over what was left.
background cp -a "$WORK/source" "$folder/copy" 2>"$WORK/cp.txt"
copier=$!
sleep 0.8
kill_daemon disk
wait "$copier" 2>/dev/null || true
mount_filesystem disk
rsync -aHc "$WORK/source/" "$folder/copy/"
manifest "$WORK/source" >"$WORK/expected"
remount_filesystem disk
manifest "$folder/copy" >"$WORK/actual"
same_manifest "$WORK/expected" "$WORK/actual" "the copy that was finished after the crash differs"
unmount_filesystem disk
