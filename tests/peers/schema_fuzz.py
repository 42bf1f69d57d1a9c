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
# Whether data of the right form is always taken: a model's limit or a run that is over is no matter of form. Whether what
# was just made is there: any 404 below it counts as no, also where a body names a file that is not there, or a run has no
# results yet; and for stateful tests that cannot be left out route by route.
LEFT_OUT = "positive_data_acceptance,ensure_resource_availability"
# Whether data of the wrong form is refused: beside the statuses that schemathesis takes for a refusal, a body that is too
# large for the server to look at its form.
REFUSALS = [400, 401, 403, 404, 405, 406, 409, 413, 415, 422, 428, 429, "5xx"]
ROWS = [{"prompt": f"Name colour {n}.", "chosen": "Red.", "rejected": "Seven.", "answer": "Red.", "completion": "Red."} for n in range(8)]


def things(server, local, embedder):
    """Ids by what they name, each kind with one that is not there."""
    rows = "\n".join(json.dumps(row) for row in ROWS)
    upload = lambda name, purpose, text: server.made(f"/v1/files?name={name}&purpose={purpose}", text)["id"]
    files = [upload("rows.jsonl", "dataset", rows), upload("pairs.jsonl", "preferences", rows), upload("manual.md", "documents", "# Battery\n\nIt lasts nine hours.\n")]
    runs = [server.made("/v1/runs", {"model": "small", "tasks": ["samples_knowledge"], "limit": 3, "seed": seed})["id"] for seed in range(3)]
    runs.append(server.made("/v1/judgments", {"models": ["small", "other"], "prompts": files[0]})["id"])
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
    found = {"runs": runs, "files": files, "indexes": indexes or ["none"], "jobs": jobs or ["run_00"], "models": ["small"], "tasks": ["samples", "samples_knowledge"]}
    return found | {"writers": ["local" if local else "small"], "embedders": ["minilm" if embedder else "small"]}


def configuration(found):
    """Where which ids go."""
    lines = [f"[dictionaries.{name}]\nvalues = {json.dumps(values)}" for name, values in found.items()]
    fields = [("models", ["model", "judge", "models[*]", "judges[*]"]), ("files", ["file", "prompts", "files[*]", "evaluation_file"]), ("runs", ["run"]), ("tasks", ["tasks[*]"])]
    bound = [(f"body.{field}", name) for name, names in fields for field in names] + [("query.a", "runs"), ("query.b", "runs"), ("query.task", "tasks")]
    bind = lambda where, name: f'"{where}" = {{ dictionary = "{name}", probability = 0.8 }}'
    operations = lambda paths, setting: lines.append(f"[[operations]]\ninclude-path-regex = '{paths}'\n{setting}")
    lines.append("[parameters]\n" + "\n".join(bind(*pair) for pair in bound))
    lines.append(f"[checks.negative_data_rejection]\nexpected-statuses = {json.dumps(REFUSALS)}")
    for place, name in [("runs", "runs"), ("judgments", "runs"), ("preferences", "runs"), ("files", "files"), ("indexes", "indexes"), ("training", "jobs"), ("models", "models")]:
        operations(f"^/v1/{place}/.*[{{]id", f"[operations.parameters]\n{bind('path.id', name)}")
    for place, name in [("(chat/)?completions", "writers"), ("embeddings", "embedders")]:
        operations(f"^/v1/{place}$", f"[operations.parameters]\n{bind('body.model', name)}")
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
        models = {}
        for seed, name in enumerate(["small", "other"]):
            models[name] = f"scripted/{work}/{name}.json"
            with open(f"{work}/{name}.json", "w", encoding="utf-8") as script:
                json.dump({"seed": seed}, script)
        models |= {"local": f"local/{os.path.abspath(args.local)}"} if args.local else {}
        embedders = {"embedders": f"minilm=local/{os.path.abspath(args.embedder)}"} if args.embedder else {}
        server = Server(args.binary, f"{work}/home", models, max_tokens=4, max_active_runs=100000, workers=2, **embedders)
        try:
            with open(f"{work}/schemathesis.toml", "w", encoding="utf-8") as config:
                config.write(configuration(things(server, args.local, args.embedder)))
            command = [sys.executable, "-m", "schemathesis.cli", "--config-file", f"{work}/schemathesis.toml", "run", os.path.abspath(args.openapi)]
            command += ["--url", server.place, "--header", f"Authorization: Bearer {server.key}", "--checks", CHECKS, "--exclude-checks", LEFT_OUT]
            command += ["--max-time", str(args.seconds), "--max-examples", str(args.examples), "--seed", str(args.seed), "--continue-on-failure"]
            command += ["--phases", args.phases, "--generation-database", "none", "--request-timeout", "60", "--max-response-time", "60", "--no-color", "--warnings", "off"]
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
