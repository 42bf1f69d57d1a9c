//! `train verify`: the shipped trainer against step-by-step records of TRL (`golden/trl`), number by number.
//!
//! A case is run through [`Job`] and [`crate::Trainer`] as every run is; what they tell on the way is compared with the
//! record. The limits are those that the record's own description suggests for another f32 implementation.

mod certificate;
mod golden;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::atomic::AtomicBool;

use evalign_data::{DataRoots, DatasetSpec};
use evalign_lm::LoadOptions;
use serde_json::{Map, Value};

pub use certificate::{Certificate, Check};

use crate::checkpoint::read_tensors;
use crate::{
    AdamW, Event, Gradients, Item, Job, Learner, Metrics, MicroBatch, Observed, Parameter, Policy,
    RecomputeChoice, Sequence, Settings, Sources, TrainConfig, TrainError, TrainKind,
};
use golden::{Golden, numbers, unfit};

/// Runs the case in `directory` and compares everything it records. `output` is an empty directory to work in.
///
/// # Errors
/// The case cannot be read or run; that numbers differ is no error, but what the certificate says.
pub fn verify(directory: &Path, output: &Path, load: &LoadOptions) -> Result<Certificate, TrainError> {
    let golden = Golden::read(directory)?;
    let (mut job, unread) = job(&golden, load)?;
    let full = job.config.lora.is_none();
    read_tensors(&golden.file("weights_after_00.safetensors"), "", job.policy.parameters_mut())?;
    job.policy.parameters_changed()?;
    let mut found = Certificate::new(&golden.name);
    found.arguments_not_read = unread;
    let mut comparison = Comparison { golden: &golden, found, batch: 0, updates: 0 };
    comparison.tokens(&job)?;
    let (mut trainer, policy) = job.trainer(output, None)?;
    trainer.run(policy, &AtomicBool::new(false), &mut |event| comparison.event(&event))?;
    let recorded = golden.updates();
    let done = comparison.updates;
    comparison.found.equal("number of updates", done == recorded, || format!("{done}, not {recorded}"));
    comparison.finals(policy, full)?;
    Ok(comparison.found)
}

/// The case's settings, as a user would write them.
///
/// Second: recorded arguments that nothing here reads.
fn job(golden: &Golden, load: &LoadOptions) -> Result<(Job, Vec<String>), TrainError> {
    let case = &golden.case;
    let kind = match case["trainer"].as_str() {
        Some("SFTTrainer") => TrainKind::Sft,
        Some("RewardTrainer") => TrainKind::Reward,
        Some("DPOTrainer" | "KTOTrainer") => TrainKind::Dpo,
        other => return Err(unfit(&golden.directory, &format!("trainer {other:?} is none that is known"))),
    };
    let mut said: Map<String, Value> = case["args"].as_object().cloned().unwrap_or_default();
    if case["trainer"] == "KTOTrainer"
        && said.get("loss_type").is_none_or(|loss| !loss.to_string().contains("apo"))
    {
        said.insert("loss_type".to_owned(), "kto".into());
    }
    said.insert("compat".to_owned(), "trl".into());
    if case["sampler"] == "sequential" {
        said.insert("train_sampling_strategy".to_owned(), "sequential".into());
    }
    said.insert("save_strategy".to_owned(), "no".into());
    said.insert("eval_strategy".to_owned(), "no".into());
    said.insert("logging_steps".to_owned(), 1.into());
    match case["lora"].as_object() {
        None => drop(said.insert("use_peft".to_owned(), false.into())),
        Some(lora) => {
            for (name, setting) in [
                ("r", "lora_r"),
                ("lora_alpha", "lora_alpha"),
                ("lora_dropout", "lora_dropout"),
                ("target_modules", "lora_target_modules"),
                ("use_rslora", "use_rslora"),
                ("use_dora", "use_dora"),
            ] {
                said.extend(lora.get(name).map(|value| (setting.to_owned(), value.clone())));
            }
        }
    }
    if kind == TrainKind::Reward {
        said.remove("loss_type");
    }
    let (said, unread) = Settings::of_trl(said)?;
    let config = TrainConfig::resolve(kind, &said)?;
    let path = |name: &str| {
        let relative =
            case[name].as_str().ok_or_else(|| unfit(&golden.directory, &format!("no `{name}`")))?;
        Ok::<_, TrainError>(golden.root.join(relative))
    };
    let spec = DatasetSpec { files: Some(path("data")?.display().to_string()), ..DatasetSpec::default() };
    let roots = DataRoots { offline: true, ..DataRoots::default() };
    let model = path("model")?;
    let full = config.lora.is_none() && case["start_adapter"].is_null();
    let sources = Sources {
        model_name: model.display().to_string(),
        chat_template: None,
        adapter: case["start_adapter"].as_str().map(|adapter| golden.directory.join(adapter)),
        // All weights are trained: the reference is the model once more.
        reference: (full && config.objective.needs_reference()).then(|| model.clone()),
        model,
        rows: evalign_data::open(&roots, &spec)?,
        evaluation: None,
        evaluation_fraction: 0.0,
    };
    Ok((Job::prepare(config, &sources, load, (RecomputeChoice::Auto, None))?, unread))
}

