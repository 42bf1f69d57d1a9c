"""Clients and circumstances that `evalign serve` has to bear, one after the other, on the real binary.

    python service_faults.py BINARY [--faketime LIBRARY] [KIND ...]

Slow clients that hold every connection, event streams that nobody reads, a database that another process has locked, and
a clock that goes backwards (LIBRARY is libfaketime's .so, Debian's package faketime). Each prints what it saw as JSON;
ends with 1 where an expectation does not hold.
"""

import argparse
import json
import os
import socket
import sqlite3
import sys
import tempfile
import threading
import time

from service import Server

SLOW_RUN = {"model": "small", "tasks": ["samples"]}


def start(args, work, **settings):
    with open(f"{work}/model.json", "w", encoding="utf-8") as script:
        json.dump({"seed": 1, "delay_ms": 10}, script)
    return Server(args.binary, f"{work}/home", {"small": f"scripted/{work}/model.json"}, **settings)


def timed(call):
    start = time.perf_counter()
    answer = call()
    return answer, time.perf_counter() - start


def loris(args, work):
    """Every connection is held by somebody who says a byte a second; they are cut off, and the next ones are served."""
    server = start(args, work, max_connections=50, read_timeout_secs=2)
    try:
        slow = [socket.create_connection((server.host, server.port)) for _ in range(50)]
        over = threading.Event()

        def drip():
            for letter in "GET /healthz HTTP/1.1\r\n" + "x-slow: " + "a" * 100:
                if over.wait(0.5):
                    return
                for client in slow:
                    try:
                        client.sendall(letter.encode())
                    except OSError:
                        pass

        dripping = threading.Thread(target=drip)
        dripping.start()
        (status, _), secs = timed(lambda: server.ask("GET", "/healthz", timeout=30))
        over.set()
        dripping.join()
        time.sleep(1)
        left = server.descriptors()
        for client in slow:
            client.close()
        return {"status": status, "served_after_s": secs, "descriptors_while_they_stay": left}, status == 200 and secs < 10
    finally:
        server.end()


def half_open(args, work):
    """Streams that are opened and never read, from clients that vanish: memory stays, the run goes on, and it ends."""
    server = start(args, work, max_streams=300)
    try:
        run = server.made("/v1/runs", SLOW_RUN)["id"]
        before = server.memory_mib(), server.descriptors()
        clients = []
        for _ in range(200):
            client = socket.socket()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            client.connect((server.host, server.port))
            client.sendall(f"GET /v1/runs/{run}/events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {server.key}\r\n\r\n".encode())
            clients.append(client)
        ended = server.until_ended(run, 120)
        (status, _), secs = timed(lambda: server.ask("GET", "/v1/runs"))
        open_now = server.memory_mib(), server.descriptors()
        for client in clients:
            client.close()
        time.sleep(3)
        metrics = server.ask("GET", "/metrics")[1].decode()
        streams = next(line for line in metrics.splitlines() if line.startswith("evalign_event_streams"))
        code, stopped = timed(server.end)
        seen = {"run": ended["status"], "answer_s": secs, "rss_mib": [before[0], open_now[0]], "descriptors": [before[1], open_now[1]], "after": streams, "exit": code, "stopped_s": stopped}
        return seen, ended["status"] == "completed" and status == 200 and streams.endswith(" 0") and code == 0
    finally:
        if server.process.poll() is None:
            server.end()


def locked(args, work):
    """Another process holds the database's write lock for longer than a statement waits."""
    server = start(args, work, workers=2)
    try:
        run = server.made("/v1/runs", SLOW_RUN)["id"]
        while server.ask("GET", f"/v1/runs/{run}")[1]["samples_done"] < 5:
            time.sleep(0.05)
        other = sqlite3.connect(f"{server.home}/evalign.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        seen = {path: timed(lambda path=path: server.ask("GET", path)) for path in ("/healthz", f"/v1/runs/{run}", "/v1/leaderboard", "/v1/runs")}
        (ready, _), ready_secs = timed(lambda: server.ask("GET", "/readyz"))
        (posted, answer), post_secs = timed(lambda: server.ask("POST", "/v1/runs", SLOW_RUN | {"seed": 5}, timeout=90))
        other.execute("ROLLBACK")
        ended = server.until_ended(run, 120)
        if ended["status"] != "completed":
            server.ask("POST", f"/v1/runs/{run}/resume")
            ended = server.until_ended(run, 120)
        reads = {path: [answer[0], secs] for path, (answer, secs) in seen.items()}
        good = all(status == 200 and secs < 5 for status, secs in reads.values()) and posted in (202, 503)
        return {"reads": reads, "ready": [ready, ready_secs], "post": [posted, post_secs], "run": ended["status"], "error": ended["error"]}, good and ended["status"] == "completed"
    finally:
        server.end()


def clock(args, work):
    """The clock goes back by an hour while a run lasts, and once more before the next server begins."""
    if not args.faketime:
        return {"skipped": "no --faketime"}, True
    offset = f"{work}/offset"

    def shift(text):
        with open(offset + ".new", "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(offset + ".new", offset)

    shift("+0")
    os.environ |= {"LD_PRELOAD": args.faketime, "FAKETIME_TIMESTAMP_FILE": offset, "FAKETIME_NO_CACHE": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    try:
        server = start(args, work)
    finally:
        del os.environ["LD_PRELOAD"]
    try:
        run = server.made("/v1/runs", SLOW_RUN)["id"]
        while server.ask("GET", f"/v1/runs/{run}")[1]["samples_done"] < 5:
            time.sleep(0.05)
        shift("-1h")
        first = server.until_ended(run, 120)
        second = server.made("/v1/runs", SLOW_RUN | {"seed": 2}, idempotency_key="clock")["id"]
        again = server.made("/v1/runs", SLOW_RUN | {"seed": 2}, idempotency_key="clock")["id"]
        while server.ask("GET", f"/v1/runs/{second}")[1]["samples_done"] < 5:
            time.sleep(0.05)
        shift("-3h")
        killed = server.end(9)
        server.start()
        last = server.until_ended(second, 120)
        newest = [run["id"] for run in server.ask("GET", "/v1/runs")[1]["data"]]
        seen = {"first": first["status"], "killed": killed, "second": last["status"], "samples": [last["samples_done"], last["samples_total"]], "newest_first": newest == [second, run]}
        return seen, first["status"] == last["status"] == "completed" and second == again and seen["newest_first"]
    finally:
        server.end()


def main():
    kinds = {"loris": loris, "half_open": half_open, "locked": locked, "clock": clock}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("--faketime")
    parser.add_argument("kind", nargs="*", choices=[*kinds, []])
    args = parser.parse_args()
    good = True
    for name in args.kind or kinds:
        with tempfile.TemporaryDirectory() as work:
            seen, holds = kinds[name](args, work)
            print(json.dumps({"fault": name, "holds": holds} | seen), flush=True)
            good &= holds
    return int(not good)


if __name__ == "__main__":
    sys.exit(main())
