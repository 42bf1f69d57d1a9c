//! Rotary position embedding (Su et al. 2021, arXiv 2104.09864) and its context extensions.
//!
//! Formulas follow transformers' `modeling_rope_utils.py`, in f64, with frequencies and angles rounded
//! to f32 where transformers rounds them, so that both agree to the last bits of a cosine.

use std::f64::consts::PI;

/// Which two components of a head are rotated together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RopePairing {
    /// `(i, i + head_dim / 2)`: Hugging Face checkpoints, GGUF files of the Qwen family.
    Half,
    /// `(2 i, 2 i + 1)`: GGUF files of the Llama family.
    Interleaved,
}

/// YaRN (Peng et al. 2023, arXiv 2309.00071).
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Yarn {
    pub(crate) factor: f64,
    pub(crate) original_context: f64,
    pub(crate) beta_fast: f64,
    pub(crate) beta_slow: f64,
    pub(crate) attention_factor: Option<f64>,
    pub(crate) mscale: Option<f64>,
    pub(crate) mscale_all_dim: Option<f64>,
    /// Round the correction range outwards to whole dimensions.
    pub(crate) truncate: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum RopeScaling {
    None,
    /// Position interpolation (Chen et al. 2023, arXiv 2306.15595).
    Linear {
        factor: f64,
    },
    /// Llama 3.1's frequency-dependent interpolation.
    Llama3 {
        factor: f64,
        low_freq_factor: f64,
        high_freq_factor: f64,
        original_context: f64,
    },
    Yarn(Yarn),
    /// One divisor for each frequency, as GGUF stores llama3 scaling.
    Divisors(Vec<f32>),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RopeConfig {
    pub(crate) theta: f64,
    pub(crate) pairing: RopePairing,
    pub(crate) scaling: RopeScaling,
}

impl RopeConfig {
    /// Why the numbers make no rotation, or `Ok`.
    pub(crate) fn check(&self) -> Result<(), String> {
        let positive = |name: &str, value: f64| {
            if value.is_finite() && value > 0.0 { Ok(()) } else { Err(format!("rope {name} is {value}")) }
        };
        positive("theta", self.theta)?;
        match &self.scaling {
            RopeScaling::None => Ok(()),
            RopeScaling::Linear { factor } => positive("factor", *factor),
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
                positive("factor", *factor)?;
                positive("low_freq_factor", *low_freq_factor)?;
                positive("original context", *original_context)?;
                if high_freq_factor > low_freq_factor {
                    Ok(())
                } else {
                    Err(format!("rope high_freq_factor {high_freq_factor} is not above low_freq_factor"))
                }
            }
            RopeScaling::Yarn(yarn) => {
                positive("factor", yarn.factor)?;
                positive("original context", yarn.original_context)?;
                positive("beta_fast", yarn.beta_fast)?;
                positive("beta_slow", yarn.beta_slow)
            }
            RopeScaling::Divisors(divisors) => {
                divisors.iter().try_for_each(|value| positive("divisor", f64::from(*value)))
            }
        }
    }
}

/// The frequencies of one model, ready to turn positions into rotations.
#[derive(Clone, Debug)]
pub(crate) struct Rope {
    /// `head_dim / 2` angles per position.
    frequencies: Vec<f32>,
    /// What cosines and sines are multiplied with (YaRN's attention factor).
    scale: f64,
    pub(crate) pairing: RopePairing,
}

impl Rope {
    pub(crate) fn new(config: &RopeConfig, head_dim: usize) -> Self {
        let base: Vec<f64> = (0..head_dim / 2)
            .map(|i| {
                // transformers: 1.0 / (base ** (arange(0, dim, 2) / dim)) in f32.
                f64::from((1.0 / config.theta.powf((2 * i) as f64 / head_dim as f64)) as f32)
            })
            .collect();
        let (frequencies, scale) = match &config.scaling {
            RopeScaling::None => (base, 1.0),
            RopeScaling::Linear { factor } => (base.iter().map(|f| f / factor).collect(), 1.0),
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
                let scaled = base.iter().map(|frequency| {
                    llama3(*frequency, *factor, *low_freq_factor, *high_freq_factor, *original_context)
                });
                (scaled.collect(), 1.0)
            }
            RopeScaling::Yarn(yarn) => {
                (yarn_frequencies(&base, yarn, config.theta, head_dim), yarn_scale(yarn))
            }
            RopeScaling::Divisors(divisors) => {
                (base.iter().zip(divisors).map(|(f, divisor)| f / f64::from(*divisor)).collect(), 1.0)
            }
        };
        Self { frequencies: frequencies.iter().map(|f| *f as f32).collect(), scale, pairing: config.pairing }
    }

    /// Appends `head_dim / 2` cosines and sines for each position.
    pub(crate) fn rotations(
        &self,
        positions: impl Iterator<Item = usize>,
        cos: &mut Vec<f32>,
        sin: &mut Vec<f32>,
    ) {
        for position in positions {
            for frequency in &self.frequencies {
                // The product is rounded to f32 as transformers does; only then is the cosine taken.
                let angle = f64::from(position as f32 * frequency);
                cos.push((angle.cos() * self.scale) as f32);
                sin.push((angle.sin() * self.scale) as f32);
            }
        }
    }
}

