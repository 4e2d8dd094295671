//! The network part of `agent enroll`: one frame there, one frame back, in the same sandbox as all else.

use std::time::Duration;

use picket_protocol::crypto::Hash;
use picket_protocol::frame::{Frame, FrameDecoder, FrameType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::core_end::{Inbox, split};
use super::dial::{DialError, Target, tls_error};
use super::ipc::{Decoder, IpcError, Message, Notice};
use super::tls;

/// For the collector to answer: it makes a certificate and commits to its disk.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// What a collector may answer.
const ANSWERS: &[FrameType] = &[FrameType::Enrolled, FrameType::Bye];

/// Does what [`super::ipc::Task::Enrol`] asks for.
pub async fn run(core: UnixStream, decoder: Decoder, target: &Target, ca: Hash) -> Result<(), IpcError> {
    let (mut inbox, mut outbox) = split(core, decoder);
    match exchange(&mut inbox, target, ca).await {
        Ok(answer) => outbox.send(&answer.to_bytes()).await,
        Err(notice) => outbox.notice(notice).await,
    }
}

fn failed(reason: impl ToString) -> Notice {
    Notice::Failed { reason: reason.to_string() }
}

async fn exchange(inbox: &mut Inbox, target: &Target, ca: Hash) -> Result<Frame, Notice> {
    let request = match inbox.next().await {
        Ok(Message::Frame(frame)) if frame.frame_type == FrameType::Enroll => frame,
        Ok(_) => return Err(failed("there was nothing to send")),
        Err(error) => return Err(failed(error)),
    };
    let config = tls::enrol_config(ca).map_err(failed)?;
    let talk = async {
        let dialled = target.dial(config).await.map_err(|error| match error {
            DialError::Foreign(_) => Notice::Foreign { reason: error.to_string() },
            _ => failed(error),
        });
        let mut stream = dialled?.stream;
        let broken = |error: std::io::Error| failed(tls_error(&error));
        stream.write_all(&request.to_bytes()).await.map_err(broken)?;
        stream.flush().await.map_err(broken)?;
        let mut decoder = FrameDecoder::accepting(ANSWERS);
        let mut buffer = vec![0; 16 * 1024];
        loop {
            let length = stream.read(&mut buffer).await.map_err(broken)?;
            if length == 0 {
                return Err(failed("the collector closed the connection without an answer"));
            }
            decoder.push(buffer.get(..length).unwrap_or_default());
            if let Some(frame) = decoder.next_frame().map_err(failed)? {
                return Ok(frame);
            }
        }
    };
    tokio::select! {
        answer = timeout(ANSWER_TIMEOUT, talk) => {
            answer.unwrap_or_else(|_| Err(failed("the collector did not answer in time")))
        }
        error = inbox.drain() => Err(failed(error)),
    }
}
