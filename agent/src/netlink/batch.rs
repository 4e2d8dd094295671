//! Writes netlink messages: attributes, and batches that nfnetlink takes as one transaction
//! (`linux/netfilter/nfnetlink.h`): all of it is done, or nothing.

use std::io;
use std::os::fd::AsFd as _;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::set_socket_send_buffer_size_force;
use rustix::net::{SendFlags, sendto};

use super::{HEADER_BYTES, NLM_F_ACK, NLM_F_REQUEST, NLMSG_ERROR, Netlink, PATIENCE, messages, native_u32};

/// `NFNL_MSG_BATCH_BEGIN` and `NFNL_MSG_BATCH_END`.
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
/// `NFNL_SUBSYS_NFTABLES`, in network order: whose transaction it is.
const NFTABLES: [u8; 2] = [0, 10];
/// `NLA_F_NESTED`.
const NESTED: u16 = 0x8000;
/// The first message is the one that begins the batch.
const FIRST: u32 = 1;
/// What the socket's own bookkeeping takes beside the bytes of a message.
const OVERHEAD_BYTES: usize = 4_096;

/// Attributes that are being written.
#[derive(Debug, Default)]
pub struct Attributes(Vec<u8>);

impl Attributes {
    /// An attribute as it is.
    pub fn bytes(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(value.len().saturating_add(4)).unwrap_or(u16::MAX);
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    /// A text, with a NUL at its end.
    pub fn text(&mut self, kind: u16, value: &str) {
        self.bytes(kind, &[value.as_bytes(), &[0]].concat());
    }

    /// A number of 32 bits in network order.
    pub fn number(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// A number of 64 bits in network order.
    pub fn long(&mut self, kind: u16, value: u64) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// Attributes within one.
    pub fn nested(&mut self, kind: u16, write: impl FnOnce(&mut Self)) {
        let mut within = Self::default();
        write(&mut within);
        self.bytes(kind | NESTED, &within.0);
    }

    /// What was written.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

/// Messages that are to be done together.
#[derive(Debug)]
pub struct Batch {
    bytes: Vec<u8>,
    /// What each message is for; the first begins the batch.
    steps: Vec<String>,
    /// Where the last message begins.
    last: usize,
}

impl Default for Batch {
    fn default() -> Self {
        let mut batch = Self { bytes: Vec::new(), steps: Vec::new(), last: 0 };
        batch.push("the transaction", BATCH_BEGIN, NLM_F_REQUEST, [0, 0, 0, 10], &[]);
        batch
    }
}

impl Batch {
    /// Adds a message about `step` (for errors): kind and flags of its header, the family of its `struct nfgenmsg`, attributes.
    pub fn message(
        &mut self,
        step: &str,
        kind: u16,
        flags: u16,
        family: u8,
        write: impl FnOnce(&mut Attributes),
    ) {
        let mut attributes = Attributes::default();
        write(&mut attributes);
        self.push(step, kind, NLM_F_REQUEST | flags, [family, 0, 0, 0], &attributes.0);
    }

    fn push(&mut self, step: &str, kind: u16, flags: u16, head: [u8; 4], attributes: &[u8]) {
        self.last = self.bytes.len();
        let length = HEADER_BYTES + head.len() + attributes.len();
        let sequence = FIRST.saturating_add(u32::try_from(self.steps.len()).unwrap_or(u32::MAX));
        self.bytes.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&flags.to_ne_bytes());
        self.bytes.extend_from_slice(&sequence.to_ne_bytes());
        self.bytes.extend_from_slice(&0u32.to_ne_bytes());
        self.bytes.extend_from_slice(&head);
        self.bytes.extend_from_slice(attributes);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self.steps.push(step.to_owned());
    }

    /// The whole, its last message asking for an answer: the kernel answers of itself only to what fails.
    fn finish(self) -> (Vec<u8>, Vec<String>) {
        let (mut bytes, steps) = self.without_end();
        let mut end = Self { bytes: Vec::new(), steps: steps.clone(), last: 0 };
        let [zero, subsystem] = NFTABLES;
        end.push("the end", BATCH_END, NLM_F_REQUEST, [0, 0, zero, subsystem], &[]);
        bytes.append(&mut end.bytes);
        (bytes, steps)
    }

    /// The same, which the kernel looks through and drops: it does only what has an end (`nft --check` is that).
    fn without_end(mut self) -> (Vec<u8>, Vec<String>) {
        if let Some(flags) = self.bytes.get_mut(self.last + 6..self.last + 8) {
            flags.copy_from_slice(&(NLM_F_REQUEST | NLM_F_ACK | native_flags(flags)).to_ne_bytes());
        }
        (self.bytes, self.steps)
    }
}

fn native_flags(bytes: &[u8]) -> u16 {
    bytes.try_into().map_or(0, u16::from_ne_bytes)
}

/// Why a transaction was not done. Nothing of it was.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {source}")]
pub struct Refused {
    /// Which of its steps the kernel refused.
    pub step: String,
    /// What the kernel said.
    pub source: io::Error,
}

impl Refused {
    /// The kernel's number of the error.
    pub fn errno(&self) -> Option<i32> {
        self.source.raw_os_error()
    }
}

impl Netlink {
    /// Has a batch done, and waits for the kernel's word that it is.
    ///
    /// # Errors
    /// The first step that was refused.
    pub fn transact(&mut self, batch: Batch) -> Result<(), Refused> {
        self.deliver(batch.finish())
    }

    /// Has the kernel look a batch through as if it were to be done, and do nothing.
    ///
    /// # Errors
    /// The first step that it would refuse.
    pub fn try_out(&mut self, batch: Batch) -> Result<(), Refused> {
        self.deliver(batch.without_end())
    }

    fn deliver(&mut self, (bytes, steps): (Vec<u8>, Vec<String>)) -> Result<(), Refused> {
        let system = |source: io::Error| Refused { step: "the transaction".to_owned(), source };
        // As much as is sent at once; an earlier answer that nobody waited for is none of this batch's.
        while self.receive().map_err(system)?.is_some() {}
        // Without CAP_NET_ADMIN there is nothing to send.
        let _unchanged =
            set_socket_send_buffer_size_force(&self.socket, bytes.len() + OVERHEAD_BYTES).is_err();
        let kernel = SocketAddrNetlink::new(0, 0);
        sendto(&self.socket, &bytes, SendFlags::empty(), &kernel).map_err(|error| system(error.into()))?;
        let answered = self.await_verdict(&steps);
        self.rest();
        answered
    }

    /// Errors come in the order of the steps, and after them the answer to the last one.
    fn await_verdict(&mut self, steps: &[String]) -> Result<(), Refused> {
        let last = FIRST.saturating_add(u32::try_from(steps.len()).unwrap_or(u32::MAX)).saturating_sub(1);
        let mut failed: Option<Refused> = None;
        loop {
            let Some(datagram) = self.await_datagram()? else { continue };
            for message in messages(datagram).filter(|message| message.kind == NLMSG_ERROR) {
                let code = native_u32(message.body, 0).unwrap_or_default().cast_signed();
                let step = usize::try_from(message.sequence.saturating_sub(FIRST)).ok();
                let step = step.and_then(|step| steps.get(step)).cloned().unwrap_or_default();
                if code != 0 && failed.is_none() {
                    let source = io::Error::from_raw_os_error(code.saturating_neg());
                    failed = Some(Refused { step, source });
                }
                // What fails as a whole is answered at the beginning.
                if message.sequence == last || (code != 0 && message.sequence == FIRST) {
                    return failed.map_or(Ok(()), Err);
                }
            }
        }
    }

    fn await_datagram(&mut self) -> Result<Option<&[u8]>, Refused> {
        let system = |source: io::Error| Refused { step: "the transaction's answer".to_owned(), source };
        let socket = self.socket.as_fd();
        let ready = poll(&mut [PollFd::new(&socket, PollFlags::IN)], Some(&PATIENCE));
        match ready {
            Ok(0) => Err(system(io::Error::new(io::ErrorKind::TimedOut, "the kernel did not answer"))),
            Ok(_) => self.receive().map_err(system),
            Err(rustix::io::Errno::INTR) => Ok(None),
            Err(error) => Err(system(error.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{attributes, messages};
    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        let mut written = Attributes::default();
        written.text(1, "abc");
        written.nested(2, |within| within.number(3, 7));
        written.long(4, 9);
        let bytes = written.into_bytes();
        let read: Vec<_> = attributes(&bytes).collect();
        assert_eq!(read.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), [1, 2, 4]);
        assert_eq!(read[0].1, b"abc\0");
        assert_eq!(attributes(read[1].1).next(), Some((3, &[0, 0, 0, 7][..])));
    }

    #[test]
    fn a_batch_has_its_frame_and_asks_for_one_answer() {
        let mut batch = Batch::default();
        batch.message("one", 2_560, 0x400, 1, |attributes| attributes.text(1, "t"));
        batch.message("two", 2_563, 0, 1, |attributes| attributes.text(1, "t"));
        let (bytes, steps) = batch.finish();
        assert_eq!(steps, ["the transaction", "one", "two"]);
        let read: Vec<_> = messages(&bytes).collect();
        assert_eq!(read.iter().map(|message| message.kind).collect::<Vec<_>>(), [16, 2_560, 2_563, 17]);
        assert_eq!(read.iter().map(|message| message.flags & NLM_F_ACK).collect::<Vec<_>>(), [0, 0, 4, 0]);
        assert_eq!(read.iter().map(|message| message.sequence).collect::<Vec<_>>(), [1, 2, 3, 4]);
    }

    #[test]
    fn a_trial_is_the_same_without_the_end_by_which_the_kernel_does_it() {
        let batch = || {
            let mut batch = Batch::default();
            batch.message("one", 2_560, 0x400, 1, |attributes| attributes.text(1, "t"));
            batch
        };
        let ((whole, steps), (trial, same)) = (batch().finish(), batch().without_end());
        assert!(whole.starts_with(&trial) && steps == same);
        assert_eq!(messages(&trial).map(|message| message.kind).collect::<Vec<_>>(), [16, 2_560]);
    }
}
