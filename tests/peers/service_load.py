"""Load on `evalign serve` from another process: figures as JSON, one line each.

    python service_load.py reads BINARY --local MODEL [--seconds S] [--runs N]   needs wrk (Debian: apt-get install wrk)
    python service_load.py streams BINARY [--clients N]      N readers of one run's events: who misses or repeats one?
    python service_load.py upload BINARY [--mib N]           memory while a large file comes in
    python service_load.py rows BINARY [--rows N]            memory for a dataset of many rows
    python service_load.py queued BINARY [--runs N]          that many runs queued, answers meanwhile
    python service_load.py completions BINARY --local MODEL [--clients N] [--tokens N]
    python service_load.py completions --url URL --key KEY --name MODEL    the same load on another server
"""

import argparse
import asyncio
import http.client
import json
import re
import statistics
import subprocess
import tempfile
import threading
import time
import urllib.parse

from service import Server

TASKS = ["samples"]


def scripted(work, script):
    with open(f"{work}/model.json", "w", encoding="utf-8") as file:
        json.dump(script, file)
    return f"scripted/{work}/model.json"


def told(**figures):
    print(json.dumps({name: round(value, 3) if isinstance(value, float) else value for name, value in figures.items()}), flush=True)


class Meanwhile:
    """Asks `/healthz` ten times a second and looks at the server's memory, until it is left."""

    def __init__(self, server):
        self.server, self.over = server, threading.Event()
        self.seconds, self.mib = [], []
        self.thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()

    def _look(self):
        while True:
            start = time.perf_counter()
            status, _ = self.server.ask("GET", "/healthz")
            self.seconds.append(time.perf_counter() - start if status == 200 else float("inf"))
            self.mib.append(self.server.memory_mib())
            if self.over.wait(0.1):
                return

    def figures(self):
        ordered = sorted(self.seconds)
        return {"healthz_p99_ms": 1000 * ordered[int(0.99 * (len(ordered) - 1))], "healthz_asked": len(ordered), "rss_mib_most": max(self.mib)}


def wrk(server, path, seconds, connections):
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-H", f"Authorization: Bearer {server.key}", server.place + path]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    units = {"us": 0.001, "ms": 1.0, "s": 1000.0}
    share = lambda percent: (found := re.search(rf"{percent}%\s+([\d.]+)(us|ms|s)", text)) and float(found[1]) * units[found[2]]
    return {"requests_s": float(re.search(r"Requests/sec:\s+([\d.]+)", text)[1]), "p50_ms": share(50), "p99_ms": share(99), "failed": "Non-2xx" in text or "Socket errors" in text}


def reads(args, work):
    server = Server(args.binary, f"{work}/home", {"small": scripted(work, {"seed": 1}), "local": f"local/{args.local}"}, max_active_runs=1000)
    try:
        done = [server.made("/v1/runs", {"model": "small", "tasks": TASKS, "seed": seed})["id"] for seed in range(args.runs)]
        for run in done:
            server.until_ended(run)
        # Evaluations that last: the same tasks again and again.
        lasting = [server.made("/v1/runs", {"model": "local", "tasks": TASKS, "seed": seed})["id"] for seed in range(50)]
        while server.ask("GET", f"/v1/runs/{lasting[0]}")[1]["samples_done"] == 0:
            time.sleep(0.1)
        for what, path in [("leaderboard", "/v1/leaderboard"), ("status of the running run", "/v1/runs/{}"), ("list of runs", "/v1/runs")]:
            running = next(run for run in lasting if server.ask("GET", f"/v1/runs/{run}")[1]["status"] == "running")
            before = sum(server.ask("GET", f"/v1/runs/{run}")[1]["samples_done"] for run in lasting)
            figures = wrk(server, path.format(running), args.seconds, args.clients)
            after = sum(server.ask("GET", f"/v1/runs/{run}")[1]["samples_done"] for run in lasting)
            told(reads=what, **figures, samples_meanwhile=after - before, runs_on_the_board=args.runs)
    finally:
        server.end()


