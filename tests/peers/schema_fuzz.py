"""schemathesis over docs/openapi.json against a live server: no 5xx, no status, content type or answer that is not documented.

    python schema_fuzz.py BINARY OPENAPI [--local MODEL] [--embedder DIR] [--seconds S] [--phases P,...] [--seed N]

Needs schemathesis 4. All phases (examples, coverage, fuzzing, stateful), with the key of an administrator. Ids in paths
and bodies are mostly those of things that are there: runs, files, an index and a training job are made first, the last
two where a model and an embedder are given. Left out are checks that ask whether data of the right form is always
taken: a model's limit or a run that is over is no matter of form.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile

from service import Server

CHECKS = "all"
LEFT_OUT = "positive_data_acceptance"
ROWS = [{"prompt": f"Name colour {n}.", "chosen": "Red.", "rejected": "Seven.", "answer": "Red.", "completion": "Red."} for n in range(8)]


def things(server, local, embedder):
    """Ids by what they name, each kind with one that is not there."""
    rows = "\n".join(json.dumps(row) for row in ROWS)
    upload = lambda name, purpose, text: server.made(f"/v1/files?name={name}&purpose={purpose}", text)["id"]
    files = [upload("rows.jsonl", "dataset", rows), upload("pairs.jsonl", "preferences", rows), upload("manual.md", "documents", "# Battery\n\nIt lasts nine hours.\n")]
    runs = [server.made("/v1/runs", {"model": "small", "tasks": ["samples_knowledge"], "limit": 3, "seed": seed})["id"] for seed in range(3)]
    runs.append(server.made("/v1/judgments", {"models": ["small", "small"], "prompts": files[0]})["id"])
    runs.append(server.made("/v1/preferences", {"models": ["small"], "judge": "small", "prompts": files[0]})["id"])
    jobs, indexes = [], []
    if embedder:
        indexes.append(server.made("/v1/indexes", {"name": "manuals", "embedder": "minilm"})["id"])
        runs.append(server.made(f"/v1/indexes/{indexes[0]}/documents", {"files": [files[2]]})["id"])
    for run in runs:
        server.until_ended(run)
    if local:
        settings = {"max_steps": 1, "per_device_train_batch_size": 1}
        jobs.append(server.made("/v1/training/jobs", {"kind": "dpo", "model": "local", "file": files[1], "settings": settings})["id"])
    return {"runs": runs, "files": files, "indexes": indexes or ["none"], "jobs": jobs or ["run_00"], "models": ["small"], "tasks": ["samples", "samples_knowledge"]}


def configuration(found):
    """Where which ids go."""
    lines = [f"[dictionaries.{name}]\nvalues = {json.dumps(values)}" for name, values in found.items()]
    fields = [("models", ["model", "judge", "models[*]", "judges[*]"]), ("files", ["file", "prompts", "files[*]", "evaluation_file"]), ("runs", ["run"]), ("tasks", ["tasks[*]"])]
    bound = [(f"body.{field}", name) for name, names in fields for field in names] + [("query.a", "runs"), ("query.b", "runs"), ("query.task", "tasks")]
    bind = lambda where, name: f'"{where}" = {{ dictionary = "{name}", probability = 0.8 }}'
    lines.append("[parameters]\n" + "\n".join(bind(*pair) for pair in bound))
    for place, name in [("runs", "runs"), ("judgments", "runs"), ("preferences", "runs"), ("files", "files"), ("indexes", "indexes"), ("training", "jobs"), ("models", "models")]:
        lines.append(f'[[operations]]\ninclude-path-regex = "^/v1/{place}/.*[{{]id"\n[operations.parameters]\n{bind("path.id", name)}')
    return "\n\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("binary")
    parser.add_argument("openapi")
    parser.add_argument("--local", help="a model that can be trained: a file or a directory")
    parser.add_argument("--embedder", help="directory of an embedding model")
    parser.add_argument("--seconds", type=int, default=120)
    parser.add_argument("--examples", type=int, default=20, help="of each operation in each phase")
    parser.add_argument("--phases", default="examples,coverage,fuzzing,stateful")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        with open(f"{work}/model.json", "w", encoding="utf-8") as script:
            json.dump({"seed": 1}, script)
        models = {"small": f"scripted/{work}/model.json"} | ({"local": f"local/{os.path.abspath(args.local)}"} if args.local else {})
        embedders = {"embedders": f"minilm=local/{os.path.abspath(args.embedder)}"} if args.embedder else {}
        server = Server(args.binary, f"{work}/home", models, max_tokens=16, max_active_runs=100000, workers=2, **embedders)
        try:
            with open(f"{work}/schemathesis.toml", "w", encoding="utf-8") as config:
                config.write(configuration(things(server, args.local, args.embedder)))
            command = [sys.executable, "-m", "schemathesis.cli", "--config-file", f"{work}/schemathesis.toml", "run", os.path.abspath(args.openapi)]
            command += ["--url", server.place, "--header", f"Authorization: Bearer {server.key}", "--checks", CHECKS, "--exclude-checks", LEFT_OUT]
            command += ["--max-time", str(args.seconds), "--max-examples", str(args.examples), "--seed", str(args.seed), "--continue-on-failure"]
            command += ["--phases", args.phases, "--generation-database", "none", "--request-timeout", "60", "--no-color", "--warnings", "off"]
            found = subprocess.run(command, cwd=work, check=False).returncode
            status, metrics = server.ask("GET", "/metrics")
            panics = next(line for line in metrics.decode().splitlines() if line.startswith("evalign_panics_total"))
            print(panics)
            return found or int(status != 200 or not panics.endswith(" 0"))
        finally:
            server.end()
            with open(server.log.name, encoding="utf-8") as log:
                print(log.read()[-4000:], file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
