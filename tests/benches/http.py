#!/usr/bin/env python3
"""The HTTP server's engines beside hyper and nginx: small replies, pipelined replies, bulk upload and download.

    http.py SERVER EXAMPLE DIR [--rounds N] [--seconds S] [--connections N] [--mib M]
            [--again N] [--only replies,transfer]

SERVER is dfs-server, EXAMPLE the program of the example http_engines, DIR an empty directory for all data. Each peer is a process
of its own with as many threads as there are processors; the client is wrk, for the transfers curl, or one that discards what
comes: copying keeps curl busy all the time, so that it shows its own speed. Every round asks all
peers in turn, each round beginning with another one; medians are printed as tables for docs/BENCHMARKS.md.
A peer that is not installed is named and left out. Standard library only.
"""
import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time

MIB = 1 << 20
PART_MIB = 16  # the longest chunk that an upload may bring
PIPELINE = 16
DISCARDED = bytearray(MIB)
ENGINES = ["async", "thread-pool", "blocking"]
LUA = """
local all
init = function() all = string.rep(wrk.format("GET"), %d) end
request = function() return all end
""" % PIPELINE


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command[:4])} …: {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def in_turn(names, turn):
    """The names in their order, each turn beginning with another one."""
    return names[turn % len(names):] + names[:turn % len(names)]


class Process:
    """A server, ended at the end of the `with` block."""

    def __init__(self, command, log, pattern=None, port=None):
        self.log, self.port = log, port
        with open(log, "wb") as out:
            self.child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=out, stderr=out)
        try:
            self.wait_ready(pattern)
        except BaseException:
            self.end()
            raise

    def wait_ready(self, pattern):
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and self.child.poll() is None:
            with open(self.log, errors="replace") as log:
                found = pattern and re.search(pattern, log.read())
            if found:
                self.port = int(found[1])
            if self.port:
                try:
                    socket.create_connection(("127.0.0.1", self.port)).close()
                    return
                except OSError:
                    pass
            time.sleep(0.02)
        with open(self.log, errors="replace") as log:
            raise SystemExit(f"{self.child.args[0]} does not serve:\n{log.read()}")

    def cpu(self):
        """Seconds of processor time of this process and its children."""
        with open(f"/proc/{self.child.pid}/task/{self.child.pid}/children") as children:
            pids = [self.child.pid, *map(int, children.read().split())]
        ticks = 0
        for pid in pids:
            with open(f"/proc/{pid}/stat") as stat:
                fields = stat.read().rsplit(")", 1)[1].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def end(self):
        self.child.stdin.close()
        self.child.send_signal(signal.SIGTERM)
        try:
            self.child.wait(20)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()


def nginx(directory):
    os.makedirs(f"{directory}/put", exist_ok=True)
    port = free_port()
    user = "user root;" if os.geteuid() == 0 else ""
    temp = "".join(
        f"{kind}_temp_path {directory}/{kind};" for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
    )
    with open(f"{directory}/nginx.conf", "w") as config:
        config.write(f"""
{user} worker_processes {os.cpu_count()}; daemon off; pid {directory}/pid; error_log stderr;
events {{ worker_connections 1024; }}
http {{
  access_log off; sendfile on; tcp_nodelay on; keepalive_requests 1000000000; {temp}
  server {{
    listen 127.0.0.1:{port};
    location = /hello {{ default_type text/plain; return 200 "Hello, World!"; }}
    location /put/ {{ root {directory}; dav_methods PUT; client_max_body_size 0; }}
  }}
}}
""")
    return Process(["nginx", "-p", directory, "-c", f"{directory}/nginx.conf"], f"{directory}/log", port=port)


def load(peer, options, script):
    """One measurement: replies per second, and the server's processor time for each in µs."""
    command = ["wrk", f"-t{min(2, os.cpu_count())}", f"-c{options.connections}", f"-d{options.seconds}s"]
    before = peer.cpu()
    said = run(*command, *script, f"http://127.0.0.1:{peer.port}/hello")
    spent = peer.cpu() - before
    if "Non-2xx" in said or "Socket errors" in said:
        raise SystemExit(f"wrk met errors:\n{said}")
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", said)[1])
    count = int(re.search(r"(\d+) requests in", said)[1])
    return rate, spent / max(count, 1) * 1e6


