#include "fs/fuse/unmount_program.h"

int main(int argc, char** argv) { return blobfs::fs::fuse::run_unmount(argc, argv); }
