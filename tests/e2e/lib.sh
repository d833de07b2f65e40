# shellcheck shell=bash
# Sourced first by every scenario. Gives it a directory of its own ($WORK), makes and mounts
# filesystems in it, and takes everything down again however the scenario ends: it unmounts, ends
# only processes that it started itself, and removes $WORK. Scenarios may run side by side.
#
# Set by CTest (see CMakeLists.txt): BLOBFS_MKFS, BLOBFS_FUSE, BLOBFS_PROBE, BLOBFS_FSCK (the
# programs under test and their helpers), BLOBFS_SOURCE, BLOBFS_BUILD, BLOBFS_SANITIZED (1 or 0).
# BLOBFS_E2E_BACKEND=ext4 runs a scenario on a loop-mounted ext4: it shows that the scenario itself
# is right. BLOBFS_E2E_KEEP=1 keeps $WORK. BLOBFS_E2E_MOUNT_OPTIONS: for each mount, e.g. io_uring.

set -Eeuo pipefail
shopt -s inherit_errexit nullglob
umask 022
export LC_ALL=C.UTF-8

: "${BLOBFS_MKFS:?run this by ctest, see tests/README.md}" "${BLOBFS_FUSE:?}" "${BLOBFS_PROBE:?}"
: "${BLOBFS_FSCK:?}" "${BLOBFS_SOURCE:?}" "${BLOBFS_BUILD:?}"
: "${BLOBFS_SANITIZED:=0}" "${BLOBFS_E2E_BACKEND:=blobfs}" "${BLOBFS_E2E_KEEP:=0}"

SELF=$(realpath "$0")
SCENARIO=$(basename "$SELF" .sh)
WORK=$(mktemp -d "${TMPDIR:-/tmp}/blobfs-e2e-$SCENARIO-XXXXXX")
mkdir "$WORK/mnt" "$WORK/log"
chmod 755 "$WORK"
cd "$WORK"
export ASAN_OPTIONS="log_path=$WORK/log/sanitizer:detect_leaks=1:abort_on_error=0:${ASAN_OPTIONS:-}"
export UBSAN_OPTIONS="print_stacktrace=1:log_path=$WORK/log/sanitizer:${UBSAN_OPTIONS:-}"
export TSAN_OPTIONS="log_path=$WORK/log/sanitizer:${TSAN_OPTIONS:-}"
export LSAN_OPTIONS="suppressions=$BLOBFS_SOURCE/tests/e2e/leaks.supp:print_suppressions=0:log_path=$WORK/log/sanitizer:${LSAN_OPTIONS:-}"

# How much slower things may be with sanitizers.
SLOW=1
[[ $BLOBFS_SANITIZED == 1 ]] && SLOW=5

declare -A DAEMON=()   # name of a filesystem -> process id of its daemon
declare -A KILLED=()   # name of a filesystem whose daemon was killed -> how often to try to mount it
declare -a CHILDREN=() # other processes that the scenario started with `background`
MOUNT_OPTIONS=(${BLOBFS_E2E_MOUNT_OPTIONS:+-o "$BLOBFS_E2E_MOUNT_OPTIONS"}) # further arguments for the daemon

say() { printf '%s: %s\n' "$SCENARIO" "$*"; }

fail() {
    printf '%s: FAILED: %s\n' "$SCENARIO" "$*" >&2
    exit 1
}

skip() {
    printf '%s: skipped: %s\n' "$SCENARIO" "$*"
    exit 77
}

needs_root() { [[ $EUID == 0 ]] || skip "needs root"; }
needs_blobfs() { [[ $BLOBFS_E2E_BACKEND == blobfs ]] || skip "is about blobfs only"; }
needs() {
    local program
    for program; do command -v "$program" >/dev/null || fail "$program is not installed (tools/install-packages)"; done
}

image_of() { printf '%s/%s.img' "$WORK" "$1"; }
mount_of() { printf '%s/mnt/%s' "$WORK" "$1"; }

# background COMMAND...: starts it; its id is $!; ended at the end of the scenario if need be.
background() {
    "$@" &
    CHILDREN+=($!)
}

