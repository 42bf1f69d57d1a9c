//! The kernels' common shape: one function per instruction set, storage family and tile height.

use super::super::isa::{Isa, Level};
use super::activations::{TILE, TileRows};
use super::format::Family;
use super::matrix::{PANEL, Panel};
use super::scalar;
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512};

/// Sums of up to [`TILE`] rows by one panel; a kernel writes the rows it computes.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub(super) struct Accumulators(pub(super) [[f32; PANEL]; TILE]);

impl Accumulators {
    pub(super) const ZERO: Self = Self([[0.0; PANEL]; TILE]);
}

/// A storage family as a type, so that a kernel is compiled for each.
pub(super) trait Layout {
    const FAMILY: Family;
}

/// A set of kernels this machine can execute.
///
/// Like [`Isa`], from which alone it is made: holding one proves that its instructions are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KernelSet(Kind);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Scalar,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni,
}

impl KernelSet {
    /// The best kernels within `isa`: AVX-512 without the integer dot product gains nothing over AVX2.
    pub(super) fn of(isa: Isa) -> Self {
        match isa.level() {
            Level::Scalar => Self(Kind::Scalar),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => Self(Kind::Avx2),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 if is_x86_feature_detected!("avx512vnni") => Self(Kind::Avx512Vnni),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => Self(Kind::Avx2),
        }
    }

    /// The most rows one call can compute.
    pub(super) fn max_height(self) -> usize {
        match self.0 {
            Kind::Scalar => TILE,
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => 4,
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512Vnni => TILE,
        }
    }

    /// The kernel for `height` rows (1, 2, 4 or 8, at most [`max_height`](Self::max_height)).
    pub(super) fn kernel(self, family: Family, height: usize) -> TileKernel {
        debug_assert!(height.is_power_of_two() && height <= self.max_height());
        match family {
            Family::Q4_0 => self.for_layout::<Q4_0>(height),
            Family::Q4_1 => self.for_layout::<Q4_1>(height),
            Family::Q5_1 => self.for_layout::<Q5_1>(height),
            Family::Q8_0 => self.for_layout::<Q8_0>(height),
            Family::Q2K => self.for_layout::<Q2K>(height),
            Family::Q3K => self.for_layout::<Q3K>(height),
            Family::Q4K => self.for_layout::<Q4K>(height),
            Family::Q5K => self.for_layout::<Q5K>(height),
            Family::Q6K => self.for_layout::<Q6K>(height),
            Family::Q8K => self.for_layout::<Q8K>(height),
        }
    }

    fn for_layout<L: Layout>(self, height: usize) -> TileKernel {
        match self.0 {
            Kind::Scalar => TileKernel::Safe(match height {
                1 => scalar::tile::<L, 1>,
                2 => scalar::tile::<L, 2>,
                4 => scalar::tile::<L, 4>,
                _ => scalar::tile::<L, TILE>,
            }),
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => TileKernel::Detected(match height {
                1 => avx2::tile::<L, 1>,
                2 => avx2::tile::<L, 2>,
                _ => avx2::tile::<L, 4>,
            }),
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512Vnni => TileKernel::Detected(match height {
                1 => avx512::tile::<L, 1>,
                2 => avx512::tile::<L, 2>,
                4 => avx512::tile::<L, 4>,
                _ => avx512::tile::<L, TILE>,
            }),
        }
    }
}

/// One kernel, chosen for this machine, a storage family and a height.
#[derive(Clone, Copy, Debug)]
pub(super) enum TileKernel {
    Safe(fn(&Panel<'_>, &TileRows<'_>, &mut Accumulators)),
    /// Compiled for instructions that a [`KernelSet`] proves are there.
    #[cfg(target_arch = "x86_64")]
    Detected(unsafe fn(&Panel<'_>, &TileRows<'_>, &mut Accumulators)),
}

impl TileKernel {
    /// Writes the products of the rows with the panel to the first rows of `out`.
    #[inline]
    pub(super) fn run(self, panel: &Panel<'_>, rows: &TileRows<'_>, out: &mut Accumulators) {
        match self {
            Self::Safe(kernel) => kernel(panel, rows, out),
            #[cfg(target_arch = "x86_64")]
            Self::Detected(kernel) => {
                #[expect(unsafe_code, reason = "calls a function compiled for detected instructions")]
                // SAFETY: a `TileKernel` comes from a `KernelSet`, made only where its features were detected;
                // `Panel` and `TileRows` come from `QuantMatrix::panel` and `QuantActivations::tile`, whose
                // slices have the lengths the kernels rely on, for the same `k`.
                unsafe {
                    kernel(panel, rows, out);
                }
            }
        }
    }
}

macro_rules! layouts {
    ($($name:ident),*) => { $(
        #[derive(Debug)]
        struct $name;
        impl Layout for $name {
            const FAMILY: Family = Family::$name;
        }
    )* };
}
layouts!(Q4_0, Q4_1, Q5_1, Q8_0, Q2K, Q3K, Q4K, Q5K, Q6K, Q8K);
