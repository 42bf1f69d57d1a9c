//! all-MiniLM-L6-v2 against reference vectors, itself in other company, the other backend and its own quantised
//! form.

use std::path::Path;

use evalign_core::Dtype;
use safetensors::SafeTensors;
use serde::Deserialize;

use super::config::EncoderConfig;
use super::forward::{Encoder, Workspace};
use super::{QUANTISED_WEIGHTS, TextEncoder, quantise_encoder};
use crate::backend::CandleBackend;
use crate::weights::open_encoder;
use crate::{DeviceSpec, LmError, LoadOptions};

#[derive(Deserialize)]
struct Golden {
    sentences: Vec<Sentence>,
}

#[derive(Deserialize)]
struct Sentence {
    text: String,
    input_ids: Vec<u32>,
}

struct Reference {
    sentences: Vec<Sentence>,
    vectors: Vec<Vec<f32>>,
}

fn reference(test: &str) -> Option<Reference> {
    let folder = evalign_testkit::shared(test)?.join("golden/embeddings");
    let golden: Golden =
        serde_json::from_slice(&fs_err::read(folder.join("sentences.json")).unwrap()).unwrap();
    let bytes = fs_err::read(folder.join("minilm.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let values = tensors.tensor("embeddings").unwrap();
    let values: Vec<f32> = bytemuck::pod_collect_to_vec(values.data());
    let vectors = values.chunks_exact(384).map(<[f32]>::to_vec).collect();
    Some(Reference { sentences: golden.sentences, vectors })
}

fn load(directory: &Path) -> TextEncoder {
    TextEncoder::load(directory, &LoadOptions::default()).unwrap()
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[test]
fn ids_and_vectors_are_the_references_whatever_shares_the_step() {
    let test = "ids_and_vectors_are_the_references_whatever_shares_the_step";
    let Some(golden) = reference(test) else { return };
    let Some(directory) = evalign_testkit::embedding_model(test) else { return };
    let encoder = load(directory);
    let texts: Vec<Vec<u32>> =
        golden.sentences.iter().map(|sentence| encoder.tokenise(&sentence.text).unwrap().ids).collect();
    for (ids, sentence) in texts.iter().zip(&golden.sentences) {
        assert_eq!(ids, &sentence.input_ids, "{}", sentence.text);
    }
    assert!(encoder.tokenise(&golden.sentences[19].text).unwrap().dropped_tokens > 0);
    let together = encoder.embed(&texts).unwrap();
    for (index, (vector, expected)) in together.iter().zip(&golden.vectors).enumerate() {
        let found = cosine(vector, expected);
        assert!(found >= 0.999_999, "sentence {index}: cosine {found}");
        assert_eq!(&encoder.embed(&texts[index..=index]).unwrap()[0], vector, "sentence {index} alone");
    }
}

/// What the texts before have left in the work space changes nothing.
#[test]
fn an_encoder_does_not_remember_what_it_embedded_before() {
    let Some(directory) =
        evalign_testkit::embedding_model("an_encoder_does_not_remember_what_it_embedded_before")
    else {
        return;
    };
    let used = load(directory);
    let ids = |text: &str| used.tokenise(text).unwrap().ids;
    let (long, short) = (ids("The gate of the northern yard closes at half past six."), ids("A pump."));
    let alone = |ids: &Vec<u32>| load(directory).embed(std::slice::from_ref(ids)).unwrap().remove(0);
    let (fresh_long, fresh_short) = (alone(&long), alone(&short));
    for (texts, expected) in [
        (vec![&long, &short], vec![&fresh_long, &fresh_short]),
        (vec![&short, &long], vec![&fresh_short, &fresh_long]),
        (vec![&long], vec![&fresh_long]),
    ] {
        let texts: Vec<Vec<u32>> = texts.into_iter().cloned().collect();
        assert_eq!(used.embed(&texts).unwrap().iter().collect::<Vec<_>>(), expected, "{texts:?}");
    }
}

#[test]
fn the_other_backend_and_eight_bits_come_close() {
    let test = "the_other_backend_and_eight_bits_come_close";
    let Some(golden) = reference(test) else { return };
    let Some(directory) = evalign_testkit::embedding_model(test) else { return };
    let texts: Vec<Vec<u32>> = golden.sentences.iter().map(|sentence| sentence.input_ids.clone()).collect();

    let config = EncoderConfig::read(directory).unwrap();
    let backend = CandleBackend::new(DeviceSpec::Cpu, Dtype::F32).unwrap();
    let other = Encoder::load(backend, &config, &open_encoder(directory).unwrap()).unwrap();
    let rows = 0..texts[5].len();
    let mut work = Workspace::default();
    let hidden = other.forward(&texts[5], std::slice::from_ref(&rows), &mut work).unwrap();
    let mean: Vec<f32> =
        (0..384).map(|column| hidden.iter().skip(column).step_by(384).sum::<f32>()).collect();
    assert!(cosine(&mean, &golden.vectors[5]) >= 0.999_999);

    let target = tempfile::tempdir().unwrap();
    let digest = quantise_encoder(directory, target.path()).unwrap();
    assert_eq!(quantise_encoder(directory, target.path()).unwrap(), digest, "the same bytes each time");
    let small = load(target.path());
    assert_eq!(small.identity().dtype, Dtype::Q);
    let bytes = fs_err::metadata(target.path().join(QUANTISED_WEIGHTS)).unwrap().len();
    assert!(bytes < 30_000_000, "{bytes}");
    for (vector, expected) in small.embed(&texts).unwrap().iter().zip(&golden.vectors) {
        let found = cosine(vector, expected);
        assert!(found >= 0.997, "cosine {found}");
    }
}

#[test]
fn what_cannot_be_embedded_is_an_error() {
    let Some(directory) = evalign_testkit::embedding_model("what_cannot_be_embedded_is_an_error") else {
        return;
    };
    let encoder = load(directory);
    for ids in [vec![], vec![101; 257], vec![u32::MAX]] {
        assert!(matches!(encoder.embed(&[ids]), Err(LmError::Request(_))));
    }
    assert_eq!(encoder.embed(&[]).unwrap(), Vec::<Vec<f32>>::new());
}

#[test]
fn a_directory_that_says_nothing_of_pooling_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let bert = r#"{"model_type":"bert","hidden_act":"gelu","vocab_size":9,"hidden_size":8,"intermediate_size":8,
        "num_hidden_layers":1,"num_attention_heads":2,"max_position_embeddings":16,"type_vocab_size":2,
        "layer_norm_eps":1e-12}"#;
    fs_err::write(directory.path().join("config.json"), bert).unwrap();
    let error = TextEncoder::load(directory.path(), &LoadOptions::default()).unwrap_err();
    assert!(error.to_string().contains("modules.json"), "{error}");
    let text = bert.replace("gelu", "relu");
    fs_err::write(directory.path().join("config.json"), text).unwrap();
    let error = TextEncoder::load(directory.path(), &LoadOptions::default()).unwrap_err();
    assert!(error.to_string().contains("hidden_act"), "{error}");
}
