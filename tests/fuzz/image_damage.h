#pragma once

// Damage to the image of a filesystem in one kind of its structures. All checksums, those of the
// pointers from above included, are made right again, so that the damage gets past them. What is
// damaged and how is up to the mutation.

#include <string>

#include "tests/fuzz/mutation.h"

namespace blobfs::fuzz {

void damage_superblock(std::string& image, Mutation& mutation);
// Any bytes of a page.
void damage_tree_page(std::string& image, Mutation& mutation);
void damage_map_page(std::string& image, Mutation& mutation);
// A key or a value of a leaf, so that the page stays a good one mostly.
void damage_value(std::string& image, Mutation& mutation);
// An interior page's pointer leads to another page of the tree or the map.
void damage_pointer(std::string& image, Mutation& mutation);
// A batch of the log, its header or what is in it.
void damage_log(std::string& image, Mutation& mutation);
// One more batch behind the last, of operations that are well-formed, on keys and blocks that there
// are or that there are not.
void append_log_batch(std::string& image, Mutation& mutation);

}  // namespace blobfs::fuzz
