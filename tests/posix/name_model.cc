#include "tests/posix/name_model.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

namespace blobfs::posix {

bool NameModel::apply(const NameOperation& operation) {
    using Kind = NameOperation::Kind;
    ino_t& name = names_[operation.name];
    ino_t& other = names_[operation.other_name];
    const bool well = operation.error == 0;
    switch (operation.kind) {
        case Kind::kCreateExclusively:
            if (name != 0) return operation.error == EEXIST;
            if (!well || links(operation.inode) != 0) return false;
            name = operation.inode;
            return true;
        case Kind::kCreate:
            if (!well) return false;
            if (name != 0) return name == operation.inode;
            if (links(operation.inode) != 0) return false;
            name = operation.inode;
            return true;
        case Kind::kOpen:
        case Kind::kStat:
            if (name == 0) return operation.error == ENOENT;
            return well && name == operation.inode;
        case Kind::kCount:
            if (name == 0) return operation.error == ENOENT;
            return well && name == operation.inode && links(name) == operation.links;
        case Kind::kUnlink:
            if (name == 0) return operation.error == ENOENT;
            take(name);
            return well;
        case Kind::kRename:
        case Kind::kRenameWithoutReplacing:
            if (name == 0) return operation.error == ENOENT;
            if (operation.kind == Kind::kRenameWithoutReplacing && other != 0) {
                return operation.error == EEXIST;
            }
            // Two names of one inode stay.
            if (other == name) return well;
            take(other);
            other = std::exchange(name, 0);
            return well;
        case Kind::kExchange:
            if (name == 0 || other == 0) return operation.error == ENOENT;
            std::swap(name, other);
            return well;
        case Kind::kLinkFrom:
            linking_[operation.process] = name;
            return name != 0 || operation.error == ENOENT;
        case Kind::kLinkTo:
            return link_to(operation);
    }
    return false;
}

bool NameModel::link_to(const NameOperation& operation) {
    const ino_t inode = std::exchange(linking_[operation.process], 0);
    ino_t& name = names_[operation.name];
    if (inode == 0) return operation.error == ENOENT;
    if (name != 0) return operation.error == EEXIST;
    // An inode that has lost its last name meanwhile gets no new one.
    if (links(inode) == 0) return operation.error == ENOENT;
    if (operation.error == ENOENT) return may_miscount_ && fewer_names_.contains(inode);
    name = inode;
    return operation.error == 0;
}

nlink_t NameModel::links(ino_t inode) const {
    return static_cast<nlink_t>(std::count(names_.begin(), names_.end(), inode));
}

void NameModel::take(ino_t& name) {
    if (name != 0) fewer_names_.insert(name);
    name = 0;
}

std::string NameOperation::text() const {
    static constexpr std::array<const char*, 11> kKinds = {
        "create exclusively", "create",   "open",      "stat",    "unlink", "rename",
        "rename, no replace", "exchange", "link from", "link to", "count"};
    std::string text = "[" + std::to_string(begin_ns) + " " + std::to_string(end_ns) +
                       "] process " + std::to_string(process) + ": " +
                       kKinds[static_cast<std::size_t>(kind)] + " " + std::to_string(name);
    if (kind >= Kind::kRename && kind <= Kind::kExchange) text += " " + std::to_string(other_name);
    text += ": ";
    if (error != 0) return text + strerrorname_np(error);
    return text + "inode " + std::to_string(inode) + ", links " + std::to_string(links);
}

}  // namespace blobfs::posix
