"""Starts a run and watches it: pip install httpx. EVALIGN_URL and EVALIGN_KEY say where and who."""

import json
import os

import httpx

client = httpx.Client(
    base_url=os.environ.get("EVALIGN_URL", "http://127.0.0.1:8080"),
    headers={"authorization": f"Bearer {os.environ['EVALIGN_KEY']}"},
    timeout=300,
)
wanted = {"model": os.environ.get("EVALIGN_MODEL", "smollm2"), "tasks": ["samples_knowledge"], "limit": 5}
run = client.post("/v1/runs", json=wanted).raise_for_status().json()["id"]

seen = 0  # after a broken connection, `last-event-id: seen` goes on where it broke
with client.stream("GET", f"/v1/runs/{run}/events", headers={"last-event-id": str(seen)}) as events:
    for line in events.iter_lines():
        if line.startswith("data:"):
            event = json.loads(line.removeprefix("data:"))
            seen = event["id"]
            print(seen, event["type"])

for task in client.get(f"/v1/runs/{run}/results").raise_for_status().json()["results"]:
    for metric in task["metrics"]:
        print(task["task"], metric["name"], metric["value"], metric["ci95"], f"n={metric['n']}")
