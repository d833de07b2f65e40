#pragma once

// Follows the critical warnings of a controller's SMART / Health page: tells what has appeared and
// what has ended since the last look, and says so in the log, once each. The controller's thread.

#include <cstdint>
#include <string>

#include "driver/nvme/identify.h"
#include "driver/nvme/log_pages.h"

namespace blobfs::driver::nvme {

class HealthWatch {
  public:
    // name: of the controller, for messages.
    explicit HealthWatch(std::string name) : name_(std::move(name)) {}

    // True when a warning has appeared or ended.
    bool update(const HealthLog& health, const IdentifyController& identify);
    // The warnings of the last look (kWarning...).
    [[nodiscard]] std::uint8_t warnings() const { return warnings_; }

  private:
    std::string name_;
    std::uint8_t warnings_ = 0;
};

}  // namespace blobfs::driver::nvme
