"""Records TRL runs on tiny models, step by step, in the layout that `evalign train verify --case DIR` reads.

    python trl_cases.py GOLDEN OUT [CASE ...]

GOLDEN is the folder of recorded cases that this continues: it holds models/tiny-llama (tokenizer, chat template, weights) and data/*.jsonl; OUT gets models, data and cases.
Needs torch 2.15, transformers 5.23, trl 1.16, peft 0.21. CPU, f32, one thread, eager attention, no dropout.
"""

import json
import os
import shutil
import sys

os.environ["CUDA_VISIBLE_DEVICES"] = ""
import torch
from datasets import load_dataset
from peft import LoraConfig, PeftModel
from safetensors.torch import save_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2ForSequenceClassification,
    Qwen3Config,
    Qwen3ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    TrainerCallback,
)
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer, RewardConfig, RewardTrainer, SFTConfig, SFTTrainer

torch.set_num_threads(1)
MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
MARKED = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{% else %}"
    "{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def make_models(golden, out):
    shape = dict(
        vocab_size=512, hidden_size=64, intermediate_size=172, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, initializer_range=0.05, eos_token_id=0, pad_token_id=3,
        bos_token_id=None, attn_implementation="eager",
    )
    torch.manual_seed(7)
    made = {
        "tiny-qwen2": Qwen2ForCausalLM(Qwen2Config(**shape, tie_word_embeddings=False, rope_theta=50000.0)),
        "tiny-qwen3": Qwen3ForCausalLM(Qwen3Config(**shape, head_dim=24, tie_word_embeddings=True)),
        "tiny-llama-bias": LlamaForCausalLM(LlamaConfig(**shape, attention_bias=True, mlp_bias=True, tie_word_embeddings=False)),
    }
    for name, model in made.items():
        with torch.no_grad():
            for parameter_name, parameter in model.named_parameters():
                if parameter_name.endswith("bias"):
                    parameter.normal_(0, 0.3)
                if parameter_name.endswith("norm.weight"):
                    parameter.normal_(1, 0.1)
        path = f"{out}/models/{name}"
        model.float().save_pretrained(path)
        for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            shutil.copy(f"{golden}/models/tiny-llama/{file}", path)
        if name == "tiny-qwen2":
            with open(f"{path}/chat_template.jinja", "w") as file:
                file.write(MARKED)
    shutil.copytree(f"{golden}/models/tiny-llama", f"{out}/models/tiny-llama", dirs_exist_ok=True)
    config = Qwen2Config(**shape, tie_word_embeddings=False, rope_theta=50000.0, num_labels=1)
    torch.manual_seed(8)
    rm = Qwen2ForSequenceClassification(config).float()
    path = f"{out}/models/tiny-qwen2-rm"
    rm.save_pretrained(path)
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(f"{out}/models/tiny-qwen2/{file}", path)


def make_data(golden, out):
    os.makedirs(f"{out}/data", exist_ok=True)
    pairs = [json.loads(line) for line in open(f"{golden}/data/preference_standard.jsonl")]
    texts = [json.loads(line) for line in open(f"{golden}/data/sft_prompt_completion.jsonl")]
    say = lambda role, text: [{"role": role, "content": text}]
    write = lambda name, rows: open(f"{out}/data/{name}.jsonl", "w").writelines(json.dumps(row) + "\n" for row in rows)
    write("preference_standard", pairs)
    write("preference_chat", [
        {"prompt": say("user", p["prompt"]), "chosen": say("assistant", p["chosen"]), "rejected": say("assistant", p["rejected"])}
        for p in pairs
    ])
    write("preference_chat_implicit", [
        {"chosen": say("user", p["prompt"]) + say("assistant", p["chosen"]), "rejected": say("user", p["prompt"]) + say("assistant", p["rejected"])}
        for p in pairs
    ])
    write("unpaired", [
        row for n, p in enumerate(pairs) for row in (
            {"prompt": p["prompt"], "completion": p["chosen"], "label": True},
            {"prompt": p["prompt"], "completion": p["rejected"], "label": False},
        ) if (n % 3, row["label"]) != (1, False)
    ])
    write("sft_prompt_completion", texts)
    write("sft_text", [{"text": t["prompt"] + t["completion"]} for t in texts])
    write("sft_messages", [
        {"messages": say("system", "Be brief.") + say("user", a["prompt"]) + say("assistant", a["completion"]) + say("user", b["prompt"][:20]) + say("assistant", b["completion"][:20])}
        for a, b in zip(texts, texts[1:] + texts[:1])
    ])


