//! Hears what others do to the agent's tables, as the kernel tells it of every transaction of nftables.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::net::netlink;

use super::{HEADER_BYTES, PREFIX};
use crate::netlink::{Netlink, attribute, messages, name, number};

/// `NFNLGRP_NFTABLES`, as a mask.
const GROUP: u32 = 1 << 6;
const NEW_GENERATION: u16 = (10 << 8) | 15;

/// Somebody changed the agent's tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meddled {
    /// The process; 0 when not known.
    pub pid: u32,
    /// Its name, from outside.
    pub by: String,
}

/// The socket that hears, while something is in force.
#[derive(Debug, Default)]
pub struct Changes(Option<Netlink>);

impl Changes {
    /// Begins to hear of changes. Where that is not to be had, nobody puts back what others change.
    pub fn listen(&mut self) {
        if self.0.is_none() {
            self.0 = Netlink::open(Some(netlink::NETFILTER), GROUP)
                .map_err(|error| tracing::warn!(%error, "changes of the firewall by others are not heard"))
                .ok();
        }
    }

    /// Hears of changes no more.
    pub fn stop(&mut self) {
        self.0 = None;
    }

    /// What to poll for changes.
    pub fn events(&self) -> Option<BorrowedFd<'_>> {
        self.0.as_ref().map(AsFd::as_fd)
    }

    /// Reads what was heard: whether somebody else than the sockets `own` changed a table of the agent, and who, as the kernel
    /// says.
    pub fn hear(&mut self, own: &[u32]) -> Option<Meddled> {
        let socket = self.0.as_mut()?;
        let (mut meddled, mut touched) = (None, false);
        loop {
            match socket.receive() {
                Ok(Some(datagram)) => {
                    for message in messages(datagram) {
                        let body = message.body.get(HEADER_BYTES..).unwrap_or_default();
                        if message.kind == NEW_GENERATION {
                            // It closes what a transaction did.
                            let pid = attribute(body, 2).and_then(number).unwrap_or_default();
                            let by = attribute(body, 3).map(name).unwrap_or_default();
                            if std::mem::take(&mut touched) && !own.contains(&message.port) {
                                meddled = Some(Meddled { pid, by });
                            }
                        } else {
                            touched |=
                                attribute(body, 1).is_some_and(|value| name(value).starts_with(PREFIX));
                        }
                    }
                }
                Ok(None) => break,
                // Something was missed: all is put anew.
                Err(_overflow) => meddled = Some(Meddled { pid: 0, by: "somebody".to_owned() }),
            }
        }
        socket.rest();
        meddled
    }
}
