"""Writes families.json: log-probabilities of tiny decoders computed by transformers.

Run with transformers 5.23, torch 2.15: `python families.py > families.json`. Weights are a function of
tensor name and index (SplitMix64 of an FNV-1a seed), so that the test makes the same ones.
"""
import json
import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

BASE = dict(vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=128, rms_norm_eps=1e-5, hidden_act="silu",
            tie_word_embeddings=True, pad_token_id=None, bos_token_id=1, eos_token_id=2)

def rope(kind, theta=10000.0, **more):
    return {"rope_parameters": {"rope_type": kind, "rope_theta": theta, **more}}

FAMILIES = {
    "llama": dict(model_type="llama", **rope("default")),
    "llama_untied_bias": dict(model_type="llama", tie_word_embeddings=False, attention_bias=True, mlp_bias=True,
                              **rope("default", 500000.0)),
    "llama3_rope": dict(model_type="llama", **rope("llama3", 500.0, factor=4.0, low_freq_factor=1.0,
                        high_freq_factor=4.0, original_max_position_embeddings=32)),
    "linear_rope": dict(model_type="llama", **rope("linear", factor=2.5)),
    "yarn_rope": dict(model_type="llama", **rope("yarn", 100.0, factor=4.0, beta_fast=8.0, beta_slow=1.0,
                      original_max_position_embeddings=32)),
    "mistral_window": dict(model_type="mistral", sliding_window=7, **rope("default")),
    "qwen2": dict(model_type="qwen2", use_sliding_window=False, **rope("default", 1000000.0)),
    "qwen2_windowed": dict(model_type="qwen2", use_sliding_window=True, sliding_window=9, max_window_layers=2,
                           layer_types=["full_attention"] * 2 + ["sliding_attention"] * 2, **rope("default")),
    "qwen3": dict(model_type="qwen3", head_dim=16, tie_word_embeddings=False, **rope("default", 1000000.0)),
    "smollm3": dict(model_type="smollm3", no_rope_layers=[1, 1, 1, 0], **rope("default", 5000000.0)),
}

def mix(z):
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xbf58476d1ce4e5b9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94d049bb133111eb)
    return z ^ (z >> np.uint64(31))

def weights(name, shape):
    seed = 0xcbf29ce484222325
    for byte in name.encode():
        seed = ((seed ^ byte) * 0x100000001b3) % 2**64
    with np.errstate(over="ignore"):
        index = np.arange(1, int(np.prod(shape)) + 1, dtype=np.uint64)
        bits = mix(np.uint64(seed) + index * np.uint64(0x9e3779b97f4a7c15))
    uniform = ((bits >> np.uint64(40)).astype(np.float32) / np.float32(2**24)) - np.float32(0.5)
    values = uniform + np.float32(1.0) if "norm" in name else uniform * np.float32(0.75)
    return torch.from_numpy(values.reshape(shape))

tokens = [int(mix(np.uint64(i + 1)) % np.uint64(96)) for i in range(48)]
out = {"tokens": tokens, "families": []}
for name, changes in FAMILIES.items():
    config = {**BASE, **changes}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config), attn_implementation="eager").eval().float()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            parameter.copy_(weights(key, tuple(parameter.shape)))
        logits = model(torch.tensor([tokens])).logits[0].double()
    logprobs = torch.log_softmax(logits, -1)
    chosen = [logprobs[i, tokens[i + 1]].item() for i in range(len(tokens) - 1)]
    out["families"].append({"name": name, "config": config, "logprobs": [round(x, 7) for x in chosen]})
families = ",\n".join(json.dumps(family) for family in out["families"])
print('{"tokens": ' + json.dumps(tokens) + ',\n"families": [\n' + families + "\n]}")
