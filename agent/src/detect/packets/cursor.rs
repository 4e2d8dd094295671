//! Reads a frame from its begin: every read is checked against what was captured and against what was on the wire.

use super::{Fault, Stop};

/// What is left of a frame.
pub(super) struct Cursor<'a> {
    rest: &'a [u8],
    /// Bytes left on the wire, at least as many as are captured.
    wire: usize,
}

impl<'a> Cursor<'a> {
    pub fn new(bytes: &'a [u8], wire: u32) -> Self {
        let wire = usize::try_from(wire).unwrap_or(usize::MAX).max(bytes.len());
        Self { rest: bytes, wire }
    }

    /// The next `count` bytes; `fault` when the wire had no more.
    pub fn take(&mut self, count: usize, fault: Fault) -> Result<&'a [u8], Stop> {
        if count > self.wire {
            return Err(Stop::Fault(fault));
        }
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(Stop::NotCaptured)?;
        self.rest = rest;
        self.wire -= count;
        Ok(taken)
    }

    pub fn array<const N: usize>(&mut self, fault: Fault) -> Result<[u8; N], Stop> {
        self.take(N, fault)?.try_into().map_err(|_| Stop::Fault(fault))
    }

    pub fn u8(&mut self, fault: Fault) -> Result<u8, Stop> {
        self.array::<1>(fault).map(|[byte]| byte)
    }

    pub fn u16(&mut self, fault: Fault) -> Result<u16, Stop> {
        self.array(fault).map(u16::from_be_bytes)
    }

    /// Bytes left on the wire.
    pub fn wire(&self) -> usize {
        self.wire
    }

    /// Leaves out what comes after the next `count` bytes: padding, by the packet's own length. False when the wire has not as many.
    pub fn limit(&mut self, count: usize) -> bool {
        if count > self.wire {
            return false;
        }
        self.wire = count;
        self.rest = self.rest.get(..count).unwrap_or(self.rest);
        true
    }

    /// Passes over up to `count` bytes, captured or not.
    pub fn skip(&mut self, count: usize) {
        self.rest = self.rest.get(count..).unwrap_or_default();
        self.wire = self.wire.saturating_sub(count);
    }

    /// What is captured of the rest.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }
}
