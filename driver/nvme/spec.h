#pragma once

// The NVMe wire format: registers, queue entries, Identify data, log pages.

#include "driver/nvme/commands.h"   // IWYU pragma: export
#include "driver/nvme/identify.h"   // IWYU pragma: export
#include "driver/nvme/log_pages.h"  // IWYU pragma: export
#include "driver/nvme/registers.h"  // IWYU pragma: export