LORA = dict(r=4, lora_alpha=8, lora_dropout=0.0, bias="none", target_modules=MODULES)
PAIRS, CHAT, IMPLICIT = "preference_standard", "preference_chat", "preference_chat_implicit"
#       name                    trainer   model              data                     arguments                                  lora
CASES = [
    ("qwen2_dpo_hinge",         "DPO",    "tiny-qwen2",      PAIRS, dict(loss_type=["hinge"], warmup_steps=3, weight_decay=0.01), LORA),
    ("qwen2_dpo_chat",          "DPO",    "tiny-qwen2",      CHAT, dict(beta=0.3, gradient_accumulation_steps=2, per_device_train_batch_size=2), LORA),
    ("qwen2_dpo_implicit",      "DPO",    "tiny-qwen2",      IMPLICIT, dict(loss_type=["sigmoid_norm"], beta=2.0, lr_scheduler_type="cosine", warmup_steps=2), LORA),
    ("qwen2_dpo_full",          "DPO",    "tiny-qwen2",      PAIRS, dict(loss_type=["ipo"], learning_rate=1e-4, warmup_steps=3, weight_decay=0.1), None),
    ("llama_dpo_full",          "DPO",    "tiny-llama",      PAIRS, dict(learning_rate=1e-4, lr_scheduler_type="constant_with_warmup", warmup_steps=2), None),
    ("bias_dpo_mix",            "DPO",    "tiny-llama-bias", PAIRS, dict(loss_type=["sigmoid", "sft"], loss_weights=[0.8, 0.5]), LORA),
    ("qwen3_dpo_dora",          "DPO",    "tiny-qwen3",      CHAT, dict(loss_type=["apo_zero"]), dict(LORA, use_dora=True)),
    ("qwen3_dpo_rslora",        "DPO",    "tiny-qwen3",      PAIRS, dict(loss_type=["apo_down"]), dict(LORA, use_rslora=True, target_modules=["q_proj", "v_proj"])),
    ("dpo_exo",                 "DPO",    "tiny-llama",      PAIRS, dict(loss_type=["exo_pair"], label_smoothing=0.05), LORA),
    ("dpo_nca",                 "DPO",    "tiny-llama",      PAIRS, dict(loss_type=["nca_pair"]), LORA),
    ("dpo_bco",                 "DPO",    "tiny-llama",      PAIRS, dict(loss_type=["bco_pair"]), LORA),
    ("dpo_sppo",                "DPO",    "tiny-llama",      PAIRS, dict(loss_type=["sppo_hard"]), LORA),
    ("dpo_aot",                 "DPO",    "tiny-llama",      PAIRS, dict(loss_type=["aot"], label_smoothing=0.1), LORA),
    ("dpo_aot_unpaired",        "DPO",    "tiny-llama",      PAIRS, dict(loss_type=["aot_unpaired"]), LORA),
    ("dpo_discopop",            "DPO",    "tiny-llama",      PAIRS, dict(loss_type=["discopop"]), LORA),
    ("dpo_js",                  "DPO",    "tiny-llama",      PAIRS, dict(f_divergence_type="js_divergence"), LORA),
    ("dpo_forward_kl",          "DPO",    "tiny-llama",      PAIRS, dict(f_divergence_type="forward_kl"), LORA),
    ("dpo_alpha",               "DPO",    "tiny-llama",      PAIRS, dict(f_divergence_type="alpha_divergence", f_alpha_divergence_coef=0.7), LORA),
    ("dpo_ld",                  "DPO",    "tiny-llama",      PAIRS, dict(ld_alpha=0.3), LORA),
    ("dpo_wpo",                 "DPO",    "tiny-llama",      PAIRS, dict(use_weighting=True), LORA),
    ("dpo_random_order",        "DPO",    "tiny-llama",      PAIRS, dict(train_sampling_strategy="random", seed=7), LORA),
    ("dpo_continued",           "DPO",    "tiny-llama",      PAIRS, dict(start_adapter="cases/dpo_sigmoid/adapter"), LORA),
    ("dpo_precomputed",         "DPO",    "tiny-llama",      PAIRS, dict(precompute_ref_log_probs=True), LORA),
    ("kto",                     "KTO",    "tiny-llama",      "unpaired", dict(desirable_weight=1.5, beta=0.5), LORA),
    ("kto_from_pairs",          "KTO",    "tiny-llama",      PAIRS, dict(), LORA),
    ("kto_apo",                 "KTO",    "tiny-qwen2",      "unpaired", dict(loss_type="apo_zero_unpaired", undesirable_weight=0.7), LORA),
    ("kto_accum",               "KTO",    "tiny-llama",      "unpaired", dict(gradient_accumulation_steps=2, per_device_train_batch_size=3), LORA),
    ("qwen2_rm_center",         "Reward", "tiny-qwen2-rm",   CHAT, dict(center_rewards_coefficient=0.01, warmup_steps=2, gradient_accumulation_steps=2, per_device_train_batch_size=2, max_length=96), LORA),
    ("qwen2_rm_full",           "Reward", "tiny-qwen2-rm",   PAIRS, dict(learning_rate=1e-4, center_rewards_coefficient=0.1, weight_decay=0.01), None),
    ("qwen2_sft_assistant",     "SFT",    "tiny-qwen2",      "sft_messages", dict(assistant_only_loss=True, gradient_accumulation_steps=2, per_device_train_batch_size=2, max_length=96), LORA),
    ("qwen2_sft_full_dft",      "SFT",    "tiny-qwen2",      "sft_text", dict(loss_type="dft", learning_rate=1e-4, warmup_steps=0.3), None),
    ("llama_sft_full",          "SFT",    "tiny-llama",      "sft_prompt_completion", dict(completion_only_loss=False, learning_rate=1e-4, weight_decay=0.05, lr_scheduler_type="warmup_stable_decay", lr_scheduler_kwargs=dict(num_decay_steps=4, min_lr_ratio=0.1), warmup_steps=2), None),
    ("bias_sft",                "SFT",    "tiny-llama-bias", "sft_prompt_completion", dict(), None),
]


