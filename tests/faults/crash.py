#!/usr/bin/env python3
"""Crashes a running writer and checks what survived.

    crash.py --fault kill      --writer 'CMD ... {dir}' --check 'CMD ... {dir} {acks}'
    crash.py --fault power-cut --writer 'CMD ... {dir}' --check 'CMD ... {dir} {acks}'
    crash.py --self-test

kill       the writer gets SIGKILL at a random moment.
power-cut  the writer runs on an ext4 file system in a loop image. At a random moment the list of acknowledgements is
           frozen, the file system is shut down without flushing its journal (EXT4_IOC_SHUTDOWN: what a power cut
           leaves), the writer is killed, and the image is mounted again with a real journal replay. Needs root.

The writer prints one line for each acknowledgement on its standard output. The checker exits 0 when every line of
{acks} is there exactly once; anything else counts the cycle as a loss and its output is shown. {dir} does not exist
when the first writer starts. With --rounds N, N crashes hit the same directory one after the other (the checker runs
after each), and {acks} holds the lines of all of them.

A green run proves nothing without a control that is red: --expect-loss turns the verdict around, and ends at the first
loss. Nothing here depends on how fast the machine is: a crash waits for the first acknowledgement, and what follows it
waits until every process of the writer is gone.

Only acknowledgements that arrived before a power cut count. One that races the cut may be reported by a kernel that is
still alive, which no real power cut can do. After a kill, every line that reached the pipe counts.

Exit: 0 as expected, 1 not as expected, 2 could not run (the reason is printed).
"""
import argparse
import ctypes
import fcntl
import os
import random
import shlex
import signal
import struct
import subprocess
import sys
import tempfile
import time

EXT4_IOC_SHUTDOWN, NO_LOG_FLUSH = 0x8004587D, 2
PR_SET_CHILD_SUBREAPER = 36
# How long an unmount is tried: the kernel closes the files of dead processes in its own time.
UNMOUNT_S = 120


def sh(*argv):
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()