def replies(options, have_nginx):
    peers, figures = {}, {}
    pipelined = f"{options.dir}/pipelined.lua"
    with open(pipelined, "w") as lua:
        lua.write(LUA)
    try:
        for name in [*ENGINES, "hyper"]:
            log = f"{options.dir}/{name}.log"
            peers[name] = Process([options.example, "serve", name], log, r"serving on 127\.0\.0\.1:(\d+)")
        if have_nginx:
            peers["nginx"] = nginx(f"{options.dir}/nginx")
        names = list(peers)
        for what, script in [("keep-alive", []), (f"pipelined, {PIPELINE}", ["-s", pipelined])]:
            rounds = {name: [] for name in names}
            for turn in range(options.rounds):
                for name in in_turn(names, turn):
                    rounds[name].append(load(peers[name], options, script))
            figures[what] = {name: [statistics.median(values) for values in zip(*rounds[name])] for name in names}
    finally:
        for peer in peers.values():
            peer.end()
    print(f"\n{options.rounds} rounds of {options.seconds} s, {options.connections} connections, wrk; replies per "
          "second (in brackets: divided by hyper's), and processor time of the server for one reply\n")
    print(f"| load | {' | '.join(names)} |\n|---|{'---|' * len(names)}")
    for what, by_name in figures.items():
        hyper = by_name["hyper"][0]
        print(f"| {what} | {' | '.join(f'{by_name[name][0]:,.0f} ({by_name[name][0] / hyper:.2f})' for name in names)} |")
        print(f"| … processor time | {' | '.join(f'{by_name[name][1]:.2f} µs' for name in names)} |")


def curl(*arguments):
    """Seconds that curl takes for all of its transfers."""
    start = time.perf_counter()
    run("curl", "-sS", "--fail", "-o", "/dev/null", *arguments)
    return time.perf_counter() - start


def ask(port, route, request):
    return json.loads(run("curl", "-sS", "--fail", "--data-binary", json.dumps(request),
                          f"http://127.0.0.1:{port}/api/{route}"))


def upload(port, options):
    """A sync session with one file, its parts over one connection; until it is durable and can be downloaded."""
    client = ask(port, "register", {"client_name": "bench", "platform": "linux"})["client_id"]
    session = ask(port, "sync/start", {"client_id": client})["session_id"]
    file = {"file_path": "large", "hash": f"sha256:{options.hash}", "size": options.mib * MIB}
    ask(port, "sync/diff", {"session_id": session, "local_snapshot": [file]})
    config = f"{options.dir}/curl"
    base = f"http://127.0.0.1:{port}/api/file"
    with open(config, "w") as lines:
        for number, (part, digest) in enumerate(options.parts):
            lines.write(("next\n" if number else "") + 'silent\nshow-error\nfail\noutput = "/dev/null"\n')
            lines.write(f'data-binary = "@{part}"\nurl = "{base}/upload_chunk?session_id={session}&file_path=large'
                        f'&chunk_index={number}&total_chunks={len(options.parts)}&chunk_hash={digest}"\n')
    start = time.perf_counter()
    run("curl", "-K", config)
    ask(port, "file/upload_complete", {"session_id": session, "file_path": "large", "expected_hash": options.hash})
    return time.perf_counter() - start


@contextlib.contextmanager
def serving(name, options, directory):
    """A peer that has been sent the file; gives it, the seconds that the upload took, and the file's URL."""
    os.mkdir(directory)
    try:
        if name == "nginx":
            with nginx(directory) as peer:
                url = f"http://127.0.0.1:{peer.port}/put/large"
                yield peer, curl("-T", options.file, url), url
        else:
            command = [options.server, "--listen", "127.0.0.1:0", "--data-dir", directory, "--engine", name]
            with Process(command, f"{directory}.log", r"127\.0\.0\.1:(\d+)") as peer:
                seconds = upload(peer.port, options)
                yield peer, seconds, f"http://127.0.0.1:{peer.port}/api/file/download/large"
    finally:
        shutil.rmtree(directory)