/// transformers `_compute_llama3_parameters`.
fn llama3(frequency: f64, factor: f64, low: f64, high: f64, original_context: f64) -> f64 {
    let wavelength = 2.0 * PI / frequency;
    if wavelength > original_context / low {
        frequency / factor
    } else if wavelength < original_context / high {
        frequency
    } else {
        let smooth = (original_context / wavelength - low) / (high - low);
        (1.0 - smooth) * frequency / factor + smooth * frequency
    }
}

/// transformers `_compute_yarn_parameters`: dimensions that turn often keep their frequency, those that
/// turn rarely are interpolated, with a linear ramp between (arXiv 2309.00071, section 3.2).
fn yarn_frequencies(base: &[f64], yarn: &Yarn, theta: f64, head_dim: usize) -> Vec<f64> {
    let dim = head_dim as f64;
    let correction =
        |rotations: f64| dim * (yarn.original_context / (rotations * 2.0 * PI)).ln() / (2.0 * theta.ln());
    let (mut low, mut high) = (correction(yarn.beta_fast), correction(yarn.beta_slow));
    if yarn.truncate {
        (low, high) = (low.floor(), high.ceil());
    }
    (low, high) = (low.max(0.0), high.min(dim - 1.0));
    if low == high {
        high += 0.001;
    }
    base.iter()
        .enumerate()
        .map(|(i, frequency)| {
            let ramp = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
            frequency / yarn.factor * ramp + frequency * (1.0 - ramp)
        })
        .collect()
}