def kill_all(process):
    """Kills a writer with everything that it started, and waits until the last of them is gone."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    while True:
        try:
            # What it started is ours by now: this process is the subreaper.
            os.waitpid(-process.pid, 0)
        except ChildProcessError:
            return


class KillSite:
    """A plain directory; the crash is a signal."""

    def __init__(self, work, size):
        self.dir = os.path.join(work, "data")

    def crash(self, process):
        kill_all(process)

    def reopen(self):
        pass

    def close(self):
        pass


class PowerCutSite:
    """A loop-mounted ext4 image; the crash is a shutdown without a journal flush."""

    def __init__(self, work, size):
        self.image, self.mount = os.path.join(work, "image"), os.path.join(work, "mnt")
        with open(self.image, "wb") as f:
            f.truncate(size)
        os.makedirs(self.mount)
        sh("mkfs.ext4", "-q", "-F", self.image)
        self.loop = sh("losetup", "-f", "--show", self.image)
        sh("mount", self.loop, self.mount)
        self.dir = os.path.join(self.mount, "data")

    def crash(self, process):
        root = os.open(self.mount, os.O_RDONLY)
        fcntl.ioctl(root, EXT4_IOC_SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
        os.close(root)
        kill_all(process)

    def reopen(self):
        self.unmount()
        sh("mount", self.loop, self.mount)

    def unmount(self):
        end = time.monotonic() + UNMOUNT_S
        while subprocess.run(["umount", self.mount], capture_output=True).returncode != 0:
            if time.monotonic() > end:
                sh("umount", self.mount)
            time.sleep(0.05)

    def close(self):
        if os.path.ismount(self.mount):
            self.unmount()
        subprocess.run(["losetup", "-d", self.loop], capture_output=True)


def read_until(fd, process, end):
    """What the writer printed until `end`, or until it ended by itself."""
    seen = b""
    while time.monotonic() < end and process.poll() is None:
        try:
            seen += os.read(fd, 1 << 20)
        except BlockingIOError:
            time.sleep(0.0005)
    return seen


def crash_once(site, writer, lo, hi):
    """Runs the writer, crashes it; returns the complete lines that count, and whether it had ended by itself."""
    errors = tempfile.TemporaryFile()
    process = subprocess.Popen(
        shlex.split(writer.format(dir=site.dir)), stdout=subprocess.PIPE, stderr=errors, start_new_session=True
    )
    fd = process.stdout.fileno()
    fcntl.fcntl(fd, fcntl.F_SETFL, os.O_NONBLOCK)
    # The clock starts with the first acknowledgement, so that a slow start does not make an empty cycle.
    first = read_until_first(fd, process)
    seen = first + read_until(fd, process, time.monotonic() + random.uniform(lo, hi))
    ended = process.poll()
    if ended is not None:
        errors.seek(0)
        print(f"the writer ended by itself with {ended}: {errors.read()[-800:].decode(errors='replace').strip()}")
    errors.close()
    site.crash(process)
    if isinstance(site, KillSite):
        os.set_blocking(fd, True)
        seen += process.stdout.read()
    process.stdout.close()
    return seen[: seen.rfind(b"\n") + 1], ended is not None


def read_until_first(fd, process):
    while process.poll() is None:
        try:
            return os.read(fd, 1 << 20)
        except BlockingIOError:
            time.sleep(0.0005)
    return b""


def run(o, writer, check, cycles):
    """Crashes `cycles` times; returns (acknowledged, cycles that lost, writers that ended by themselves)."""
    site_of = {"kill": KillSite, "power-cut": PowerCutSite}[o.fault]
    acked = lost = early = done = 0
    while done < cycles:
        with tempfile.TemporaryDirectory() as work:
            site = site_of(work, o.size)
            acks = os.path.join(work, "acks")
            try:
                with open(acks, "wb") as f:
                    for _ in range(min(o.rounds, cycles - done)):
                        lines, ended = crash_once(site, writer, o.min, o.max)
                        done += 1
                        f.write(lines)
                        f.flush()
                        acked += lines.count(b"\n")
                        early += ended
                        site.reopen()
                        command = shlex.split(check.format(dir=site.dir, acks=acks))
                        r = subprocess.run(command, capture_output=True, text=True)
                        said = (r.stdout + r.stderr).strip()[-800:]
                        if r.returncode != 0:
                            lost += 1
                            print(f"cycle {done}: LOST: {said}")
                            if o.expect_loss:
                                return acked, lost, early
                            break
                        if o.verbose:
                            print(f"cycle {done}: {said}")
            finally:
                site.close()
    return acked, lost, early


def verdict(name, seed, cycles, result, expect_loss):
    acked, lost, early = result
    print(f"{name}: seed {seed}, at most {cycles} crashes, {acked} acknowledged before them, {lost} cycles lost something")
    if acked == 0:
        print(f"{name}: nothing was acknowledged, so nothing was tested")
        return False
    return early == 0 and (lost > 0) == expect_loss


def self_test_writer(folder, sync):
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "w"), "ab", buffering=0) as f:
        for d in (folder, os.path.dirname(folder)):
            os.fsync(os.open(d, os.O_RDONLY))
        start = f.tell() // 512
        for i in range(start + 1, 1 << 40):
            f.write(struct.pack("<Q", i) + b"\0" * 504)
            if sync:
                os.fdatasync(f.fileno())
            os.write(1, b"%d\n" % i)


def self_test_check(folder, acks):
    path, n = os.path.join(folder, "w"), 0
    data = open(path, "rb").read() if os.path.exists(path) else b""
    while data[n * 512 : n * 512 + 8] == struct.pack("<Q", n + 1):
        n += 1
    acked = max([int(x) for x in open(acks).read().split()] or [0])
    print(f"acknowledged {acked}, found {n}")
    return 0 if n >= acked else 1


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--fault", choices=["kill", "power-cut"], default="kill")
    a.add_argument("--cycles", type=int, default=20)
    a.add_argument("--rounds", type=int, default=1, help="crashes that hit one directory")
    a.add_argument("--writer")
    a.add_argument("--check")
    a.add_argument("--expect-loss", action="store_true", help="the control: fail when nothing is lost")
    a.add_argument("--size", type=int, default=256 << 20, help="bytes of the image")
    a.add_argument("--min", type=float, default=0.05, help="seconds after the first acknowledgement, at least")
    a.add_argument("--max", type=float, default=0.5, help="and at most")
    a.add_argument("--seed", type=int, default=None)
    a.add_argument("--verbose", action="store_true")
    a.add_argument("--self-test", action="store_true", help="power cuts: syncing loses nothing, not syncing loses")
    a.add_argument("--as-writer", nargs=2, help=argparse.SUPPRESS)
    a.add_argument("--as-check", nargs=2, help=argparse.SUPPRESS)
    o = a.parse_args()
    if o.as_writer:
        return self_test_writer(o.as_writer[0], o.as_writer[1] == "sync")
    if o.as_check:
        return self_test_check(*o.as_check)
    if o.self_test:
        o.fault = "power-cut"
    elif not (o.writer and o.check):
        a.error("--writer and --check are needed (or --self-test)")
    if o.fault == "power-cut" and os.geteuid() != 0:
        print("crash.py: a power cut needs root (loop mount and ext4 shutdown)")
        return 2
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    seed = o.seed if o.seed is not None else random.randrange(1 << 32)
    random.seed(seed)
    try:
        if not o.self_test:
            start = time.monotonic()
            ok = verdict(o.fault, seed, o.cycles, run(o, o.writer, o.check, o.cycles), o.expect_loss)
            print(f"{o.fault}: {time.monotonic() - start:.0f} s")
            return 0 if ok else 1
        me = shlex.quote(sys.executable) + " " + shlex.quote(os.path.abspath(__file__))
        ok = True
        for mode in ("sync", "nosync"):
            o.expect_loss = mode == "nosync"
            result = run(o, f"{me} --as-writer {{dir}} {mode}", f"{me} --as-check {{dir}} {{acks}}", 5)
            ok &= verdict(mode, seed, 5, result, o.expect_loss)
        return 0 if ok else 1
    except (OSError, subprocess.CalledProcessError) as e:
        print(f"crash.py: could not run: {e} {getattr(e, 'stderr', '') or ''}".strip())
        return 2


if __name__ == "__main__":
    sys.exit(main())
