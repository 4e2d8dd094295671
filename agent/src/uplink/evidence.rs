//! Hands evidence to the collector: which piece comes next, and what is made of the answers. Time is an argument.
//!
//! One piece at a time, and only when there is nothing else to send: findings never wait for it. The first of a bundle on a
//! connection has no bytes and asks how far the collector is, so that a break costs one piece. Of a collector whose answers make
//! no sense nothing is asked any more on that connection; the link itself goes on.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use picket_protocol::evidence::{CHUNK_BYTES_MAX, Chunk, Held, REASON_BYTES_MAX};
use picket_protocol::finding::printable;
use picket_protocol::frame::Frame;
use picket_protocol::message::from_body;
use uuid::Uuid;

/// A collector that does not answer a piece within that time is asked anew.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// A bundle that the collector refuses, or that cannot be read, is left alone at least so long, and at most.
const LEAVE_ALONE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(3_600));
/// Answers in a row that the collector has not more than before.
const STALLS_MAX: u32 = 8;

/// Where bundles come from. Called on the link's thread: it must not wait for long.
pub trait EvidenceSource: Send + Sync {
    /// A bundle that may be sent to a collector that holds so many records, with its size; none of `not`.
    fn offer(&self, acknowledged: u64, not: &[Uuid]) -> Option<(Uuid, u64)>;
    /// A piece of it.
    ///
    /// # Errors
    /// What the file system says.
    fn read(&self, id: Uuid, offset: u64, length: usize) -> std::io::Result<Vec<u8>>;
    /// How far the collector is, and why it takes no more now.
    fn held(&self, id: Uuid, held: u64, refused: Option<&str>);
    /// The collector has all of it.
    fn complete(&self, id: Uuid);
    /// Readable once there is more to offer, until [`EvidenceSource::clear_wake`]: the receipt of a bundle may be acknowledged
    /// before the bundle is offered, and then nothing else would wake the link for it.
    fn wake(&self) -> BorrowedFd<'_>;
    /// Call it before asking for offers, not after.
    fn clear_wake(&self);
}

/// A piece that is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Asked {
    id: Uuid,
    total: u64,
    /// Where the piece ends.
    end: u64,
    at: Duration,
}

/// See the module.
pub struct Upload {
    source: Option<Arc<dyn EvidenceSource>>,
    /// Bytes a second.
    rate: u64,
    /// The collector of this connection takes evidence.
    takes: bool,
    /// That it takes none was told of what waits.
    told: bool,
    asked: Option<Asked>,
    /// How far the collector is with a bundle.
    held: Option<(Uuid, u64)>,
    stalls: u32,
    /// Nothing is sent before: of the rate.
    due: Duration,
    /// Bundles that are left alone for a while.
    alone: Vec<(Uuid, Duration)>,
}

impl Upload {
    /// Of an agent that has no evidence to give.
    pub fn none() -> Self {
        Self {
            source: None,
            rate: 1,
            takes: false,
            told: false,
            asked: None,
            held: None,
            stalls: 0,
            due: Duration::ZERO,
            alone: Vec::new(),
        }
    }

    /// Of what `source` has, at most `rate` bytes a second.
    pub fn of(source: Arc<dyn EvidenceSource>, rate: u64) -> Self {
        Self { source: Some(source), rate: rate.max(1), ..Self::none() }
    }

    /// A collector welcomed us, and said whether it takes evidence.
    pub fn welcomed(&mut self, takes: bool) {
        (self.takes, self.told, self.asked, self.held, self.stalls) = (takes, false, None, None, 0);
        self.alone.clear();
    }

    /// To be polled beside the rest, if there is a source: see [`EvidenceSource::wake`].
    pub fn source(&self) -> Option<Arc<dyn EvidenceSource>> {
        self.source.clone()
    }