fn yarn_scale(yarn: &Yarn) -> f64 {
    let mscale = |weight: f64| {
        if yarn.factor <= 1.0 { 1.0 } else { 0.1 * weight * yarn.factor.ln() + 1.0 }
    };
    match (yarn.attention_factor, yarn.mscale, yarn.mscale_all_dim) {
        (Some(factor), _, _) => factor,
        // Zero counts as absent, as in Python.
        (None, Some(a), Some(b)) if a != 0.0 && b != 0.0 => mscale(a) / mscale(b),
        (None, _, _) => mscale(1.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frequencies(scaling: RopeScaling, theta: f64, head_dim: usize) -> Rope {
        Rope::new(&RopeConfig { theta, pairing: RopePairing::Half, scaling }, head_dim)
    }

    fn close(actual: &[f32], expected: &[f64]) {
        assert_eq!(actual.len(), expected.len());
        for (a, e) in actual.iter().zip(expected) {
            assert!((f64::from(*a) - e).abs() <= 2e-6 * e.abs(), "{actual:?} vs {expected:?}");
        }
    }

    /// Expected values from this program (Python 3, formulas copied from transformers'
    /// `_compute_llama3_parameters`), dim 8, theta 500000, factor 8, low 1, high 4, original 8192:
    /// ```python
    /// import math
    /// inv=[1/(500000**(i/8)) for i in range(0,8,2)]; out=[]
    /// for f in inv:
    ///     w=2*math.pi/f
    ///     if w>8192/1: out.append(f/8)
    ///     elif w<8192/4: out.append(f)
    ///     else:
    ///         s=(8192/w-1)/(4-1); out.append((1-s)*f/8+s*f)
    /// print(out)
    /// ```
    #[test]
    fn llama3_bands() {
        let rope = frequencies(
            RopeScaling::Llama3 {
                factor: 8.0,
                low_freq_factor: 1.0,
                high_freq_factor: 4.0,
                original_context: 8192.0,
            },
            500_000.0,
            8,
        );
        close(&rope.frequencies, &LLAMA3);
    }

    /// ```python
    /// import math
    /// dim,base,factor,orig=16,10000.0,4.0,2048
    /// inv=[1/(base**(i/dim)) for i in range(0,dim,2)]
    /// c=lambda r: dim*math.log(orig/(r*2*math.pi))/(2*math.log(base))
    /// lo=max(math.floor(c(32)),0); hi=min(math.ceil(c(1)),dim-1)
    /// out=[]
    /// for i,f in enumerate(inv):
    ///     ramp=min(max((i-lo)/(hi-lo),0),1); e=1-ramp
    ///     out.append(f/factor*(1-e)+f*e)
    /// print(out, 0.1*math.log(factor)+1)
    /// ```
    #[test]
    fn yarn_ramp_and_scale() {
        let yarn = Yarn {
            factor: 4.0,
            original_context: 2048.0,
            beta_fast: 32.0,
            beta_slow: 1.0,
            attention_factor: None,
            mscale: None,
            mscale_all_dim: None,
            truncate: true,
        };
        let rope = frequencies(RopeScaling::Yarn(yarn.clone()), 10_000.0, 16);
        close(&rope.frequencies, &YARN);
        assert!((rope.scale - YARN_SCALE).abs() < 1e-12);
        let fixed =
            frequencies(RopeScaling::Yarn(Yarn { attention_factor: Some(1.5), ..yarn }), 10_000.0, 16);
        assert_eq!(fixed.scale, 1.5);
    }

    #[test]
    fn linear_is_the_same_as_smaller_positions() {
        let (plain, linear) = (
            frequencies(RopeScaling::None, 10_000.0, 8),
            frequencies(RopeScaling::Linear { factor: 4.0 }, 10_000.0, 8),
        );
        let (mut a, mut b) = ((Vec::new(), Vec::new()), (Vec::new(), Vec::new()));
        plain.rotations([3usize, 25].into_iter(), &mut a.0, &mut a.1);
        linear.rotations([12usize, 100].into_iter(), &mut b.0, &mut b.1);
        for (x, y) in a.0.iter().chain(&a.1).zip(b.0.iter().chain(&b.1)) {
            assert!((x - y).abs() < 1e-6);
        }
    }

    #[test]
    fn divisors_divide() {
        let rope = frequencies(RopeScaling::Divisors(vec![1.0, 2.0]), 10_000.0, 4);
        close(&rope.frequencies, &[1.0, 0.005]);
    }

    const LLAMA3: [f64; 4] = [1.0, 0.03760603093086393, 0.0005248461609929547, 6.647869871181236e-06];
    const YARN: [f64; 8] = [
        1.0,
        0.31622776601683794,
        0.1,
        0.02569350598886808,
        0.00625,
        0.0013834964763236657,
        0.00025,
        7.905694150420948e-05,
    ];
    const YARN_SCALE: f64 = 1.138629436111989;
}