def discard(url):
    """Seconds that a download takes of which the client copies nothing (MSG_TRUNC): it waits for the server, as curl does not."""
    host, port, path = re.fullmatch(r"http://([^:]+):(\d+)(/.*)", url).groups()
    start, length = time.perf_counter(), 0
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        head = b""
        while b"\r\n\r\n" not in head:
            received = connection.recv(4096)
            if not received:
                raise SystemExit(f"{url}: {head!r}")
            head += received
        length = len(head) - head.index(b"\r\n\r\n") - 4
        announced = int(re.search(rb"(?i)content-length: *(\d+)", head)[1])
        while received := connection.recv_into(DISCARDED, len(DISCARDED), socket.MSG_TRUNC):
            length += received
    if not head.startswith(b"HTTP/1.1 200") or length != announced:
        raise SystemExit(f"{url}: {length} bytes after {head!r}")
    return time.perf_counter() - start


def downloads(peers, turn, options, steps):
    """Downloads from all peers in turn, which have just been sent the file; adds what they took to the steps."""
    names = list(peers)
    for name in in_turn(names, turn):
        steps["download, first, discarded"][name].append(discard(peers[name][1]))
    for again in range(options.again):
        for name in in_turn(names, turn + again):
            peer, url = peers[name]
            before, children = peer.cpu(), sum(os.times()[2:4])
            steps["download, again, by curl"][name].append(curl(url))
            steps["… the server's processor time"][name].append(peer.cpu() - before)
            steps["… curl's processor time"][name].append(sum(os.times()[2:4]) - children)
        for name in in_turn(names, turn + again):
            steps["download, again, discarded"][name].append(discard(peers[name][1]))


def transfer(options, have_nginx):
    import hashlib
    whole = hashlib.sha256()
    options.file, options.parts = f"{options.dir}/large", []
    with open(options.file, "wb") as large:
        for number in range(options.mib // PART_MIB):
            part, bytes_ = f"{options.dir}/part{number}", os.urandom(PART_MIB * MIB)
            with open(part, "wb") as out:
                out.write(bytes_)
            large.write(bytes_)
            whole.update(bytes_)
            options.parts.append((part, hashlib.sha256(bytes_).hexdigest()))
    options.hash = whole.hexdigest()
    names = [*ENGINES, *(["nginx"] if have_nginx else [])]
    rows = ["upload", "download, first, discarded", "download, again, discarded", "download, again, by curl",
            "… the server's processor time", "… curl's processor time"]
    steps = {row: {name: [] for name in names} for row in rows}
    for turn in range(options.rounds):
        with contextlib.ExitStack() as stack:
            peers = {}
            for name in in_turn(names, turn):
                peer, seconds, url = stack.enter_context(serving(name, options, f"{options.dir}/sent-{name}"))
                steps["upload"][name].append(seconds)
                peers[name] = peer, url
            # Nobody downloads while the disk writes what another one was sent, and what rests for a second counts as verified.
            os.sync()
            time.sleep(1.1)
            downloads({name: peers[name] for name in names}, turn, options, steps)
        print(f"round {turn + 1} of {options.rounds}", file=sys.stderr, flush=True)
    print(f"\n{options.mib} MiB of random bytes, medians of {options.rounds} rounds with {options.again} repeated downloads of each kind (in "
          "brackets: nginx's time divided by this one). dfs hashes, cuts into chunks and makes durable what it is sent; nginx "
          "writes a file.\n")
    print(f"| transfer | {' | '.join(names)} |\n|---|{'---|' * len(names)}")
    for step, by_name in steps.items():
        medians = {name: statistics.median(by_name[name]) for name in names}
        is_compared = have_nginx and not step.startswith("…")
        ratio = lambda name: f" ({medians['nginx'] / medians[name]:.2f})" if is_compared else ""
        print(f"| {step} | {' | '.join(f'{medians[name]:.3f} s{ratio(name)}' for name in names)} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("server")
    parser.add_argument("example")
    parser.add_argument("dir")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--again", type=int, default=6, help="repeated downloads of each kind in each round")
    parser.add_argument("--only", default="replies,transfer")
    options = parser.parse_args()
    if options.mib % PART_MIB:
        parser.error(f"--mib has to be a multiple of {PART_MIB}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    have_nginx = shutil.which("nginx") is not None
    if not have_nginx:
        print("nginx is not installed: left out", file=sys.stderr)
    only = options.only.split(",")
    if "replies" in only:
        if shutil.which("wrk"):
            replies(options, have_nginx)
        else:
            print("wrk is not installed: the replies are left out", file=sys.stderr)
    if "transfer" in only:
        transfer(options, have_nginx)


if __name__ == "__main__":
    main()
