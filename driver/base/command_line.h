#pragma once

// What a program's command line may hold, where its values go, and what its user is told: one look
// for all programs of ours. CLI11 does it, which is headers only and costs 20 s of a processor in
// each file that includes it; command_line.cc is the only one.
//
// For one thread. Nothing here prints; nothing is thrown but what memory throws.

#include <cstdint>
#include <functional>
#include <iosfwd>
#include <memory>
#include <string>
#include <vector>

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace blobfs::command_line {

// An option, or an argument without a name, as it is described to a Parser, which owns it.
class Option {
  public:
    explicit Option(CLI::Option& option) : option_(&option) {}

    Option required() const;
    // The help shows the value that the variable had when it was described.
    Option shows_default() const;
    // What the help calls its value, for example SIZE.
    Option shown_as(const std::string& name) const;
    // May be given several times, each time with one value; for vectors.
    Option each_time() const;

    // What is refused, with a complaint that tells what is accepted.
    Option one_of(const std::vector<std::string>& words) const;
    Option within(int least, int most) const;
    Option within(double least, double most) const;
    Option positive() const;
    // The complaint about a value; an empty string when there is none.
    Option refused_by(std::function<std::string(const std::string&)> complaint) const;

  private:
    CLI::Option* option_;
};

struct Parsed {
    enum class Verdict {
        kGoOn,      // the variables have their values
        kAnswered,  // with the help or the version, in `text`, which is all that is to be done
        kWrong,
    };
    Verdict verdict = Verdict::kGoOn;
    int status = 0;         // to exit with when it is said as print() says it
    std::string text;       // to be printed, whole lines; when it is wrong, with a hint at --help
    std::string complaint;  // what is wrong, without full stop and line end; else empty

    // Prints the answer to the output, or what is wrong to the errors.
    void print(std::ostream& output, std::ostream& errors) const;
};

// Variables that options are read into outlive the Parser. One whose option is not given keeps its
// value; after what is wrong they hold anything.
class Parser {
  public:
    // No program name: the one that it was called by.
    explicit Parser(const std::string& description, const std::string& program = {});
    ~Parser();
    Parser(const Parser&) = delete;
    Parser& operator=(const Parser&) = delete;

    // Names are "-s,--long"; "NAME" without dashes is the next argument that belongs to no option.
    Option option(const std::string& names, std::string& into, const std::string& help = {});
    Option option(const std::string& names, std::vector<std::string>& into,
                  const std::string& help = {});
    Option option(const std::string& names, int& into, const std::string& help = {});
    Option option(const std::string& names, std::uint32_t& into, const std::string& help = {});
    Option option(const std::string& names, std::uint64_t& into, const std::string& help = {});
    Option option(const std::string& names, double& into, const std::string& help = {});
    void flag(const std::string& names, bool& into, const std::string& help);

    // -h and --help are there without being asked for; this changes what they say of themselves.
    void help(const std::string& help);
    // -V and --version answer with the text.
    void version(const std::string& text, const std::string& help = "Print the version");
    // Ends the help.
    void footer(const std::string& text);

    // A word, with options of its own; owned by this Parser.
    Parser& subcommand(const std::string& name, const std::string& description);
    void requires_subcommand();
    // Of a subcommand: it is the one that was given.
    [[nodiscard]] bool chosen() const;

    // Once, on the Parser that is not a subcommand. argv[0] is the program.
    [[nodiscard]] Parsed parse(int argc, const char* const* argv);

  private:
    explicit Parser(CLI::App& app);

    std::unique_ptr<CLI::App> own_;  // none for a subcommand
    CLI::App* app_;
    std::vector<std::unique_ptr<Parser>> subcommands_;
};

}  // namespace blobfs::command_line
