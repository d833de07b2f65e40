// The corpora: inputs that reach far into each parser, and those that once broke it, each of which
// has to stay without consequence.

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "tests/fuzz/targets.h"

namespace blobfs::fuzz {
namespace {

class FuzzCorpus : public testing::TestWithParam<NamedTarget> {};

TEST_P(FuzzCorpus, HasNoConsequence) {
    std::vector<std::filesystem::path> inputs;
    for (const auto& file : std::filesystem::directory_iterator(
             std::filesystem::path(BLOBFS_FUZZ_CORPUS) / GetParam().name)) {
        inputs.push_back(file.path());
    }
    ASSERT_FALSE(inputs.empty());
    std::sort(inputs.begin(), inputs.end());
    for (const auto& input : inputs) {
        // Printed before: a target that finds something ends the process.
        std::cout << input << std::endl;
        std::ifstream file(input, std::ios::binary);
        const std::string bytes{std::istreambuf_iterator<char>(file), {}};
        GetParam().run(bytes);
    }
}

INSTANTIATE_TEST_SUITE_P(Targets, FuzzCorpus, testing::ValuesIn(kTargets),
                         [](const auto& tested) { return std::string(tested.param.name); });

}  // namespace
}  // namespace blobfs::fuzz
