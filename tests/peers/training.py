"""Training speed and memory beside TRL: the same model, pairs, adapter and threads.

    python training.py prepare GGUF DIR      model (f32 safetensors), tokenizer and pairs into DIR
    python training.py trl DIR [--precompute] [--steps N]
    python training.py evalign DIR BINARY [--precompute] [--steps N] [--recompute auto|always|never]

Needs torch 2.15, transformers 5.23, trl 1.16, peft 0.21, gguf. Four pairs of about 128 + 96 tokens a step, LoRA r=16 on
all linear modules, f32, DPO (sigmoid, beta 0.1). Tokens/s is TRL's `num_tokens` (a pair's prompt counted twice) over the
wall time of the steps; the first step of each process is left out. Peak memory is the process's `VmHWM`.
"""

import argparse
import json
import os
import subprocess
import sys
import threading
import time

PAIRS, PROMPT_TOKENS, ANSWER_TOKENS = 4, 128, 96


def prepare(gguf, directory):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, name = os.path.split(gguf)
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    read = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype="float32")
    # A plain model with the same numbers: what was read from GGUF cannot be saved.
    del read.config.quantization_config
    model = AutoModelForCausalLM.from_config(read.config).float()
    model.load_state_dict(read.state_dict())
    model.save_pretrained(f"{directory}/model")
    tokenizer.save_pretrained(f"{directory}/model")
    words = "river stone light garden paper window quiet morning letter bread winter music table field mountain".split()

    def text(seed, tokens):
        chosen = [words[(seed * 31 + i * i + 7 * i) % len(words)] for i in range(tokens)]
        return " ".join(chosen)

    with open(f"{directory}/pairs.jsonl", "w", encoding="utf-8") as file:
        for row in range(64):
            pair = {
                "prompt": text(row, PROMPT_TOKENS),
                "chosen": " " + text(1000 + row, ANSWER_TOKENS),
                "rejected": " " + text(2000 + row, ANSWER_TOKENS),
            }
            file.write(json.dumps(pair) + "\n")


def peak_bytes(pid="self"):
    with open(f"/proc/{pid}/status", encoding="utf-8") as status:
        line = next(line for line in status if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def trl(directory, precompute, steps):
    import torch
    from datasets import load_dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import DPOConfig, DPOTrainer

    class Times(TrainerCallback):
        def __init__(self):
            self.at, self.tokens = [], []

        def on_log(self, args, state, control, logs=None, **_):
            if logs and "num_tokens" in logs:
                self.at.append(time.perf_counter())
                self.tokens.append(logs["num_tokens"])

    tokenizer = AutoTokenizer.from_pretrained(f"{directory}/model")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model = AutoModelForCausalLM.from_pretrained(f"{directory}/model", dtype="float32")
    args = DPOConfig(
        output_dir=f"{directory}/trl", per_device_train_batch_size=PAIRS, max_steps=steps + 1, max_length=1024,
        learning_rate=1e-4, logging_steps=1, save_strategy="no", report_to="none", bf16=False, use_cpu=True,
        gradient_checkpointing=False, precompute_ref_log_probs=precompute, train_sampling_strategy="sequential",
    )
    lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    data = load_dataset("json", data_files=f"{directory}/pairs.jsonl", split="train")
    times = Times()
    trainer = DPOTrainer(model, None, args, train_dataset=data, processing_class=tokenizer, peft_config=lora, callbacks=[times])
    trainer.train()
    seconds, tokens = times.at[-1] - times.at[0], times.tokens[-1] - times.tokens[0]
    print(json.dumps({"tokens_per_second": tokens / seconds, "peak_gib": peak_bytes() / 2**30, "steps": steps, "threads": torch.get_num_threads()}))


def evalign(directory, binary, precompute, steps, recompute):
    command = [
        binary, "train", "dpo", "--model", f"local/{directory}/model", "--data", f"{directory}/pairs.jsonl",
        "--out", f"{directory}/evalign", "--fresh", "--offline", "--json", "--batch-size", str(PAIRS), "--max-steps", str(steps),
        "--max-length", "1024", "--learning-rate", "1e-4", "--lora-r", "16", "--lora-alpha", "32", "--save-strategy", "no",
        "--samples", "0", "--train-sampling-strategy", "sequential", "--recompute", recompute,
    ] + (["--precompute-ref-log-probs"] if precompute else [])
    # The reference's cache is new each time, or it would already know everything.
    home = f"{directory}/home-{time.time_ns()}"
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "EVALIGN_HOME": home})
    peak = [0]

    def watch():
        while process.poll() is None:
            try:
                peak[0] = max(peak[0], peak_bytes(process.pid))
            except (FileNotFoundError, StopIteration):
                pass
            time.sleep(0.1)

    threading.Thread(target=watch).start()
    result = json.loads(process.communicate()[0])
    print(json.dumps({"tokens_per_second": result["tokens_per_second"], "peak_gib": peak[0] / 2**30, "steps": steps}))


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("what", choices=["prepare", "trl", "evalign"])
parser.add_argument("paths", nargs="+")
parser.add_argument("--precompute", action="store_true")
parser.add_argument("--steps", type=int, default=5)
parser.add_argument("--recompute", default="auto")
options = parser.parse_args()
if options.what == "prepare":
    prepare(*options.paths)
elif options.what == "trl":
    trl(options.paths[0], options.precompute, options.steps)
else:
    evalign(*options.paths, options.precompute, options.steps, options.recompute)
sys.stdout.flush()
