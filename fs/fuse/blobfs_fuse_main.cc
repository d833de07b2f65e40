#include "fs/fuse/program.h"

int main(int argc, char** argv) { return blobfs::fs::fuse::run_blobfs_fuse(argc, argv); }
