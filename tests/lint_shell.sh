#!/bin/bash
# Every shell script of the tree is clean for shellcheck (the first argument).
set -euo pipefail
cd "$(dirname "$0")/.."
find .ci tools tests mkfs fs driver blobstore -type f -print0 |
    while IFS= read -r -d '' file; do
        case $file in
        *.sh) printf '%s\0' "$file" ;;
        *.?*) ;;
        *) head -c 64 "$file" | head -n 1 | grep -aqE '^#!.*\b(ba)?sh\b' && printf '%s\0' "$file" || true ;;
        esac
    done | xargs -0 "$1" -x -S warning -e SC2187,SC2034
