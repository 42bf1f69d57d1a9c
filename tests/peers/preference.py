"""Loads files written by `evalign pairs` with datasets, and has TRL 1.16 prepare them for its trainers.

    python tests/peers/preference.py MODEL_DIR FILE...      (transformers 5.23, datasets 5.2, trl 1.16, torch on the CPU)

MODEL_DIR holds a tokeniser with a chat template and a config.json; a model of one small layer is made for it, since
only the preparation of rows is looked at. Fails on any warning about the format; prints rows and columns of each file.
"""

import logging
import sys
import tempfile
import warnings

import torch
import trl
from datasets import load_dataset
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

FORMAT_WORDS = ("prefix", "format", "column", "conversational", "deprecat", "truncat", "prompt")
said = []


class Listening(logging.Handler):
    def emit(self, record):
        said.append(record.getMessage())


def tiny_model(directory):
    config = AutoConfig.from_pretrained(directory)
    config.num_hidden_layers, config.hidden_size, config.intermediate_size = 1, 64, 64
    config.num_attention_heads, config.num_key_value_heads, config.head_dim = 4, 2, 16
    return AutoModelForCausalLM.from_config(config)


def prepared(path, directory):
    """The rows as the trainer of their layout has them."""
    kind = "parquet" if path.endswith(".parquet") else "json"
    rows = load_dataset(kind, data_files=path, split="train", cache_dir=tempfile.mkdtemp())
    tokenizer = AutoTokenizer.from_pretrained(directory)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    common = {"output_dir": tempfile.mkdtemp(), "report_to": [], "use_cpu": True, "bf16": False,
              "max_steps": 1, "per_device_train_batch_size": 2}
    columns = set(rows.column_names)
    if {"chosen", "rejected"} <= columns:
        trainer, config = trl.DPOTrainer, trl.DPOConfig(**common)
    elif "label" in columns:
        trainer, config = trl.KTOTrainer, trl.KTOConfig(**common)
    elif {"prompt", "completion"} <= columns or "messages" in columns or "text" in columns:
        trainer, config = trl.SFTTrainer, trl.SFTConfig(**common)
    else:
        assert "prompt" in columns, columns
        return rows, rows.column_names
    made = trainer(model=tiny_model(directory), args=config, train_dataset=rows, processing_class=tokenizer)
    batch = next(iter(made.get_train_dataloader()))
    assert all(torch.is_tensor(value) for value in batch.values() if hasattr(value, "shape"))
    return rows, made.train_dataset.column_names


def main():
    directory, *files = sys.argv[1:]
    logging.getLogger().addHandler(Listening())
    for name in ("trl", "transformers", "datasets"):
        logging.getLogger(name).addHandler(Listening())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for path in files:
            rows, columns = prepared(path, directory)
            print(f"{path}: {len(rows)} rows, prepared as {sorted(columns)}")
    said.extend(str(warning.message) for warning in caught)
    about_format = [text for text in said if any(word in text.lower() for word in FORMAT_WORDS)]
    for text in sorted(set(said)):
        print("said:", text.replace("\n", " ")[:160])
    assert not about_format, about_format
    print(f"trl {trl.__version__}: no warning about the format")


main()
