use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use evalign_core::Dtype;
use jiff::civil::DateTime;

use crate::LmError;

/// Where to compute. Written `cpu`, `cuda:N` or `metal`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum DeviceSpec {
    #[default]
    Cpu,
    /// The GPU with this ordinal.
    Cuda(usize),
    Metal,
}

impl fmt::Display for DeviceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
            Self::Metal => f.write_str("metal"),
        }
    }
}

impl FromStr for DeviceSpec {
    type Err = LmError;

    fn from_str(text: &str) -> Result<Self, LmError> {
        match text {
            "cpu" => Ok(Self::Cpu),
            "metal" => Ok(Self::Metal),
            "cuda" => Ok(Self::Cuda(0)),
            other => other
                .strip_prefix("cuda:")
                .and_then(|ordinal| ordinal.parse().ok())
                .map(Self::Cuda)
                .ok_or_else(|| LmError::Device(format!("`{other}` is none of cpu, cuda:N, metal"))),
        }
    }
}

/// How to load a model. The default is the CPU in f32 with every core.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    pub device: DeviceSpec,
    /// How weights are held. `None`: f32 on the CPU, bf16 on a GPU. [`Dtype::Q`] keeps the blocks of a
    /// GGUF file and is an error for anything else.
    pub dtype: Option<Dtype>,
    /// Most bytes of keys and values alive at once. `None`: 512 MiB or one full context, whichever is
    /// more, but at most half of the memory now available (4 GiB on a GPU). Weights and activations
    /// come on top.
    pub memory_bytes: Option<u64>,
    /// Computing threads. `None`: one for each core this process may use.
    pub threads: Option<usize>,
    /// What a chat template takes for the present, that prompts can be rendered again as they were.
    /// `None`: today.
    pub now: Option<DateTime>,
    /// Directory of a low-rank adapter, as PEFT stores it. Applied beside the weights, whatever these are held in.
    pub adapter: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_round_trip() {
        for (text, device) in
            [("cpu", DeviceSpec::Cpu), ("cuda:3", DeviceSpec::Cuda(3)), ("metal", DeviceSpec::Metal)]
        {
            assert_eq!(text.parse::<DeviceSpec>().unwrap(), device);
            assert_eq!(device.to_string(), text);
        }
        assert!("gpu".parse::<DeviceSpec>().is_err());
        assert!("cuda:x".parse::<DeviceSpec>().is_err());
    }
}
