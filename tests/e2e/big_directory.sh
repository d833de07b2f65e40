#!/bin/bash
# A directory of 100,000 entries: complete and without doubles for ls and find while others create
# and delete in it, the same after a remount, without the daemon holding the listing in memory; rm -r of
# it while another process creates.
# shellcheck source-path=SCRIPTDIR
source "$(dirname "$0")/lib.sh"
entries=$((100000 / SLOW))
# Names so long that all of them together are more than the daemon may take for a listing.
pad=$(printf '%0200d' 0)
make_filesystem disk 2G
mount_filesystem disk
big="$(mount_of disk)/big"
other="$(mount_of disk)/other"
mkdir "$big" "$other"
(cd "$big" && seq -f "entry-%06.0f-$pad" 1 $entries | xargs touch)
equal "$(find "$big" -type f | wc -l)" $entries "entries found"

churn() { # creates and deletes in the directory that others read
    local i
    for ((i = 0; ; i++)); do
        echo "$i" >"$big/churn-$i"
        ((i < 50)) || rm "$big/churn-$((i - 50))"
    done
}
background churn
churner=$!
for _ in 1 2 3; do
    # ls -f: in the order of the directory, no stat
    ls -f "$big" | grep '^entry-' | sort >"$WORK/listing"
    equal "$(wc -l <"$WORK/listing")" $entries "entries listed while others come and go"
    equal "$(uniq -d "$WORK/listing" | wc -l)" 0 "entries listed twice"
done
equal "$(find "$big" -name 'entry-*' -newermt 2000-01-01 | wc -l)" $entries "entries found while others come and go"
kill "$churner"
wait "$churner" 2>/dev/null || true
rm -f "$big"/churn-*
equal "$(stat -c %s "$big/entry-000001-$pad")" 0 "lookup in a large directory"
[[ ! -e $big/entry-0 ]] || fail "a name that is not there was found"

# The listing takes no more memory than the cache that it goes through.
MOUNT_OPTIONS=(-o cache_size=8MiB)
remount_filesystem disk
memory() { awk -v "what=$1:" '$1 == what { print $2 * 1024 }' "/proc/${DAEMON[disk]}/status"; }
[[ $BLOBFS_E2E_BACKEND != blobfs ]] || before=$(memory VmRSS)
ls -f "$big" | grep -c '^entry-' >"$WORK/count"
equal "$(cat "$WORK/count")" $entries "entries after the remount"
if [[ $BLOBFS_E2E_BACKEND == blobfs ]]; then
    grown=$(($(memory VmHWM) - before))
    say "listing $((entries * (${#pad} + 13))) bytes of names took $((grown / 1024)) KiB of the daemon's memory"
    ((grown < 12 * 1024 * 1024)) || fail "a listing took $grown bytes of the daemon's memory, with a cache of 8 MiB"
fi
ls -l "$big" | awk 'NR > 1 { n++ } END { print n }' >"$WORK/count"
equal "$(cat "$WORK/count")" $entries "entries of ls -l"

create() {
    local i
    for ((i = 0; ; i++)); do echo "$i" >"$other/new-$i"; done
}
background create
creator=$!
rm -r "$big"
kill "$creator"
wait "$creator" 2>/dev/null || true
[[ ! -e $big ]] || fail "rm -r left the directory"
created=$(($(find "$other" -type f | wc -l) - 1)) # the last one may be cut short
say "another process made $created files while rm -r ran"
((created > 10)) || fail "the other process was kept from creating"
for ((i = 0; i < created; i++)); do
    [[ $(<"$other/new-$i") == "$i" ]] || fail "other/new-$i holds the wrong thing"
done
unmount_filesystem disk
