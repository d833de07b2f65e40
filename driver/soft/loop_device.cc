#include "driver/soft/loop_device.h"

#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <fstream>

namespace blobfs::driver {

std::string loop_backing_file(int descriptor) {
    struct stat status {};
    if (fstat(descriptor, &status) != 0 || !S_ISBLK(status.st_mode)) return {};
    const std::string device = "/sys/dev/block/" + std::to_string(major(status.st_rdev)) + ":" +
                               std::to_string(minor(status.st_rdev));
    std::string path;
    for (const char* place : {"/loop/backing_file", "/../loop/backing_file"}) {
        std::ifstream file(device + place);
        if (std::getline(file, path) && !path.empty()) return path;
    }
    return {};
}

}  // namespace blobfs::driver
