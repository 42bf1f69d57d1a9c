//! One step of every golden case, number by number: log-probabilities, loss and gradients. The whole runs go through
//! the trainer (`tests/it`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use evalign_core::Dtype;
use evalign_lm::{DeviceSpec, LanguageModel, LmError, LoadOptions};
use safetensors::SafeTensors;
use serde_json::Value;

use super::*;
use crate::{Item, PairLoss, PairTerm, Preference, SftLoss};

type Tensors = BTreeMap<String, Vec<f32>>;

struct Case {
    root: PathBuf,
    directory: PathBuf,
    settings: Value,
    trace: Value,
}

impl Case {
    fn open(name: &str) -> Option<Self> {
        let root = evalign_testkit::shared("a golden case of training")?.join("golden/trl");
        let directory = root.join("cases").join(name);
        let json = |file: &str| {
            serde_json::from_str(&fs_err::read_to_string(directory.join(file)).unwrap()).unwrap()
        };
        Some(Self { settings: json("case.json"), trace: json("trace.json"), root, directory })
    }

    fn tensors(&self, file: &str) -> Tensors {
        tensors(&self.directory.join(format!("{file}.safetensors")))
    }

    fn objective(&self) -> Objective {
        let args = &self.settings["args"];
        match self.settings["trainer"].as_str().unwrap() {
            "RewardTrainer" => Objective::Reward { center_coefficient: None },
            "SFTTrainer" => Objective::Sft(SftLoss::Nll),
            _ => Objective::Preference(Preference {
                terms: vec![PairTerm {
                    loss: PairLoss::named(args["loss_type"][0].as_str().unwrap()).unwrap(),
                    weight: 1.0,
                }],
                beta: args["beta"].as_f64().unwrap() as f32,
                label_smoothing: args["label_smoothing"].as_f64().unwrap() as f32,
                ..Preference::default()
            }),
        }
    }

    fn model(&self, options: &LoadOptions) -> Result<LanguageModel, LmError> {
        LanguageModel::load(&self.root.join(self.settings["model"].as_str().unwrap()), options)
    }

    fn policy(&self, weights: &str, options: &LoadOptions) -> Policy {
        let model = self.model(options).unwrap();
        let lora = &self.settings["lora"];
        let method = Method::Lora(LoraOptions {
            r: lora["r"].as_u64().unwrap() as usize,
            alpha: lora["lora_alpha"].as_f64().unwrap() as f32,
            ..LoraOptions::default()
        });
        let options = PolicyOptions {
            pad_token: Some(self.settings["pad_token_id"].as_u64().unwrap() as u32),
            ..PolicyOptions::new(method, self.objective(), "tiny")
        };
        let mut policy = Policy::new(model, options).unwrap();
        let values = self.tensors(weights);
        assert_eq!(values.len(), policy.parameters().len());
        for parameter in policy.parameters_mut() {
            parameter.data.clone_from(&values[&parameter.name]);
        }
        policy.parameters_changed().unwrap();
        policy
    }

    fn micro_batches(&self, step: usize) -> Vec<&Value> {
        self.trace["steps"][step]["micro_batches"].as_array().unwrap().iter().collect()
    }
}

fn tensors(path: &Path) -> Tensors {
    let bytes = fs_err::read(path).unwrap();
    let read = SafeTensors::deserialize(&bytes).unwrap();
    let floats =
        |data: &[u8]| data.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    read.iter().map(|(name, view)| (name.to_owned(), floats(view.data()))).collect()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect()
}

/// The texts of a recorded micro-batch, without its padding.
fn texts(batch: &Value) -> Vec<Sequence> {
    let rows = batch["input_ids"].as_array().unwrap().iter().zip(batch["attention_mask"].as_array().unwrap());
    rows.enumerate()
        .map(|(index, (ids, mask))| {
            let length = numbers(mask).iter().filter(|value| **value > 0.0).count();
            let ids: Vec<u32> = numbers(ids)[..length].iter().map(|id| *id as u32).collect();
            let trained = match (batch.get("completion_mask"), batch.get("labels")) {
                (Some(masks), _) => {
                    numbers(&masks[index])[..length].iter().map(|value| *value > 0.0).collect()
                }
                (_, Some(labels)) => {
                    numbers(&labels[index])[..length].iter().map(|value| *value >= 0.0).collect()
                }
                _ => vec![false; length],
            };
            Sequence { ids, trained }
        })
        .collect()
}