/// A run beside its record.
struct Comparison<'a> {
    golden: &'a Golden,
    found: Certificate,
    /// Micro-batches seen of the update.
    batch: usize,
    /// Updates seen.
    updates: usize,
}

impl Comparison<'_> {
    /// Rows that were kept, ids and masks.
    fn tokens(&mut self, job: &Job) -> Result<(), TrainError> {
        let kept: Vec<u64> =
            numbers(&self.golden.case["rows_kept"]).into_iter().map(|row| row as u64).collect();
        self.found.equal("rows kept", kept == job.data.rows, || format!("{:?}, not {kept:?}", job.data.rows));
        let tokenized = self.golden.json("tokenized.json")?;
        let rows = tokenized.as_array().cloned().unwrap_or_default();
        let limit = job.config.dataset.max_length.unwrap_or(usize::MAX);
        for ((item, row), expected) in job.data.items.iter().zip(&job.data.rows).zip(&rows) {
            for (at, (found, expected)) in
                item.sequences().zip(expected_sequences(item, expected, limit)).enumerate()
            {
                let place = || format!("row {row}, text {at}");
                self.found.equal("token ids", found.ids == expected.ids, place);
                self.found.equal("masks", found.trained == expected.trained, place);
            }
        }
        Ok(())
    }

    fn event(&mut self, event: &Event<'_>) -> Result<(), TrainError> {
        match event {
            Event::Computed { update, batch, observed, .. } => {
                self.computed(*update, batch, observed)?;
                self.batch += 1;
            }
            Event::Gradients { update, gradients, parameters } => {
                self.gradients(*update, gradients, parameters)?;
            }
            Event::Updated { update, parameters, adam } => {
                let recorded = self.golden.step(*update)?["micro_batches"].as_array().map_or(0, Vec::len);
                let place = || format!("update {update}: {}, not {recorded}", self.batch);
                self.found.equal("number of micro-batches", self.batch == recorded, place);
                (self.batch, self.updates) = (0, self.updates + 1);
                self.weights(*update, parameters, adam)?;
            }
            Event::Logged { update, metrics } => self.logged(*update, metrics),
            Event::Started { .. }
            | Event::Referenced { .. }
            | Event::Progress { .. }
            | Event::Read { .. }
            | Event::Evaluated { .. }
            | Event::Alarm(_)
            | Event::Saved(_)
            | Event::Note(_) => {}
        }
        Ok(())
    }

    fn computed(&mut self, update: u64, batch: &MicroBatch, observed: &Observed) -> Result<(), TrainError> {
        let step = self.golden.step(update)?;
        let parts = step["micro_batches"].as_array().map_or(0, Vec::len);
        let expected = &step["micro_batches"][self.batch];
        let place = format!("update {update}, micro-batch {}", self.batch);
        let rows: Vec<u64> = numbers(&expected["rows"]).into_iter().map(|row| row as u64).collect();
        self.found.equal("rows of batches", rows == batch.rows, || format!("{place}: {:?}", batch.rows));
        self.batch_ids(batch, expected, &place);
        // Losses over pairs are means of micro-batches and divided by their number afterwards.
        let parts = if expected.get("num_items_in_batch").is_some() { 1 } else { parts };
        let loss = expected["loss"].as_f64().unwrap_or(f64::NAN);
        let limit = 3e-6 + 5e-6 * loss.abs();
        self.found
            .close("loss of micro-batches", observed.loss * parts as f64, loss, limit, || place.clone());
        self.sums(observed, expected, &place);
        self.per_token(update, batch, observed)
    }

    /// Ids without padding.
    fn batch_ids(&mut self, batch: &MicroBatch, expected: &Value, place: &str) {
        let rows = |name: &str| expected[name].as_array().cloned().unwrap_or_default();
        let sequences = in_order(batch);
        let (ids, masks) = (rows("input_ids"), rows("attention_mask"));
        for ((found, ids), mask) in sequences.iter().zip(&ids).zip(&masks) {
            let real = numbers(ids).into_iter().zip(numbers(mask)).filter(|(_, real)| *real != 0.0);
            let expected: Vec<u32> = real.map(|(id, _)| id as u32).collect();
            self.found.equal("ids of batches", found.ids == expected, || place.to_owned());
        }
        self.found.equal("texts of batches", sequences.len() == ids.len(), || place.to_owned());
    }

    /// Sums over each text.
    fn sums(&mut self, observed: &Observed, expected: &Value, place: &str) {
        let both = |chosen: &str, rejected: &str| {
            [numbers(&expected[chosen]), numbers(&expected[rejected])].concat()
        };
        let logps = |reference: bool| -> Vec<f64> {
            let value = |s: &crate::SequenceObserved| if reference { s.reference_logp } else { Some(s.logp) };
            observed.sequences.iter().map(|s| value(s).map_or(f64::NAN, f64::from)).collect()
        };
        let mut compare = |quantity: &str, found: Vec<f64>, expected: Vec<f64>, limit: f64| {
            for (at, (found, expected)) in found.iter().zip(&expected).enumerate() {
                self.found.close(quantity, *found, *expected, limit, || format!("{place}, text {at}"));
            }
        };
        compare(
            "log-prob of texts",
            logps(false),
            both("policy_chosen_logps", "policy_rejected_logps"),
            3e-4,
        );
        compare("log-prob of texts", logps(false), numbers(&expected["sequence_logps"]), 3e-4);
        compare(
            "log-prob of texts, reference",
            logps(true),
            both("ref_chosen_logps", "ref_rejected_logps"),
            3e-4,
        );
        let rewards = observed.sequences.iter().map(|s| s.reward.map_or(f64::NAN, f64::from)).collect();
        compare("rewards", rewards, both("chosen_rewards", "rejected_rewards"), 1e-5);
        let pooled: Vec<f64> =
            observed.sequences.iter().map(|s| s.pooled_index.map_or(f64::NAN, |at| at as f64)).collect();
        compare("position of rewards", pooled, numbers(&expected["pooled_index"]), 0.0);
    }

    /// Log-probabilities and entropies of single tokens, where they are recorded.
    fn per_token(&mut self, update: u64, batch: &MicroBatch, observed: &Observed) -> Result<(), TrainError> {
        let Some(file) = self.golden.per_token()? else { return Ok(()) };
        let number = self.batch;
        for (kind, quantity) in [
            ("policy_per_token_logps", "log-prob of tokens"),
            ("ref_per_token_logps", "log-prob of tokens, reference"),
            ("policy_entropy", "entropy of tokens"),
        ] {
            let Some(expected) = file.get(&format!("step_{update:02}.mb_{number}.{kind}")) else { continue };
            let sequences = in_order(batch);
            let width = expected.len() / sequences.len().max(1);
            for (at, (text, seen)) in sequences.iter().zip(&observed.sequences).enumerate() {
                let values = match kind {
                    "policy_per_token_logps" => &seen.logp_of_label,
                    "ref_per_token_logps" => &seen.reference_of_label,
                    _ => &seen.entropy_of_label,
                };
                let labels = (1..text.ids.len()).filter(|position| text.trained[*position]);
                for (position, found) in labels.zip(values) {
                    let expected = expected.get(at * width + position - 1).copied().unwrap_or(f32::NAN);
                    let place =
                        || format!("update {update}, micro-batch {number}, text {at}, token {position}");
                    self.found.close(quantity, f64::from(*found), f64::from(expected), 5e-5, place);
                }
            }
        }
        Ok(())
    }

    fn gradients(
        &mut self,
        update: u64,
        gradients: &Gradients,
        parameters: &[Parameter],
    ) -> Result<(), TrainError> {
        let Some(expected) =
            self.golden.tensors(&format!("grads_update_{update:02}.safetensors"), "", parameters)?
        else {
            return Ok(());
        };
        let norm = self.golden.step(update)?["grad_norm"].as_f64().unwrap_or(f64::NAN);
        for (found, expected) in gradients.0.iter().zip(&expected) {
            let place = || format!("update {update}, {}", expected.name);
            let pairs = || found.iter().zip(&expected.data).map(|(a, b)| (f64::from(*a), f64::from(*b)));
            let largest = pairs().map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            self.found.within("gradient entries / norm", largest / norm, 2e-5, place);
            match relative(pairs()) {
                Some(difference) => {
                    self.found.within("gradient tensors, relative L2", difference, 2e-3, place);
                }
                None => self.found.within("gradients that are zero", largest, 1e-7, place),
            }
        }
        Ok(())
    }

    fn weights(&mut self, update: u64, parameters: &[Parameter], adam: &AdamW) -> Result<(), TrainError> {
        let weights = format!("weights_after_{update:02}.safetensors");
        if let Some(expected) = self.golden.tensors(&weights, "", parameters)? {
            let recorded = golden::read_all(&self.golden.file(&weights))?;
            let unknown =
                recorded.keys().find(|name| parameters.iter().all(|parameter| parameter.name != **name));
            let same = unknown.is_none() && recorded.len() == parameters.len();
            self.found.equal("names of trained tensors", same, || format!("{unknown:?} is not trained"));
            let mut differences: Vec<f64> = Vec::new();
            for (found, expected) in parameters.iter().zip(&expected) {
                let pairs = found.data.iter().zip(&expected.data);
                differences.extend(pairs.map(|(a, b)| f64::from((a - b).abs())));
            }
            differences.sort_by(f64::total_cmp);
            let place = || format!("after update {update}");
            let quantile = differences.len().saturating_sub(1) * 999 / 1000;
            if let (Some(most), Some(largest)) = (differences.get(quantile), differences.last()) {
                self.found.within("weights, 99.9th percentile", *most, 1e-5, place);
                // Where a gradient is near zero Adam may move an entry by one learning rate on rounding alone.
                let rate = self.golden.step(1)?["lr"].as_f64().unwrap_or(0.0).max(1e-3);
                self.found.within("weights, largest", *largest, rate, place);
            }
        }
        let file = format!("adam_after_{update:02}.safetensors");
        for (prefix, quantity, limit, moments) in [
            ("m.", "Adam m, relative L2", 1e-3, &adam.means),
            ("v.", "Adam v, relative L2", 2e-3, &adam.squares),
        ] {
            let Some(expected) = self.golden.tensors(&file, prefix, parameters)? else { continue };
            for (found, expected) in moments.iter().zip(&expected) {
                let pairs = found.iter().zip(&expected.data).map(|(a, b)| (f64::from(*a), f64::from(*b)));
                let place = || format!("after update {update}, {}", expected.name);
                if let Some(difference) = relative(pairs) {
                    self.found.within(quantity, difference, limit, place);
                }
            }
        }
        Ok(())
    }

    /// What the trained model says of a few texts; what it was before training only where that is still there.
    fn finals(&mut self, policy: &Policy, full: bool) -> Result<(), TrainError> {
        let path = self.golden.file("final_outputs.safetensors");
        if !path.exists() {
            return Ok(());
        }
        let expected = golden::read_all(&path)?;
        let texts = self.golden.json("final_outputs.json")?;
        let reward = policy.objective().is_reward();
        for (at, ids) in texts["input_ids"].as_array().into_iter().flatten().enumerate() {
            let ids: Vec<u32> = numbers(ids).into_iter().map(|id| id as u32).collect();
            for (kind, adapted) in [("base", false), ("adapted", true), ("merged", true)] {
                let Some(expected) = expected.get(&format!("{kind}.{at}")).filter(|_| adapted || !full)
                else {
                    continue;
                };
                let found = if reward {
                    vec![policy.reward(&ids, adapted)?]
                } else {
                    policy.logits(&ids, adapted)?
                };
                let quantity = format!("outputs, {kind}");
                let place = || format!("text {at}");
                self.found.equal("sizes of outputs", found.len() == expected.len(), place);
                for (found, expected) in found.iter().zip(expected) {
                    self.found.close(&quantity, f64::from(*found), f64::from(*expected), 2e-5, place);
                }
            }
        }
        Ok(())
    }

    /// What TRL logged.
    fn logged(&mut self, update: u64, metrics: &Metrics) {
        let Ok(step) = self.golden.step(update) else { return };
        let logged = step["logged"].as_object().cloned().unwrap_or_default();
        for (name, value) in &logged {
            let Some(expected) = value.as_f64() else { continue };
            let Some(found) = metrics.get(name) else {
                self.found.equal("metrics there are", false, || format!("`{name}` is missing"));
                continue;
            };
            let limit = match name.as_str() {
                "loss" => 3e-6 + 5e-6 * expected.abs(),
                "grad_norm" => 5e-5 * expected.abs(),
                "learning_rate" => 1e-12,
                name if name.starts_with("logps/") => 2e-4,
                name if name.ends_with("accuracies") || name.ends_with("accuracy") => 1e-6,
                "num_tokens" => 0.0,
                "epoch" => 1e-9,
                name if name.starts_with("logits/") || name == "entropy" => 1e-5,
                _ => 2e-5,
            };
            // Where policy and reference are the same, rounding alone decides which side is ahead.
            let is_noise = |margin: Option<f64>| margin.is_some_and(|margin| margin.abs() < 1e-6);
            let limit = match logged.get("rewards/margins").map(Value::as_f64) {
                Some(margin) if name == "rewards/accuracies" && is_noise(margin) => {
                    if is_noise(metrics.get("rewards/margins")) { 1.0 } else { limit }
                }
                _ => limit,
            };
            self.found
                .close(&format!("metric {name}"), found, expected, limit, || format!("update {update}"));
        }
    }
}

