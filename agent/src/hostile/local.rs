//! What a proxy answers, what the uplink's process says, what clients of the local socket ask, what administrators write.

use crate::config::Config;
use crate::status::message::{FINDINGS_MAX, Request};
use crate::uplink::examine::date;
use crate::uplink::ipc::{Decoder, IpcError, Message};
use crate::uplink::proxy::Response;

/// The answer at once and byte by byte: a tunnel is open only where nothing follows the head.
pub fn proxy(input: &[u8]) -> bool {
    let whole = Response::default().push(input);
    if whole.as_ref().is_ok_and(|open| *open) {
        assert!(input.ends_with(b"\r\n\r\n") && input.starts_with(b"HTTP/1."));
        let mut response = Response::default();
        let last = input.iter().map(|byte| response.push(&[*byte])).last();
        assert!(last.is_some_and(|last| last.is_ok_and(|open| open)), "cutting changes nothing");
        return true;
    }
    false
}

/// The date of an answer is one short line of it.
pub fn answer(input: &[u8]) -> bool {
    let Some(date) = date(input) else { return false };
    assert!(date.is_ascii() && !date.contains(['\r', '\n']) && date.len() <= 64);
    true
}

/// One byte for how the rest is cut, which changes nothing; and what is read is written back.
pub fn pipe(input: &[u8]) -> bool {
    let Some((step, stream)) = input.split_first() else { return false };
    let decode = |step: usize| {
        let (mut decoder, mut messages) = (Decoder::default(), Vec::new());
        for chunk in stream.chunks(step.max(1)) {
            decoder.push(chunk);
            loop {
                match decoder.next_message() {
                    Ok(Some(message)) => messages.push(message),
                    Ok(None) => break,
                    Err(error) => return (messages, Some(error)),
                }
            }
        }
        (messages, None)
    };
    let (messages, error) = decode(usize::from(*step));
    let (again, other) = decode(stream.len());
    assert_eq!(messages, again, "cutting changes nothing");
    assert_eq!(error.map(|error: IpcError| error.to_string()), other.map(|error| error.to_string()));
    for message in &messages {
        let mut decoder = Decoder::default();
        decoder.push(&message.to_bytes().expect("what was read can be written"));
        assert_eq!(decoder.next_message().expect("and read"), Some::<Message>(message.clone()));
    }
    !messages.is_empty()
}

/// A request has one meaning, and never asks for more than there may be.
pub fn request(input: &[u8]) -> bool {
    let Ok(request) = serde_json::from_slice::<Request>(input) else { return false };
    let text = serde_json::to_vec(&request).expect("what was read can be written");
    assert_eq!(serde_json::from_slice::<Request>(&text).expect("and read"), request);
    if let Request::Findings(query) = &request {
        assert!(query.filter().limit <= FINDINGS_MAX);
    }
    true
}

/// A configuration is refused with the line of each problem, or is one that the agent can live with.
pub fn configuration(input: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(input) else { return false };
    match Config::parse(text) {
        Ok(config) => {
            assert!(config.state_dir.is_absolute() && config.run_dir.is_absolute());
            assert_ne!(config.state_dir, config.run_dir);
            assert!(config.ledger.disk_bytes_max >= config.ledger.retention_bytes);
            assert!(!config.files.enabled || !config.files.trees.is_empty());
            true
        }
        Err(problems) => {
            let lines = text.split('\n').count();
            assert!(!problems.is_empty(), "what is refused is told");
            assert!(problems.iter().all(|problem| (1..=lines).contains(&problem.line)), "{problems:?}");
            false
        }
    }
}
