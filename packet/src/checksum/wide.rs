//! The sum for processors with wider registers than every processor of their kind has: the same code, compiled for
//! them, and a look at run time whether this is one. All unsafe code of the crate is here.
#![allow(unsafe_code)]

/// The sum of [`super::plain`]; `None` if this processor has nothing better.
#[cfg(target_arch = "x86_64")]
#[inline]
pub(super) fn sum(bytes: &[u8]) -> Option<u16> {
    #[target_feature(enable = "avx2")]
    fn avx2(bytes: &[u8]) -> u16 {
        super::plain(bytes)
    }
    // SAFETY: the processor has what the function is compiled for. The answer is looked up once and kept.
    is_x86_feature_detected!("avx2").then(|| unsafe { avx2(bytes) })
}

/// Elsewhere what all have is wide enough (NEON on aarch64).
#[cfg(not(target_arch = "x86_64"))]
#[inline]
pub(super) fn sum(_: &[u8]) -> Option<u16> {
    None
}
