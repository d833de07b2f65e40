"""One virtual machine: QEMU, its emulated SSDs, and the line over which commands go into it."""

import base64
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from . import Unavailable, initramfs, kernel


@dataclass
class Ssd:
    """An emulated SSD. Sizes in bytes; each namespace has an image file of its own."""

    size: int = 256 << 20
    lba: int = 512
    mdts: int | None = 512 << 10  # longest transfer, a power of two from 4096; None: no limit
    namespaces: int = 1
    images: list = field(default_factory=list)  # paths to keep; a new file where one is missing
    metadata: int = 0  # bytes of metadata for each block: 0, 8, 16 or 64
    write_cache: bool = True
    read_errors: tuple = ()  # byte offsets of 512-byte sectors that cannot be read


@dataclass
class Options:
    ssds: list = field(default_factory=lambda: [Ssd()])
    files: list = field(default_factory=list)  # (host path, guest path)
    memory_mib: int = 1536
    processors: int = 2
    hugepages: int = 192  # of 2 MiB
    iommu: bool = True
    interactive: bool = False


class Died(Exception):
    """The machine ended (power cut, panic) before a command had."""


class TimedOut(Exception):
    pass


def address(index):
    """The PCI address of the SSD with that index: each sits alone behind a root port."""
    return f"0000:{index + 1:02x}:00.0"


def require():
    """Raises Unavailable, saying why, where there can be no machine."""
    for program, package in (("qemu-system-x86_64", "qemu-system-x86"),
                             ("busybox", "busybox-static")):
        if shutil.which(program) is None:
            raise Unavailable(f"the guest needs {program} (Debian: {package})")
    kernel.obtain()


