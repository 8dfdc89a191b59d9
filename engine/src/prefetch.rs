//! Memory asked for ahead of who needs it.

/// Asks the processor for the cache line that a value begins in, and doesn't wait for it: a load would keep all that comes behind it
/// from ending, so that a second one far enough behind begins only when the first has come. Nothing depends on it.
#[inline]
pub(crate) fn prefetch<T>(value: &T) {
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    safe_arch::prefetch_t0(value);
    #[cfg(not(any(target_arch = "x86", target_arch = "x86_64")))]
    let _ = value;
}
