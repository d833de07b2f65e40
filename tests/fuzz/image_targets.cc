#include <spdlog/spdlog.h>

#include <cstdio>
#include <cstdlib>

#include "tests/fuzz/image_damage.h"
#include "tests/fuzz/image_trial.h"
#include "tests/fuzz/targets.h"

namespace blobfs::fuzz {
namespace {

using Damage = void (*)(std::string& image, Mutation& mutation);
constexpr std::array<Damage, 7> kDamages = {damage_superblock, damage_tree_page, damage_map_page,
                                            damage_value,      damage_pointer,   damage_log,
                                            append_log_batch};

// Made once: a fuzzer tries many.
SoundImages& sound_images() {
    static SoundImages images;
    return images;
}

template <class Steps>
void try_image(std::string_view choices, Steps steps) {
    spdlog::set_level(spdlog::level::off);
    SoundImages& images = sound_images();
    Mutation mutation(choices);
    std::string image = mutation.below(2) == 0 ? images.clean() : images.unclean();
    for (std::uint64_t i = mutation.below(4); i > 0; --i) {
        kDamages[mutation.below(kDamages.size())](image, mutation);
    }
    ImageTrial trial(images, image, mutation);
    images.reactor().block_on([&](driver::Suspend& suspend) { steps(trial, suspend); });
    for (const std::string& violation : trial.violations()) {
        std::fprintf(stderr, "does not hold: %s\n", violation.c_str());
    }
    if (!trial.violations().empty()) std::abort();
}

}  // namespace

void fuzz_mount(std::string_view bytes) {
    try_image(bytes, [](ImageTrial& trial, driver::Suspend& suspend) { trial.mounts(suspend); });
}

void fuzz_fsck(std::string_view bytes) {
    try_image(bytes, [](ImageTrial& trial, driver::Suspend& suspend) { trial.checks(suspend); });
}

}  // namespace blobfs::fuzz
