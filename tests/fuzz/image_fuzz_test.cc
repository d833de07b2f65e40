// Whole filesystems with damage that has right checksums: mounting, using, checking and repairing
// them never ends in anything but an answer; what fsck calls sound mounts and passes every check;
// what it has repaired is sound (image_trial.h). The seed is printed.

#include <gtest/gtest.h>

#include <iostream>
#include <string>

#include "tests/fuzz/image_damage.h"
#include "tests/fuzz/image_trial.h"

namespace blobfs::fuzz {
namespace {

class ImageFuzz : public testing::Test {
  protected:
    template <class Damage>
    void run(const std::string& sound, int rounds, Damage damage) {
        const std::uint64_t first = chosen_seed(1000);
        rounds = std::getenv("BLOBFS_SEED") != nullptr ? 1 : chosen_rounds(rounds);
        int verdicts[3] = {};
        for (int i = 0; i < rounds && !HasFailure(); ++i) {
            const std::uint64_t seed = first + static_cast<std::uint64_t>(i);
            Mutation mutation(seed);
            std::string image = sound;
            damage(image, mutation);
            ImageTrial trial(images_, image, mutation);
            images_.reactor().block_on([&](driver::Suspend& s) { trial.everything(s); });
            ++verdicts[static_cast<int>(trial.verdict())];
            for (const std::string& violation : trial.violations()) {
                ADD_FAILURE() << "BLOBFS_SEED=" << seed << ": " << violation;
            }
        }
        std::cout << verdicts[0] << " images sound, " << verdicts[1] << " not, " << verdicts[2]
                  << " refused" << std::endl;
    }

    SoundImages images_;
};

TEST_F(ImageFuzz, SoundImagesAreSound) {
    run(images_.clean(), 1, [](std::string&, Mutation&) {});
    run(images_.unclean(), 1, [](std::string&, Mutation&) {});
}
TEST_F(ImageFuzz, Superblocks) { run(images_.unclean(), 15, damage_superblock); }
TEST_F(ImageFuzz, TreePages) { run(images_.clean(), 40, damage_tree_page); }
TEST_F(ImageFuzz, MapPages) { run(images_.unclean(), 20, damage_map_page); }
TEST_F(ImageFuzz, KeysAndValues) { run(images_.clean(), 60, damage_value); }
TEST_F(ImageFuzz, Pointers) { run(images_.unclean(), 15, damage_pointer); }
TEST_F(ImageFuzz, Log) { run(images_.unclean(), 40, damage_log); }
TEST_F(ImageFuzz, LogBatchesThatNobodyWrote) { run(images_.unclean(), 40, append_log_batch); }
TEST_F(ImageFuzz, ManyThingsAtOnce) {
    run(images_.unclean(), 20, [](std::string& image, Mutation& m) {
        for (int i = 0; i < 4; ++i) damage_value(image, m);
        damage_log(image, m);
        damage_map_page(image, m);
    });
}

}  // namespace
}  // namespace blobfs::fuzz