def tensors(values):
    return {name: value.detach().clone().contiguous() for name, value in values}


def adapter_name(name):
    return name.replace(".default", "").replace("modules_to_save.", "").replace("lora_magnitude_vector.weight", "lora_magnitude_vector")


class Recorder(TrainerCallback):
    def __init__(self, case, out):
        self.case, self.out, self.steps, self.micro, self.calls, self.per_token = case, out, [], [], [], {}

    def attach(self, trainer, rows_by_ids):
        self.trainer, self.rows_by_ids = trainer, rows_by_ids
        for model, who in ((trainer.model, "policy"), (getattr(trainer, "ref_model", None), "ref")):
            if model is not None:
                model.register_forward_hook(lambda m, a, k, o, who=who: self.calls.append((who, torch.is_grad_enabled(), o)), with_kwargs=True)
        compute = trainer.compute_loss

        def compute_loss(model, inputs, **kwargs):
            self.calls.clear()
            inputs_kept = {k: v for k, v in inputs.items() if isinstance(v, torch.Tensor)}
            loss = compute(model, dict(inputs), **kwargs)
            self.micro.append(self.record(inputs_kept, kwargs, loss))
            return loss

        trainer.compute_loss = compute_loss
        clip = trainer.accelerator.clip_grad_norm_

        def clipping(parameters, *args, **kwargs):
            self.gradients = tensors((adapter_name(n), p.grad) for n, p in trainer.model.named_parameters() if p.requires_grad)
            norm = clip(parameters, *args, **kwargs)
            self.norm = float(norm)
            return norm

        trainer.accelerator.clip_grad_norm_ = clipping
        self.save_weights(0)

    def record(self, inputs, kwargs, loss):
        step, number = len(self.steps) + 1, len(self.micro)
        found = {k: v.tolist() for k, v in inputs.items() if k in ("input_ids", "attention_mask", "completion_mask", "labels", "margin")}
        found["loss"] = float(loss)
        policy = [o for who, grad, o in self.calls if who == "policy" and grad]
        reference = [o for who, grad, o in self.calls if not grad]
        ids = inputs["input_ids"].tolist()
        mask = inputs["attention_mask"].tolist()
        real = [tuple(i for i, m in zip(a, b) if m) for a, b in zip(ids, mask)]
        if self.case["trainer"] == "RewardTrainer":
            chosen, rejected = torch.chunk(policy[0].logits.squeeze(-1), 2)
            found["chosen_rewards"], found["rejected_rewards"] = chosen.tolist(), rejected.tolist()
            found["pooled_index"] = [max(i for i, t in enumerate(row) if t != 3) for row in ids]
            half = len(real) // 2
            found["rows"] = [self.rows_by_ids[(real[i], real[half + i])] for i in range(half)]
            return found
        logps = policy[0].log_probs
        prefix = f"step_{step:02}.mb_{number}"
        self.per_token[f"{prefix}.policy_per_token_logps"] = logps.detach().clone().contiguous()
        self.per_token[f"{prefix}.policy_entropy"] = policy[0].entropy.detach().clone().contiguous()
        if self.case["trainer"] == "DPOTrainer":
            half = len(real) // 2
            found["rows"] = [self.rows_by_ids[(real[i], real[half + i])] for i in range(half)]
            if self.case["args"].get("ld_alpha") is None:
                found["policy_chosen_logps"], found["policy_rejected_logps"] = [x.tolist() for x in logps.sum(1).chunk(2)]
            if reference:
                ref = reference[-1].log_probs
                self.per_token[f"{prefix}.ref_per_token_logps"] = ref.detach().clone().contiguous()
                if self.case["args"].get("ld_alpha") is None:
                    found["ref_chosen_logps"], found["ref_rejected_logps"] = [x.tolist() for x in ref.sum(1).chunk(2)]
        else:
            found["rows"] = [self.rows_by_ids[row] for row in real]
            found["sequence_logps"] = logps.sum(1).tolist()
            if self.case["trainer"] == "KTOTrainer":
                ref = reference[-1].log_probs
                self.per_token[f"{prefix}.ref_per_token_logps"] = ref.detach().clone().contiguous()
            elif kwargs.get("num_items_in_batch") is not None:
                found["num_items_in_batch"] = int(kwargs["num_items_in_batch"])
        return found

    def on_step_end(self, args, state, control, **_):
        step = len(self.steps) + 1
        self.steps.append({"step": step, "lr": self.trainer.optimizer.param_groups[0]["lr"], "grad_norm": self.norm, "micro_batches": self.micro})
        self.micro = []
        if step in (1, 2, args.max_steps):
            save_file(self.gradients, f"{self.out}/grads_update_{step:02}.safetensors")
            self.save_weights(step)
        if step in (1, args.max_steps):
            names = {p: adapter_name(n) for n, p in self.trainer.model.named_parameters()}
            state = self.trainer.optimizer.state
            moments = [(f"{short}.{names[p]}", s[long]) for p, s in state.items() for short, long in (("m", "exp_avg"), ("v", "exp_avg_sq"))]
            save_file(tensors(moments), f"{self.out}/adam_after_{step:02}.safetensors")

    def on_log(self, args, state, control, logs=None, **_):
        if logs and "grad_norm" in logs and self.steps:
            self.steps[-1]["logged"] = {k: v for k, v in logs.items() if isinstance(v, (int, float))}
            self.steps[-1]["lr"] = logs["learning_rate"]

    def save_weights(self, step):
        trained = [(adapter_name(n), p) for n, p in self.trainer.model.named_parameters() if p.requires_grad]
        save_file(tensors(trained), f"{self.out}/weights_after_{step:02}.safetensors")


