use std::ops::Range;

use crate::config::ModelConfig;
use crate::weights::{Naming, Part};

/// One linear layer of a block, by the name that adapters use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Module {
    Query,
    Key,
    Value,
    Output,
    Gate,
    Up,
    Down,
}

/// The matrices of a block as they are multiplied: projections with the same input are stacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Site {
    Qkv,
    Output,
    GateUp,
    Down,
}

impl Site {
    pub(crate) const ALL: [Self; 4] = [Self::Qkv, Self::Output, Self::GateUp, Self::Down];

    /// The projections, in the order of their outputs.
    pub(crate) fn modules(self) -> &'static [Module] {
        match self {
            Self::Qkv => &[Module::Query, Module::Key, Module::Value],
            Self::Output => &[Module::Output],
            Self::GateUp => &[Module::Gate, Module::Up],
            Self::Down => &[Module::Down],
        }
    }

    pub(crate) fn index(self) -> usize {
        self as usize
    }
}

impl Module {
    /// All of them, in the order of PEFT's files: what `all-linear` means.
    pub const ALL: [Self; 7] =
        [Self::Query, Self::Key, Self::Value, Self::Output, Self::Gate, Self::Up, Self::Down];

    /// `q_proj` and so on.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Query => "q_proj",
            Self::Key => "k_proj",
            Self::Value => "v_proj",
            Self::Output => "o_proj",
            Self::Gate => "gate_proj",
            Self::Up => "up_proj",
            Self::Down => "down_proj",
        }
    }

    /// The module of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|module| module.name() == name)
    }

    /// `model.layers.3.self_attn.q_proj`: its path in transformers' model.
    #[must_use]
    pub fn path(self, layer: usize) -> String {
        let weight = Naming::HuggingFace.weight(self.part(), layer);
        weight.strip_suffix(".weight").unwrap_or(&weight).to_owned()
    }

    pub(crate) fn part(self) -> Part {
        match self {
            Self::Query => Part::Query,
            Self::Key => Part::Key,
            Self::Value => Part::Value,
            Self::Output => Part::AttentionOutput,
            Self::Gate => Part::Gate,
            Self::Up => Part::Up,
            Self::Down => Part::Down,
        }
    }

    pub(crate) fn site(self) -> Site {
        match self {
            Self::Query | Self::Key | Self::Value => Site::Qkv,
            Self::Output => Site::Output,
            Self::Gate | Self::Up => Site::GateUp,
            Self::Down => Site::Down,
        }
    }

    pub(crate) fn outputs(self, config: &ModelConfig) -> usize {
        match self {
            Self::Query => config.query_size(),
            Self::Key | Self::Value => config.kv_size(),
            Self::Output | Self::Down => config.hidden_size,
            Self::Gate | Self::Up => config.intermediate_size,
        }
    }

    pub(crate) fn inputs(self, config: &ModelConfig) -> usize {
        match self {
            Self::Query | Self::Key | Self::Value | Self::Gate | Self::Up => config.hidden_size,
            Self::Output => config.query_size(),
            Self::Down => config.intermediate_size,
        }
    }

    pub(crate) fn has_bias(self, config: &ModelConfig) -> bool {
        match self {
            Self::Query | Self::Key | Self::Value => config.qkv_bias,
            Self::Output => config.output_bias,
            Self::Gate | Self::Up | Self::Down => config.mlp_bias,
        }
    }

    /// Its outputs in the stack of its site.
    pub(crate) fn columns(self, config: &ModelConfig) -> Range<usize> {
        let before = self.site().modules().iter().take_while(|module| **module != self);
        let start: usize = before.map(|module| module.outputs(config)).sum();
        start..start + self.outputs(config)
    }

    /// Whether GGUF files of the Llama family hold its outputs in another order than Hugging Face's: two values that are
    /// rotated together lie side by side there.
    pub(crate) fn is_rotated(self) -> bool {
        matches!(self, Self::Query | Self::Key)
    }
}

/// Which row of Hugging Face's layout stands at each row of a layout with neighbouring pairs, for `rows` outputs in
/// heads of `head_dim`.
pub(crate) fn neighbour_order(rows: usize, head_dim: usize) -> impl Iterator<Item = usize> {
    let half = head_dim / 2;
    (0..rows).map(move |row| {
        let (head, place) = (row / head_dim, row % head_dim);
        head * head_dim + place % 2 * half + place / 2
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_to_modules() {
        for module in Module::ALL {
            assert_eq!(Module::named(module.name()), Some(module));
        }
        assert_eq!(Module::named("lm_head"), None);
        assert_eq!(Module::Down.path(3), "model.layers.3.mlp.down_proj");
    }

    #[test]
    fn pairs_of_a_head_become_neighbours() {
        let order: Vec<usize> = neighbour_order(8, 4).collect();
        assert_eq!(order, [0, 2, 1, 3, 4, 6, 5, 7]);
    }
}
