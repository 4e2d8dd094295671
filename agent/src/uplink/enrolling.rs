//! The network part of `agent enroll`: one frame there, one frame back, in the same sandbox as all else.

use std::time::Duration;

use picket_protocol::crypto::Hash;
use picket_protocol::frame::{Frame, FrameDecoder, FrameType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::core_end::{Inbox, split};
use super::dial::{Target, tls_error};
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
        Err(reason) => outbox.notice(Notice::Failed { reason }).await,
    }
}

async fn exchange(inbox: &mut Inbox, target: &Target, ca: Hash) -> Result<Frame, String> {
    let request = match inbox.next().await {
        Ok(Message::Frame(frame)) if frame.frame_type == FrameType::Enroll => frame,
        Ok(_) => return Err("there was nothing to send".to_owned()),
        Err(error) => return Err(error.to_string()),
    };
    let config = tls::enrol_config(ca).map_err(|error| error.to_string())?;
    let talk = async {
        let mut stream = target.dial(config).await.map_err(|error| error.to_string())?.stream;
        let failed = |error: std::io::Error| tls_error(&error).to_string();
        stream.write_all(&request.to_bytes()).await.map_err(failed)?;
        stream.flush().await.map_err(failed)?;
        let mut decoder = FrameDecoder::accepting(ANSWERS);
        let mut buffer = vec![0; 16 * 1024];
        loop {
            let length = stream.read(&mut buffer).await.map_err(failed)?;
            if length == 0 {
                return Err("the collector closed the connection without an answer".to_owned());
            }
            decoder.push(buffer.get(..length).unwrap_or_default());
            if let Some(frame) = decoder.next_frame().map_err(|error| error.to_string())? {
                return Ok(frame);
            }
        }
    };
    tokio::select! {
        answer = timeout(ANSWER_TIMEOUT, talk) => {
            answer.unwrap_or_else(|_| Err("the collector did not answer in time".to_owned()))
        }
        error = inbox.drain() => Err(error.to_string()),
    }
}
