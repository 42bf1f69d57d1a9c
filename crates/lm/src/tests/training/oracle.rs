//! The same decoder in candle's plain, differentiable operations: one sequence after the other, nothing shared, Hugging
//! Face's layout. Slow and obviously right.

use std::collections::BTreeMap;

use candle_core::{D, DType, Device, Tensor, Var};
use serde_json::Value;

use super::Trained;
use crate::config::ModelConfig;
use crate::rope::Rope;
use crate::training::{Label, Module, TokenTree, WeightId};

pub(super) struct Oracle {
    config: ModelConfig,
    rope: Rope,
    /// All weights; those that are trained are variables.
    tensors: BTreeMap<WeightId, Tensor>,
    variables: BTreeMap<WeightId, Var>,
    scale: f64,
}

impl Oracle {
    pub(super) fn new(config: &Value, weights: &Trained, trained: &Trained, scale: f32) -> Self {
        let config = crate::config::from_hugging_face("config.json".as_ref(), &config.to_string()).unwrap();
        let tensor = |(shape, values): &(Vec<usize>, Vec<f32>)| {
            Tensor::from_vec(values.clone(), shape.as_slice(), &Device::Cpu).unwrap()
        };
        let mut tensors: BTreeMap<WeightId, Tensor> =
            weights.iter().map(|(id, found)| (*id, tensor(found))).collect();
        let mut variables = BTreeMap::new();
        for (id, found) in trained {
            let variable = Var::from_tensor(&tensor(found)).unwrap();
            tensors.insert(*id, variable.as_tensor().clone());
            variables.insert(*id, variable);
        }
        let rope = Rope::new(&config.rope, config.head_dim);
        Self { config, rope, tensors, variables, scale: f64::from(scale) }
    }

    /// Log-probabilities of the labels, and gradients of their weighted sum.
    pub(super) fn gradients(
        &self,
        trees: &[TokenTree],
        labels: &[Label],
        factors: &[f32],
    ) -> (Vec<f32>, BTreeMap<WeightId, Vec<f32>>) {
        // Hidden states of every row of the batch, from whichever sequence has it.
        let mut rows: Vec<Tensor> = Vec::new();
        for tree in trees {
            let trunk = self.hidden(&tree.trunk);
            rows.extend((0..tree.trunk.len()).map(|row| trunk.as_ref().unwrap().narrow(0, row, 1).unwrap()));
            for branch in &tree.branches {
                let all = self.hidden(&[tree.trunk.clone(), branch.clone()].concat()).unwrap();
                rows.extend(
                    (tree.trunk.len()..all.dim(0).unwrap()).map(|row| all.narrow(0, row, 1).unwrap()),
                );
            }
        }
        let head = self.tensors.get(&WeightId::Head).unwrap_or(&self.tensors[&WeightId::Embedding]);
        let mut total = Tensor::zeros((), DType::F32, &Device::Cpu).unwrap();
        let mut logps = Vec::new();
        for (label, factor) in labels.iter().zip(factors) {
            let logits = rows[label.row].matmul(&head.t().unwrap()).unwrap();
            let max = logits.max_keepdim(1).unwrap().detach();
            let shifted = logits.broadcast_sub(&max).unwrap();
            let sum = shifted.exp().unwrap().sum_keepdim(1).unwrap().log().unwrap();
            let asked = shifted.narrow(1, label.token as usize, 1).unwrap();
            let logp = (asked - sum).unwrap().sum_all().unwrap();
            logps.push(logp.to_scalar::<f32>().unwrap());
            total = (total + (logp * f64::from(*factor)).unwrap()).unwrap();
        }
        let store = total.backward().unwrap();
        let gradient = |variable: &Var| match store.get(variable) {
            Some(gradient) => gradient.flatten_all().unwrap().to_vec1().unwrap(),
            None => vec![0.0; variable.elem_count()],
        };
        (logps, self.variables.iter().map(|(id, variable)| (*id, gradient(variable))).collect())
    }

    /// Hidden states after the last norm, `[tokens, hidden]`.
    fn hidden(&self, tokens: &[u32]) -> Option<Tensor> {
        if tokens.is_empty() {
            return None;
        }
        let ids = Tensor::new(tokens, &Device::Cpu).unwrap();
        let mut x = self.tensors[&WeightId::Embedding].index_select(&ids, 0).unwrap();
        for layer in 0..self.config.layers.len() {
            let normed = self.norm(&x, WeightId::AttentionNorm(layer));
            x = (x + self.attention(layer, &normed)).unwrap();
            let normed = self.norm(&x, WeightId::MlpNorm(layer));
            let gate = self.linear(layer, Module::Gate, &normed).silu().unwrap();
            let up = self.linear(layer, Module::Up, &normed);
            x = (x + self.linear(layer, Module::Down, &(gate * up).unwrap())).unwrap();
        }
        Some(self.norm(&x, WeightId::FinalNorm))
    }

