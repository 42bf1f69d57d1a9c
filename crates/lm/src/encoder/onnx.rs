//! An encoder's weights as an ONNX graph, for ONNX Runtime.
//!
//! The graph computes what [`super::forward`] computes, on padded batches: `input_ids`, `attention_mask` and
//! `token_type_ids` (int64, batch x sequence) to `last_hidden_state` (batch x sequence x hidden), or to `logits`
//! (batch x labels) where the weights hold a classifier (transformers' `BertForSequenceClassification`).

mod message;

use std::path::{Path, PathBuf};

use evalign_core::Digest;

use super::config::EncoderConfig;
use super::copy_beside_weights;
use crate::LmError;
use crate::kernels::dequantise;
use crate::weights::{Weights, open_encoder};
use message::{Attribute, Graph};

/// Name of the file below the model's directory, where sentence-transformers keeps its own.
pub const ONNX_WEIGHTS: &str = "onnx/model.onnx";
/// A file of Protocol Buffers is at most 2 GiB long; some is left for the graph.
const LARGEST_FILE_BYTES: usize = (2 << 30) - (16 << 20);
/// What is added to the scores of padding: the lowest f32, as transformers does.
const MASKED: f32 = f32::MIN;

/// Writes [`ONNX_WEIGHTS`] below `target` from a directory's weights, with what belongs to the model beside it, and
/// returns the file's digest. The file appears under its name only when it is complete.
///
/// # Errors
/// As [`super::TextEncoder::load`]; also when the weights are too large for one file, or it cannot be written.
pub fn export_onnx(directory: &Path, target: &Path) -> Result<Digest, LmError> {
    let weights = open_encoder(directory)?;
    let config = EncoderConfig::read(directory)?;
    let bytes = Export::new(&config, &weights).build()?;
    let path = target.join(ONNX_WEIGHTS);
    if bytes.len() > LARGEST_FILE_BYTES {
        return Err(LmError::unsupported(
            &path,
            format!("{} bytes in one ONNX file", bytes.len()),
            "name an ONNX model of the hub instead",
        ));
    }
    copy_beside_weights(directory, target)?;
    fs_err::create_dir_all(path.parent().unwrap_or(target))?;
    let unfinished: PathBuf = path.with_extension("incomplete");
    fs_err::write(&unfinished, &bytes)?;
    fs_err::File::open(&unfinished)?.sync_all()?;
    fs_err::rename(&unfinished, &path)?;
    Ok(Digest::of(&bytes))
}

struct Export<'a> {
    config: &'a EncoderConfig,
    weights: &'a Weights,
    /// Before all names where the model was saved inside another one.
    prefix: &'static str,
    graph: Graph,
}

impl<'a> Export<'a> {
    fn new(config: &'a EncoderConfig, weights: &'a Weights) -> Self {
        let prefix = if weights.contains("bert.embeddings.word_embeddings.weight") { "bert." } else { "" };
        Self { config, weights, prefix, graph: Graph::default() }
    }

    fn build(mut self) -> Result<Vec<u8>, LmError> {
        for input in ["input_ids", "attention_mask", "token_type_ids"] {
            self.graph.input(input, &["batch", "sequence"]);
        }
        let mut x = self.embeddings()?;
        let mask = self.mask();
        let dim = self.config.hidden_size / self.config.heads;
        self.graph.integers("split_heads", &[0, 0, self.config.heads as i64, dim as i64]);
        self.graph.integers("join_heads", &[0, 0, self.config.hidden_size as i64]);
        self.graph.constant("one", &[], &[1.0]);
        self.graph.constant("half", &[], &[0.5]);
        self.graph.constant("root_of_two", &[], &[std::f32::consts::SQRT_2]);
        self.graph.constant("scale", &[], &[1.0 / (dim as f32).sqrt()]);
        for layer in 0..self.config.layers {
            x = self.layer(layer, &x, &mask)?;
        }
        let hidden = self.config.hidden_size.to_string();
        if self.weights.contains("classifier.weight") {
            let labels = self.classify(&x)?;
            self.graph.output("logits", &["batch", &labels.to_string()]);
        } else {
            self.graph.named("Identity", &[&x], &[], "last_hidden_state");
            self.graph.output("last_hidden_state", &["batch", "sequence", &hidden]);
        }
        Ok(self.graph.file("encoder"))
    }

