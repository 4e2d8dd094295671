//! The wire, version `picket/1`: what an agent and a collector say to each other, precisely enough to write
//! either side anew. The formats of what is carried stand with their types; this page says what is carried
//! when, by whom, and what happens otherwise. The words *must* and *may* bind implementations.
//!
//! # Connections
//!
//! One TCP port serves everything. TLS 1.3 and no older version; the ALPN name decides what is spoken:
//!
//! | ALPN | who connects | client certificate | spoken |
//! |---|---|---|---|
//! | `picket/1` | an agent | required, issued by the collector's CA | [sessions](#sessions) |
//! | `picket-enroll/1` | a host that becomes an agent | none | [enrolment](#enrolment) |
//! | `http/1.1` | operators | none | the HTTPS API; not described here |
//!
//! The collector's server certificate is issued by the collector's CA, whose SHA-256 (of the DER) stands in the
//! [join string](crate::join). The agent must check chain, name and validity against that CA alone. An agent
//! may reach the port through an HTTP `CONNECT` proxy; TLS is between agent and collector all the same.
//!
//! An agent's certificate names it: subject common name = the agent id (lower-case hyphenated UUID), subject
//! organization = the tenant. It holds 30 days unless the collector says otherwise. The collector must check at
//! every connection, also of a resumed TLS session, that the agent exists, is not revoked, and that the
//! certificate has not expired. No data is sent in TLS early data.
//!
//! Both directions of a `picket/…` connection are streams of [frames](crate::frame), each a 4-byte big-endian
//! length (of type and body), a 1-byte type, and a body. Bodies are JSON objects, except those of `batch` and `chunk`:
//!
//! | type | name | sent by | largest body | body |
//! |---|---|---|---|---|
//! | 1 | hello | agent | 65,536 | [`Hello`](crate::message::Hello) |
//! | 2 | batch | agent | 1,048,575 | [`Batch`](crate::message::Batch) |
//! | 3 | chunk | agent | 262,176 | [`Chunk`](crate::evidence::Chunk) |
//! | 4 | renew | agent | 32,768 | [`Renew`](crate::message::Renew) |
//! | 5 | enroll | host | 262,144 | [`Enroll`](crate::message::Enroll) |
//! | 16 | welcome | collector | 65,536 | [`Welcome`](crate::message::Welcome) |
//! | 17 | ack | collector | 65,536 | [`Ack`](crate::message::Ack) |
//! | 18 | command | collector | 655,360 | [`Envelope`](crate::dsse::Envelope) of a [`Command`](crate::command::Command) |
//! | 19 | trust | collector | 655,360 | [`Envelope`](crate::dsse::Envelope) of a [`TrustRoot`](crate::trust::TrustRoot) |
//! | 20 | bye | collector | 8,192 | [`Bye`](crate::message::Bye) |
//! | 21 | renewed | collector | 65,536 | [`Renewed`](crate::message::Renewed) |
//! | 22 | enrolled | collector | 1,048,575 | [`Enrolled`](crate::message::Enrolled) |
//! | 23 | held | collector | 8,192 | [`Held`](crate::evidence::Held) |
//!
//! JSON is read under the rules of [`crate::json`]: UTF-8, no member twice, at most 48 deep. Unknown members are
//! ignored except in what operators sign, so members may be added within a version; a new
//! record kind or a changed meaning needs a new ALPN name, and so does a new frame type, unless it is only sent to who said to
//! know it. Times are written `2026-01-02T03:04:05.000000006Z`:
//! UTC, nine digits, nothing else. Base64 is the standard alphabet with padding and zero trailing bits.
//!
//! # Sessions
//!
//! 1. **hello** is the agent's first frame, within 15 s of the handshake. Its `agent` must be the one in the
//!    certificate. `checkpoint` is the newest signed checkpoint, of `size` records (empty when `size` is 0);
//!    `cosigned` is the newest checkpoint that bears a cosignature of this collector (empty when there is none).
//! 2. **welcome** answers it: `size` is how many records the collector holds durably, `checkpoint` its newest
//!    cosigned checkpoint (empty when it holds nothing), `time` its clock. Before it the agent sends nothing else.
//! 3. **batch** frames follow, the first `from` = the size in `welcome`, each next one `from` = the end of the one
//!    before. Up to [`BATCHES_IN_FLIGHT_MAX`](crate::message::BATCHES_IN_FLIGHT_MAX) may be unacknowledged; the
//!    agent must wait beyond that, and the collector stops reading.
//! 4. **ack** carries the checkpoint of a batch with the collector's cosignature added. It stands for every record
//!    below the checkpoint's size, so one may answer several batches. The collector must send it only after the
//!    records are durable; the agent must check the cosignature with the witness key from its enrolment and the
//!    root against its own before it forgets anything.
//! 5. The collector may send **trust**, **command** and **renewed** at any time after `welcome`; the agent may send
//!    **renew**. They do not affect the order of batches. Order within one direction is kept.
//! 6. When `welcome` says `evidence`, the agent may send **chunk**: a piece of an encrypted bundle of [evidence](crate::evidence),
//!    or none, which asks how far the collector is. The collector must answer each with **held**, and the agent must not send
//!    the next before. Bytes that do not begin where the collector is are not taken, which the answer shows. The collector must
//!    take nothing of which it does not hold the sealed receipt with that size, and say that it is complete only when the
//!    SHA-256 is the one in it. An agent must not send **chunk** to a collector that did not say so, nor a collector **held** unasked.
//!
//! What the collector must verify of a batch before it stores it: the bounds; that `from` is its size; that
//! each record parses, with `seq` = its place; that the checkpoint's origin is `picket/<agent id>`, its size `from` +
//! number of leaves, its signature by the ledger key in force, and its root the one that its own tree reaches with
//! these leaves. A leaf line `#<base64>` gives the hash of a record whose bytes the agent no longer has.
//!
//! **Resuming.** Nothing is negotiated: `welcome.size` says where to go on, whatever was in flight when a connection
//! broke. Records are identified by (agent, `seq`); the same record comes again only as a whole batch that the
//! collector already holds with the same root, which it acknowledges again.
//!
//! **Keys.** The ledger key of the enrolment signs checkpoints until a `key` record. A `key` record must be the last
//! of its batch; that batch's checkpoint is still signed by the old key, every later one by the new key. The
//! record's signature ([`KeyRotation`](crate::record::KeyRotation)) must be by the old key, over this origin and place.
//!
//! **Heartbeats.** An agent seals a `heartbeat` record every 60 s, and so sends at least one batch a minute; there
//! is no other keep-alive. The collector closes a connection on which nothing came for three heartbeats and 20 s,
//! or on which a begun frame is not whole after 60 s. The agent gives a connection up when `welcome`, or an `ack`
//! that is due, does not come within 30 s.
//!
//! **Restored collectors.** When `hello.cosigned` verifies and its size is above what the collector holds, the
//! collector was restored from a backup. It must record this, go on from what it holds, and require that the
//! ledger reaches the very root in that checkpoint at that size; the agent serves what it kept, leaf hashes where
//! it kept no more. Neither side treats it as a fork unless the roots differ.
//!
//! **Forks.** It is a fork, and never a reset, when the agent holds fewer records than the collector, when it holds
//! a cosignature on a root that the collector does not have at that size, when a checkpoint signed by the ledger's
//! key has another root than is known or computed at its size, or when it has fewer records than were cosigned. The
//! collector keeps the evidence, raises a finding, says `bye` with `fork`, and admits the agent no more until it is
//! enrolled anew. When the collector shows an agent a cosigned root that is not the agent's own, the agent seals
//! that as evidence and sends no record on that connection. If its ledger goes beyond the collector's size it sends
//! one batch from there on, leaf hashes only, whose signed root the collector cannot reach: that is how it learns of
//! the fork. Then, or after 30 s, the connection ends, and the agent asks again every five minutes.
//!
//! **Renewal.** At two thirds of its certificate's life the agent sends `renew` with a PKCS #10 request for the same
//! key and subject, at most one in 30 s; `renewed` brings the certificate, to be used from the next connection on.
//!
//! **Trust roots and commands.** The collector relays envelopes and can sign none. `trust` frames come in rising
//! version after `welcome`, each later one replacing the one before under the rules of [`crate::trust`]. A command
//! is sent after `welcome`, and again on a later connection as long as no receipt for it arrived and it has not
//! expired; the agent obeys an id once and answers each with a `receipt` record, in the order of
//! [`Check`](crate::command::Check).
//!
//! # Enrolment
//!
//! The host sends one **enroll** within 15 s of the handshake; the collector answers **enrolled** or `bye`, and
//! closes. The request is PKCS #10 for the TLS key; the subject in it is ignored, the collector writes its own. The
//! token is good for one agent: a second `enroll` with the same token, id and keys is answered as the first was,
//! any other is refused. The host must check that `ca` has the digest in its join string, and that `trust_root` (when
//! the join string has a digest of one) has that digest of its payload.
//!
//! A host that is enrolled and whose certificate has ended asks in the same way for a new one, with a
//! [`renewal`](crate::renewal) in its request. The collector must issue it only when the agent is known in the token's tenant,
//! with this TLS key and this `ledger_key`, when the renewal verifies from the ledger key that the collector knows, and
//! when the agent is neither revoked nor forked; the token is spent by it as by an enrolment, and by no refusal. Id and
//! ledger go on. Without a renewal an id that is known is refused, unless no record of it has come yet: then the answer to
//! its enrolment may have been lost with the join string. Before a token is found to be good, nothing is said of ids.
//! The host must check that CA, tenant and witness are those that it is enrolled with.
//!
//! # Ends
//!
//! Either side may close the TLS connection at any time; both must send `close_notify` when they can. Nothing is
//! lost by it. A collector that ends a session says **bye** first: it is its last frame, and the agent must not send
//! after it. `retry_after` are the seconds to wait before the next attempt; the agent adds jitter, and waits at most
//! an hour whatever it is told. Without a `bye` it waits a random time up to 1 s, doubled with each failure up to 5 min.
//!
//! | reason | meaning | what the agent does |
//! |---|---|---|
//! | shutting-down | the collector stops or restarts | comes back after `retry_after` |
//! | replaced | a newer connection of the same agent came | comes back only if it is the one in use |
//! | revoked | the agent may not connect any more | keeps sealing; asks again after `retry_after` |
//! | expired | the certificate has ended | keeps sealing; asks again after `retry_after`; has to be [renewed](#enrolment) |
//! | fork | the two histories differ | keeps sealing; has to be enrolled anew |
//! | protocol | the agent broke a rule of this page | reports it; comes back after `retry_after` |
//! | too-fast | a bound on rates was exceeded | comes back after `retry_after` |
//! | wrong-agent | `hello` names another agent than the certificate | reports it; comes back after `retry_after` |
//! | unavailable | the collector cannot do it at the moment | comes back after `retry_after` |
//! | refused | the request was understood and not granted | shows `detail`; comes back after `retry_after`, but not with an `enroll` |
//!
//! Other reasons are treated as `refused`. `detail` is a sentence for the log of a person; programs must not read it.
//! An agent that finds the collector breaking a rule closes without a word: it has no `bye`.
//!
//! # Bounds
//!
//! Whoever meets one being exceeded ends the connection (the collector with `protocol`).
//!
//! | bound | value |
//! |---|---|
//! | bytes of a frame behind its length field | 1,048,576 |
//! | records in a batch | 1,024 |
//! | bytes of lines in a batch, unpacked | 983,040 |
//! | unacknowledged batches | 16 |
//! | bytes of a record | 262,144 |
//! | bytes of a note | 16,384 |
//! | signatures of a note | 16 |
//! | extension lines of a checkpoint | 8 |
//! | bytes of an envelope | 655,360 |
//! | signatures of an envelope | 64 |
//! | hosts of a command | 10,000 |
//! | keys, and roles, of a trust root | 256 |
//! | nesting of JSON | 48 |
//!
//! # Examples
//!
//! `protocol/tests/golden` holds one of each frame, record and file, made with fixed keys and times. Whoever
//! changes a format changes these bytes, and has to change this page and the version as well. SHA-256 over them:
//! `84c34faccb94f391340fc24e0eacf15bd3759380c94335f3ab65510bde03c94f`.
