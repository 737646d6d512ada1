"""The walls around a worker: bubblewrap's namespaces and read-only files, and a seccomp filter.

Inside there is no network, no host process, no environment, no writable host folder, no dataset's lock file (these hold
the labels), and no way to start a process. What a worker writes ends with it.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Mapping
from errno import ENOSYS, EPERM
from pathlib import Path
from typing import IO, Any

import torch

from avbench import files
from avbench.datasets.cards import card_folder, names
from avbench.errors import SandboxUnavailable

HOME = "/tmp"  # noqa: S108  a worker's own, gone with it
SCRATCH = 64 << 20  # bytes that all files of a worker may take together
_PACKAGE = Path(files.__file__).resolve().parent
_CLONE_THREAD, _PR_SET_PDEATHSIG = 0x10000, 1
# What could reach out of the walls, break them, or fill memory that no limit counts.
_DENIED = """
    fork vfork
    socket socketpair connect bind listen accept accept4 sendmsg sendmmsg
    ptrace process_vm_readv process_vm_writev process_madvise pidfd_open pidfd_getfd kcmp
    mount umount2 pivot_root chroot move_mount open_tree fsopen fsconfig fsmount fspick mount_setattr
    unshare setns name_to_handle_at open_by_handle_at
    bpf perf_event_open userfaultfd io_uring_setup io_uring_enter io_uring_register seccomp
    keyctl add_key request_key memfd_create memfd_secret
    shmget shmat shmctl msgget msgsnd msgrcv semget semop mq_open
    init_module finit_module delete_module kexec_load kexec_file_load reboot swapon swapoff acct quotactl
    syslog settimeofday clock_settime clock_adjtime adjtimex personality modify_ldt iopl ioperm vhangup
""".split()  # noqa: SIM905


def command(visible: Iterable[Path], environment: Mapping[str, str], filter_at: int, info_at: int) -> list[str]:
    """Return the words to put before a Python command so that it runs within the walls.

    Args:
        visible: files and folders that are there too, read-only, in their own place.
        environment: all variables there are.
        filter_at: descriptor of the seccomp filter.
        info_at: descriptor to which bubblewrap tells the worker's process id.

    Raises:
        SandboxUnavailable: if bubblewrap is not installed.
    """
    if not (program := shutil.which("bwrap")):
        raise SandboxUnavailable(f"bubblewrap is not installed (bwrap, the package bubblewrap); {ADVICE}")
    words = [
        program, "--unshare-all", "--die-with-parent", "--new-session", "--as-pid-1", "--cap-drop", "ALL", "--clearenv",
        "--size", str(SCRATCH), "--tmpfs", HOME, "--proc", "/proc", "--dev", "/dev",
    ]  # fmt: skip
    for path in (*_system(), *visible):
        words += ["--ro-bind-try", str(path), str(path)]
    packages = {_PACKAGE, *(Path(place, "avbench") for place in sys.path if place)}
    for bundled in sorted(package / "bundled" for package in packages):
        if bundled.exists():  # an installation's copy of all datasets, results and submissions
            words += ["--size", "4096", "--tmpfs", str(bundled.resolve())]
    for name in names():
        card = card_folder(name) / "card.yaml"
        words += ["--ro-bind-try", str(card), str(files.root() / "datasets" / name / "card.yaml")]
    for path in visible:  # some may lie in what was just hidden
        words += ["--ro-bind-try", str(path), str(path)]
    for name, value in environment.items():
        words += ["--setenv", name, value]
    return [
        *words, "--remount-ro", "/dev", "--remount-ro", "/", "--chdir", HOME,
        "--seccomp", str(filter_at), "--info-fd", str(info_at),
    ]  # fmt: skip


ADVICE = "a stranger's model does not run without a sandbox; --no-sandbox runs code of your own in this process"


def _system() -> list[Path]:
    """Python, its packages, the system's libraries, what there is to know of the CPU, and avbench."""
    site = Path(torch.__file__).resolve().parents[1]
    libraries = [Path(name) for name in ("/lib", "/lib64", "/usr/lib", "/usr/lib64")]
    mine = [_PACKAGE, _PACKAGE.parent / "pyproject.toml"]  # which tells where the cards lie
    found = [*libraries, Path("/sys/devices/system/cpu"), Path(sys.base_prefix), Path(sys.prefix), site, *mine]
    return [path for path in found if path != Path("/")]


def write_filter() -> IO[bytes]:
    """Compile the seccomp filter into an unnamed file.

    Raises:
        SandboxUnavailable: if libseccomp or its binding is not installed.
    """
    try:
        import pyseccomp as seccomp
    except (ImportError, OSError, RuntimeError) as error:
        raise SandboxUnavailable(
            f"pip install 'avbench[sandbox]' and libseccomp2 are needed ({error}); {ADVICE}"
        ) from error
    rules: Any = seccomp.SyscallFilter(seccomp.ALLOW)
    for name in _DENIED:
        if seccomp.resolve_syscall(seccomp.system_arch(), name) != -1:  # -1: too new for this libseccomp
            rules.add_rule(seccomp.ERRNO(EPERM), name)
    rules.add_rule(seccomp.ERRNO(ENOSYS), "clone3")  # its flags cannot be seen; libc then calls clone
    rules.add_rule(seccomp.ERRNO(EPERM), "clone", seccomp.Arg(0, seccomp.MASKED_EQ, _CLONE_THREAD, 0))
    rules.add_rule(seccomp.ERRNO(EPERM), "prctl", seccomp.Arg(0, seccomp.EQ, _PR_SET_PDEATHSIG))
    file = tempfile.TemporaryFile()  # noqa: SIM115  the caller closes it
    rules.export_bpf(file)
    os.lseek(file.fileno(), 0, os.SEEK_SET)
    return file
