//! Memory that the kernel writes and this process reads: arrays of BPF programs, mapped.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};

/// A whole array (`BPF_F_MMAPABLE`), readable and writable without a system call. What lies beyond its end reads as
/// zero, and is not written.
#[derive(Debug)]
pub struct MappedArray {
    begin: NonNull<u8>,
    bytes: usize,
}

impl MappedArray {
    /// Maps the array of `bytes` bytes that `map` is.
    ///
    /// # Errors
    /// `ENOTSUPP` or `EINVAL` when it is no such array, `EPERM` when `bytes` goes beyond its end.
    pub fn new(map: impl AsFd, bytes: usize) -> io::Result<Self> {
        if bytes == 0 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let fd = map.as_fd().as_raw_fd();
        // SAFETY: a new shared mapping at a place that the kernel chooses touches no memory of ours.
        let begin = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, libc::MAP_SHARED, fd, 0) };
        if begin == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let begin = NonNull::new(begin.cast()).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { begin, bytes })
    }

    /// The 64-bit number at a multiple of 8.
    pub fn word(&self, at: usize) -> u64 {
        self.at::<AtomicU64>(at).map_or(0, |word| word.load(Relaxed))
    }

    /// The 32-bit number at a multiple of 4.
    pub fn half(&self, at: usize) -> u32 {
        self.at::<AtomicU32>(at).map_or(0, |half| half.load(Relaxed))
    }

    /// Writes a 64-bit number at a multiple of 8.
    pub fn set_word(&self, at: usize, value: u64) {
        if let Some(word) = self.at::<AtomicU64>(at) {
            word.store(value, Relaxed);
        }
    }

    /// Writes a 32-bit number at a multiple of 4.
    pub fn set_half(&self, at: usize, value: u32) {
        if let Some(half) = self.at::<AtomicU32>(at) {
            half.store(value, Relaxed);
        }
    }

    /// Whether the byte at a place is `value`, for `count` places from `at` on.
    pub fn bytes_equal(&self, at: usize, count: usize, value: u8) -> impl Iterator<Item = bool> + '_ {
        (at..at.saturating_add(count))
            .map(move |at| self.at::<AtomicU8>(at).is_some_and(|byte| byte.load(Relaxed) == value))
    }

    /// How many of `words` 64-bit words from `at` on hold `value` in how many of their bytes, all together.
    pub fn count_bytes(&self, at: usize, words: usize, value: u8) -> u32 {
        let places = (0..words).map(|word| at.saturating_add(word.saturating_mul(8)));
        places
            .map(|at| {
                let bytes = self.word(at).to_ne_bytes();
                bytes.iter().fold(0, |count, byte| count + u32::from(*byte == value))
            })
            .sum()
    }

    /// Sets `words` 64-bit words from `at` on to zero.
    pub fn clear(&self, at: usize, words: usize) {
        for word in 0..words {
            self.set_word(at.saturating_add(word.saturating_mul(8)), 0);
        }
    }

    fn at<T>(&self, at: usize) -> Option<&T> {
        let size = size_of::<T>();
        if !at.is_multiple_of(size) || at.checked_add(size)? > self.bytes {
            return None;
        }
        // SAFETY: `at` lies inside the mapping, which lives as long as `self`, and is aligned, since the mapping begins
        // at a page. `T` is one of the atomic integers (this function is private, and called with no other), for
        // which every bit pattern is a value and writes by the kernel at the same time are no data race.
        Some(unsafe { self.begin.byte_add(at).cast::<T>().as_ref() })
    }
}

// SAFETY: the mapping belongs to no thread, and all reading and writing goes through atomic integers.
unsafe impl Send for MappedArray {}
// SAFETY: as above.
unsafe impl Sync for MappedArray {}

impl Drop for MappedArray {
    fn drop(&mut self) {
        // SAFETY: exactly what `new` mapped, once; no reference into it outlives `self`.
        unsafe { libc::munmap(self.begin.as_ptr().cast(), self.bytes) };
    }
}