async def follow(server, run, seen, opened):
    """Reads a run's events to their end, with their ids."""
    reader, writer = await asyncio.open_connection(server.host, server.port)
    writer.write(f"GET /v1/runs/{run}/events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {server.key}\r\n\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    assert b" 200 " in head.split(b"\r\n", 1)[0], head
    opened.append(1)
    ids = []
    while line := await reader.readline():
        if line.startswith(b"id:"):
            ids.append(int(line[3:]))
        if line == b"0\r\n":
            break
    writer.close()
    seen.append(ids)


def streams(args, work):
    script = {"seed": 1, "delay_ms": 40}
    server = Server(args.binary, f"{work}/home", {"small": scripted(work, script)}, max_streams=args.clients + 10, max_connections=args.clients + 100)
    try:
        before = (server.memory_mib(), server.descriptors())
        first = server.made("/v1/runs", {"model": "small", "tasks": TASKS})["id"]

        async def everybody():
            seen, opened = [], []
            start = time.perf_counter()
            readers = [asyncio.create_task(follow(server, first, seen, opened)) for _ in range(args.clients)]
            while len(opened) < args.clients and not all(reader.done() for reader in readers):
                await asyncio.sleep(0.01)
            most = (time.perf_counter() - start, server.memory_mib(), server.descriptors())
            await asyncio.wait_for(asyncio.gather(*readers), 300)
            return seen, most

        with Meanwhile(server) as meanwhile:
            seen, (open_secs, mib, descriptors) = asyncio.run(everybody())
        whole = list(range(1, max(map(len, seen)) + 1))
        time.sleep(2)
        told(streams=len(seen), events_each=len(whole), wrong=sum(ids != whole for ids in seen), all_open_after_s=open_secs, rss_mib_before=before[0], rss_mib_open=mib,
             descriptors_before=before[1], descriptors_open=descriptors, descriptors_after=server.descriptors(), **meanwhile.figures())
    finally:
        server.end()


def upload(args, work):
    server = Server(args.binary, f"{work}/home", {"small": scripted(work, {"seed": 1})}, max_upload_mib=args.mib, max_files_mib=2 * args.mib)
    try:
        piece = (json.dumps({"prompt": "x" * 1000}) + "\n").encode() * 1037
        size = args.mib << 20

        def pieces():
            left = size
            while left > 0:
                yield piece[:left]
                left -= len(piece)

        before = server.memory_mib()
        with Meanwhile(server) as meanwhile:
            connection = http.client.HTTPConnection(server.host, server.port, timeout=600)
            start = time.perf_counter()
            connection.request("POST", "/v1/files?name=big.jsonl&purpose=dataset", pieces(), {"authorization": f"Bearer {server.key}", "content-length": str(size)})
            answer = connection.getresponse()
            made = json.loads(answer.read())
            secs = time.perf_counter() - start
        assert answer.status == 201 and made["bytes"] == size, made
        told(upload_mib=args.mib, mib_s=args.mib / secs, rss_mib_before=before, **meanwhile.figures())
        connection.close()
        with Meanwhile(server) as meanwhile:
            connection = http.client.HTTPConnection(server.host, server.port, timeout=600)
            connection.request("GET", f"/v1/files/{made['id']}/content", headers={"authorization": f"Bearer {server.key}"})
            answer, got, start = connection.getresponse(), 0, time.perf_counter()
            while some := answer.read(1 << 20):
                got += len(some)
        assert got == size
        told(download_mib=args.mib, mib_s=args.mib / (time.perf_counter() - start), **meanwhile.figures())
    finally:
        server.end()


def rows(args, work):
    """A judgment of all rows is planned and begun, then cancelled; pairs of as many rows are looked through."""
    server = Server(args.binary, f"{work}/home", {"small": scripted(work, {"seed": 1})}, max_upload_mib=4096, max_files_mib=16384)
    try:
        with open(f"{work}/rows.jsonl", "w", encoding="utf-8") as file:
            for n in range(args.rows):
                file.write(json.dumps({"prompt": f"What is {n} and one?", "answer": f"{n + 1}", "chosen": f"{n + 1}", "rejected": f"{n}"}) + "\n")
        with open(f"{work}/rows.jsonl", "rb") as file:
            upload = server.made("/v1/files?name=rows.jsonl&purpose=preferences", file.read())
        before = server.memory_mib()
        for what, path, body in [("check", "/v1/preferences/check", {"file": upload["id"]}), ("judge", "/v1/judgments", {"judges": ["small"], "file": upload["id"]})]:
            with Meanwhile(server) as meanwhile:
                start = time.perf_counter()
                status, answer = server.ask("POST", path, body, timeout=600)
                secs = time.perf_counter() - start
                if status == 202:
                    time.sleep(args.seconds)
                    done = server.ask("GET", f"/v1/runs/{answer['id']}")[1]["samples_done"]
                    server.ask("POST", f"/v1/runs/{answer['id']}/cancel")
                    ended = server.until_ended(answer["id"])
                    answer = {"status": ended["status"], "samples": [done, ended["samples_done"], ended["samples_total"]]}
            told(rows=args.rows, what=what, status=status, answer_s=secs, answer=answer, rss_mib_before=before, **meanwhile.figures())
    finally:
        server.end()


def queued(args, work):
    server = Server(args.binary, f"{work}/home", {"small": scripted(work, {"seed": 1, "delay_ms": 1000})}, max_active_runs=args.runs, max_connections=64)
    try:
        start = time.perf_counter()
        with Meanwhile(server) as meanwhile:
            for seed in range(args.runs):
                server.made("/v1/runs", {"model": "small", "tasks": ["samples_knowledge"], "limit": 1, "seed": seed})
            secs = time.perf_counter() - start
            refused = server.ask("POST", "/v1/runs", {"model": "small", "tasks": ["samples_knowledge"], "limit": 1, "seed": args.runs + 7})
            begun = time.perf_counter()
            server.ask("GET", "/v1/runs?status=queued&limit=100")
            listed = time.perf_counter() - begun
        told(queued=args.runs, posts_s=args.runs / secs, one_more=refused[0], list_s=listed, **meanwhile.figures())
        begun = time.perf_counter()
        code = server.end()
        stopped = time.perf_counter() - begun
        begun = time.perf_counter()
        server.start()
        told(sigterm_exit=code, stopped_s=stopped, started_again_s=time.perf_counter() - begun, metrics=[line for line in server.ask("GET", "/metrics")[1].decode().splitlines() if line.startswith("evalign_jobs")])
    finally:
        server.end()


class Completions:
    def __init__(self, url, key, model, tokens):
        self.url, self.key, self.model, self.tokens = urllib.parse.urlsplit(url), key, model, tokens

    def ask(self, n, stream=False):
        """Tokens and seconds of an answer, or seconds to the first piece and to the last."""
        body = {"model": self.model, "prompt": f"Here is a long list of {n} facts about the city of Paris:\n1.", "max_tokens": self.tokens, "temperature": 0, "stream": stream}
        connection = http.client.HTTPConnection(self.url.hostname, self.url.port, timeout=600)
        start, first = time.perf_counter(), None
        connection.request("POST", self.url.path.rstrip("/") + "/v1/completions", json.dumps(body), {"content-type": "application/json", "authorization": f"Bearer {self.key}"})
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        if not stream:
            return json.loads(answer.read())["usage"]["completion_tokens"], time.perf_counter() - start
        for line in answer:
            if first is None and line.startswith(b"data: {"):
                first = time.perf_counter() - start
        return first, time.perf_counter() - start

    def rate(self, clients, each=3):
        """Tokens a second that all clients get together."""
        done = []
        work = lambda client: done.extend(self.ask(10 + client * each + n)[0] for n in range(each))
        threads = [threading.Thread(target=work, args=(client,)) for client in range(clients)]
        start = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(done) == clients * each
        return sum(done) / (time.perf_counter() - start)

    def figures(self, clients):
        self.ask(1)
        one, many = statistics.median(self.rate(1) for _ in range(3)), self.rate(clients)
        first, whole = self.ask(99, stream=True)
        told(server=self.model, clients=clients, tokens=self.tokens, tokens_s_one=one, tokens_s_all=many, ratio=many / one, first_piece_s=first, whole_s=whole)


def completions(args, work):
    if args.url:
        return Completions(args.url, args.key, args.name, args.tokens).figures(args.clients)
    server = Server(args.binary, f"{work}/home", {"local": f"local/{args.local}"})
    try:
        Completions(server.place, server.key, "local", args.tokens).figures(args.clients)
        told(rss_mib_most=server.memory_mib("VmHWM"))
    finally:
        server.end()


def main():
    kinds = {"reads": (reads, 32), "streams": (streams, 1000), "upload": (upload, 1), "rows": (rows, 1), "queued": (queued, 1), "completions": (completions, 8)}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=kinds)
    parser.add_argument("binary", nargs="?")
    parser.add_argument("--local", help="a model of this machine")
    parser.add_argument("--clients", type=int)
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--runs", type=int)
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--tokens", type=int, default=64)
    for name in ("--url", "--key", "--name"):
        parser.add_argument(name)
    args = parser.parse_args()
    load, args.clients = kinds[args.kind][0], args.clients or kinds[args.kind][1]
    args.runs = args.runs or {"reads": 20, "queued": 10_000}.get(args.kind)
    with tempfile.TemporaryDirectory() as work:
        load(args, work)


if __name__ == "__main__":
    main()