    fn norm(&self, x: &Tensor, id: WeightId) -> Tensor {
        let mean = x.sqr().unwrap().mean_keepdim(D::Minus1).unwrap();
        let root = (mean + f64::from(self.config.norm_eps)).unwrap().sqrt().unwrap();
        x.broadcast_div(&root).unwrap().broadcast_mul(&self.tensors[&id]).unwrap()
    }

    fn linear(&self, layer: usize, module: Module, x: &Tensor) -> Tensor {
        let mut weight = self.tensors[&WeightId::Weight(layer, module)].clone();
        if let Some(a) = self.tensors.get(&WeightId::LowRankA(layer, module)) {
            let b = &self.tensors[&WeightId::LowRankB(layer, module)];
            weight = (weight + (b.matmul(a).unwrap() * self.scale).unwrap()).unwrap();
        }
        if let Some(magnitude) = self.tensors.get(&WeightId::Magnitude(layer, module)) {
            let norm = weight.sqr().unwrap().sum_keepdim(1).unwrap().sqrt().unwrap().detach();
            let gain = magnitude.unsqueeze(1).unwrap().broadcast_div(&norm).unwrap();
            weight = weight.broadcast_mul(&gain).unwrap();
        }
        let out = x.matmul(&weight.t().unwrap()).unwrap();
        match self.tensors.get(&WeightId::Bias(layer, module)) {
            Some(bias) => out.broadcast_add(bias).unwrap(),
            None => out,
        }
    }

    fn heads(&self, x: &Tensor, count: usize) -> Tensor {
        x.reshape((x.dim(0).unwrap(), count, self.config.head_dim)).unwrap()
    }

    fn rotated(&self, layer: usize, x: &Tensor) -> Tensor {
        if !self.config.layers[layer].rope {
            return x.clone();
        }
        let (rows, half) = (x.dim(0).unwrap(), self.config.head_dim / 2);
        let (mut cos, mut sin) = (Vec::new(), Vec::new());
        self.rope.rotations(0..rows, &mut cos, &mut sin);
        let table = |values| Tensor::from_vec(values, (rows, 1, half), &Device::Cpu).unwrap();
        let (cos, sin) = (table(cos), table(sin));
        let (a, b) = (x.narrow(2, 0, half).unwrap(), x.narrow(2, half, half).unwrap());
        let low = (a.broadcast_mul(&cos).unwrap() - b.broadcast_mul(&sin).unwrap()).unwrap();
        let high = (b.broadcast_mul(&cos).unwrap() + a.broadcast_mul(&sin).unwrap()).unwrap();
        Tensor::cat(&[low, high], 2).unwrap()
    }

    fn attention(&self, layer: usize, x: &Tensor) -> Tensor {
        let config = &self.config;
        let rows = x.dim(0).unwrap();
        let mut q = self.heads(&self.linear(layer, Module::Query, x), config.heads);
        let mut k = self.heads(&self.linear(layer, Module::Key, x), config.kv_heads);
        let v = self.heads(&self.linear(layer, Module::Value, x), config.kv_heads);
        if config.qk_norm {
            q = self.norm(&q, WeightId::QueryNorm(layer));
            k = self.norm(&k, WeightId::KeyNorm(layer));
        }
        let (q, k) = (self.rotated(layer, &q), self.rotated(layer, &k));
        let group = config.heads / config.kv_heads;
        let mask: Vec<f32> = (0..rows * rows)
            .map(|i| {
                let (row, key) = (i / rows, i % rows);
                let seen = key <= row && config.layers[layer].window.is_none_or(|window| row - key < window);
                if seen { 0.0 } else { f32::NEG_INFINITY }
            })
            .collect();
        let mask = Tensor::from_vec(mask, (rows, rows), &Device::Cpu).unwrap();
        let outputs: Vec<Tensor> = (0..config.heads)
            .map(|head| {
                let pick = |x: &Tensor, head: usize| x.narrow(1, head, 1).unwrap().squeeze(1).unwrap();
                let (q, k, v) = (pick(&q, head), pick(&k, head / group), pick(&v, head / group));
                let scores = (q.matmul(&k.t().unwrap()).unwrap() / (config.head_dim as f64).sqrt()).unwrap();
                let scores = (scores + &mask).unwrap();
                let max = scores.max_keepdim(1).unwrap().detach();
                let exp = scores.broadcast_sub(&max).unwrap().exp().unwrap();
                let p = exp.broadcast_div(&exp.sum_keepdim(1).unwrap()).unwrap();
                p.matmul(&v).unwrap()
            })
            .collect();
        self.linear(layer, Module::Output, &Tensor::cat(&outputs, 1).unwrap())
    }
}
