//! Speed and memory of a DPO step on the real model: LoRA r = 16 on all linear layers, 4 pairs of 128 + 96 tokens, f32.
//!
//! Tokens are counted as TRL counts them (`num_tokens`: a pair's prompt twice), the matmul rate as architecture.md says
//! (training: forward plus input gradient; the reference's forward pass where there is one; nothing computed again).
//! `EVALIGN_TEST_MODEL=SmolLM2-135M-Instruct.Q4_1.gguf cargo bench -p evalign-train --bench step`
#![expect(clippy::print_stdout, reason = "the measurement")]

use std::time::Instant;

use evalign_core::Dtype;
use evalign_lm::kernels::{Pool, matmul_rate};
use evalign_lm::training::Recompute;
use evalign_lm::{LanguageModel, LoadOptions};
use evalign_train::{
    Gradients, Item, Learner, LoraOptions, Method, MicroBatch, Objective, Policy, PolicyOptions, Preference,
    Scale, Sequence,
};

const PAIRS: usize = 4;
const PROMPT: usize = 128;
const COMPLETION: usize = 96;
const STEPS: usize = 5;

fn tokens(seed: u32, count: usize) -> Vec<u32> {
    (0..count as u32)
        .map(|i| (i.wrapping_mul(7919).wrapping_add(seed.wrapping_mul(104_729))) % 40_000)
        .collect()
}

fn batch() -> MicroBatch {
    let side = |pair: u32, side: u32| {
        let ids = [tokens(pair, PROMPT), tokens(100 + 2 * pair + side, COMPLETION)].concat();
        Sequence::new(ids, PROMPT)
    };
    let items = (0..PAIRS as u32)
        .map(|pair| Item::Pair { chosen: side(pair, 0), rejected: side(pair, 1), margin: None, label: None })
        .collect();
    MicroBatch { rows: (0..PAIRS as u64).collect(), items }
}

/// Floating-point operations that a step needs: forward and input gradient of every row, of the vocabulary at labels.
fn needed_flops(policy: &Policy, with_reference: bool) -> f64 {
    let model = policy.model();
    let rows = (PAIRS * (PROMPT + 2 * COMPLETION)) as f64;
    let labels = (PAIRS * 2 * COMPLETION) as f64;
    let weights: usize = evalign_lm::training::Module::ALL
        .iter()
        .map(|module| model.module_shape(*module).iter().product::<usize>() * model.layers())
        .sum();
    let head = (model.hidden_size() * model.identity().vocab_size) as f64;
    let forward = 2.0 * weights as f64 * rows + 2.0 * head * labels;
    forward * if with_reference { 3.0 } else { 2.0 }
}

/// Largest resident set so far, in GiB.
fn peak_gib() -> f64 {
    let status = fs_err::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    line.trim().trim_end_matches("kB").trim().parse::<f64>().unwrap_or(f64::NAN) / (1 << 20) as f64
}

fn main() {
    let Some(path) = evalign_testkit::real_model("the speed of training") else { return };
    let rate = matmul_rate(&Pool::new(None).expect("threads")).expect("candle multiplies");
    println!("matmul rate {:.0} GFLOP/s (ours {:.0})", rate.reference(), rate.linear_1024x576x1536);
    for recompute in [Recompute::Never, Recompute::Always] {
        let options = LoadOptions { dtype: Some(Dtype::F32), ..LoadOptions::default() };
        let model = LanguageModel::load(path, &options).expect("the model loads");
        let lora = LoraOptions { r: 16, alpha: 32.0, ..LoraOptions::default() };
        let objective = Objective::Preference(Preference::default());
        let mut policy =
            Policy::new(model, PolicyOptions::new(Method::Lora(lora), objective, "bench")).expect("a policy");
        policy.set_recompute(recompute);
        let batch = batch();
        let plan = policy.memory_plan(std::slice::from_ref(&batch));
        for with_reference in [false, true] {
            measure(&mut policy, &batch, with_reference, rate.reference(), recompute);
        }
        println!(
            "planned {:.2} GiB, peak so far {:.2} GiB",
            plan.total() as f64 / (1u64 << 30) as f64,
            peak_gib()
        );
    }
}

fn measure(policy: &mut Policy, batch: &MicroBatch, with_reference: bool, rate: f64, recompute: Recompute) {
    let mut gradients = Gradients::zeros(policy.parameters());
    let scale = Scale { items: 1.0 / PAIRS as f32, labels: 0.0 };
    let cached = policy.reference(batch).expect("a reference");
    let mut best = f64::INFINITY;
    for update in 0..STEPS {
        let start = Instant::now();
        let reference =
            if with_reference { policy.reference(batch).expect("a reference") } else { cached.clone() };
        let observed = policy.backward(batch, reference.as_ref(), scale, update as u64, &mut gradients);
        std::hint::black_box(observed.expect("a step"));
        policy.parameters_changed().expect("new values");
        best = best.min(start.elapsed().as_secs_f64());
    }
    let gflops = needed_flops(policy, with_reference) / best / 1e9;
    println!(
        "{recompute:?}, reference {}: {best:.2} s a step, {:.0} tokens/s, {gflops:.0} GFLOP/s = {:.0} % of the rate",
        if with_reference { "computed" } else { "cached" },
        batch.tokens() as f64 / best,
        100.0 * gflops / rate
    );
}