fn micro_batch(batch: &Value, single: bool) -> MicroBatch {
    let texts = texts(batch);
    let rows: Vec<u64> = numbers(&batch["rows"]).iter().map(|row| *row as u64).collect();
    let margins = batch.get("margin").map(numbers);
    let items = match single {
        true => {
            texts.into_iter().map(|text| Item::Single { text, desirable: None, beyond: Vec::new() }).collect()
        }
        false => {
            let (chosen, rejected) = texts.split_at(texts.len() / 2);
            let pairs = chosen.iter().zip(rejected).enumerate();
            pairs
                .map(|(index, (chosen, rejected))| Item::Pair {
                    chosen: chosen.clone(),
                    rejected: rejected.clone(),
                    margin: margins.as_ref().map(|margins| margins[index] as f32),
                    label: None,
                })
                .collect()
        }
    };
    MicroBatch { rows, items }
}

/// Runs update `step` (from 0) at the recorded weights before it and compares everything there is.
fn check(name: &str, step: usize, options: &LoadOptions, recompute: Recompute) -> Option<Gradients> {
    let case = Case::open(name)?;
    let mut policy = case.policy(&format!("weights_after_{step:02}"), options);
    policy.set_recompute(recompute);
    let mut gradients = Gradients::zeros(policy.parameters());
    let single = matches!(policy.objective, Objective::Sft(_));
    let micro_batches = case.micro_batches(step);
    for (index, recorded) in micro_batches.iter().enumerate() {
        let batch = micro_batch(recorded, single);
        let scale = Scale {
            items: 1.0 / (batch.items.len() * micro_batches.len()) as f32,
            labels: recorded
                .get("num_items_in_batch")
                .map_or(0.0, |items| 1.0 / items.as_f64().unwrap() as f32),
        };
        let reference = policy.reference(&batch).unwrap();
        let observed = policy.backward(&batch, reference.as_ref(), scale, 0, &mut gradients).unwrap();
        let forward = policy.forward(&batch, reference.as_ref(), scale).unwrap();
        assert_eq!(forward, observed, "the forward pass alone gives other values");
        let count = if single { 1.0 } else { micro_batches.len() as f64 };
        let loss = recorded["loss"].as_f64().unwrap();
        close(observed.loss * count, loss, 3e-6 + 5e-6 * loss.abs(), &format!("{name} step {step} loss"));
        check_sequences(&case, recorded, &observed, (step, index));
    }
    check_gradients(&case, step, &policy, &gradients);
    Some(gradients)
}

fn close(found: f64, expected: f64, limit: f64, what: &str) {
    assert!((found - expected).abs() <= limit, "{what}: {found} against {expected}");
}

fn check_sequences(case: &Case, recorded: &Value, observed: &Observed, (step, index): (usize, usize)) {
    let both = |kind: &str, what: &str| -> Option<Vec<f64>> {
        let side = |side: &str| recorded.get(format!("{kind}{side}_{what}")).map(numbers);
        Some([side("chosen")?, side("rejected")?].concat())
    };
    if let Some(rewards) = both("", "rewards") {
        let pooled = numbers(&recorded["pooled_index"]);
        for ((sequence, reward), index) in observed.sequences.iter().zip(rewards).zip(pooled) {
            close(f64::from(sequence.reward.unwrap()), reward, 1e-5, "reward");
            assert_eq!(sequence.pooled_index.unwrap() as f64, index);
        }
        return;
    }
    let summed = both("policy_", "logps").or_else(|| recorded.get("sequence_logps").map(numbers)).unwrap();
    for (sequence, logp) in observed.sequences.iter().zip(&summed) {
        close(f64::from(sequence.logp), *logp, 3e-4, "sequence log-probability");
    }
    if let Some(reference) = both("ref_", "logps") {
        for (sequence, logp) in observed.sequences.iter().zip(&reference) {
            close(f64::from(sequence.reference_logp.unwrap()), *logp, 3e-4, "reference log-probability");
        }
    }
    let per_token = case.tensors("per_token");
    let recorded_tensor = |what: &str| per_token.get(&format!("step_{:02}.mb_{index}.{what}", step + 1));
    let logps = recorded_tensor("policy_per_token_logps").unwrap();
    let entropies = recorded_tensor("policy_entropy");
    let width = logps.len() / observed.sequences.len();
    for (row, (sequence, text)) in observed.sequences.iter().zip(texts(recorded)).enumerate() {
        let places = (1..text.ids.len()).filter(|position| text.trained[*position]);
        for (label, position) in places.enumerate() {
            let at = row * width + position - 1;
            close(
                f64::from(sequence.logp_of_label[label]),
                f64::from(logps[at]),
                5e-5,
                "token log-probability",
            );
            if let Some(entropies) = entropies {
                close(f64::from(sequence.entropy_of_label[label]), f64::from(entropies[at]), 1e-5, "entropy");
            }
        }
    }
}

