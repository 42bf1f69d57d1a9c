//! Linear layers of a real quantised model: one token, a batch of sixteen, a prompt of 512.
//!
//! `EVALIGN_TEST_MODEL=SmolLM2-135M-Instruct.Q4_1.gguf cargo bench -p evalign-lm --bench quant`. Throughput is
//! tokens per second of the linear layers alone (head included, for one row where a prompt is
//! prefilled); attention and row-wise operations come on top.
#![expect(clippy::print_stderr, reason = "a bench that cannot run says why")]

use std::hint::black_box;
use std::path::PathBuf;

use candle_core::quantized::gguf_file::Content;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use evalign_lm::kernels::{Pool, QuantActivations, QuantMatrix, quant_stacked};

/// The matrices of one decoder layer; those with the same input are stacked.
struct Layer {
    qkv: [QuantMatrix; 3],
    attention_out: [QuantMatrix; 1],
    gate_up: [QuantMatrix; 2],
    down: [QuantMatrix; 1],
}

struct Model {
    layers: Vec<Layer>,
    head: [QuantMatrix; 1],
}

type Failure = Box<dyn std::error::Error>;

impl Model {
    fn load(path: &PathBuf) -> Result<Self, Failure> {
        let bytes = fs_err::read(path)?;
        let content = Content::read(&mut std::io::Cursor::new(&bytes))?;
        let matrix = |name: &str| -> Result<QuantMatrix, Failure> {
            let info = content.tensor_infos.get(name).ok_or_else(|| format!("no tensor {name}"))?;
            let (n, k) = info.shape.dims2()?;
            let start = usize::try_from(content.tensor_data_offset + info.offset)?;
            let len = n * k / info.ggml_dtype.block_size() * info.ggml_dtype.type_size();
            let raw = bytes.get(start..start + len).ok_or("truncated file")?;
            Ok(QuantMatrix::from_ggml(info.ggml_dtype, raw, n, k)?)
        };
        let count = content.metadata.get("llama.block_count").ok_or("not a llama")?.to_u32()?;
        let layers = (0..count).map(|index| {
            let of = |name: &str| matrix(&format!("blk.{index}.{name}.weight"));
            Ok(Layer {
                qkv: [of("attn_q")?, of("attn_k")?, of("attn_v")?],
                attention_out: [of("attn_output")?],
                gate_up: [of("ffn_gate")?, of("ffn_up")?],
                down: [of("ffn_down")?],
            })
        });
        Ok(Self { layers: layers.collect::<Result<_, Failure>>()?, head: [matrix("token_embd.weight")?] })
    }
}

/// Buffers of one pass over all linear layers of `rows` tokens, `projected` of them through the head.
struct Pass {
    rows: usize,
    projected: usize,
    scratch: QuantActivations,
    hidden: Vec<f32>,
    qkv: Vec<f32>,
    gate_up: Vec<f32>,
    logits: Vec<f32>,
}

impl Pass {
    fn new(model: &Model, rows: usize, projected: usize) -> Self {
        let layer = &model.layers[0];
        let zeros = |rows: usize, parts: &[QuantMatrix]| {
            vec![0.0; rows * parts.iter().map(QuantMatrix::n).sum::<usize>()]
        };
        Self {
            rows,
            projected,
            scratch: QuantActivations::new(),
            hidden: (0..rows * model.head[0].k()).map(|i| (i as f32 * 0.37).sin()).collect(),
            qkv: zeros(rows, &layer.qkv),
            gate_up: zeros(rows, &layer.gate_up),
            logits: zeros(projected, &model.head),
        }
    }

    /// Linear layers only: the next one takes the first numbers of what attention or the gate would take.
    fn run(&mut self, model: &Model, pool: &Pool) {
        let (rows, width) = (self.rows, model.head[0].k());
        let scratch = &mut self.scratch;
        let mut multiply = |x: &[f32], rows: usize, parts: &[QuantMatrix], out: &mut [f32]| {
            let width = parts[0].k();
            scratch.quantise(pool, &x[..rows * width], rows, width);
            quant_stacked(pool, scratch, parts, None, out, false);
        };
        for layer in &model.layers {
            multiply(&self.hidden, rows, &layer.qkv, &mut self.qkv);
            multiply(&self.qkv, rows, &layer.attention_out, &mut self.hidden);
            multiply(&self.hidden, rows, &layer.gate_up, &mut self.gate_up);
            multiply(&self.gate_up, rows, &layer.down, &mut self.hidden);
        }
        let last = &self.hidden[(rows - self.projected) * width..];
        multiply(last, self.projected, &model.head, &mut self.logits);
        black_box(&self.logits);
    }
}

fn linear_layers(criterion: &mut Criterion) {
    let Some(path) = std::env::var_os("EVALIGN_TEST_MODEL").map(PathBuf::from) else {
        eprintln!("skipped: EVALIGN_TEST_MODEL does not name a quantised GGUF file");
        return;
    };
    let (model, pool) = match (Model::load(&path), Pool::new(None)) {
        (Ok(model), Ok(pool)) => (model, pool),
        (Err(error), _) => return eprintln!("skipped: {}: {error}", path.display()),
        (_, Err(error)) => return eprintln!("skipped: no threads: {error}"),
    };
    let mut group = criterion.benchmark_group("quantised linear layers");
    group.sample_size(20);
    for (name, rows, projected) in [("decode 1", 1, 1), ("decode 16", 16, 16), ("prefill 512", 512, 1)] {
        let mut pass = Pass::new(&model, rows, projected);
        group.throughput(Throughput::Elements(rows as u64));
        group.bench_function(name, |bencher| bencher.iter(|| pass.run(&model, &pool)));
    }
    group.finish();
}

criterion_group!(benches, linear_layers);
criterion_main!(benches);
