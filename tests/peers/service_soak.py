"""A soak of `evalign serve`: clients that work, leave, lie and come back, and a server that is killed. Is anything lost?

    python service_soak.py BINARY [--minutes M] [--local MODEL] [--seed N]

For the first third the server is ended (SIGTERM) or killed (SIGKILL) at random moments and started again, after that it
is left alone: its memory and descriptors of that time are told, once a minute. Meanwhile runs are posted under
Idempotency-Keys until they are acknowledged, some are cancelled and resumed, their events are followed by clients that go
away and come back with `Last-Event-ID`, files come and go, completions are left half read, and garbage arrives.
In the end every acknowledged run has to be there once and to have ended, with all its samples if it is completed, and
every acknowledged file with its bytes. Ends with 1 where something is wrong.
"""

import argparse
import http.client
import json
import os
import random
import signal
import socket
import sys
import tempfile
import threading
import time

from service import ENDED, Server

GONE = (OSError, http.client.HTTPException, ValueError)


class Soak:
    def __init__(self, server, seed, has_local):
        self.server, self.random, self.has_local = server, random.Random(seed), has_local
        self.over, self.guard = threading.Event(), threading.Lock()
        self.runs, self.files, self.faults, self.counts = {}, {}, [], {}

    def count(self, what):
        with self.guard:
            self.counts[what] = self.counts.get(what, 0) + 1

    def fault(self, text):
        with self.guard:
            self.faults.append(text)
        print("FAULT", text, flush=True)

    def answered(self, method, path, body=None, **headers):
        """As `ask`, again and again until the server answers."""
        while True:
            try:
                status, answer = self.server.ask(method, path, body, 30, **headers)
            except GONE:
                time.sleep(0.2)
                continue
            if status in (429, 503) or (status == 409 and "idempotency" in str(answer)):
                time.sleep(0.2)
                continue
            if status >= 500:
                self.fault(f"{method} {path}: {status} {answer}")
            return status, answer

    def post_runs(self, draw):
        number = draw.randrange(1 << 40)
        body = {"model": "small", "tasks": ["samples_knowledge"], "limit": draw.randint(1, 40), "seed": number}
        if draw.random() < 0.2:
            body = {"models": ["small", "small"], "prompts": draw.choice(list(self.files)), "texts": {"max_tokens": 8, "limit": 2}, "seed": number} if self.files else body
        path = "/v1/judgments" if "models" in body else "/v1/runs"
        if path != "/v1/runs":
            # Whoever uses a file keeps it.
            with self.guard:
                self.files[body["prompts"]]["used"] = True
            body.pop("seed")
        status, answer = self.answered("POST", path, body, idempotency_key=f"soak-{number}")
        if status == 202:
            with self.guard:
                known = self.runs.setdefault(answer["id"], {"posts": set()})
                known["posts"].add(number)
            self.count("runs posted")
            if self.answered("POST", path, body, idempotency_key=f"soak-{number}")[1].get("id") != answer["id"]:
                self.fault(f"the same Idempotency-Key made another run than {answer['id']}")
        elif path == "/v1/runs":
            self.fault(f"POST {path}: {status} {answer}")
        time.sleep(draw.random())

    def some_run(self, draw):
        with self.guard:
            runs = list(self.runs)
        return draw.choice(runs[-20:]) if runs else None

    def cancel_and_resume(self, draw):
        if run := self.some_run(draw):
            status, _ = self.answered("POST", f"/v1/runs/{run}/{draw.choice(['cancel', 'resume'])}")
            self.count(f"cancel or resume: {status}")
        time.sleep(2 * draw.random())

    def follow(self, draw):
        """Reads events from where it was, and leaves at a random moment. Ids have to go on by one."""
        run = self.some_run(draw)
        if run is None:
            return time.sleep(0.5)
        last = 0
        for _ in range(draw.randint(1, 4)):
            deadline = time.monotonic() + 3 * draw.random()
            try:
                with socket.create_connection((self.server.host, self.server.port), timeout=2) as stream:
                    stream.sendall(f"GET /v1/runs/{run}/events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {self.server.key}\r\nlast-event-id: {last}\r\n\r\n".encode())
                    if draw.random() < 0.1:
                        time.sleep(draw.random())
                        continue
                    lines = stream.makefile("rb")
                    while time.monotonic() < deadline and (line := lines.readline()):
                        if line.startswith(b"id:"):
                            if int(line[3:]) != last + 1:
                                self.fault(f"events of {run}: {int(line[3:])} after {last}")
                            last = int(line[3:])
                            self.count("events read")
            except GONE:
                time.sleep(0.1)

    def files_come_and_go(self, draw):
        text = "".join(json.dumps({"prompt": f"Name {draw.random()}."}) + "\n" for _ in range(draw.randint(2, 2000)))
        if draw.random() < 0.3:
            try:
                with socket.create_connection((self.server.host, self.server.port), timeout=2) as stream:
                    head = f"POST /v1/files?name=half.jsonl&purpose=preferences HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {self.server.key}\r\n"
                    stream.sendall(f"{head}content-length: {2 * len(text)}\r\n\r\n{text}".encode())
                    self.count("uploads left half way")
            except GONE:
                pass
            return time.sleep(draw.random())
        status, answer = self.answered("POST", "/v1/files?name=rows.jsonl&purpose=preferences", text)
        if status != 201:
            self.fault(f"upload: {status} {answer}")
        with self.guard:
            self.files[answer["id"]] = {"text": text, "used": False}
            unused = [file for file, about in list(self.files.items())[:-20] if not about["used"]]
            for file in unused:
                del self.files[file]
        for file in unused:
            self.answered("DELETE", f"/v1/files/{file}")
        self.count("files uploaded")
        time.sleep(draw.random())

    def completions(self, draw):
        body = {"model": "local" if self.has_local else "small", "prompt": f"Some facts about {draw.random()}:", "max_tokens": 48, "stream": True}
        try:
            connection = http.client.HTTPConnection(self.server.host, self.server.port, timeout=60)
            connection.request("POST", "/v1/completions", json.dumps(body), {"authorization": f"Bearer {self.server.key}", "content-type": "application/json"})
            answer = connection.getresponse()
            answer.readline() if draw.random() < 0.5 else answer.read()
            self.count(f"completions: {answer.status}")
            connection.close()
        except GONE:
            time.sleep(0.2)

    def garbage(self, draw):
        head = f"authorization: Bearer {self.server.key}\r\nhost: x\r\n"
        sent = draw.choice([
            draw.randbytes(draw.randint(1, 4000)),
            b"GET / HTTP/9.9\r\n\r\n",
            f"POST /v1/runs HTTP/1.1\r\n{head}content-type: application/json\r\ncontent-length: 5\r\n\r\n{{{{{{{{{{".encode(),
            f"POST /v1/runs HTTP/1.1\r\n{head}content-length: 99999999999999999999\r\n\r\n".encode(),
            f"POST /v1/runs HTTP/1.1\r\n{head}transfer-encoding: chunked\r\n\r\nZZ\r\n".encode(),
            f"GET /v1/runs/{'%2e' * 40} HTTP/1.1\r\n{head}\r\n".encode(),
            f"GET /{'a' * 100000} HTTP/1.1\r\n{head}".encode(),
            b"",
        ])
        try:
            with socket.create_connection((self.server.host, self.server.port), timeout=1) as stream:
                stream.sendall(sent)
                if draw.random() < 0.7:
                    stream.recv(1000)
            self.count("garbage")
        except GONE:
            pass
        time.sleep(0.3 * draw.random())

    def act(self, actor, seed):
        draw = random.Random(seed)
        while not self.over.is_set():
            try:
                actor(draw)
            except Exception as error:
                self.fault(f"{actor.__name__}: {error!r}")
                time.sleep(1)

    def restart(self):
        how = self.random.choice([signal.SIGTERM, signal.SIGKILL, signal.SIGKILL])
        try:
            code = self.server.end(how)
            if code != (0 if how == signal.SIGTERM else -signal.SIGKILL):
                self.fault(f"{how.name} ended the server with {code}")
        finally:
            self.server.start()
        self.count(how.name)

    def check(self):
        """Everything that was acknowledged."""
        statuses = {}
        for run in self.runs:
            try:
                ended = self.server.until_ended(run, 120)
            except RuntimeError as error:
                self.fault(str(error))
                continue
            statuses[ended["status"]] = statuses.get(ended["status"], 0) + 1
            if ended["status"] == "failed":
                self.fault(f"{run} failed: {ended['error']}")
            if ended["status"] != "completed":
                continue
            if ended["samples_done"] != ended["samples_total"] or not ended["has_results"]:
                self.fault(f"{run} is completed with {ended['samples_done']} of {ended['samples_total']}, results: {ended['has_results']}")
            samples = self.answered("GET", f"/v1/runs/{run}/samples?limit=100")[1]
            if not samples["has_more"] and len(samples["data"]) != ended["samples_total"]:
                self.fault(f"{run} has {len(samples['data'])} samples of {ended['samples_total']}")
        for file, about in self.files.items():
            status, content = self.answered("GET", f"/v1/files/{file}/content")
            if status != 200 or content != about["text"].encode():
                self.fault(f"{file} was acknowledged: {status}, {len(content)} bytes")
        left = os.listdir(os.path.join(self.server.home, "partial"))
        if left:
            self.fault(f"half-made files stay: {left}")
        return statuses

    def figures(self):
        return {"rss_mib": round(self.server.memory_mib()), "descriptors": self.server.descriptors(), "runs": len(self.runs)}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("binary")
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--local")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        with open(f"{work}/model.json", "w", encoding="utf-8") as script:
            json.dump({"seed": 1, "delay_ms": 40}, script)
        models = {"small": f"scripted/{work}/model.json"} | ({"local": f"local/{os.path.abspath(args.local)}"} if args.local else {})
        server = Server(args.binary, f"{work}/home", models, workers=2, max_active_runs=1000, read_timeout_secs=5)
        soak = Soak(server, args.seed, bool(args.local))
        actors = [soak.post_runs] * 2 + [soak.cancel_and_resume, soak.files_come_and_go, soak.completions, soak.garbage] + [soak.follow] * 6
        threads = [threading.Thread(target=soak.act, args=(actor, (args.seed << 8) + number), daemon=True) for number, actor in enumerate(actors)]
        for thread in threads:
            thread.start()
        begun, told = time.monotonic(), 0
        while (passed := time.monotonic() - begun) < 60 * args.minutes:
            if passed < 20 * args.minutes:
                time.sleep(soak.random.uniform(3, 15))
                soak.restart()
            else:
                time.sleep(1)
            if passed - told >= 60 or told == 0:
                told = passed
                print(json.dumps({"minute": round(passed / 60, 1)} | soak.figures()), flush=True)
        soak.over.set()
        for thread in threads:
            thread.join(60)
        statuses = soak.check()
        time.sleep(6)
        print(json.dumps({"ended": statuses, "files": len(soak.files), "faults": len(soak.faults)} | soak.counts | soak.figures()), flush=True)
        code = server.end()
        print(json.dumps({"exit": code}))
        return int(bool(soak.faults) or code != 0)


if __name__ == "__main__":
    sys.exit(main())
