//! Frames, however the stream is cut.

use picket_protocol::frame::{FRAME_BYTES_MAX, Frame, FrameDecoder, FrameError, FrameType};
use proptest::collection::vec;
use proptest::prelude::*;

fn frame() -> impl Strategy<Value = Frame> {
    (proptest::sample::select(&FrameType::ALL[..]), vec(any::<u8>(), 0..300))
        .prop_map(|(frame_type, body)| Frame::new(frame_type, body).unwrap())
}

/// All frames that come out of `stream` cut at `cuts`.
fn decode(stream: &[u8], cuts: &[usize]) -> (Vec<Frame>, Result<(), FrameError>) {
    let (mut decoder, mut frames, mut at) = (FrameDecoder::default(), Vec::new(), 0);
    let mut ends: Vec<usize> = cuts.iter().map(|cut| cut % (stream.len() + 1)).collect();
    ends.push(stream.len());
    ends.sort_unstable();
    for end in ends {
        decoder.push(&stream[at..end]);
        at = end;
        loop {
            match decoder.next_frame() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Err(error)),
            }
        }
    }
    (frames, decoder.finish())
}

proptest! {
    #[test]
    fn frames_survive_any_cutting(frames in vec(frame(), 0..6), cuts in vec(any::<usize>(), 0..40)) {
        let stream: Vec<u8> = frames.iter().flat_map(Frame::to_bytes).collect();
        prop_assert_eq!(decode(&stream, &cuts), (frames, Ok(())));
    }

    #[test]
    fn cutting_never_changes_the_outcome(stream in vec(any::<u8>(), 0..60), cuts in vec(any::<usize>(), 0..10)) {
        prop_assert_eq!(decode(&stream, &cuts), decode(&stream, &[]));
    }

    #[test]
    fn a_torn_stream_says_so(frames in vec(frame(), 1..4), cut in any::<prop::sample::Index>()) {
        let stream: Vec<u8> = frames.iter().flat_map(Frame::to_bytes).collect();
        let end = cut.index(stream.len());
        let (whole, outcome) = decode(&stream[..end], &[]);
        let used: usize = whole.iter().map(|frame| frame.to_bytes().len()).sum();
        let expected = if used == end { Ok(()) } else { Err(FrameError::Torn(end - used)) };
        prop_assert_eq!(outcome, expected);
        prop_assert!(frames.starts_with(&whole));
    }

    #[test]
    fn lengths_and_types_are_checked_on_the_first_bytes(length in any::<u32>(), byte in any::<u8>()) {
        let mut decoder = FrameDecoder::default();
        decoder.push(&length.to_be_bytes());
        decoder.push(&[byte]);
        let size = usize::try_from(length).unwrap();
        let known = FrameType::from_byte(byte);
        match decoder.next_frame() {
            Err(FrameError::Length(l)) => prop_assert!(l == length && (size == 0 || size > FRAME_BYTES_MAX)),
            Err(FrameError::Type(t)) => prop_assert!(t == byte && known.is_none()),
            Err(FrameError::Body { frame_type, bytes }) => {
                prop_assert!(Some(frame_type) == known && bytes == size - 1 && bytes > frame_type.body_bytes_max());
            }
            Ok(None) => prop_assert!(size > 1 && size - 1 <= known.unwrap().body_bytes_max()),
            Ok(Some(frame)) => prop_assert!(size == 1 && frame.body.is_empty()),
            Err(other) => prop_assert!(false, "{other}"),
        }
    }
}

#[test]
fn an_error_is_final() {
    let mut decoder = FrameDecoder::default();
    decoder.push(&[0, 0, 0, 0]);
    assert_eq!(decoder.next_frame(), Err(FrameError::Length(0)));
    decoder.push(&Frame::new(FrameType::Bye, Vec::new()).unwrap().to_bytes());
    assert_eq!(decoder.next_frame(), Err(FrameError::Length(0)));
    assert_eq!(decoder.finish(), Err(FrameError::Length(0)));
}

#[test]
fn types_that_are_not_accepted_are_refused_before_their_bodies() {
    let mut decoder = FrameDecoder::accepting(&[FrameType::Hello]);
    decoder.push(&[0, 0, 1, 0, FrameType::Batch as u8]);
    assert_eq!(decoder.next_frame(), Err(FrameError::Unexpected(FrameType::Batch)));
    let mut decoder = FrameDecoder::accepting(&[FrameType::Hello]);
    decoder.push(&[0, 0, 0, 1, FrameType::Hello as u8]);
    assert!(decoder.next_frame().unwrap().is_some());
}

#[test]
fn the_largest_frame_of_each_type_passes_and_no_larger() {
    for frame_type in FrameType::ALL {
        let most = frame_type.body_bytes_max();
        let frame = Frame::new(frame_type, vec![7; most]).unwrap();
        assert_eq!(decode(&frame.to_bytes(), &[]), (vec![frame], Ok(())));
        let error = FrameError::Body { frame_type, bytes: most + 1 };
        assert_eq!(Frame::new(frame_type, vec![7; most + 1]), Err(error));
        assert_eq!(FrameType::from_byte(frame_type as u8), Some(frame_type));
    }
}

/// A megabyte that arrives byte by byte, and one of tiny frames in one piece, both in linear time: a quadratic
/// decoder would need minutes for either.
#[test]
fn time_grows_with_the_stream_only() {
    let begun = std::time::Instant::now();
    let frame = Frame::new(FrameType::Batch, vec![7; FRAME_BYTES_MAX - 1]).unwrap().to_bytes();
    let mut decoder = FrameDecoder::default();
    let mut frames = 0;
    for byte in &frame {
        decoder.push(std::slice::from_ref(byte));
        frames += usize::from(decoder.next_frame().unwrap().is_some());
    }
    assert_eq!(frames, 1);
    let tiny = Frame::new(FrameType::Bye, Vec::new()).unwrap().to_bytes().repeat(200_000);
    decoder.push(&tiny);
    while decoder.next_frame().unwrap().is_some() {
        frames += 1;
    }
    assert_eq!(frames, 200_001);
    assert!(begun.elapsed().as_secs() < 20, "took {:?}", begun.elapsed());
}
