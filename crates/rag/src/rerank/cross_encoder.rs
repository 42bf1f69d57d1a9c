//! A cross-encoder, run by fastembed on ONNX Runtime: question and passage are read together, and one number comes out
//! (Nogueira and Cho 2019, arXiv 1901.04085, section 3).

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use evalign_core::Digest;
use evalign_fetch::Progress;
use fastembed::{OnnxSource, RerankInitOptionsUserDefined, TextRerank, UserDefinedRerankingModel};
use tokenizers::Tokenizer;

use super::all_judged;
use crate::RagError;
use crate::embed::{EmbedOptions, HubModel, OnnxFiles, load_onnx_runtime, steps, threads, uncut};

/// Of question and passage together; the end of what is longer is not read.
const MAX_TOKENS: usize = 512;

#[derive(Clone)]
pub(super) struct CrossEncoder {
    name: String,
    model: Arc<Mutex<TextRerank>>,
    /// Neither cuts nor pads.
    tokenizer: Tokenizer,
    digest: Digest,
}

impl std::fmt::Debug for CrossEncoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CrossEncoder").field("name", &self.name).finish_non_exhaustive()
    }
}

impl CrossEncoder {
    pub(super) fn load_directory(
        name: &str,
        directory: &Path,
        options: &EmbedOptions,
    ) -> Result<Self, RagError> {
        load_onnx_runtime(options.onnx_runtime.as_deref())?;
        let files =
            OnnxFiles::in_directory(directory).ok_or_else(|| failed(name, "there is no model.onnx in it"))?;
        Self::load(name, &files, options)
    }

    pub(super) async fn from_hub(
        name: &str,
        options: &EmbedOptions,
        progress: Progress<'_>,
    ) -> Result<Self, RagError> {
        load_onnx_runtime(options.onnx_runtime.as_deref())?;
        let known = TextRerank::list_supported_models();
        let Some(info) = known.iter().find(|info| info.model_code.eq_ignore_ascii_case(name)) else {
            let names: Vec<&str> = known.iter().map(|info| info.model_code.as_str()).collect();
            return Err(RagError::invalid(
                format!("reranker `onnx/{name}`"),
                "neither a directory nor a cross-encoder that is known",
                format!(
                    "give a directory with `model.onnx` and its tokeniser, or one of {}",
                    names.join(", ")
                ),
            ));
        };
        let model =
            HubModel { repo: &info.model_code, file: &info.model_file, additional: &info.additional_files };
        Self::load(name, &model.files(options.offline, progress).await?, options)
    }

    fn load(name: &str, files: &OnnxFiles, options: &EmbedOptions) -> Result<Self, RagError> {
        // By its path: weights beside the file are found from there.
        let source = OnnxSource::File(files.model.clone());
        let mut settings = RerankInitOptionsUserDefined::new().with_max_length(MAX_TOKENS);
        settings.intra_threads = Some(threads(options));
        let model = UserDefinedRerankingModel::new(source, files.tokenizer()?);
        let model = TextRerank::try_new_from_user_defined(model, settings)
            .map_err(|error| failed(name, error.to_string()))?;
        let tokenizer = uncut(&model.tokenizer, name)?;
        let model = Arc::new(Mutex::new(model));
        Ok(Self { name: name.to_owned(), model, tokenizer, digest: files.digest()? })
    }

    pub(super) fn digest(&self) -> &Digest {
        &self.digest
    }

    /// The logistic function of what comes out: above one half where a model that was trained on yes and no says yes.
    pub(super) async fn relevance(&self, question: &str, passages: &[&str]) -> Result<Vec<f64>, RagError> {
        let texts: Vec<String> = passages.iter().map(|passage| (*passage).to_owned()).collect();
        let (encoder, question) = (self.clone(), question.to_owned());
        tokio::task::spawn_blocking(move || encoder.judge(&question, &texts))
            .await
            .map_err(|error| failed(&self.name, error.to_string()))?
    }

    fn judge(&self, question: &str, texts: &[String]) -> Result<Vec<f64>, RagError> {
        let count = |text: &String| {
            let encoded = self.tokenizer.encode((question, text.as_str()), true);
            encoded.map(|encoded| encoded.len()).map_err(|error| failed(&self.name, error.to_string()))
        };
        let counts = texts.iter().map(count).collect::<Result<Vec<_>, _>>()?;
        let mut relevance = vec![None; texts.len()];
        for step in steps(&counts, MAX_TOKENS, false) {
            let together: Vec<&str> = step.iter().map(|index| texts[*index].as_str()).collect();
            let mut model = self.model.lock().unwrap_or_else(PoisonError::into_inner);
            let judged = model
                .rerank(question, together, false, Some(step.len()))
                .map_err(|error| failed(&self.name, error.to_string()))?;
            for result in judged {
                relevance[step[result.index]] = Some(1.0 / (1.0 + f64::from(-result.score).exp()));
            }
        }
        all_judged(relevance)
    }
}

fn failed(name: &str, message: impl Into<String>) -> RagError {
    RagError::invalid(
        format!("reranker `onnx/{name}`"),
        message,
        "a cross-encoder is `model.onnx` with tokenizer.json, tokenizer_config.json and config.json",
    )
}
