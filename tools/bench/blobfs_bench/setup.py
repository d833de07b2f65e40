"""What a run is made of: where, with which programs, how much of everything."""

from dataclasses import dataclass, field

MIB = 1 << 20
GIB = 1 << 30


@dataclass
class Sizes:
    """How much each workload does. Bytes and seconds where the name says so, else counts."""

    image_bytes: int
    fio_file_bytes: int    # read and written by all jobs of a fio workload together
    fio_seconds: float
    files: int             # of each phase of the workloads with small files
    synced_operations: int
    tree_files: int        # at most, of the source tree
    rows: int              # inserted by sqlite, a transaction each
    verify_bytes: int
    growth: tuple          # numbers of files; what it costs at the first is compared with the last
    growth_sample: int     # operations that are timed at each of these
    idle_seconds: float
    rounds: int
    quick: bool            # leave out the variants that a first look does not need
    compiles: bool = True  # compile, which takes its time


FULL = Sizes(image_bytes=4 * GIB, fio_file_bytes=1 * GIB, fio_seconds=2, files=20_000,
             synced_operations=3_000, tree_files=10_000, rows=1_000, verify_bytes=256 * MIB,
             growth=(10_000, 100_000, 2_000_000), growth_sample=5_000, idle_seconds=10, rounds=3,
             quick=False)
QUICK = Sizes(image_bytes=1 * GIB, fio_file_bytes=256 * MIB, fio_seconds=1, files=3_000,
              synced_operations=400, tree_files=1_500, rows=150, verify_bytes=32 * MIB,
              growth=(4_000, 40_000), growth_sample=2_000, idle_seconds=3, rounds=1, quick=True)
SMOKE = Sizes(image_bytes=384 * MIB, fio_file_bytes=16 * MIB, fio_seconds=0.2, files=100,
              synced_operations=20, tree_files=100, rows=5, verify_bytes=4 * MIB,
              growth=(200, 1_000), growth_sample=100, idle_seconds=0.5, rounds=1, quick=True,
              compiles=False)


@dataclass
class Setup:
    scratch: object
    programs: object
    sizes: Sizes
    corpus: object
    blobfs_options: list = field(default_factory=list)  # further arguments of blobfs-fuse
