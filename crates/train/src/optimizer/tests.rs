use std::path::Path;

use serde_json::Value;

use super::*;
use crate::{read_tensors, write_tensors};

fn parameter(data: &[f32], decays: bool) -> Parameter {
    Parameter { name: "w".to_owned(), shape: vec![data.len()], data: data.to_vec(), decays }
}

/// torch 2.15: w = [0.5, -1.5], gradients [0.1, -2.0] then [0.0, 1.0], lr 0.1, weight_decay 0.1.
#[test]
fn promise_16_two_updates_equal_torch() {
    let mut parameters = vec![parameter(&[0.5, -1.5], true)];
    let options = AdamWOptions { weight_decay: 0.1, ..AdamWOptions::default() };
    let mut adam = AdamW::new(options, &parameters);
    for gradient in [[0.1, -2.0], [0.0, 1.0]] {
        adam.update(&mut parameters, &Gradients(vec![gradient.to_vec()]), 0.1);
    }
    for (value, expected) in parameters[0].data.iter().zip(TWO_UPDATES) {
        assert!((value - expected).abs() < 2e-7, "{value} is not {expected}");
    }
    let undecayed = vec![parameter(&[0.5], false)];
    let mut other = undecayed.clone();
    AdamW::new(options, &undecayed).update(&mut other, &Gradients(vec![vec![0.0]]), 0.1);
    assert_eq!(other[0].data, undecayed[0].data);
}

const TWO_UPDATES: [f32; 2] = [0.324_044_2, -1.344_516_3];

#[test]
fn only_long_gradients_are_clipped() {
    let mut gradients = Gradients(vec![vec![3.0], vec![4.0]]);
    assert_eq!(gradient_norm(&gradients), 5.0);
    clip(&mut gradients, 5.0, 6.0);
    assert_eq!(gradients.0, [[3.0], [4.0]]);
    clip(&mut gradients, 5.0, 1.0);
    assert!((gradient_norm(&gradients) - 1.0).abs() < 1e-6);
}

/// Reads the tensors of a golden file as parameters, in the order of their names.
fn tensors(path: &Path, prefix: &str) -> Vec<Parameter> {
    let bytes = fs_err::read(path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut names: Vec<&str> =
        file.names().into_iter().filter_map(|name| name.strip_prefix(prefix)).collect();
    names.sort_unstable();
    let named = |name: &str| {
        let shape = file.tensor(&format!("{prefix}{name}")).unwrap().shape().to_vec();
        Parameter { name: name.to_owned(), data: Vec::new(), shape, decays: true }
    };
    let mut parameters: Vec<Parameter> = names.into_iter().map(named).collect();
    read_tensors(path, prefix, &mut parameters).unwrap();
    parameters
}

fn assert_close(found: &[f32], expected: &[f32], relative: f64, what: &str) {
    let square =
        |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
    let difference = square(&mut found.iter().zip(expected).map(|(a, b)| f64::from(a - b)));
    let size = square(&mut expected.iter().map(|value| f64::from(*value)));
    assert!(difference <= relative * size, "{what}: {difference} of {size}");
}

/// With TRL's own gradients the weights and moments are TRL's, clipping included.
#[test]
fn the_first_updates_of_every_golden_case_are_trls() {
    let Some(shared) = evalign_testkit::shared("AdamW against TRL") else { return };
    for entry in fs_err::read_dir(shared.join("golden/trl/cases")).unwrap() {
        let case = entry.unwrap().path();
        let trace: Value = serde_json::from_slice(&fs_err::read(case.join("trace.json")).unwrap()).unwrap();
        let mut parameters = tensors(&case.join("weights_after_00.safetensors"), "");
        let mut adam = AdamW::new(AdamWOptions::default(), &parameters);
        for update in 1..=2 {
            let file = |kind: &str| case.join(format!("{kind}_{update:02}.safetensors"));
            let step = &trace["steps"][update - 1];
            let read = tensors(&file("grads_update"), "");
            let mut gradients = Gradients(read.into_iter().map(|tensor| tensor.data).collect());
            let norm = gradient_norm(&gradients);
            assert!((norm / step["grad_norm"].as_f64().unwrap() - 1.0).abs() < 5e-6, "{}", case.display());
            clip(&mut gradients, norm, 1.0);
            adam.update(&mut parameters, &gradients, step["lr"].as_f64().unwrap());
            for (found, expected) in parameters.iter().zip(tensors(&file("weights_after"), "")) {
                let largest = found.data.iter().zip(&expected.data).map(|(a, b)| (a - b).abs());
                assert!(largest.fold(0.0, f32::max) < 2e-7, "{} {}", case.display(), found.name);
            }
            if update == 1 {
                for (prefix, found) in [("m.", &adam.means), ("v.", &adam.squares)] {
                    let expected = tensors(&file("adam_after"), prefix);
                    for (found, expected) in found.iter().zip(expected) {
                        assert_close(found, &expected.data, 1e-6, &expected.name);
                    }
                }
            }
        }
    }
}

#[test]
fn tensors_are_read_as_they_were_written() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("w.safetensors");
    let written = vec![parameter(&[1.5, f32::MIN_POSITIVE, -0.0], true)];
    write_tensors(&path, &written).unwrap();
    let mut read = vec![parameter(&[0.0; 3], true)];
    read_tensors(&path, "", &mut read).unwrap();
    assert_eq!(read, written);
    read[0].shape = vec![2];
    assert!(read_tensors(&path, "", &mut read).unwrap_err().to_string().contains("shape"));
}
