/// A tensor's role in the decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Embedding,
    Head,
    FinalNorm,
    AttentionNorm,
    Query,
    Key,
    Value,
    AttentionOutput,
    QueryNorm,
    KeyNorm,
    MlpNorm,
    Gate,
    Up,
    Down,
}

/// Which project's tensor names a file uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Naming {
    Gguf,
    HuggingFace,
}

impl Naming {
    /// The name of a part's weight; `layer` is ignored for the three parts outside the blocks.
    pub(crate) fn weight(self, part: Part, layer: usize) -> String {
        format!("{}.weight", self.stem(part, layer))
    }

    pub(crate) fn bias(self, part: Part, layer: usize) -> String {
        format!("{}.bias", self.stem(part, layer))
    }

    fn stem(self, part: Part, layer: usize) -> String {
        let (gguf, hugging_face) = match part {
            Part::Embedding => ("token_embd", "embed_tokens"),
            Part::Head => ("output", "lm_head"),
            Part::FinalNorm => ("output_norm", "norm"),
            Part::AttentionNorm => ("attn_norm", "input_layernorm"),
            Part::Query => ("attn_q", "self_attn.q_proj"),
            Part::Key => ("attn_k", "self_attn.k_proj"),
            Part::Value => ("attn_v", "self_attn.v_proj"),
            Part::AttentionOutput => ("attn_output", "self_attn.o_proj"),
            Part::QueryNorm => ("attn_q_norm", "self_attn.q_norm"),
            Part::KeyNorm => ("attn_k_norm", "self_attn.k_norm"),
            Part::MlpNorm => ("ffn_norm", "post_attention_layernorm"),
            Part::Gate => ("ffn_gate", "mlp.gate_proj"),
            Part::Up => ("ffn_up", "mlp.up_proj"),
            Part::Down => ("ffn_down", "mlp.down_proj"),
        };
        match (self, part) {
            (Self::Gguf, Part::Embedding | Part::Head | Part::FinalNorm) => gguf.to_owned(),
            (Self::Gguf, _) => format!("blk.{layer}.{gguf}"),
            (Self::HuggingFace, Part::Head) => hugging_face.to_owned(),
            (Self::HuggingFace, Part::Embedding | Part::FinalNorm) => format!("model.{hugging_face}"),
            (Self::HuggingFace, _) => format!("model.layers.{layer}.{hugging_face}"),
        }
    }
}
