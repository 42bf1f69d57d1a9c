use evalign_testkit::{embedding_model, onnx_runtime, shared};

use super::*;

#[test]
fn steps_hold_texts_of_like_length_within_the_budget() {
    let counts = [600, 3, 512, 4, 1000, 5];
    assert_eq!(steps(&counts, 512, false), [vec![1, 3, 5], vec![2, 0, 4]]);
    assert_eq!(steps(&counts[..2], 512, true), [vec![1], vec![0]]);
    let many = steps(&[100; 50], 512, false);
    assert!(many.iter().all(|step| step.len() * 100 <= STEP_TOKENS) && many.len() == 3, "{many:?}");
    assert!(steps(&[], 512, false).is_empty());
}

/// The vectors of the reference, from a safetensors file with one tensor of this name.
fn golden(folder: &Path) -> (Vec<String>, Vec<Vec<f32>>) {
    let sentences: serde_json::Value =
        serde_json::from_slice(&fs_err::read(folder.join("sentences.json")).unwrap()).unwrap();
    let text = |sentence: &serde_json::Value| sentence["text"].as_str().unwrap().to_owned();
    let texts = sentences["sentences"].as_array().unwrap().iter().map(text).collect();
    let file = fs_err::read(folder.join("minilm.safetensors")).unwrap();
    let header = u64::from_le_bytes(*file.first_chunk().unwrap()) as usize + 8;
    let tensors: serde_json::Value = serde_json::from_slice(&file[8..header]).unwrap();
    let place = |end: usize| tensors["embeddings"]["data_offsets"][end].as_u64().unwrap() as usize + header;
    let values: Vec<f32> =
        file[place(0)..place(1)].as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    (texts, values.chunks_exact(384).map(<[f32]>::to_vec).collect())
}

#[tokio::test]
async fn vectors_are_the_references_alone_and_together() {
    let test = "vectors_are_the_references_alone_and_together";
    let (Some(shared), Some(model), Some(library)) =
        (shared(test), embedding_model(test), onnx_runtime(test))
    else {
        return;
    };
    let (texts, expected) = golden(&shared.join("golden/embeddings"));
    let directory = tempfile::tempdir().unwrap();
    export_onnx(model, directory.path()).unwrap();
    let options = EmbedOptions { onnx_runtime: Some(library.to_owned()), ..EmbedOptions::default() };
    let embedder = OnnxEmbedder::load_directory("minilm", directory.path(), &options).unwrap();
    assert_eq!((embedder.identity().dimension, embedder.identity().max_tokens), (384, 256));
    assert_eq!(embedder.identity().pooling, Pooling::Mean);
    let together = embedder.embed(&texts, TextRole::Passage).await.unwrap();
    for (index, (vector, expected)) in together.iter().zip(&expected).enumerate() {
        let alone = embedder.embed(&texts[index..=index], TextRole::Passage).await.unwrap().remove(0);
        for vector in [vector, &alone] {
            let cosine: f64 = vector.iter().zip(expected).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            assert!(cosine >= 0.9999, "sentence {index}: cosine {cosine}");
        }
    }
    // The file's own tokeniser would cut at 128 and fill up to it.
    assert!(embedder.count_tokens(&texts[19]) > 256);
    assert_eq!(embedder.count_tokens(""), 2);
}

#[test]
fn a_directory_that_does_not_say_how_it_pools_is_refused() {
    let test = "a_directory_that_does_not_say_how_it_pools_is_refused";
    let Some(library) = onnx_runtime(test) else { return };
    let directory = tempfile::tempdir().unwrap();
    let options = EmbedOptions { onnx_runtime: Some(library.to_owned()), ..EmbedOptions::default() };
    let load = || OnnxEmbedder::load_directory("m", directory.path(), &options).unwrap_err();
    assert!(load().to_string().contains("there is no onnx/model.onnx"), "{}", load());
    fs_err::write(directory.path().join("model.onnx"), "no model").unwrap();
    assert!(load().to_string().contains("modules.json"), "{}", load());
}
