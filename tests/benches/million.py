#!/usr/bin/env python3
"""What a mount and its server cost with very many records.

    million.py BIN DIR SERVER_PID SERVER_ADDRESS [--files N] [--differences N] [--json FILE]

Makes N empty files (two records each) in directories of 1,000 through a mount, joins a second mount, and measures
  join      a new mount: until it has every record (s, MiB over loopback)
  start     the second mount started again: until it is usable, until it is in step with the server (s)
  memory    resident memory of that mount, of the first one and of the server (MiB)
  differ    as `start`, after N files were touched while it was away: from its walk's end to being in step (s), KiB
            over loopback from its start on
SERVER_PID is the server that listens on SERVER_ADDRESS. DIR holds all data. Standard library only.
"""
import argparse
import datetime
import json
import os
import subprocess
import sys
import time

from sync import lo_bytes, wait

MIB = 1 << 20
IN_DIRECTORY = 1000
PATIENCE = 3600


def resident(pid):
    """Returns a process' resident memory and its highest ever, in MiB."""
    with open(f"/proc/{pid}/status") as status:
        lines = dict(line.split(":", 1) for line in status)
    return tuple(int(lines[key].split()[0]) / 1024 for key in ("VmRSS", "VmHWM"))


class Mount:
    def __init__(self, options, name):
        self.opt, self.name = options, name
        self.root = os.path.join(options.dir, name)
        self.log = os.path.join(options.dir, f"{name}.log")
        self.process = None
        self.began_at = None

    def dfs(self, *arguments):
        command = [os.path.join(self.opt.bin, "dfs"), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def logged(self, text):
        """Returns when a line with a text was logged, in seconds since the start; None if it was not."""
        with open(self.log) as log:
            for line in log:
                if text in line:
                    return datetime.datetime.fromisoformat(line.split()[0]).timestamp() - self.began_at
        return None

    def start(self):
        """Starts it; returns the seconds until it is usable and until it is in step, and what crossed loopback."""
        before = lo_bytes()
        self.began_at = time.time()
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                [os.path.join(self.opt.bin, "dfs-mount"), self.root, "--server", self.opt.address, "--state-dir",
                 f"{self.root}.state", "--cache-dir", f"{self.root}.cache", "--client-name", self.name],
                stdout=log, stderr=subprocess.STDOUT)
        began = time.perf_counter()
        self.await_(lambda: os.path.ismount(self.root))
        usable = time.perf_counter() - began
        self.await_(lambda: self.logged("in step with the server") is not None)
        return usable, self.logged("in step with the server"), lo_bytes() - before

    def await_(self, check):
        if not wait(lambda: check() or self.process.poll() is not None, PATIENCE) or self.process.poll() is not None:
            with open(self.log) as log:
                sys.exit(f"mount {self.name}: {log.read()[-2000:]}")

    def stop(self):
        self.dfs("umount", self.root)
        self.process.wait()


def settle(mounts):
    for mount in mounts:
        mount.dfs("wait", mount.root, "--timeout", str(PATIENCE))


def make(root, files):
    for number in range(files):
        directory = os.path.join(root, f"d{number // IN_DIRECTORY:04d}")
        if number % IN_DIRECTORY == 0:
            os.mkdir(directory)
        os.close(os.open(os.path.join(directory, f"f{number:07d}"), os.O_CREAT | os.O_WRONLY, 0o644))


def touch(root, files, count):
    for index in range(count):
        number = index * (files // count)
        os.utime(os.path.join(root, f"d{number // IN_DIRECTORY:04d}", f"f{number:07d}"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("bin", "dir", "server_pid", "address"):
        parser.add_argument(name)
    parser.add_argument("--files", type=int, default=500_000)
    parser.add_argument("--differences", type=int, default=100)
    parser.add_argument("--json")
    options = parser.parse_args()
    a, b = Mount(options, "a"), Mount(options, "b")
    results = {}

    def say(name, **figures):
        results[name] = figures
        print(f"{name:10}", "   ".join(f"{key} {value:.3f}" for key, value in figures.items()), flush=True)

    try:
        a.start()
        began = time.perf_counter()
        make(a.root, options.files)
        made = time.perf_counter() - began
        settle([a])
        say("made", seconds=made, until_settled=time.perf_counter() - began)
        _, joined, transferred = b.start()
        say("join", seconds=joined, mib=transferred / MIB)
        memory = {"join": resident(b.process.pid)}
        b.stop()
        usable, in_step, transferred = b.start()
        say("start", usable=usable, in_step=in_step, kib=transferred / 1024)
        memory |= {"mount": resident(b.process.pid), "first": resident(a.process.pid)}
        memory["server"] = resident(int(options.server_pid))
        for name, (now, most) in memory.items():
            say(f"mem.{name}", mib=now, most=most)
        b.stop()
        touch(a.root, options.files, options.differences)
        settle([a])
        usable, in_step, transferred = b.start()
        compared = b.logged("reconciling with the server")
        say("differ", usable=usable, in_step=in_step, apply=in_step - (compared or 0), kib=transferred / 1024)
    finally:
        for mount in (a, b):
            if mount.process and mount.process.poll() is None:
                mount.process.terminate()
                mount.process.wait()
    if options.json:
        with open(options.json, "w") as out:
            json.dump(results, out, indent=1)


if __name__ == "__main__":
    main()
