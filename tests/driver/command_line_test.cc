#include "driver/base/command_line.h"

#include <gtest/gtest.h>

#include <initializer_list>
#include <sstream>
#include <string>
#include <vector>

namespace blobfs::command_line {
namespace {

using Verdict = Parsed::Verdict;

class ParserTest : public testing::Test {
  protected:
    Parsed parse(std::initializer_list<const char*> arguments) {
        std::vector<const char*> words = {"called-so"};
        words.insert(words.end(), arguments);
        return parser.parse(static_cast<int>(words.size()), words.data());
    }

    Parser parser{"Does things.", "program"};
    std::string word = "unset";
    std::uint32_t count = 7;
    double seconds = 1.5;
    bool yes = false;
};

TEST_F(ParserTest, ReadsWhatIsGivenAndLeavesTheRestAsItWas) {
    parser.option("NAME", word).required();
    parser.option("-c,--count", count);
    parser.option("-t,--time", seconds);
    parser.flag("-y,--yes", yes, "Yes");
    const Parsed parsed = parse({"-y", "here", "--count=9"});
    EXPECT_EQ(parsed.verdict, Verdict::kGoOn);
    EXPECT_EQ(parsed.status, 0);
    EXPECT_EQ(word, "here");
    EXPECT_EQ(count, 9u);
    EXPECT_EQ(seconds, 1.5);
    EXPECT_TRUE(yes);
}

TEST_F(ParserTest, ComplainsOfWhatIsMissingUnknownOrNoNumber) {
    parser.option("NAME", word).required();
    parser.option("-c,--count", count);
    Parsed parsed = parse({});
    EXPECT_EQ(parsed.verdict, Verdict::kWrong);
    EXPECT_NE(parsed.status, 0);
    EXPECT_EQ(parsed.complaint, "NAME is required");
    EXPECT_EQ(parsed.text, "NAME is required\nRun with --help for more information.\n");
    EXPECT_NE(parse({"here", "--other"}).complaint.find("--other"), std::string::npos);
    EXPECT_NE(parse({"here", "-c", "many"}).complaint.find("many"), std::string::npos);
    EXPECT_EQ(parse({"here", "-c", "-1"}).verdict, Verdict::kWrong);
    EXPECT_EQ(parse({"here", "-c", "4294967296"}).verdict, Verdict::kWrong);
}

TEST_F(ParserTest, RefusesWhatChecksDoNotAccept) {
    std::string other;
    int few = 0;
    std::uint64_t many = 1;
    parser.option("--word", word).one_of({"read", "write"});
    parser.option("--other", other).refused_by([](const std::string& value) {
        return value == "good" ? "" : "only good";
    });
    parser.option("--few", few).within(1, 8);
    parser.option("--time", seconds).within(0.5, 2.5);
    parser.option("--many", many).positive();
    EXPECT_EQ(parse({"--word", "append"}).complaint, "--word: append not in {read,write}");
    EXPECT_EQ(parse({"--other", "bad"}).complaint, "--other: only good");
    EXPECT_EQ(parse({"--few", "9"}).complaint, "--few: Value 9 not in range 1 to 8");
    EXPECT_EQ(parse({"--time", "0.25"}).complaint,
              "--time: Value 0.25 not in range 0.500000 to 2.500000");
    EXPECT_EQ(parse({"--many", "0"}).verdict, Verdict::kWrong);
    EXPECT_EQ(parse({"--word", "write", "--other", "good", "--few", "8", "--time", "2.5", "--many",
                     "18446744073709551615"})
                  .verdict,
              Verdict::kGoOn);
    EXPECT_EQ(word, "write");
    EXPECT_EQ(other, "good");
    EXPECT_EQ(few, 8);
    EXPECT_EQ(seconds, 2.5);
    EXPECT_EQ(many, ~std::uint64_t{0});
}

TEST_F(ParserTest, KeepsEachValueOfAnOptionThatIsGivenSeveralTimes) {
    std::vector<std::string> lists;
    parser.option("-o", lists).each_time();
    parser.option("NAME", word).required();
    ASSERT_EQ(parse({"-o", "ro,sync", "here", "-o", "noatime"}).verdict, Verdict::kGoOn);
    EXPECT_EQ(lists, (std::vector<std::string>{"ro,sync", "noatime"}));
    EXPECT_EQ(word, "here");
}

TEST_F(ParserTest, AnswersWithTheHelpOrTheVersionWhateverElseIsMissing) {
    parser.option("NAME", word, "What to do it to").required();
    parser.option("-c,--count", count, "How often").shows_default().shown_as("TIMES");
    parser.help("Print what this is");
    parser.version("program 1.0");
    parser.footer("Last words.");
    Parsed parsed = parse({"--help"});
    EXPECT_EQ(parsed.verdict, Verdict::kAnswered);
    EXPECT_EQ(parsed.status, 0);
    EXPECT_EQ(parsed.complaint, "");
    for (const char* part : {"Does things.", "program", "What to do it to", "TIMES=7", "How often",
                             "Print what this is", "Print the version", "Last words."}) {
        EXPECT_NE(parsed.text.find(part), std::string::npos) << part << " in\n" << parsed.text;
    }
    parsed = parse({"-V"});
    EXPECT_EQ(parsed.verdict, Verdict::kAnswered);
    EXPECT_EQ(parsed.text, "program 1.0\n");
}

TEST_F(ParserTest, SubcommandsHaveOptionsOfTheirOwnAndOneIsChosen) {
    parser.requires_subcommand();
    Parser& show = parser.subcommand("show", "Shows it");
    Parser& hide = parser.subcommand("hide", "Hides it");
    hide.flag("--yes", yes, "Yes");
    EXPECT_EQ(parse({}).verdict, Verdict::kWrong);
    EXPECT_EQ(parse({"show", "--yes"}).verdict, Verdict::kWrong);
    ASSERT_EQ(parse({"hide", "--yes"}).verdict, Verdict::kGoOn);
    EXPECT_TRUE(hide.chosen());
    EXPECT_FALSE(show.chosen());
    EXPECT_TRUE(yes);
}

TEST_F(ParserTest, PrintsAnswersAndErrorsWhereTheyBelong) {
    parser.version("program 1.0");
    std::ostringstream output, errors;
    parse({"--version"}).print(output, errors);
    EXPECT_EQ(output.str(), "program 1.0\n");
    EXPECT_EQ(errors.str(), "");
    parse({"--other"}).print(output, errors);
    EXPECT_EQ(output.str(), "program 1.0\n");
    EXPECT_NE(errors.str().find("--other"), std::string::npos);
}

}  // namespace
}  // namespace blobfs::command_line