fn check_gradients(case: &Case, step: usize, policy: &Policy, gradients: &Gradients) {
    let expected = case.tensors(&format!("grads_update_{:02}", step + 1));
    assert_eq!(expected.len(), policy.parameters().len());
    let norm = case.trace["steps"][step]["grad_norm"].as_f64().unwrap();
    let squares: f64 = gradients.0.iter().flatten().map(|value| f64::from(*value).powi(2)).sum();
    close(squares.sqrt() / norm, 1.0, 5e-5, "gradient norm");
    for (parameter, found) in policy.parameters().iter().zip(&gradients.0) {
        let expected = &expected[&parameter.name];
        let length = expected.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
        let differences = || found.iter().zip(expected).map(|(a, b)| f64::from(a - b));
        let largest = differences().map(f64::abs).fold(0.0, f64::max);
        assert!(largest / norm <= 2e-5, "{}: an entry is off by {largest}", parameter.name);
        if length == 0.0 {
            assert!(largest <= 1e-7, "{}: {largest} instead of zero", parameter.name);
        } else {
            let off = differences().map(|value| value * value).sum::<f64>().sqrt() / length;
            assert!(off <= 2e-3, "{}: off by {off} of its length", parameter.name);
        }
    }
}

#[test]
fn promise_16_steps_of_every_case_are_those_of_trl() {
    for name in [
        "dpo_sigmoid",
        "dpo_ipo",
        "dpo_robust",
        "dpo_sigmoid_accum2",
        "rm_plain",
        "rm_margin",
        "sft_prompt_completion",
    ] {
        for step in [0, 1] {
            check(name, step, &LoadOptions::default(), Recompute::Never);
        }
    }
}

/// The same numbers on a GPU, in f32, where there is one.
#[test]
fn a_gpu_gives_the_same_numbers() {
    let Some(case) = Case::open("dpo_sigmoid") else { return };
    let options =
        LoadOptions { device: DeviceSpec::Cuda(0), dtype: Some(Dtype::F32), ..LoadOptions::default() };
    match case.model(&options) {
        Err(LmError::Device(reason)) => {
            evalign_testkit::skipped("the golden cases of training on a GPU", &reason);
        }
        Err(error) => panic!("{error}"),
        Ok(_) => {
            for name in ["dpo_sigmoid", "dpo_ipo", "rm_margin", "sft_prompt_completion"] {
                check(name, 1, &options, Recompute::Never);
            }
        }
    }
}

#[test]
fn neither_threads_nor_recomputation_change_a_bit() {
    let gradients = |threads, recompute| {
        check("dpo_sigmoid", 1, &LoadOptions { threads: Some(threads), ..LoadOptions::default() }, recompute)
    };
    let plain = gradients(1, Recompute::Never);
    assert_eq!(gradients(3, Recompute::Never), plain);
    assert_eq!(gradients(2, Recompute::Always), plain);
    assert_eq!(gradients(2, Recompute::Within { bytes: 100_000 }), plain);
}

/// Update 1 of a fresh adapter: the loss is that of no difference, and only `B` has a gradient.
#[test]
fn a_fresh_adapter_starts_at_the_reference() {
    let Some(case) = Case::open("dpo_sigmoid") else { return };
    let mut policy = case.policy("weights_after_00", &LoadOptions::default());
    let batch = micro_batch(case.micro_batches(0)[0], false);
    let reference = policy.reference(&batch).unwrap();
    let mut gradients = Gradients::zeros(policy.parameters());
    let scale = Scale { items: 1.0 / batch.items.len() as f32, labels: 0.0 };
    let observed = policy.backward(&batch, reference.as_ref(), scale, 0, &mut gradients).unwrap();
    close(observed.loss, policy.objective.initial_loss().unwrap(), 1e-6, "loss");
    assert!(observed.rewards.iter().all(|reward| *reward == 0.0));
    for (parameter, gradient) in policy.parameters().iter().zip(&gradients.0) {
        let zero = gradient.iter().all(|value| *value == 0.0);
        assert_eq!(zero, parameter.name.contains("lora_A"), "{}", parameter.name);
    }
}
