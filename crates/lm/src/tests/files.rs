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
fn promise_33_a_truncated_gguf_is_an_error_wherever_it_ends() {
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
    // However much is missing, the message knows how long the file should be.
    let mut sizes = std::collections::BTreeSet::new();
    for length in [bytes.len() / 2, bytes.len() * 3 / 4] {
        fs_err::write(&cut, &bytes[..length]).unwrap();
        let error = load_gguf(&cut).unwrap_err();
        let message = error.to_string();
        assert!(
            message.contains("tensor `") && message.ends_with(&format!("has {length} bytes")),
            "{message}"
        );
        assert!(error.hint().unwrap().contains("evalign models pull"));
        let end = message.split("ends at byte ").nth(1).unwrap().split(',').next().unwrap();
        sizes.insert(end.parse::<usize>().unwrap());
    }
    let whole = sizes.pop_last().unwrap();
    assert!(sizes.is_empty() && (bytes.len() - 64..=bytes.len()).contains(&whole), "{whole}");
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
    fs_err::write(at("pytorch_model.bin"), "").unwrap();
    assert!(load_directory(directory.path()).unwrap_err().to_string().contains("`pytorch_model.bin`"));
    let index = json!({"weight_map": {"model.norm.weight": "../../etc/passwd"}});
    fs_err::write(at("model.safetensors.index.json"), index.to_string()).unwrap();
    assert!(load_directory(directory.path()).unwrap_err().to_string().contains("is not a file name"));
    fs_err::write(at("config.json"), "{}").unwrap();
    assert!(load_directory(directory.path()).unwrap_err().to_string().contains("config.json"));
    fs_err::remove_file(at("config.json")).unwrap();
    assert!(load_directory(directory.path()).unwrap_err().to_string().contains("no `config.json`"));
    for name in ["b.gguf", "a.gguf"] {
        fs_err::write(at(name), "").unwrap();
    }
    assert!(load_directory(directory.path()).unwrap_err().to_string().contains("name the file `a.gguf`"));
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
    let missing = load(&LoadOptions::default()).unwrap_err();
    let place = directory.path().display().to_string();
    assert!(
        missing.to_string().contains(&place) && missing.to_string().contains("`tokenizer.json`"),
        "{missing}"
    );
    assert!(missing.hint().is_some());
    fs_err::write(directory.path().join("tokenizer.model"), "").unwrap();
    assert!(load(&LoadOptions::default()).unwrap_err().to_string().contains("only `tokenizer.model`"));
    fs_err::write(directory.path().join("tokenizer.json"), "{}").unwrap();
    let malformed = load(&LoadOptions::default()).unwrap_err().to_string();
    assert!(malformed.contains(&place) && malformed.contains("`tokenizer.json`"), "{malformed}");
}

#[test]
fn what_is_wrong_with_a_tokeniser_or_template_of_a_gguf_names_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.gguf");
    tiny::write_gguf(&path, GgmlDType::F32, &[]);
    let error = LanguageModel::load(&path, &LoadOptions::default()).unwrap_err();
    assert!(error.to_string().contains("x.gguf: tokenizer:"), "{error}");
    assert!(error.hint().is_some());
    let model = tiny::directory(&tiny::llama());
    fs_err::write(model.path().join("chat_template.jinja"), "{% if %}").unwrap();
    let error = LanguageModel::load(model.path(), &LoadOptions::default()).unwrap_err().to_string();
    assert!(
        error.contains(&*model.path().display().to_string()) && error.contains("chat template"),
        "{error}"
    );
}

#[test]
fn the_day_of_a_chat_template_can_be_fixed() {
    let directory = tiny::directory(&tiny::llama());
    let write = |template| fs_err::write(directory.path().join("chat_template.jinja"), template).unwrap();
    let load =
        |now| LanguageModel::load(directory.path(), &LoadOptions { now, ..LoadOptions::default() }).unwrap();
    let render = |model: &LanguageModel| model.chat_template().unwrap().render(&[], true).unwrap();
    write("{{ strftime_now('%d %b %Y %H:%M') }}");
    let then = jiff::civil::date(2025, 3, 7).at(9, 5, 0, 0);
    let fixed = load(Some(then));
    assert_eq!(render(&fixed), "07 Mar 2025 09:05");
    assert_eq!(fixed.chat_template().unwrap().clock(), Some(then));
    let today = load(None);
    assert!(render(&today).ends_with("00:00"), "{}", render(&today));
    assert_eq!(render(&load(today.chat_template().unwrap().clock())), render(&today));
    assert_eq!(fixed.identity().chat_template, today.identity().chat_template);
    write("no clock");
    assert_eq!(load(Some(then)).chat_template().unwrap().clock(), None);
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