    /// The next piece, when one is due.
    pub fn next(&mut self, acknowledged: u64, now: Duration) -> Option<Frame> {
        if !self.takes {
            self.tell_that_none_is_taken(acknowledged);
            return None;
        }
        if let Some(asked) = self.asked {
            if now < asked.at.saturating_add(ANSWER_WITHIN) {
                return None;
            }
            (self.asked, self.held) = (None, None);
        }
        if now < self.due {
            return None;
        }
        let (id, total) = self.offered(acknowledged, now)?;
        let known = self.held.filter(|(known, _)| *known == id).map(|(_, held)| held);
        let offset = known.unwrap_or(0);
        let left = usize::try_from(total.saturating_sub(offset)).unwrap_or(CHUNK_BYTES_MAX);
        let length = if known.is_some() { left.min(CHUNK_BYTES_MAX) } else { 0 };
        let bytes = match self.source.as_ref()?.read(id, offset, length) {
            Ok(bytes) => bytes,
            Err(error) => {
                tracing::warn!(%error, %id, "evidence cannot be read from the spool");
                self.leave_alone(id, LEAVE_ALONE.1, now);
                return None;
            }
        };
        let sent = u64::try_from(bytes.len()).unwrap_or(0);
        let frame = Chunk { evidence: id, offset, total, bytes }.to_frame().ok()?;
        self.asked = Some(Asked { id, total, end: offset.saturating_add(sent), at: now });
        self.due = now.saturating_add(Duration::from_secs_f64(sent_seconds(sent, self.rate)));
        Some(frame)
    }

    /// When [`Upload::next`] has something to give, if nothing happens before.
    pub fn deadline(&self, acknowledged: u64, now: Duration) -> Option<Duration> {
        let answer = self.asked.map(|asked| asked.at.saturating_add(ANSWER_WITHIN));
        if answer.is_some() {
            return answer;
        }
        let again = self.alone.iter().map(|(_, until)| *until).filter(|until| *until > now).min();
        let offered = self.offered(acknowledged, now).map(|_| self.due);
        [again.filter(|_| self.takes), offered].into_iter().flatten().min()
    }

    /// Takes the body of a frame `held`.
    ///
    /// # Errors
    /// Why it makes no sense; nothing more is asked on this connection then.
    pub fn answered(&mut self, body: &[u8], now: Duration) -> Result<(), String> {
        let answer = self.judge(body, now);
        if answer.is_err() {
            self.takes = false;
            self.asked = None;
        }
        answer
    }

    fn judge(&mut self, body: &[u8], now: Duration) -> Result<(), String> {
        let held: Held = from_body("held", body).map_err(|error| error.to_string())?;
        let asked = self.asked.filter(|asked| asked.id == held.evidence);
        let asked = asked.ok_or("the collector tells of evidence that it was not asked about")?;
        self.asked = None;
        let source = self.source.clone().ok_or("there is no evidence here")?;
        if held.complete {
            source.complete(asked.id);
            self.held = None;
            return Ok(());
        }
        if let Some(refused) = held.refused {
            let reason: String = refused.reason.chars().take(REASON_BYTES_MAX).collect();
            let reason = printable(&reason).into_owned();
            tracing::warn!(id = %asked.id, reason, "the collector does not take evidence now");
            source.held(asked.id, held.held.min(asked.total), Some(&reason));
            self.leave_alone(asked.id, Duration::from_secs(refused.retry_after), now);
            return Ok(());
        }
        if held.held > asked.total {
            return Err("the collector says to have more of a bundle than there is".to_owned());
        }
        // A question tells where to go on; so does a piece that was not taken, but not for ever.
        let question = self.held.is_none_or(|(id, _)| id != asked.id);
        self.stalls = if question || held.held >= asked.end { 0 } else { self.stalls + 1 };
        if self.stalls > STALLS_MAX || held.held == asked.total {
            self.leave_alone(asked.id, LEAVE_ALONE.0, now);
        } else {
            self.held = Some((asked.id, held.held));
        }
        source.held(asked.id, held.held, None);
        Ok(())
    }

    fn tell_that_none_is_taken(&mut self, acknowledged: u64) {
        let waiting = self.source.as_ref().filter(|_| !self.told);
        if let Some((source, (id, _))) =
            waiting.and_then(|source| Some((source, source.offer(acknowledged, &[])?)))
        {
            tracing::warn!(%id, "evidence waits, and the collector of this connection takes none");
            source.held(id, 0, Some("on this connection it takes none: it may be of an earlier version"));
            self.told = true;
        }
    }

    fn offered(&self, acknowledged: u64, now: Duration) -> Option<(Uuid, u64)> {
        let source = self.source.as_ref().filter(|_| self.takes)?;
        let alone: Vec<Uuid> =
            self.alone.iter().filter(|(_, until)| now < *until).map(|(id, _)| *id).collect();
        source.offer(acknowledged, &alone)
    }

