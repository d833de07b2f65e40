#include "driver/base/command_line.h"

#include <CLI/CLI.hpp>
#include <ostream>
#include <sstream>
#include <utility>

namespace blobfs::command_line {

Option Option::required() const {
    option_->required();
    return *this;
}

Option Option::shows_default() const {
    option_->capture_default_str();
    return *this;
}

Option Option::shown_as(const std::string& name) const {
    option_->type_name(name);
    return *this;
}

Option Option::each_time() const {
    // Without the last, words after the value that are arguments would be taken for values.
    option_->take_all()->expected(1)->allow_extra_args(false);
    return *this;
}

Option Option::one_of(const std::vector<std::string>& words) const {
    option_->check(CLI::IsMember(words));
    return *this;
}

Option Option::within(int least, int most) const {
    option_->check(CLI::Range(least, most));
    return *this;
}

Option Option::within(double least, double most) const {
    option_->check(CLI::Range(least, most));
    return *this;
}

Option Option::positive() const {
    option_->check(CLI::PositiveNumber);
    return *this;
}

Option Option::refused_by(std::function<std::string(const std::string&)> complaint) const {
    option_->check(std::move(complaint));
    return *this;
}

void Parsed::print(std::ostream& output, std::ostream& errors) const {
    (verdict == Verdict::kWrong ? errors : output) << text << std::flush;
}

Parser::Parser(const std::string& description, const std::string& program)
    : own_(std::make_unique<CLI::App>(description, program)), app_(own_.get()) {}

Parser::Parser(CLI::App& app) : app_(&app) {}

Parser::~Parser() = default;

Option Parser::option(const std::string& names, std::string& into, const std::string& help) {
    return Option(*app_->add_option(names, into, help));
}

Option Parser::option(const std::string& names, std::vector<std::string>& into,
                      const std::string& help) {
    return Option(*app_->add_option(names, into, help));
}

Option Parser::option(const std::string& names, int& into, const std::string& help) {
    return Option(*app_->add_option(names, into, help));
}

Option Parser::option(const std::string& names, std::uint32_t& into, const std::string& help) {
    return Option(*app_->add_option(names, into, help));
}

Option Parser::option(const std::string& names, std::uint64_t& into, const std::string& help) {
    return Option(*app_->add_option(names, into, help));
}

Option Parser::option(const std::string& names, double& into, const std::string& help) {
    return Option(*app_->add_option(names, into, help));
}

void Parser::flag(const std::string& names, bool& into, const std::string& help) {
    app_->add_flag(names, into, help);
}

void Parser::help(const std::string& help) { app_->set_help_flag("-h,--help", help); }

void Parser::version(const std::string& text, const std::string& help) {
    app_->set_version_flag("-V,--version", text, help);
}

void Parser::footer(const std::string& text) { app_->footer(text); }

Parser& Parser::subcommand(const std::string& name, const std::string& description) {
    CLI::App& app = *app_->add_subcommand(name, description);
    return *subcommands_.emplace_back(std::unique_ptr<Parser>(new Parser(app)));
}

void Parser::requires_subcommand() { app_->require_subcommand(1); }

bool Parser::chosen() const { return app_->parsed(); }

Parsed Parser::parse(int argc, const char* const* argv) {
    try {
        app_->parse(argc, argv);
        return {};
    } catch (const CLI::ParseError& error) {
        std::ostringstream output, errors;
        const int status = app_->exit(error, output, errors);
        const bool answered = dynamic_cast<const CLI::Success*>(&error) != nullptr;
        return {.verdict = answered ? Parsed::Verdict::kAnswered : Parsed::Verdict::kWrong,
                .status = status,
                .text = answered ? output.str() : errors.str(),
                .complaint = answered ? std::string() : error.what()};
    }
}

}  // namespace blobfs::command_line
