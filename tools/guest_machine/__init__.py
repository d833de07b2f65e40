"""A virtual machine with emulated NVMe SSDs, to try the driver on a controller that is not ours.

package    Debian packages, fetched and unpacked into a cache
kernel     a Debian cloud kernel and its modules, taken out of its package
initramfs  the guest's whole system: busybox, modules, programs under test and their libraries
machine    the running machine: its SSDs, commands in it, power cuts, removal of a device
"""


class Unavailable(Exception):
    """The guest cannot be had on this machine; the text says why and what would help."""