class Machine:
    """A machine that has been switched on. A context manager: switched off at the end."""

    def __init__(self, options):
        self.qemu = None
        self._agent = None
        self._monitor = None
        self._buffer = b""
        require()
        self.options = options
        self._scratch = tempfile.TemporaryDirectory(prefix="blobfs-guest-")
        self.directory = Path(self._scratch.name)
        try:
            found = kernel.obtain()
            initramfs.build(self.directory / "initramfs", found, options.files)
            command = self._command(found)
            if options.interactive:
                self.qemu = subprocess.Popen(command)
                return
            # Its own process group: a Ctrl-C is for us, who then switch it off.
            with open(self.directory / "qemu.log", "wb") as log:
                self.qemu = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log,
                                             stderr=subprocess.STDOUT, process_group=0)
            self._agent = self._connect("agent")
            self._monitor = self._connect("monitor")
            self._monitor_line()
            self.monitor("qmp_capabilities")
            self._wait_ready()
        except BaseException:
            self.power_cut()
            raise

    def _command(self, found):
        options = self.options
        words = ["quiet", "panic=-1", "console=ttyS0", f"blobfs.hugepages={options.hugepages}"]
        if options.iommu:
            words.append("intel_iommu=on")
        if options.interactive:
            words.append("blobfs.interactive=1")
        command = ["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-M", "q35", "-cpu", "max",
                   "-smp", str(options.processors), "-m", f"{options.memory_mib}M",
                   "-nodefaults", "-display", "none", "-no-reboot", "-kernel", str(found.image),
                   "-initrd", str(self.directory / "initramfs"), "-append", " ".join(words)]
        if options.interactive:
            command += ["-serial", "mon:stdio"]
        else:
            command += ["-serial", f"file:{self.directory / 'console'}"]
            for name in ("agent", "monitor"):
                path = self.directory / name
                command += ["-chardev", f"socket,id={name},path={path},server=on,wait=off"]
            command += ["-serial", "chardev:agent", "-mon", "chardev=monitor,mode=control"]
        if options.iommu:
            command += ["-device", "intel-iommu,intremap=off,caching-mode=on"]
        for index, ssd in enumerate(options.ssds):
            command += self._ssd(index, ssd)
        return command

    def _ssd(self, index, ssd):
        mdts = 0 if ssd.mdts is None else (ssd.mdts // 4096).bit_length() - 1
        command = ["-device", f"pcie-root-port,id=port{index},chassis={index},slot={index},"
                              f"addr={index + 8:#x}",
                   "-device", f"nvme,id=ssd{index},bus=port{index},serial=blobfs{index},"
                              f"mdts={mdts}"]
        for space in range(ssd.namespaces):
            image = Path(ssd.images[space] if space < len(ssd.images)
                         else self.directory / f"ssd{index}.{space + 1}")
            if not image.exists():
                with open(image, "wb") as file:
                    file.truncate(ssd.size)
            name = f"drive{index}.{space + 1}"
            drive = f"file={image},if=none,id={name},format=raw,discard=unmap"
            if ssd.read_errors and space == 0:
                rules = self.directory / f"ssd{index}.errors"
                rules.write_text("".join(
                    f'[inject-error]\nevent = "none"\niotype = "read"\nerrno = "5"\n'
                    f'sector = "{offset // 512}"\n\n' for offset in ssd.read_errors))
                drive = (f"driver=raw,if=none,id={name},file.driver=blkdebug,"
                         f"file.config={rules},file.image.driver=file,"
                         f"file.image.filename={image}")
            command += ["-drive", drive + f",cache={'writeback' if ssd.write_cache else 'writethrough'}",
                        "-device", f"nvme-ns,bus=ssd{index},drive={name},nsid={space + 1},"
                                   f"logical_block_size={ssd.lba},physical_block_size={ssd.lba},"
                                   f"ms={ssd.metadata}"]
        return command

    def image(self, index=0, space=1):
        """The image file of a namespace, which holds what the SSD holds once QEMU has ended."""
        images = self.options.ssds[index].images
        return Path(images[space - 1]) if space <= len(images) \
            else self.directory / f"ssd{index}.{space}"

    def _connect(self, name):
        deadline = time.monotonic() + 20
        while True:
            try:
                line = socket.socket(socket.AF_UNIX)
                line.connect(str(self.directory / name))
                return line
            except OSError:
                line.close()
                if self.qemu.poll() is not None:
                    text = (self.directory / "qemu.log").read_text(errors="replace")
                    raise Unavailable("QEMU did not start: " + text.strip()) from None
                if time.monotonic() > deadline:
                    raise TimedOut("QEMU did not open its sockets") from None
                time.sleep(0.05)

    def console(self):
        """What the guest's kernel said."""
        path = self.directory / "console"
        return path.read_text(errors="replace") if path.exists() else ""

    def _receive(self, deadline):
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimedOut("the guest did not answer in time\n" + self.console()[-2000:])
        try:
            self._agent.settimeout(left)
            data = self._agent.recv(65536)
        except TimeoutError:
            raise TimedOut("the guest did not answer in time\n" + self.console()[-2000:]) from None
        except OSError:  # reset, or closed by power_cut() in another thread
            data = b""
        if not data:
            raise Died("the machine went off\n" + self.console()[-2000:])
        return data

    def _wait_ready(self):
        deadline = time.monotonic() + 120
        while b"ready\n" not in self._buffer:
            self._buffer += self._receive(deadline)
        self._buffer = b""

    def start(self, script):
        """Starts a shell script in the guest; one at a time. wait() gives its end."""
        self._marker = secrets.token_hex(12)
        text = f"# {self._marker}\n{script}\n"
        self._agent.sendall(base64.b64encode(text.encode()) + b"\n")

    def wait(self, timeout_s=120, stream=None):
        """(exit status, output) of the script. stream: a binary file that gets the output too."""
        deadline = time.monotonic() + timeout_s
        marker = b"\n" + self._marker.encode() + b" "
        sent = 0
        while True:
            at = self._buffer.find(marker)
            end = self._buffer.find(b"\n", at + len(marker)) if at >= 0 else -1
            if stream is not None:
                safe = at if at >= 0 else max(sent, len(self._buffer) - len(marker))
                stream.write(self._buffer[sent:safe])
                stream.flush()
                sent = max(sent, safe)
            if end >= 0:
                output = self._buffer[:at]
                status = int(self._buffer[at + len(marker):end])
                self._buffer = self._buffer[end + 1:]
                return status, output.decode(errors="replace")
            self._buffer += self._receive(deadline)

    def run(self, script, timeout_s=120, stream=None):
        self.start(script)
        return self.wait(timeout_s, stream)

    def _monitor_line(self):
        line = b""
        self._monitor.settimeout(20)
        while not line.endswith(b"\n"):
            byte = self._monitor.recv(1)
            if not byte:
                raise Died("QEMU has closed its monitor")
            line += byte
        return json.loads(line)

    def monitor(self, command, **arguments):
        """A QEMU monitor command; its return value."""
        request = {"execute": command}
        if arguments:
            request["arguments"] = arguments
        self._monitor.sendall(json.dumps(request).encode() + b"\n")
        while True:
            answer = self._monitor_line()
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                raise RuntimeError(f"{command}: {answer['error']['desc']}")

    def set_critical_warning(self, index, bits):
        """From now on the SSD's health page has these critical warnings; it reports them."""
        self.monitor("qom-set", path=f"/machine/peripheral/ssd{index}",
                     property="smart_critical_warning", value=bits)

    def remove_ssd(self, index):
        """Asks for the SSD to be pulled out (hot removal); the guest sees it at once."""
        self.monitor("device_del", id=f"ssd{index}")

    def power_cut(self):
        """Kills QEMU: for everything in the guest, the power fails."""
        if self.qemu is not None:
            if self.qemu.poll() is None:
                self.qemu.send_signal(signal.SIGKILL)
            self.qemu.wait()
        for line in (self._agent, self._monitor):
            if line is not None:
                line.close()

    def close(self):
        """Switches the machine off and forgets it, images that nobody named included."""
        self.power_cut()
        self._scratch.cleanup()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def program_files(build):
    """(host path, guest path) of every program of a build directory that a user would run."""
    build = Path(build)
    found = []
    for folder in ("mkfs", "fs", "tools"):
        for path in sorted((build / folder).rglob("*")):
            if (path.is_file() and os.access(path, os.X_OK) and "CMakeFiles" not in path.parts
                    and path.suffix not in (".so", ".sh")):
                found.append((path, f"/files/{path.name}"))
    return found
