"""A running `evalign serve` for the scripts beside this one."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

# Who ends a script ends its servers.
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

ENDED = {"completed", "failed", "cancelled", "budget_exhausted"}


class Server:
    """On a free port of this machine, with a key for everything. `settings` are those of docs/service.md."""

    def __init__(self, binary, home, models, **settings):
        self.binary, self.home = binary, home
        named = {"models": ",".join(f"{name}={reference}" for name, reference in models.items()), "offline": "true"}
        named |= {"address": "127.0.0.1:0", "requests_per_minute": "100000000"} | settings
        self.environment = dict(os.environ, EVALIGN_HOME=home) | {f"EVALIGN_SERVE__{name.upper()}": str(value) for name, value in named.items()}
        os.makedirs(home, exist_ok=True)
        made = subprocess.run([binary, "keys", "create", "--scope", "admin"], env=self.environment, capture_output=True, text=True, check=True)
        self.key = re.search(r"evk_\w+", made.stdout + made.stderr)[0]
        self.log = open(os.path.join(home, "serve.log"), "a", encoding="utf-8")
        self.start()

    def start(self):
        self.process = subprocess.Popen([self.binary, "serve"], env=self.environment, stderr=subprocess.PIPE, text=True)
        for line in self.process.stderr:
            self.log.write(line)
            if found := re.search(r"listening on http://([\d.]+):(\d+)", line):
                self.host, self.port = found[1], int(found[2])
                break
        else:
            raise RuntimeError(f"the server ended with {self.process.wait()}; see {self.log.name}")
        # Later runs of the same home listen where clients already look.
        self.environment["EVALIGN_SERVE__ADDRESS"] = f"{self.host}:{self.port}"
        threading.Thread(target=self._keep, args=(self.process.stderr,), daemon=True).start()

    def _keep(self, lines):
        for line in lines:
            self.log.write(line)
            self.log.flush()

    @property
    def place(self):
        return f"http://{self.host}:{self.port}"

    def end(self, how=signal.SIGTERM):
        self.process.send_signal(how)
        return self.process.wait(60)

    def ask(self, method, path, body=None, timeout=120, **headers):
        """Status and answer; a JSON answer as what it says."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout)
        headers = {"authorization": f"Bearer {self.key}"} | {name.replace("_", "-"): value for name, value in headers.items()}
        if isinstance(body, (dict, list)):
            body, headers["content-type"] = json.dumps(body), "application/json"
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        return answer.status, json.loads(text) if "json" in (answer.headers.get_content_type() or "") else text

    def made(self, path, body, **headers):
        """What a request made, which has to succeed."""
        status, answer = self.ask("POST", path, body, **headers)
        if status not in (200, 201, 202):
            raise RuntimeError(f"POST {path}: {status} {answer}")
        return answer

    def until_ended(self, run, timeout_secs=600):
        deadline = time.monotonic() + timeout_secs
        while time.monotonic() < deadline:
            status, answer = self.ask("GET", f"/v1/runs/{run}")
            if status == 200 and answer["status"] in ENDED:
                return answer
            time.sleep(0.2)
        raise RuntimeError(f"{run} did not end")

    def memory_mib(self, what="VmRSS"):
        with open(f"/proc/{self.process.pid}/status", encoding="utf-8") as status:
            return int(next(line for line in status if line.startswith(what)).split()[1]) / 1024

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))
