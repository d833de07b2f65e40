#include "driver/nvme/health_watch.h"

#include <spdlog/spdlog.h>

namespace blobfs::driver::nvme {

namespace {

constexpr int kZeroCelsius = 273;  // kelvin, as the specification rounds it

int celsius(std::uint32_t kelvin) { return static_cast<int>(kelvin) - kZeroCelsius; }

}  // namespace

bool HealthWatch::update(const HealthLog& health, const IdentifyController& identify) {
    const std::uint8_t before = warnings_;
    warnings_ = health.critical_warning;
    const auto appeared = static_cast<std::uint8_t>(warnings_ & ~before);
    const auto ended = static_cast<std::uint8_t>(before & ~warnings_);
    if ((appeared & kWarningSpare) != 0) {
        spdlog::error("{}: only {} % of its spare is left (threshold {} %): replace it", name_,
                      health.available_spare, health.available_spare_threshold);
    }
    if ((appeared & kWarningTemperature) != 0) {
        spdlog::error(
            "{}: its temperature of {} C is beyond a threshold (warning {} C, critical {} C): it "
            "will slow down, and wants cooling",
            name_, celsius(health.temperature_kelvin()), celsius(identify.warning_temperature),
            celsius(identify.critical_temperature));
    }
    if ((appeared & kWarningUnreliable) != 0) {
        spdlog::error("{}: it has become unreliable ({} media errors): copy what is on it", name_,
                      health.media_errors[0]);
    }
    if ((appeared & kWarningReadOnly) != 0) {
        spdlog::error("{}: its media have become read-only: copy what is on it", name_);
    }
    if ((appeared & kWarningBackup) != 0) {
        spdlog::error("{}: the backup of its volatile memory has failed: replace it", name_);
    }
    if ((ended & kWarningTemperature) != 0) {
        spdlog::warn("{}: its temperature is back to {} C", name_,
                     celsius(health.temperature_kelvin()));
    }
    if ((ended & ~kWarningTemperature) != 0) {
        spdlog::warn("{}: critical warnings {:#x} have ended", name_, ended & ~kWarningTemperature);
    }
    return appeared != 0 || ended != 0;
}

}  // namespace blobfs::driver::nvme
