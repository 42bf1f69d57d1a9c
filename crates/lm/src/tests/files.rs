//! Damaged and unsupported files are named, never a panic.

use std::path::Path;

use candle_core::quantized::GgmlDType;
use candle_core::quantized::gguf_file::Value as Metadata;
use evalign_core::{Dtype, Hint};
use serde_json::json;

use super::tiny;
use crate::backend::CpuBackend;
use crate::decoder::Decoder;
use crate::weights::{open_gguf, open_safetensors};
use crate::{LanguageModel, LmError, LoadOptions};

fn load_gguf(path: &Path) -> Result<(), LmError> {
    let (weights, config, _) = open_gguf(path)?;
    Decoder::load(CpuBackend::new(Some(1), Dtype::F32)?, config, &weights, 1).map(drop)
}

fn load_directory(path: &Path) -> Result<(), LmError> {
    let (weights, config) = open_safetensors(path)?;
    Decoder::load(CpuBackend::new(Some(1), Dtype::F32)?, config, &weights, 1).map(drop)
}

#[test]
fn a_truncated_gguf_is_an_error_wherever_it_ends() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("whole.gguf");
    tiny::write_gguf(&path, GgmlDType::Q8_0, &[]);
    load_gguf(&path).unwrap();
    let bytes = fs_err::read(&path).unwrap();
    let cut = directory.path().join("cut.gguf");
    // The last bytes may be padding, so the cuts stop a little before the end.
    let cuts = (0..64).chain((64..bytes.len() - 64).step_by(bytes.len() / 150));
    for length in cuts {
        fs_err::write(&cut, &bytes[..length]).unwrap();
        let error = load_gguf(&cut).unwrap_err();
        assert!(error.to_string().contains("cut.gguf"), "{length}: {error}");
    }
}

#[test]
fn what_is_wrong_with_a_gguf_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.gguf");
    let message = |changes: &[(&str, Metadata)]| {
        tiny::write_gguf(&path, GgmlDType::F32, changes);
        load_gguf(&path).unwrap_err().to_string()
    };
    let text = |value: &str| Metadata::String(value.to_owned());
    assert!(message(&[("general.architecture", text("mamba"))]).contains("architecture `mamba`"));
    assert!(message(&[("llama.rope.scaling.type", text("longrope"))]).contains("`longrope`"));
    assert!(message(&[("llama.block_count", Metadata::U32(3))]).contains("blk.2.attn_norm.weight"));
    assert!(
        message(&[("llama.feed_forward_length", Metadata::U32(64))])
            .contains("shape [128, 64], expected [64, 64]")
    );
    assert!(message(&[("llama.attention.head_count", Metadata::U32(0))]).contains("heads is 0"));
    assert!(message(&[("llama.expert_count", Metadata::U32(8))]).contains("mixture of experts"));
    assert!(message(&[("general.alignment", Metadata::U32(0))]).contains("alignment"));
    fs_err::write(&path, b"not a model at all").unwrap();
    assert!(load_gguf(&path).unwrap_err().to_string().contains("not a GGUF file"));
    fs_err::write(&path, b"").unwrap();
    assert!(load_gguf(&path).unwrap_err().to_string().contains("empty"));
    let missing =
        LanguageModel::load(&directory.path().join("none.gguf"), &LoadOptions::default()).unwrap_err();
    assert!(missing.to_string().contains("none.gguf") && missing.hint().is_some(), "{missing}");
}

#[test]
fn shards_and_a_single_file_are_the_same_model() {
    let (single, sharded) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    tiny::write_directory(single.path(), &tiny::llama(), false);
    tiny::write_directory(sharded.path(), &tiny::llama(), true);
    let items = tiny::next_token_items(&[1, 2, 3, 4, 5]);
    let score = |path: &Path| tiny::sums(&tiny::scores(&tiny::cpu(path), tiny::PLENTY, &items));
    assert_eq!(score(single.path()), score(sharded.path()));
}

#[test]
fn what_is_wrong_with_a_directory_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    tiny::write_directory(directory.path(), &tiny::llama(), false);
    let bytes = fs_err::read(at("model.safetensors")).unwrap();
    for length in [0, 4, 8, 200, bytes.len() / 2, bytes.len() - 1] {
        fs_err::write(at("model.safetensors"), &bytes[..length]).unwrap();
        let error = load_directory(directory.path()).unwrap_err().to_string();
        assert!(error.contains("model.safetensors"), "{length}: {error}");
    }
    let mut huge = bytes.clone();
    huge[..8].copy_from_slice(&(1u64 << 40).to_le_bytes());
    fs_err::write(at("model.safetensors"), &huge).unwrap();
    assert!(load_directory(directory.path()).unwrap_err().to_string().contains("header of"));
    fs_err::remove_file(at("model.safetensors")).unwrap();
    assert!(load_directory(directory.path()).unwrap_err().to_string().contains("model.safetensors"));
    let index = json!({"weight_map": {"model.norm.weight": "../../etc/passwd"}});
    fs_err::write(at("model.safetensors.index.json"), index.to_string()).unwrap();
    assert!(load_directory(directory.path()).unwrap_err().to_string().contains("is not a file name"));
    fs_err::write(at("config.json"), "{}").unwrap();
    assert!(load_directory(directory.path()).unwrap_err().to_string().contains("config.json"));
}

#[test]
fn a_directory_needs_a_tokeniser_and_q_needs_blocks() {
    let directory = tiny::directory(&tiny::llama());
    let load = |options: &LoadOptions| LanguageModel::load(directory.path(), options);
    let identity = load(&LoadOptions::default()).unwrap().identity().clone();
    assert_eq!((identity.vocab_size, identity.context_length, identity.dtype), (96, 128, Dtype::F32));
    assert_eq!(identity.device, "cpu");
    let quantised = LoadOptions { dtype: Some(Dtype::Q), ..LoadOptions::default() };
    assert!(load(&quantised).unwrap_err().to_string().contains("no quantised tensor"));
    fs_err::remove_file(directory.path().join("tokenizer.json")).unwrap();
    assert!(load(&LoadOptions::default()).unwrap_err().to_string().contains("tokenizer.json"));
}

#[test]
fn the_digest_covers_configuration_and_weights() {
    let directory = tiny::directory(&tiny::llama());
    let digest = || open_safetensors(directory.path()).unwrap().0.digest();
    let before = digest();
    assert_eq!(before, digest());
    let mut config = tiny::llama();
    config["rope_theta"] = json!(20_000.0);
    fs_err::write(directory.path().join("config.json"), config.to_string()).unwrap();
    assert_ne!(before, digest());
}

#[cfg(not(any(feature = "cuda", feature = "metal")))]
#[test]
fn a_device_this_build_lacks_is_named() {
    let directory = tiny::directory(&tiny::llama());
    for device in [crate::DeviceSpec::Cuda(0), crate::DeviceSpec::Metal] {
        let error =
            LanguageModel::load(directory.path(), &LoadOptions { device, ..Default::default() }).unwrap_err();
        assert!(
            matches!(error, LmError::Device(_)) && error.to_string().contains(&device.to_string()),
            "{error}"
        );
        assert!(error.hint().is_some());
    }
}
