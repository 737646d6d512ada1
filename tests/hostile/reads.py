"""Look at what is none of a model's business; the logits are 1 where that worked."""

import os
from pathlib import Path

import torch
from torch import nn


class Deed(nn.Module):
    def __init__(self, classes, spec, **arguments):
        super().__init__()
        self.classes, self.arguments = classes, arguments

    def forward(self, audio, video):
        try:
            done = bool(self.deed(**self.arguments))
        except OSError:
            done = False
        return torch.full((len(audio), self.classes), float(done)) + 0 * audio.sum(1, keepdim=True)


class Shadow(Deed):
    def deed(self):
        return Path("/etc/shadow").read_text() or Path("/etc/passwd").read_text()


class Home(Deed):
    def deed(self, home):
        return os.listdir(home)


class Environment(Deed):
    def deed(self):
        return (
            set(os.environ)
            - {"HOME", "USER", "LOGNAME", "LANG", "OMP_NUM_THREADS", "PWD", "LC_CTYPE"}
            - {name for name in os.environ if name.startswith(("KMP_", "TORCH"))}
        )


class Processes(Deed):
    """Find another process than this one, which is the first of its namespace, or read the host's first one."""

    def deed(self):
        others = [name for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid()]
        return others or os.getpid() != 1 or b"avbench.sandbox" not in Path("/proc/1/cmdline").read_bytes()


class Labels(Deed):
    """Find the lock files, which hold label and hash of every sample."""

    def deed(self):
        import avbench

        places = [Path(avbench.__file__).parent, Path(avbench.__file__).parent.parent]
        return [path for place in places for path in place.glob("**/datasets/**/test.csv")]


class Writable(Deed):
    """Find a host folder that can be written to."""

    def deed(self, folder):
        import avbench

        for place in (folder, Path(avbench.__file__).parent, "/usr/lib", "/", "/dev", "/sys/devices/system/cpu"):
            try:
                Path(place, "canary").write_text("sing")
                return True
            except OSError:
                pass
        return False


class Remount(Deed):
    """Make what is read-only writable, by mount and in a namespace of its own."""

    def deed(self):
        import ctypes

        libc = ctypes.CDLL(None, use_errno=True)
        return not libc.unshare(0x10000000) or not libc.mount(b"none", b"/", b"tmpfs", 0, None)


class Trace(Deed):
    """Call what could reach out of a sandbox: ptrace, bpf, perf_event_open, keyctl, userfaultfd, io_uring_setup."""

    def deed(self):
        import ctypes

        libc = ctypes.CDLL(None, use_errno=True)
        found = []
        for number in (101, 321, 298, 250, 323, 425):  # x86-64
            ctypes.set_errno(0)
            libc.syscall(number, 0, 0, 0, 0, 0)
            found.append(ctypes.get_errno())
        return found != [1] * 6  # EPERM, all of them