/// A batch's texts in TRL's order: all chosen, then all rejected.
fn in_order(batch: &MicroBatch) -> Vec<&Sequence> {
    let side = |side: usize| batch.items.iter().filter_map(move |item| item.sequences().nth(side));
    side(0).chain(side(1)).collect()
}

/// `|a - b| / |b|`; `None` where b is zero.
fn relative(pairs: impl Iterator<Item = (f64, f64)>) -> Option<f64> {
    let (difference, size) = pairs.fold((0.0, 0.0), |(d, s), (a, b)| (d + (a - b) * (a - b), s + b * b));
    (size > 0.0).then(|| (difference / size).sqrt())
}

/// A row of `tokenized.json`, cut as the trainer cuts.
fn expected_sequences(item: &Item, row: &Value, limit: usize) -> Vec<Sequence> {
    let ids = |name: &str| numbers(&row[name]).into_iter().map(|id| id as u32).collect::<Vec<u32>>();
    if row.get("input_ids").is_some() {
        let trained = numbers(&row["labels"]).into_iter().map(|label| label != -100.0).collect();
        return vec![Sequence { ids: ids("input_ids"), trained }];
    }
    let prompt = ids("prompt_ids");
    let names: &[&str] = match item {
        Item::Pair { .. } => &["chosen_ids", "rejected_ids"],
        Item::Single { .. } => &["completion_ids"],
    };
    let side = |name: &&str| {
        let mut sequence = Sequence::new([prompt.clone(), ids(name)].concat(), prompt.len());
        sequence.truncate(limit);
        sequence
    };
    names.iter().map(side).collect()
}
