//! Which instruction set the kernels use, found out at run time.

/// An instruction set that this machine was seen to have.
///
/// A value can only be made by [`Isa::detect`], [`Isa::scalar`] and [`Isa::available`], so holding
/// one is the proof that its instructions may be executed: the kernels' `unsafe` calls rest on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Isa(Level);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    Scalar,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Isa {
    /// The widest instruction set of this machine that the kernels know.
    #[must_use]
    pub fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c")
            {
                return Self(Level::Avx512);
            }
            if is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c")
            {
                return Self(Level::Avx2);
            }
        }
        Self(Level::Scalar)
    }

    /// Portable Rust, the twin every SIMD kernel is compared with.
    #[must_use]
    pub fn scalar() -> Self {
        Self(Level::Scalar)
    }

    /// Every instruction set this machine has, the portable one first.
    #[must_use]
    pub fn available() -> Vec<Self> {
        match Self::detect().0 {
            Level::Scalar => vec![Self(Level::Scalar)],
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => vec![Self(Level::Scalar), Self(Level::Avx2)],
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => vec![Self(Level::Scalar), Self(Level::Avx2), Self(Level::Avx512)],
        }
    }

    /// Short name for reports: `scalar`, `avx2` or `avx512`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self.0 {
            Level::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => "avx512",
        }
    }

    pub(super) fn level(self) -> Level {
        self.0
    }
}

/// Compiles one portable function body once per instruction set and picks at run time.
///
/// The compiler vectorises each copy for its instruction set. Every operation in a body is an IEEE
/// operation (`+ - * /`, `sqrt`, `mul_add`) that Rust never reorders or fuses by itself, so all
/// copies give the same bits.
macro_rules! per_isa {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        $vis fn $name(isa: $crate::kernels::isa::Isa, $($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            #[allow(clippy::too_many_arguments)]
            fn portable($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
            #[allow(clippy::too_many_arguments)]
            fn avx512($($arg: $ty),*) $(-> $ret)? { portable($($arg),*) }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            #[allow(clippy::too_many_arguments)]
            fn avx2($($arg: $ty),*) $(-> $ret)? { portable($($arg),*) }
            match isa.level() {
                $crate::kernels::isa::Level::Scalar => portable($($arg),*),
                #[cfg(target_arch = "x86_64")]
                $crate::kernels::isa::Level::Avx2 => {
                    #[expect(unsafe_code, reason = "calls a function compiled for AVX2")]
                    // SAFETY: an `Isa` of this level exists only where these features were detected.
                    unsafe { avx2($($arg),*) }
                }
                #[cfg(target_arch = "x86_64")]
                $crate::kernels::isa::Level::Avx512 => {
                    #[expect(unsafe_code, reason = "calls a function compiled for AVX-512")]
                    // SAFETY: an `Isa` of this level exists only where these features were detected.
                    unsafe { avx512($($arg),*) }
                }
            }
        }
    };
}
pub(super) use per_isa;
