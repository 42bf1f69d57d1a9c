use std::time::Instant;

use evalign_core::{GenerateParams, ModelRef, Provider};
use evalign_fetch::{Models, block_on};
use evalign_lm::kernels::{MatmulRate, Pool, matmul_rate};
use evalign_lm::{EngineStats, GenerateItem, LanguageModel, LmError, ScoreItem, statistics};
use evalign_stats::SplitMix64;
use serde_json::json;

use crate::Verdict;
use crate::args::EngineArgs;
use crate::commands::context::engine_options;
use crate::commands::progress::FetchBars;
use crate::output::{Failure, Output, Table};

/// Times each measurement is repeated; the fastest counts, as the machine may be busy otherwise.
const REPEATS: usize = 3;
const SEED: u64 = 1;

/// Shape of the set that measures sharing: questions after a common beginning, with four answers each.
const SHARED_TOKENS: usize = 512;
const QUESTION_TOKENS: usize = 48;
const ANSWERS: usize = 4;
const ANSWER_TOKENS: usize = 8;
const QUESTIONS: usize = 16;
/// Questions computed one sequence at a time for comparison.
const UNSHARED_QUESTIONS: usize = 2;
/// At which answers for preference pairs are drawn: no token is left out.
const SAMPLING_TEMPERATURE: f64 = 0.8;

/// What one measurement found.
#[derive(Clone, Debug)]
struct Measurement {
    name: &'static str,
    /// Tokens of the requests per second, as if nothing were shared.
    tokens_per_second: f64,
    /// Tokens really computed per second.
    computed_tokens_per_second: f64,
    /// Requested tokens per computed one.
    sharing: f64,
    gflops: f64,
}

pub(super) fn engine(
    reference: &ModelRef,
    engine: &EngineArgs,
    offline: bool,
    json: bool,
    output: Output,
) -> Result<Verdict, Failure> {
    if reference.provider != Provider::Local {
        return Err(Failure::new(
            format!("`{reference}` does not run in this process"),
            "name a local model, for example `--model local/smollm2-135m-instruct`",
        ));
    }
    let options = engine_options(engine, offline)?;
    let bars = FetchBars::new(output);
    let progress = |event: evalign_fetch::Event<'_>| bars.event(&event);
    let path = block_on(async { Models::from_env(offline)?.resolve(&reference.name, &progress).await })?;
    bars.finish();
    let options = evalign_lm::LoadOptions {
        device: options.device,
        dtype: options.dtype,
        memory_bytes: options.memory_gib.map(|gib| (gib * (1u64 << 30) as f64) as u64),
        ..evalign_lm::LoadOptions::default()
    };
    let model = LanguageModel::load(&path, &options)?;
    let pool = Pool::new(None).map_err(anyhow::Error::from)?;
    let rate = matmul_rate(&pool).map_err(anyhow::Error::from)?;
    let bench = Bench { model: &model };
    let found = [
        bench.prefill()?,
        bench.shared()?,
        bench.unshared()?,
        bench.decode("decode, one sequence", 1, 0.0)?,
        bench.decode("decode, 16 sequences", 16, 0.0)?,
        bench.decode("sampling, 64 sequences", 64, SAMPLING_TEMPERATURE)?,
    ];
    // Before and after, the better counts: what else the machine does must not flatter the shares.
    let again = matmul_rate(&pool).map_err(anyhow::Error::from)?;
    let rate = if again.reference() > rate.reference() { again } else { rate };
    if json {
        output.json(&document(reference, &model, &rate, &found))?;
    } else {
        output.result(&text(&model, &rate, &found))?;
    }
    Ok(Verdict::Good)
}

fn document(
    reference: &ModelRef,
    model: &LanguageModel,
    rate: &MatmulRate,
    found: &[Measurement],
) -> serde_json::Value {
    let identity = model.identity();
    let measurements: Vec<_> = found
        .iter()
        .map(|m| {
            json!({"name": m.name, "tokens_per_second": m.tokens_per_second,
                   "computed_tokens_per_second": m.computed_tokens_per_second, "sharing": m.sharing,
                   "gflops": m.gflops, "matmul_fraction": m.gflops / rate.reference()})
        })
        .collect();
    json!({
        "model": reference, "weights": identity.weights, "dtype": identity.dtype, "device": identity.device,
        "matmul_gflops": {"reference": rate.reference(), "candle_1024x576x1536": rate.candle_1024x576x1536,
                          "candle_2048": rate.candle_2048, "own_1024x576x1536": rate.linear_1024x576x1536,
                          "own_2048": rate.linear_2048, "threads": rate.threads},
        "measurements": measurements,
    })
}

