// One libFuzzer program: BLOBFS_FUZZ_TARGET is the target.

#include <cstddef>
#include <cstdint>

#include "tests/fuzz/targets.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    blobfs::fuzz::BLOBFS_FUZZ_TARGET({reinterpret_cast<const char*>(data), size});
    return 0;
}
