"""Take more than one's share. Every bomb here is bounded in itself, should the walls be broken."""

import os
import signal
import sys
import threading
import time

from reads import Deed


class ForkBomb(Deed):
    def deed(self):
        made = 0
        for _ in range(20):
            try:
                if os.fork() == 0:
                    time.sleep(5)
                    os._exit(0)
                made += 1
            except OSError:
                pass
        return made


class Program(Deed):
    def deed(self):
        import subprocess

        return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(5)"])


class RawClone(Deed):
    """Call clone and clone3 past libc."""

    def deed(self):
        import ctypes

        libc = ctypes.CDLL(None, use_errno=True)
        made = 0
        for number, arguments in ((56, (17, 0, 0, 0, 0)), (435, (0, 0))):  # x86-64, SIGCHLD
            pid = libc.syscall(number, *arguments)
            if pid == 0:
                os._exit(0)
            made += pid > 0
        return made


class ThreadBomb(Deed):
    def deed(self):
        threading.stack_size(32768)
        for _ in range(3000):
            threading.Thread(target=time.sleep, args=(20,), daemon=True).start()
            time.sleep(0.0002)
        return True


class Memory(Deed):
    def deed(self):
        return bytearray(8 << 30)


class BigFile(Deed):
    def deed(self):
        with open(os.path.expanduser("~/big"), "wb") as file:
            file.truncate(2 << 30)
        return True


class ManyFiles(Deed):
    """Fill the scratch folder by many files, each small enough."""

    def deed(self):
        for number in range(8):
            with open(os.path.expanduser(f"~/{number}"), "wb") as file:
                file.write(bytes(32 << 20))
        return True


class HiddenMemory(Deed):
    """Take memory that no limit counts: files without a name."""

    def deed(self):
        return os.memfd_create("hidden")


class Descriptors(Deed):
    def deed(self):
        return [os.open("/dev/null", os.O_RDONLY) for _ in range(5000)]


class Sleeper(Deed):
    """Ignore every signal that can be ignored, and sleep."""

    def deed(self):
        for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_IGN)
        time.sleep(600)


class SlowStart(Deed):
    def __init__(self, classes, spec):
        super().__init__(classes, spec)
        time.sleep(600)


class Flood(Deed):
    """Print 64 MiB; that is allowed, and nobody keeps it."""

    def deed(self):
        for _ in range(64):
            os.write(1, b"x" * (1 << 20))
            os.write(2, b"\x1b[2J" * 100)
        return False


class Orphan(Deed):
    """Ask not to die with the parent, then outlive it."""

    def deed(self):
        import ctypes

        if not ctypes.CDLL(None).prctl(1, 0, 0, 0, 0):
            return True
        print("prctl refused", flush=True)
        time.sleep(60)
        return True
