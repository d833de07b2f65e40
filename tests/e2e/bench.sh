#!/bin/bash
# blobfs-bench on real filesystems: it measures what it says, each competitor that this machine can have
# is there, and nothing is left behind, whether it ends by itself or is told to or killed.
# shellcheck source-path=SCRIPTDIR
source "$(dirname "$0")/lib.sh"
needs_blobfs
needs_root
needs fio
bench=("$BLOBFS_SOURCE/tools/bench/blobfs-bench" --smoke --build "$BLOBFS_BUILD" --directory "$WORK/images")
mkdir images

left_behind() {
    [[ $(find images -mindepth 1 | head -n 1) ]] || grep -q "$WORK/images/" /proc/self/mountinfo ||
        grep -qs "^$WORK/images/" /sys/block/loop*/loop/backing_file
}
nothing_left() {
    wait_until 60 eval '! left_behind' ||
        fail "$1 left behind: $(ls images) $(grep "$WORK/images/" /proc/self/mountinfo)"
}

"${bench[@]}" --size 320M --json run.json --output run.md --only synced,names,idle,direct-randread-4k-qd32 \
    >bench.out 2>bench.err || fail "blobfs-bench: $(tail -n 5 bench.err)"
nothing_left "a run"
[[ ! -s bench.out ]] || fail "it prints though the output goes to a file: $(head -n 3 bench.out)"
grep -q '^| 3 | synced.append-512: distance to the limit' run.md || fail "the report lacks a target"
python3 - run.json <<'END' || fail "the JSON is not as it should be"
import json, sys
data = json.load(open(sys.argv[1]))
assert data["format"] == 1 and not data["failed"] and not data["interrupted"], data["failed"]
kernel = {name for name in ("ext4", "xfs", "fuse2fs") if name not in data["missing"]}
print("measured:", *sorted(kernel), "left out:", data["missing"])
# ext4 can be had wherever the other scenarios run.
assert "ext4" in kernel or "loop device" in data["missing"]["ext4"], data["missing"]
ours = {"blobfs", "blobfs-mem", "empty-blocking", "empty-spinning", "empty"}
for name, also in (("synced.append-512", set()), ("synced.overwrite-4k", {"raw"}),
                   ("names.unlink.one-dir-1p", set()), ("direct.randread-4k-qd32", {"raw"})):
    metric = data["metrics"][name]
    assert set(metric["competitors"]) == ours | kernel | also, (name, list(metric["competitors"]))
    for competitor, found in metric["competitors"].items():
        assert found["median"] > 0, (name, competitor)
        for sample in found["samples"]:
            assert sample["operations"] > 0 and sample["seconds"] > 0, (name, competitor, sample)
requests = lambda competitor: data["metrics"]["names.create.one-dir-1p"]["competitors"][
    competitor]["samples"][0]["requests"]
# The kernel asks blobfs for what it asks the floor for.
assert requests("blobfs")["CREATE"] == requests("empty-blocking")["CREATE"] == 100, requests("blobfs")
assert data["metrics"]["idle.memory"]["competitors"]["blobfs"]["median"] > 1
assert {verdict["target"] for verdict in data["verdicts"]} >= {1, 2, 3, 4}
END

# Ended in the middle, in good order and not. A second process cleans up after one that was killed.
for signal in TERM KILL; do
    "${bench[@]}" --size 64M --rounds 1000 --only synced --competitors blobfs,empty-spinning,ext4 \
        --json interrupted.json --output /dev/null >bench.out 2>&1 &
    CHILDREN+=($!)
    pid=$!
    wait_until 120 eval 'compgen -G "images/*/mnt/ext4/synced-*" >/dev/null' ||
        fail "no workload begins: $(cat bench.out)"
    kill -"$signal" "$pid"
    wait "$pid" && fail "it ended as if nothing had been"
    nothing_left "a run that was ended by SIG$signal"
done