fn text(model: &LanguageModel, rate: &MatmulRate, found: &[Measurement]) -> String {
    let mut table = Table::new(
        &["measurement", "tokens/s", "computed/s", "sharing", "GFLOP/s", "of matmul rate"],
        &[1, 2, 3, 4, 5],
    );
    for m in found {
        table.push(vec![
            m.name.to_owned(),
            format!("{:.1}", m.tokens_per_second),
            format!("{:.1}", m.computed_tokens_per_second),
            format!("{:.2}x", m.sharing),
            format!("{:.1}", m.gflops),
            format!("{:.0} %", 100.0 * m.gflops / rate.reference()),
        ]);
    }
    let identity = model.identity();
    format!(
        "{}\n{} parameters in {} on {}, {} threads\nmatmul rate: {:.1} GFLOP/s (f32, best of 5 products 1024x576x1536 and of 2048 cubed)",
        table.text(),
        identity.parameters,
        identity.dtype.name(),
        identity.device,
        rate.threads,
        rate.reference(),
    )
}

struct Bench<'a> {
    model: &'a LanguageModel,
}

impl Bench<'_> {
    /// 512 tokens of prompt, one sequence.
    fn prefill(&self) -> Result<Measurement, Failure> {
        let mut random = SplitMix64::new(SEED);
        let item = ScoreItem {
            context: self.tokens(&mut random, 512),
            continuations: vec![self.tokens(&mut random, 1)],
        };
        self.fastest("prefill, 512 tokens", || self.score(std::slice::from_ref(&item)))
    }

    /// The whole set at once.
    fn shared(&self) -> Result<Measurement, Failure> {
        let items = self.questions(QUESTIONS);
        self.fastest("scoring, shared prefixes", || self.score(&items))
    }

    /// Every answer as a call of its own, where nothing can be shared.
    fn unshared(&self) -> Result<Measurement, Failure> {
        let mut alone = Vec::new();
        for item in self.questions(UNSHARED_QUESTIONS) {
            alone.extend(item.continuations.iter().map(|answer| ScoreItem {
                context: item.context.clone(),
                continuations: vec![answer.clone()],
            }));
        }
        self.fastest("scoring, nothing shared", || {
            let mut total = EngineStats::default();
            for item in &alone {
                total += self.score(std::slice::from_ref(item))?;
            }
            Ok(total)
        })
    }

    fn decode(&self, name: &'static str, sequences: usize, temperature: f64) -> Result<Measurement, Failure> {
        let mut random = SplitMix64::new(SEED);
        let params = GenerateParams { max_tokens: 64, temperature, ..GenerateParams::default() };
        let items: Vec<GenerateItem> = (0..sequences)
            .map(|sequence| GenerateItem {
                prompt: self.tokens(&mut random, 32),
                params: GenerateParams { seed: sequence as u64, ..params.clone() },
                stop_ids: Vec::new(),
            })
            .collect();
        let mut best: Option<EngineStats> = None;
        for _ in 0..REPEATS {
            let stats = statistics(|on_event| self.model.generate(&items, on_event))?;
            if best.is_none_or(|known| stats.decode_seconds < known.decode_seconds) {
                best = Some(stats);
            }
        }
        let best = best.unwrap_or_default();
        let generated = best.generated_tokens as f64 / best.decode_seconds;
        let gflops = best.decode_flops / best.decode_seconds / 1e9;
        Ok(Measurement {
            name,
            tokens_per_second: generated,
            computed_tokens_per_second: generated,
            sharing: 1.0,
            gflops,
        })
    }

    fn score(&self, items: &[ScoreItem]) -> Result<EngineStats, LmError> {
        statistics(|on_event| self.model.log_likelihoods(items, on_event))
    }

    fn fastest(
        &self,
        name: &'static str,
        run: impl Fn() -> Result<EngineStats, LmError>,
    ) -> Result<Measurement, Failure> {
        let mut best: Option<(f64, EngineStats)> = None;
        for _ in 0..REPEATS {
            let started = Instant::now();
            let stats = run()?;
            let seconds = started.elapsed().as_secs_f64();
            if best.is_none_or(|(known, _)| seconds < known) {
                best = Some((seconds, stats));
            }
        }
        let (seconds, stats) = best.unwrap_or_default();
        let gflops = stats.prefill_flops / seconds / 1e9;
        Ok(Measurement {
            name,
            tokens_per_second: stats.prompt_tokens as f64 / seconds,
            computed_tokens_per_second: stats.computed_prompt_tokens as f64 / seconds,
            sharing: stats.prompt_tokens as f64 / stats.computed_prompt_tokens.max(1) as f64,
            gflops,
        })
    }

    fn questions(&self, count: usize) -> Vec<ScoreItem> {
        let mut random = SplitMix64::new(SEED);
        let shared = self.tokens(&mut random, SHARED_TOKENS);
        (0..count)
            .map(|_| {
                let mut context = shared.clone();
                context.extend(self.tokens(&mut random, QUESTION_TOKENS));
                let continuations = (0..ANSWERS).map(|_| self.tokens(&mut random, ANSWER_TOKENS)).collect();
                ScoreItem { context, continuations }
            })
            .collect()
    }

    /// Speed does not depend on what the tokens say.
    fn tokens(&self, random: &mut SplitMix64, count: usize) -> Vec<u32> {
        let vocabulary = self.model.identity().vocab_size as u64;
        (0..count).map(|_| random.below(vocabulary) as u32).collect()
    }
}