    fn embeddings(&mut self) -> Result<String, LmError> {
        let hidden = self.config.hidden_size;
        let config = self.config;
        let mut table = |name: &str, rows| -> Result<String, LmError> {
            let name = format!("embeddings.{name}.weight");
            let values = self.values(&format!("{}{name}", self.prefix), rows, hidden)?;
            Ok(self.graph.constant(&name, &[rows, hidden], &values))
        };
        let words = table("word_embeddings", config.vocab_size)?;
        let positions = table("position_embeddings", config.positions)?;
        let types = table("token_type_embeddings", config.token_types)?;
        let graph = &mut self.graph;
        let words = graph.node("Gather", &[&words, "input_ids"], &[]);
        let types = graph.node("Gather", &[&types, "token_type_ids"], &[]);
        let length =
            graph.node("Shape", &["input_ids"], &[Attribute::Int("start", 1), Attribute::Int("end", 2)]);
        let first = graph.integers("first", &[0]);
        let positions = graph.node("Slice", &[&positions, &first, &length, &first], &[]);
        let sum = graph.node("Add", &[&words, &types], &[]);
        let sum = graph.node("Add", &[&sum, &positions], &[]);
        self.normalise(&sum, "embeddings.LayerNorm")
    }

    /// 0 for tokens and [`MASKED`] for padding, batch x 1 x 1 x sequence.
    fn mask(&mut self) -> String {
        let graph = &mut self.graph;
        let axes = graph.integers("mask_axes", &[1, 2]);
        let lifted = graph.node("Unsqueeze", &["attention_mask", &axes], &[]);
        let kept = graph.node("Cast", &[&lifted], &[Attribute::Int("to", 1)]);
        let all = graph.constant("all", &[], &[1.0]);
        let padding = graph.node("Sub", &[&all, &kept], &[]);
        let lowest = graph.constant("lowest", &[], &[MASKED]);
        graph.node("Mul", &[&padding, &lowest], &[])
    }

    fn layer(&mut self, layer: usize, x: &str, mask: &str) -> Result<String, LmError> {
        let (hidden, inner) = (self.config.hidden_size, self.config.intermediate_size);
        let at = |name: &str| format!("encoder.layer.{layer}.{name}");
        let mut projected = |part: &str, order: &[i64]| -> Result<String, LmError> {
            let rows = self.linear(x, &at(&format!("attention.self.{part}")), hidden, hidden)?;
            let split = self.graph.node("Reshape", &[&rows, "split_heads"], &[]);
            Ok(self.graph.node("Transpose", &[&split], &[Attribute::Ints("perm", order)]))
        };
        let query = projected("query", &[0, 2, 1, 3])?;
        let key = projected("key", &[0, 2, 3, 1])?;
        let value = projected("value", &[0, 2, 1, 3])?;
        let graph = &mut self.graph;
        let scores = graph.node("MatMul", &[&query, &key], &[]);
        let scores = graph.node("Mul", &[&scores, "scale"], &[]);
        let scores = graph.node("Add", &[&scores, mask], &[]);
        let shares = graph.node("Softmax", &[&scores], &[Attribute::Int("axis", -1)]);
        let attended = graph.node("MatMul", &[&shares, &value], &[]);
        let attended = graph.node("Transpose", &[&attended], &[Attribute::Ints("perm", &[0, 2, 1, 3])]);
        let attended = graph.node("Reshape", &[&attended, "join_heads"], &[]);
        let attended = self.linear(&attended, &at("attention.output.dense"), hidden, hidden)?;
        let sum = self.graph.node("Add", &[&attended, x], &[]);
        let x = self.normalise(&sum, &at("attention.output.LayerNorm"))?;
        let up = self.linear(&x, &at("intermediate.dense"), inner, hidden)?;
        let up = self.gelu(&up);
        let down = self.linear(&up, &at("output.dense"), hidden, inner)?;
        let sum = self.graph.node("Add", &[&down, &x], &[]);
        self.normalise(&sum, &at("output.LayerNorm"))
    }