def run(golden, out, name, kind, model_name, data, arguments, lora):
    arguments = dict(arguments)
    start = arguments.pop("start_adapter", None)
    directory = f"{out}/cases/{name}"
    shutil.rmtree(directory, ignore_errors=True)
    os.makedirs(directory)
    path = f"{out}/models/{model_name}"
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=f"{path}/tokenizer.json", eos_token="<|endoftext|>", pad_token="<|pad|>")
    tokenizer.chat_template = open(f"{path}/chat_template.jinja").read()
    loader = AutoModelForSequenceClassification if kind == "Reward" else AutoModelForCausalLM
    more = dict(num_labels=1) if kind == "Reward" else {}
    load = lambda: loader.from_pretrained(path, dtype="float32", attn_implementation="eager", **more)
    model = load()
    config_class, trainer_class = {
        "DPO": (DPOConfig, DPOTrainer), "KTO": (KTOConfig, KTOTrainer), "Reward": (RewardConfig, RewardTrainer), "SFT": (SFTConfig, SFTTrainer),
    }[kind]
    args = dict(
        max_steps=10, learning_rate=1e-3, per_device_train_batch_size=4, max_length=64, seed=42, bf16=False, fp16=False,
        gradient_checkpointing=False, use_cpu=True, lr_scheduler_type="linear", weight_decay=0.0, max_grad_norm=1.0,
        train_sampling_strategy="sequential",
    )
    if kind != "SFT":
        args["disable_dropout"] = True
    args.update(arguments)
    config = config_class(output_dir=f"{directory}/work", logging_steps=1, save_strategy="no", report_to="none", disable_tqdm=True, **args)
    case = dict(
        case=name, trainer=f"{kind}Trainer", model=f"models/{model_name}", data=f"data/{data}.jsonl", dtype="float32",
        attn_implementation="eager", sampler=args["train_sampling_strategy"], pad_token="<|pad|>", pad_token_id=3,
        eos_token="<|endoftext|>", eos_token_id=0, args=args, lora=lora, start_adapter=None,
    )
    peft_config = None
    if lora and not start:
        peft_config = LoraConfig(task_type="SEQ_CLS" if kind == "Reward" else "CAUSAL_LM", modules_to_save=["score"] if kind == "Reward" else None, **lora)
    if start:
        shutil.copytree(f"{golden}/{start}", f"{directory}/start_adapter")
        case["start_adapter"] = "start_adapter"
        model = PeftModel.from_pretrained(model, f"{directory}/start_adapter", is_trainable=True)
    rows = load_dataset("json", data_files=f"{out}/{case['data']}", split="train")
    recorder = Recorder(case, directory)
    torch.manual_seed(42)
    kwargs = dict(model=model, args=config, train_dataset=rows.add_column("row", list(range(len(rows)))), processing_class=tokenizer, callbacks=[recorder])
    if peft_config:
        kwargs["peft_config"] = peft_config
    if kind in ("DPO", "KTO") and not lora:
        kwargs["ref_model"] = load()
    trainer = trainer_class(**kwargs)
    tokenized, by_ids, kept = [], {}, []
    limit = args["max_length"]
    for index, item in enumerate(trainer.train_dataset):
        row = item.get("row", None)
        entry = {"row": row}
        for field in ("prompt_ids", "chosen_ids", "rejected_ids", "completion_ids", "chosen_input_ids", "rejected_input_ids", "input_ids", "labels", "margin"):
            if item.get(field) is not None:
                entry[field] = item[field]
        tokenized.append(entry)
    for entry in tokenized:
        p = entry.get("prompt_ids", [])
        if kind == "DPO":
            key = (tuple((p + entry["chosen_ids"])[:limit]), tuple((p + entry["rejected_ids"])[:limit]))
        elif kind == "Reward":
            entry["chosen_ids"] = entry.get("chosen_ids") or entry.pop("chosen_input_ids")
            entry["rejected_ids"] = entry.get("rejected_ids") or entry.pop("rejected_input_ids")
            key = (tuple(entry["chosen_ids"]), tuple(entry["rejected_ids"]))
        elif kind == "KTO":
            key = tuple((p + entry["completion_ids"])[:limit])
        else:
            entry["input_ids"], entry["labels"] = entry["input_ids"][:limit], entry["labels"][:limit]
            key = tuple(entry["input_ids"])
        if entry["row"] is None:
            entry["row"] = len(kept)
        by_ids[key] = entry["row"]
        kept.append(entry["row"])
    case["rows_kept"], case["rows_in_file"] = kept, len(rows)
    recorder.attach(trainer, by_ids)
    trainer.train()
    model = trainer.model.eval()
    finals, ids = {}, [tokenizer("The moon shines").input_ids, tokenizer("Q: What is 2 + 2?\nA:").input_ids]
    for index, text in enumerate(ids):
        with torch.no_grad():
            out_of = lambda m: m(input_ids=torch.tensor([text])).logits[0].float().reshape(-1).contiguous().clone()
            finals[f"adapted.{index}"] = out_of(model)
            if lora and kind != "Reward":
                with model.disable_adapter():
                    finals[f"base.{index}"] = out_of(model)
    save_file(finals, f"{directory}/final_outputs.safetensors")
    json.dump({"input_ids": ids}, open(f"{directory}/final_outputs.json", "w"))
    if recorder.per_token:
        save_file(recorder.per_token, f"{directory}/per_token.safetensors")
    json.dump(case, open(f"{directory}/case.json", "w"), indent=1)
    json.dump(tokenized, open(f"{directory}/tokenized.json", "w"))
    json.dump({"steps": recorder.steps}, open(f"{directory}/trace.json", "w"))
    shutil.rmtree(f"{directory}/work", ignore_errors=True)


if __name__ == "__main__":
    golden, out, *wanted = sys.argv[1:]
    if not os.path.exists(f"{out}/models/tiny-qwen2-rm"):
        make_models(golden, out)
    make_data(golden, out)
    for case in CASES:
        if not wanted or case[0] in wanted:
            run(golden, out, *case)
            print("recorded", case[0], flush=True)