# make_filesystem NAME SIZE [MKFS ARGUMENT...]
make_filesystem() {
    local name=$1 size=$2
    shift 2
    mkdir -p "$(mount_of "$name")"
    if [[ $BLOBFS_E2E_BACKEND == ext4 ]]; then
        truncate -s "$size" "$(image_of "$name")"
        mkfs.ext4 -q -F -O ea_inode -E lazy_itable_init=0,lazy_journal_init=0 "$(image_of "$name")"
    else
        "$BLOBFS_MKFS" -q --size "$size" "$@" "$(image_of "$name")"
    fi
}

# wait_until SECONDS COMMAND...: true as soon as the command is.
wait_until() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@"; do
        ((SECONDS < deadline)) || return 1
        sleep 0.05
    done
}

is_gone() { ! kill -0 "$1" 2>/dev/null || [[ $(ps -o stat= -p "$1") == Z* ]]; }

mounted_or_dead() { mountpoint -q "$1" || is_gone "$2"; }

# mount_filesystem NAME: mounts it at $(mount_of NAME), the daemon in the foreground as a child of
# this shell, so that its exit status can be seen; ARGUMENTS of the daemon are in MOUNT_OPTIONS.
mount_filesystem() {
    local name=$1 log="$WORK/log/$1.log"
    if [[ $BLOBFS_E2E_BACKEND == ext4 ]]; then
        mount -o loop "$(image_of "$name")" "$(mount_of "$name")"
        rm -rf "$(mount_of "$name")/lost+found"
        DAEMON[$name]=0
        return
    fi
    # The kernel may still be ending the requests of a daemon that was killed: on a busy machine for
    # longer than the new one waits.
    local tries=${KILLED[$name]:-1}
    unset "KILLED[$name]"
    while true; do
        "$BLOBFS_FUSE" -f "${MOUNT_OPTIONS[@]}" "$(image_of "$name")" "$(mount_of "$name")" \
            >>"$log" 2>&1 </dev/null &
        DAEMON[$name]=$!
        wait_until $((20 * SLOW)) mounted_or_dead "$(mount_of "$name")" "${DAEMON[$name]}" ||
            fail "$name was not mounted in time: $(tail -n 5 "$log")"
        mountpoint -q "$(mount_of "$name")" && break
        ((--tries > 0)) && tail -n 2 "$log" | grep -q 'another process uses it' ||
            fail "mounting $name failed: $(tail -n 5 "$log")"
    done
}

# daemon_ended NAME: the daemon of NAME ends by itself now, and well.
daemon_ended() {
    local name=$1 pid=${DAEMON[$1]} status=0
    unset "DAEMON[$name]"
    [[ $pid == 0 ]] && return
    wait_until $((30 * SLOW)) is_gone "$pid" || fail "the daemon of $name does not end"
    wait "$pid" || status=$?
    [[ $status == 0 ]] || fail "the daemon of $name ended with status $status: $(tail -n 20 "$WORK/log/$name.log")"
    no_sanitizer_reports
}

