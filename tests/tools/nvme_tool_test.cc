// blobfs-nvme: what it makes of a controller's pages, and its reports on a software controller.
// Real controllers, and taking them over, are tested in the guest.

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "tools/nvme/command_line.h"
#include "tools/nvme/pages_report.h"

namespace blobfs::tools {
namespace {

bool contains(const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
}

ControllerPages some_pages() {
    ControllerPages pages;
    auto& controller = pages.controller;
    std::memcpy(controller.model_number, "Model\x01 X   ", 11);
    std::memcpy(controller.serial_number, "S1  ", 4);
    controller.version = 0x00010401;
    controller.max_data_transfer = 5;
    controller.optional_commands = 1U << 0 | 1U << 3;
    controller.error_log_entries = 63;
    NamespacePage space{.id = 7};
    space.page.size_blocks = 1000;
    space.page.lba_formats = 1;
    space.page.formatted_lba = 1;
    space.page.formats[0].data_size = 9;
    space.page.formats[1] = {.metadata_bytes = 8, .data_size = 12, .relative_performance = 2};
    pages.namespaces.push_back(space);
    auto& health = pages.health;
    health.critical_warning = 1U << 1 | 1U << 3;
    health.temperature[0] = static_cast<std::uint8_t>(350 & 0xff);
    health.temperature[1] = 350 >> 8;
    health.available_spare = 9;
    health.data_units_written[0] = 2'000'000;
    health.host_reads[1] = 1;  // 2^64
    health.temperature_sensors[2] = 300;
    pages.errors.push_back({});
    pages.errors.back().error_count = 5;
    pages.errors.back().status = 0x281 << 1;
    pages.errors.back().lba = 4242;
    return pages;
}

TEST(PagesReport, NamespacesThatCannotBeUsedAreMarked) {
    ControllerPages pages = some_pages();
    std::string text = describe_identify(pages);
    EXPECT_TRUE(contains(text, "Model? X\n")) << text;
    EXPECT_TRUE(contains(text, "1.4.1"));
    EXPECT_TRUE(contains(text, "128 KiB"));
    EXPECT_TRUE(contains(text, "compare, write zeroes"));
    EXPECT_TRUE(contains(text, "4096 bytes and 8 of metadata, the one it has")) << text;
    EXPECT_TRUE(contains(text, "not one that blobfs can use"));
    const nlohmann::json json = identify_json(pages);
    EXPECT_EQ(json["max_transfer_bytes"], 128 << 10);
    EXPECT_EQ(json["namespaces"][0]["bytes"], 4096000);
    EXPECT_EQ(json["namespaces"][0]["usable"], false);
    pages.namespaces[0].page.formatted_lba = 0;
    EXPECT_EQ(identify_json(pages)["namespaces"][0]["usable"], true);
    EXPECT_FALSE(contains(describe_identify(pages), "not one that"));
}

TEST(PagesReport, HealthIsInWordsAndWideCountersAreWhole) {
    const ControllerPages pages = some_pages();
    const std::string text = describe_health(pages);
    EXPECT_TRUE(contains(text, "beyond a threshold, the media are read-only")) << text;
    EXPECT_TRUE(contains(text, "temperature         77 C")) << text;
    EXPECT_TRUE(contains(text, "sensor 3        27 C")) << text;
    EXPECT_TRUE(contains(text, "1024.0 GB")) << text;
    EXPECT_TRUE(contains(text, "18446744073709551616 commands")) << text;
    const nlohmann::json json = health_json(pages);
    EXPECT_EQ(json["temperature"], 77);
    EXPECT_EQ(json["critical_warnings"].size(), 2U);
    EXPECT_EQ(json["host_reads"], "18446744073709551616");
    EXPECT_EQ(json["data_units_written"], 2'000'000);
    EXPECT_EQ(json["available_spare_percent"], 9);
}

TEST(PagesReport, ErrorsHaveTheirStatusInWords) {
    const ControllerPages pages = some_pages();
    const std::string text = describe_errors(pages);
    EXPECT_TRUE(contains(text, "2:81 Unrecovered Read Error (may be tried again)")) << text;
    EXPECT_TRUE(contains(text, "4242"));
    EXPECT_EQ(errors_json(pages)["errors"][0]["status"], 0x281);
    EXPECT_EQ(describe_errors({}), "no errors\n");
}

TEST(PagesReport, PagesFullOfOnesAreShownAllTheSame) {
    ControllerPages pages = some_pages();
    std::memset(&pages.controller, 0xff, sizeof pages.controller);
    std::memset(&pages.namespaces[0].page, 0xff, sizeof pages.namespaces[0].page);
    std::memset(&pages.health, 0xff, sizeof pages.health);
    std::memset(pages.errors.data(), 0xff, sizeof pages.errors[0]);
    EXPECT_FALSE(describe_identify(pages).empty());
    EXPECT_TRUE(contains(describe_health(pages), "340282366920938463463374607431768211455"));
    EXPECT_FALSE(describe_errors(pages).empty());
    EXPECT_FALSE(identify_json(pages).dump().empty());
    EXPECT_FALSE(health_json(pages).dump().empty());
    EXPECT_FALSE(errors_json(pages).dump().empty());
}

struct Outcome {
    int status = 0;
    std::string output, errors;
    [[nodiscard]] nlohmann::json json() const { return nlohmann::json::parse(output); }
};

Outcome run(const std::vector<std::string>& arguments) {
    std::vector<const char*> pointers = {"blobfs-nvme"};
    for (const std::string& one : arguments) pointers.push_back(one.c_str());
    std::ostringstream output, errors;
    Outcome outcome;
    outcome.status = run_nvme(static_cast<int>(pointers.size()), pointers.data(), output, errors);
    outcome.output = output.str();
    outcome.errors = errors.str();
    return outcome;
}

TEST(NvmeTool, ReportsOnAFileAndLeavesItAlone) {
    const std::filesystem::path path =
        std::filesystem::temp_directory_path() / ("nvme_tool_test." + std::to_string(::getpid()));
    std::ofstream(path) << "not mine";
    std::filesystem::resize_file(path, 1 << 20);
    const Outcome identify = run({"identify", "--json", path});
    ASSERT_EQ(identify.status, 0) << identify.errors;
    EXPECT_EQ(identify.json()["namespaces"][0]["bytes"], 1 << 20);
    EXPECT_EQ(identify.json()["namespaces"][0]["usable"], true);
    const Outcome smart = run({"--json", "smart", path});
    ASSERT_EQ(smart.status, 0) << smart.errors;
    EXPECT_GT(smart.json()["temperature"], 0);
    const Outcome errors = run({"error-log", path});
    EXPECT_EQ(errors.status, 0);
    EXPECT_EQ(errors.output, "no errors\n");
    std::ifstream file(path);
    std::string contents(8, '\0');
    file.read(contents.data(), 8);
    EXPECT_EQ(contents, "not mine");
    std::filesystem::remove(path);
}

TEST(NvmeTool, JsonMayStandBeforeTheSubcommandOrAfterIt) {
    for (const std::vector<std::string>& arguments : {std::vector<std::string>{"--json", "list"},
                                                      {"list", "--json"},
                                                      {"--json", "status"},
                                                      {"--json", "status", "--json"}}) {
        const Outcome outcome = run(arguments);
        ASSERT_EQ(outcome.status, 0) << outcome.errors;
        EXPECT_TRUE(outcome.json()["controllers"].is_array());
        EXPECT_TRUE(outcome.json()["hugepages"].is_array());
    }
}

TEST(NvmeTool, WhatIsNotThereIsRefusedInASentence) {
    for (const char* command : {"identify", "smart", "error-log", "bind", "unbind", "reset"}) {
        const Outcome outcome = run({command, "ffff:ff:1f.7"});
        EXPECT_EQ(outcome.status, 1);
        EXPECT_TRUE(contains(outcome.errors, "there is no such PCI device")) << outcome.errors;
        EXPECT_TRUE(outcome.output.empty());
    }
    EXPECT_EQ(run({"smart", "/does/not/exist"}).status, 1);
    EXPECT_EQ(run({"smart"}).status, 1);
    EXPECT_EQ(run({}).status, 1);
}

}  // namespace
}  // namespace blobfs::tools