    /// `x (1 + erf(x / sqrt 2)) / 2`, in the steps that ONNX Runtime makes one of.
    fn gelu(&mut self, x: &str) -> String {
        let graph = &mut self.graph;
        let inside = graph.node("Div", &[x, "root_of_two"], &[]);
        let erf = graph.node("Erf", &[&inside], &[]);
        let sum = graph.node("Add", &[&erf, "one"], &[]);
        let product = graph.node("Mul", &[x, &sum], &[]);
        graph.node("Mul", &[&product, "half"], &[])
    }

    /// The pooler and the classifier on the first token; returns the number of labels.
    fn classify(&mut self, x: &str) -> Result<usize, LmError> {
        let hidden = self.config.hidden_size;
        let shape = self.weights.matrices().find(|(name, ..)| name == "classifier.weight");
        let labels = shape.map_or(1, |(_, rows, _)| rows);
        let place = self.graph.integers("first_token", &[0]);
        let first = self.graph.node("Gather", &[x, &place], &[Attribute::Int("axis", 1)]);
        let axes = self.graph.integers("token_axis", &[1]);
        let first = self.graph.node("Squeeze", &[&first, &axes], &[]);
        let pooled = self.linear(&first, "pooler.dense", hidden, hidden)?;
        let pooled = self.graph.node("Tanh", &[&pooled], &[]);
        self.prefix = "";
        let logits = self.linear(&pooled, "classifier", labels, hidden)?;
        self.graph.named("Identity", &[&logits], &[], "logits");
        Ok(labels)
    }

    fn normalise(&mut self, x: &str, name: &str) -> Result<String, LmError> {
        let hidden = self.config.hidden_size;
        let mut part = |part: &str| -> Result<String, LmError> {
            let name = format!("{name}.{part}");
            let values = self.values(&format!("{}{name}", self.prefix), 1, hidden)?;
            Ok(self.graph.constant(&name, &[hidden], &values))
        };
        let (weight, bias) = (part("weight")?, part("bias")?);
        let attributes = [Attribute::Int("axis", -1), Attribute::Float("epsilon", self.config.norm_eps)];
        Ok(self.graph.node("LayerNormalization", &[x, &weight, &bias], &attributes))
    }

    /// PyTorch keeps `[outputs, inputs]`; a product in ONNX wants it turned.
    fn linear(&mut self, x: &str, name: &str, outputs: usize, inputs: usize) -> Result<String, LmError> {
        let weight = self.values(&format!("{}{name}.weight", self.prefix), outputs, inputs)?;
        let mut turned = vec![0.0; weight.len()];
        for (output, row) in weight.chunks_exact(inputs).enumerate() {
            row.iter().enumerate().for_each(|(input, value)| turned[input * outputs + output] = *value);
        }
        let bias = self.values(&format!("{}{name}.bias", self.prefix), 1, outputs)?;
        let weight = self.graph.constant(&format!("{name}.weight"), &[inputs, outputs], &turned);
        let bias = self.graph.constant(&format!("{name}.bias"), &[outputs], &bias);
        let product = self.graph.node("MatMul", &[x, &weight], &[]);
        Ok(self.graph.node("Add", &[&product, &bias], &[]))
    }

    fn values(&self, name: &str, rows: usize, columns: usize) -> Result<Vec<f32>, LmError> {
        let raw = self.weights.tensor(name, rows, columns)?;
        let mut values = vec![0.0; rows * columns];
        dequantise(raw.kind, raw.bytes, &mut values).map_err(|error| raw.error(error))?;
        Ok(values)
    }
}
