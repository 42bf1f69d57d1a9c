"""lm-evaluation-harness on `evalign serve`, unchanged, item by item beside `evalign eval` of the same model.

    python service_lm_eval.py BINARY GGUF DATA_ROOT [--hellaswag N] [--gsm8k N] [--concurrent N]

Needs lm-evaluation-harness 0.4.13 with its API models, transformers and gguf. `local-completions` scores the first
documents of HellaSwag by `echo` and log-probabilities, `local-chat-completions` writes those of GSM8K, five worked
examples as turns. DATA_ROOT holds both datasets in the hub's layout; nothing is fetched. Ends with 1 where
`evalign verify` finds a difference.
"""

import argparse
import glob
import json
import os
import subprocess
import sys
import tempfile
import time

from service import Server


def tokenizer(gguf, directory):
    from transformers import AutoTokenizer

    folder, name = os.path.split(os.path.abspath(gguf))
    AutoTokenizer.from_pretrained(folder, gguf_file=name).save_pretrained(directory)
    return directory


def task_files(directory, data_root):
    """The harness's own tasks on files of this machine."""
    import lm_eval

    tasks = os.path.join(os.path.dirname(lm_eval.__file__), "tasks")
    files = {
        "hellaswag": {"validation": "Rowan/hellaswag/data/validation-00000-of-00001.parquet"},
        "gsm8k": {split: f"openai/gsm8k/main/{split}-00000-of-00001.parquet" for split in ("train", "test")},
    }
    for task, splits in files.items():
        data = ", ".join(f"{split}: {os.path.join(os.path.abspath(data_root), path)}" for split, path in splits.items())
        lines = [f"include: {tasks}/{task}/{task}.yaml", "dataset_path: parquet", "dataset_name: null", f"dataset_kwargs: {{data_files: {{{data}}}}}"]
        if task == "hellaswag":
            lines.append("training_split: null")
        with open(f"{directory}/{task}_here.yaml", "w", encoding="utf-8") as file:
            file.write("\n".join(lines) + f"\ntask: {task}_here\n")


def harness(work, server, model, task, limit, arguments, more=()):
    """Its log of samples, and the seconds that the whole command took."""
    command = [sys.executable, "-m", "lm_eval", "--model", model, "--model_args", ",".join(f"{name}={value}" for name, value in arguments.items())]
    command += ["--tasks", f"{task}_here", "--include_path", work, "--limit", str(limit), "--log_samples", "--output_path", f"{work}/{task}", *more]
    environment = dict(os.environ, OPENAI_API_KEY=server.key, HF_HOME=f"{work}/hf", HF_DATASETS_OFFLINE="1", HF_HUB_OFFLINE="1")
    start = time.perf_counter()
    subprocess.run(command, check=True, env=environment, stdout=sys.stderr)
    (found,) = glob.glob(f"{work}/{task}/**/samples_*.jsonl", recursive=True)
    return found, time.perf_counter() - start


def without_prompts(log):
    """A chat's prompt is made by the server: what the harness logs in its place are the messages. Everything else is to be the same."""
    rows = [json.loads(line) for line in open(log, encoding="utf-8")]
    for row in rows:
        row.pop("prompt_hash")
        row.pop("arguments")
    with open(log, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def evaluate(server, gguf, data_root, task, limit, more=()):
    command = [server.binary, "eval", task, "--model", f"local/{os.path.abspath(gguf)}", "--limit", str(limit), "--compat", "lm-eval"]
    command += ["--data-root", data_root, "--offline", *more]
    start = time.perf_counter()
    print(subprocess.run(command, check=True, env=server.environment, capture_output=True, text=True).stdout)
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser()
    for name in ("binary", "gguf", "data_root"):
        parser.add_argument(name)
    parser.add_argument("--hellaswag", type=int, default=100)
    parser.add_argument("--gsm8k", type=int, default=20)
    parser.add_argument("--concurrent", type=int, default=8)
    args = parser.parse_args()
    differ = False
    with tempfile.TemporaryDirectory() as work:
        task_files(work, args.data_root)
        read = tokenizer(args.gguf, f"{work}/tokenizer")
        server = Server(args.binary, f"{work}/home", {"local": f"local/{os.path.abspath(args.gguf)}"})
        try:
            common = {"model": "local", "num_concurrent": args.concurrent, "max_retries": 1, "timeout": 1200}
            completions = {"base_url": f"{server.place}/v1/completions", "tokenizer": read, "tokenizer_backend": "huggingface"} | common
            chat = {"base_url": f"{server.place}/v1/chat/completions"} | common
            for task, limit, model, arguments, theirs, ours in [
                ("hellaswag", args.hellaswag, "local-completions", completions, ["--batch_size", "8"], []),
                ("gsm8k", args.gsm8k, "local-chat-completions", chat, ["--apply_chat_template", "--fewshot_as_multiturn", "True"], ["--chat-template", "--multiturn"]),
            ]:
                if limit == 0:
                    continue
                log, harness_secs = harness(work, server, model, task, limit, arguments, theirs)
                if model == "local-chat-completions":
                    without_prompts(log)
                eval_secs = evaluate(server, args.gguf, args.data_root, task, limit, ours)
                command = [server.binary, "verify", "last", "--against", log, "--task", task, "--data-root", args.data_root, "--offline"]
                verdict = subprocess.run(command, env=server.environment, capture_output=True, text=True, check=False)
                print(f"{task}: harness {harness_secs:.1f} s, evalign eval {eval_secs:.1f} s, verify {verdict.returncode}\n{verdict.stdout}{verdict.stderr}", flush=True)
                differ |= verdict.returncode != 0
        finally:
            server.end()
    return int(differ)


if __name__ == "__main__":
    sys.exit(main())