    fn leave_alone(&mut self, id: Uuid, wait: Duration, now: Duration) {
        let until = now.saturating_add(wait.clamp(LEAVE_ALONE.0, LEAVE_ALONE.1));
        self.alone.retain(|(other, due)| *other != id && *due > now);
        self.alone.push((id, until));
        (self.held, self.stalls) = (None, 0);
    }
}

#[expect(clippy::cast_precision_loss, reason = "a pause, of at most 2^18 bytes")]
fn sent_seconds(sent: u64, rate: u64) -> f64 {
    sent as f64 / rate as f64
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;
    use std::sync::Mutex;

    use picket_protocol::evidence::HeldRefusal;
    use picket_protocol::frame::FrameType;
    use picket_protocol::message::to_frame;
    use proptest::prelude::*;

    use super::*;
    use crate::sys::Wake;

    const TOTAL: usize = 600_000;

    struct Spool {
        gone: Mutex<bool>,
        refused: Mutex<Vec<String>>,
        wake: Wake,
    }

    impl Default for Spool {
        fn default() -> Self {
            let wake = Wake::new().expect("a descriptor");
            Self { gone: Mutex::default(), refused: Mutex::default(), wake }
        }
    }

    fn byte(at: usize) -> u8 {
        u8::try_from(at % 251).unwrap_or(0)
    }

    impl EvidenceSource for Spool {
        fn offer(&self, acknowledged: u64, not: &[Uuid]) -> Option<(Uuid, u64)> {
            let gone = *self.gone.lock().expect("one thread");
            (acknowledged >= 7 && !not.contains(&Uuid::nil()) && !gone).then_some((Uuid::nil(), 600_000))
        }

        fn read(&self, _: Uuid, offset: u64, length: usize) -> std::io::Result<Vec<u8>> {
            let offset = usize::try_from(offset).expect("small");
            Ok((offset..offset + length).map(byte).collect())
        }

        fn held(&self, _: Uuid, _: u64, refused: Option<&str>) {
            self.refused.lock().expect("one thread").extend(refused.map(str::to_owned));
        }

        fn complete(&self, _: Uuid) {
            *self.gone.lock().expect("one thread") = true;
        }

        fn wake(&self) -> BorrowedFd<'_> {
            self.wake.as_fd()
        }

        fn clear_wake(&self) {
            self.wake.clear();
        }
    }

    fn held(held: u64, complete: bool, refused: Option<u64>) -> Vec<u8> {
        let refused = refused.map(|retry_after| HeldRefusal { reason: "full".to_owned(), retry_after });
        let held = Held { evidence: Uuid::nil(), held, complete, refused };
        to_frame(FrameType::Held, &held).expect("short").body
    }

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn nothing_is_sent_to_who_does_not_take_it_or_before_its_receipt() {
        let spool = Arc::new(Spool::default());
        let mut upload = Upload::of(spool.clone(), u64::MAX);
        upload.welcomed(false);
        assert_eq!((upload.next(9, seconds(1)), upload.next(9, seconds(2))), (None, None));
        assert_eq!(spool.refused.lock().expect("one thread").len(), 1, "told once");
        upload.welcomed(true);
        assert_eq!(upload.next(6, seconds(1)), None, "the receipt is not there yet");
        assert!(upload.next(7, seconds(1)).is_some());
        assert_eq!(upload.next(7, seconds(2)), None, "one at a time");
        assert!(upload.next(7, seconds(62)).is_some(), "asked anew");
        upload.welcomed(false);
        assert_eq!(upload.next(9, seconds(99)), None);
        assert_eq!(Upload::none().next(9, seconds(1)), None);
    }

    #[test]
    fn a_collector_that_makes_no_sense_is_not_asked_any_more() {
        for nonsense in [held(600_001, false, None), b"{".to_vec(), held(0, false, None).replace_id()] {
            let mut upload = Upload::of(Arc::new(Spool::default()), u64::MAX);
            upload.welcomed(true);
            assert!(upload.next(7, seconds(1)).is_some());
            assert!(upload.answered(&nonsense, seconds(1)).is_err());
            assert_eq!(upload.next(7, seconds(1_000)), None);
        }
        let mut upload = Upload::of(Arc::new(Spool::default()), u64::MAX);
        upload.welcomed(true);
        assert!(upload.answered(&held(0, false, None), seconds(1)).is_err(), "unasked");
    }

    trait Other {
        fn replace_id(self) -> Self;
    }

    impl Other for Vec<u8> {
        fn replace_id(self) -> Self {
            String::from_utf8(self).expect("text").replacen("00000000-0000", "00000001-0000", 1).into_bytes()
        }
    }

    #[test]
    fn who_refuses_is_asked_again_later() {
        let mut upload = Upload::of(Arc::new(Spool::default()), u64::MAX);
        upload.welcomed(true);
        assert!(upload.next(7, seconds(1)).is_some());
        assert_eq!(upload.answered(&held(0, false, Some(100)), seconds(1)), Ok(()));
        assert_eq!(upload.next(7, seconds(100)), None);
        assert_eq!(upload.deadline(7, seconds(100)), Some(seconds(101)));
        assert!(upload.next(7, seconds(101)).is_some());
    }

    #[test]
    fn no_more_than_the_rate() {
        let mut upload = Upload::of(Arc::new(Spool::default()), 262_144);
        upload.welcomed(true);
        assert!(upload.next(7, seconds(1)).is_some(), "a question costs nothing");
        assert_eq!(upload.answered(&held(0, false, None), seconds(1)), Ok(()));
        assert!(upload.next(7, seconds(1)).is_some());
        assert_eq!(upload.answered(&held(262_144, false, None), seconds(1)), Ok(()));
        assert_eq!(upload.next(7, Duration::from_millis(1_999)), None);
        assert_eq!(upload.deadline(7, seconds(1)), Some(seconds(2)));
        assert!(upload.next(7, seconds(2)).is_some());
    }

    #[test]
    fn who_has_nothing_to_send_does_not_wake() {
        let spool = Arc::new(Spool::default());
        let mut upload = Upload::of(spool.clone(), u64::MAX);
        upload.welcomed(true);
        assert!(upload.next(7, seconds(1)).is_some());
        assert_eq!(upload.answered(&held(0, false, Some(100)), seconds(1)), Ok(()));
        *spool.gone.lock().expect("one thread") = true;
        assert_eq!(upload.deadline(7, seconds(200)), None, "it was released meanwhile");
        *spool.gone.lock().expect("one thread") = false;
        assert!(upload.next(7, seconds(200)).is_some());
        *spool.gone.lock().expect("one thread") = true;
        assert_eq!(upload.next(7, seconds(300)), None);
        assert_eq!(upload.deadline(7, seconds(300)), None, "nor for an answer that is not awaited any more");
    }

    proptest! {
        /// Whatever is lost, and however often the connection breaks, the collector ends with the very bytes.
        #[test]
        fn all_of_it_arrives(losses in prop::collection::vec(0..4_u8, 0..40)) {
            let spool = Arc::new(Spool::default());
            let mut upload = Upload::of(spool.clone(), u64::MAX);
            upload.welcomed(true);
            let (mut theirs, mut now, mut losses) = (Vec::new(), seconds(1), losses.into_iter());
            for _ in 0..200 {
                if *spool.gone.lock().expect("one thread") {
                    break;
                }
                now += seconds(61);
                let Some(frame) = upload.next(7, now) else { continue };
                let chunk = Chunk::from_body(&frame.body).expect("sound");
                let loss = losses.next().unwrap_or(0);
                // Neither the piece nor the answer, or a new connection.
                if loss == 1 {
                    continue;
                }
                if loss == 2 {
                    upload.welcomed(true);
                    continue;
                }
                if usize::try_from(chunk.offset) == Ok(theirs.len()) {
                    theirs.extend_from_slice(&chunk.bytes);
                }
                let complete = theirs.len() == TOTAL;
                // The answer only.
                if loss != 3 {
                    let size = u64::try_from(theirs.len()).expect("small");
                    upload.answered(&held(size, complete, None), now).expect("sense");
                }
            }
            prop_assert_eq!(theirs, (0..TOTAL).map(byte).collect::<Vec<_>>());
        }

        #[test]
        fn no_answer_panics(body in prop::collection::vec(any::<u8>(), 0..200), claimed in any::<u64>()) {
            let mut upload = Upload::of(Arc::new(Spool::default()), 1);
            upload.welcomed(true);
            let _first = upload.next(7, seconds(1));
            let _any = upload.answered(&body, seconds(1));
            let _any = upload.answered(&held(claimed, claimed % 2 == 0, Some(claimed)), seconds(2));
            let _next = upload.next(7, seconds(1_000_000));
        }
    }
}
