#pragma once

// What the scenarios need and no tool of the shell offers. Each probe works on paths of a mounted
// filesystem, says on standard error what is wrong, and ends the program with status 1 then.

#include <span>
#include <string>

namespace blobfs::e2e {

using Arguments = std::span<const std::string>;

// Ends the program with status 1 and the message.
[[noreturn]] void give_up(const std::string& message);
// The same with the text of errno.
[[noreturn]] void give_up_errno(const std::string& what);
void expect(bool condition, const std::string& claim);

// FILE: shared and private mappings agree with read and write.
void probe_mmap(Arguments arguments);
// FILE: O_DIRECT and buffered access see the same bytes.
void probe_direct(Arguments arguments);
// FILE: O_SYNC, O_DSYNC, O_APPEND from two descriptors.
void probe_open_flags(Arguments arguments);
// FILE SEED: random writes, truncations and appends against a copy in memory.
void probe_random_writes(Arguments arguments);
// FILE: status 0 when somebody holds a lock on it, 1 when nobody does.
void probe_locked(Arguments arguments);

// FOLDER LOG: makes files until it is killed or an error comes, and writes to LOG (which is on
// another filesystem) what was made durable and when.
void probe_crash_writer(Arguments arguments);
// FOLDER LOG SECONDS: holds what is there after a crash at that time (since 1970) against LOG.
void probe_crash_verify(Arguments arguments);
// SOURCE COPY: a copy that was cut short: nothing in it that the source does not have.
void probe_partial_copy(Arguments arguments);

// PATH FILE: writes a file handle of the path into the file.
void probe_keep_handle(Arguments arguments);
// MOUNTPOINT FILE PATH: the handle kept in the file leads to the path, and from there upwards.
void probe_handle_is(Arguments arguments);
// MOUNTPOINT FILE: the handle kept in the file is stale.
void probe_handle_is_stale(Arguments arguments);

}  // namespace blobfs::e2e