no_sanitizer_reports() {
    local reports=("$WORK"/log/sanitizer*)
    if ((${#reports[@]})); then
        head -n 80 "${reports[@]}" >&2
        fail "a sanitizer found something"
    fi
}

# Everything on the image holds together.
check_store() {
    [[ $BLOBFS_E2E_BACKEND == blobfs ]] || return 0
    "$BLOBFS_FSCK" -n -f "$(image_of "$1")" >"$WORK/log/$1.fsck" 2>&1 ||
        fail "the filesystem on $1 is not sound: $(tail -n 20 "$WORK/log/$1.fsck")"
}

unmount_filesystem() {
    umount "$(mount_of "$1")"
    daemon_ended "$1"
    check_store "$1"
}

# Everything that was cached is forgotten: what is read next comes from the image.
remount_filesystem() {
    unmount_filesystem "$1"
    mount_filesystem "$1"
}

# kill_daemon NAME: kill -9, as a crash of the daemon would end it.
kill_daemon() {
    local name=$1 pid=${DAEMON[$1]}
    kill -KILL "$pid"
    wait "$pid" 2>/dev/null || true
    unset "DAEMON[$name]"
    KILLED[$name]=5
    umount -l "$(mount_of "$name")"
}

# refused TEXT COMMAND...: the command fails in good order (no signal) and says TEXT (a regular
# expression, case ignored) on its standard error.
refused() {
    local text=$1 status=0 message
    shift
    message=$("$@" 2>&1 >/dev/null </dev/null) || status=$?
    [[ $status != 0 ]] || fail "was not refused: $*"
    ((status < 126)) || fail "ended with status $status: $*: $message"
    grep -qiE -- "$text" <<<"$message" || fail "the message of '$*' lacks '$text': $message"
    say "refused as it should be: ${message##*$'\n'}"
}

equal() { [[ $1 == "$2" ]] || fail "${3:-two values differ}: '$1' is not '$2'"; }

# manifest DIRECTORY: everything that a copy must keep, as sorted text.
manifest() {
    (
        cd "$1"
        find . -mindepth 1 \( -type d -printf '%p %y %m %U:%G %T@\n' -o \
            -type f -printf '%p %y %m %U:%G %T@ %s %n\n' -o \
            -printf '%p %y %m %U:%G %T@ %s %n %l\n' \) | sort
        find . -type f -print0 | sort -z | xargs -0 -r b2sum -l 128
        find . ! -type d -links +1 -printf '%i %p\n' | sort |
            awk '{ i = $1; $1 = ""; if (i == last) printf " =%s", $0; else printf "\n%s", $0; last = i } END { print "" }' | sort
        find . \( -type f -o -type d \) -print0 | sort -z |
            xargs -0 -r getfattr -h -d -m '^user\.' --absolute-names 2>/dev/null
    )
}

same_manifest() {
    cmp -s "$1" "$2" && return
    diff "$1" "$2" | head -n 20 >&2
    fail "${3:-the trees differ}"
}

# Bytes that `df` calls used.
used_bytes() { df -B1 --output=used "$1" | tail -n 1 | tr -d ' '; }
free_bytes() { df -B1 --output=avail "$1" | tail -n 1 | tr -d ' '; }
allocated_bytes() { stat -c '%b %B' "$1" | awk '{ print $1 * $2 }'; }

end_process() {
    kill -TERM "$1" 2>/dev/null || return 0
    wait_until 10 is_gone "$1" || kill -KILL "$1" 2>/dev/null || true
}

take_down() {
    local status=$? name pid mount
    trap - EXIT ERR
    set +e
    for pid in "${CHILDREN[@]}"; do end_process "$pid"; done
    # Whatever is mounted under $WORK, deepest first, whoever mounted it.
    while read -r mount; do
        timeout 20 umount "$mount" 2>/dev/null || umount -l "$mount"
    done < <(awk -v work="$WORK/" 'index($5, work) == 1 { print $5 }' /proc/self/mountinfo | sort -r)
    for name in "${!DAEMON[@]}"; do
        pid=${DAEMON[$name]}
        [[ $pid == 0 ]] && continue
        wait_until 10 is_gone "$pid" || end_process "$pid"
    done
    wait
    if [[ $status != 0 && $status != 77 ]]; then
        for name in "$WORK"/log/*; do
            echo "--- $(basename "$name"), last lines" >&2
            tail -n 40 "$name" >&2
        done
    elif compgen -G "$WORK/log/sanitizer*" >/dev/null; then
        head -n 80 "$WORK"/log/sanitizer* >&2
        status=1
    fi
    if [[ $BLOBFS_E2E_KEEP == 1 ]]; then
        echo "kept: $WORK" >&2
    else
        rm -rf --one-file-system "$WORK"
    fi
    exit "$status"
}
trap take_down EXIT
trap 'echo "$SCENARIO: line $LINENO: failed: $BASH_COMMAND" >&2' ERR
trap 'exit 143' TERM INT HUP
