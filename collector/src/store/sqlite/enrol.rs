//! Enrolment: new hosts, and new certificates for those that are known and prove that they are it. One transaction each.
//!
//! Before the token is found to be good nothing is said of ids, and what is said of them then is of the token's tenant only.
//! A renewal's proof is judged before its transaction ([`to_prove`]); the transaction looks whether it is of the ledger as it is then.

use picket_protocol::crypto::{Hash, PublicKey};
use picket_protocol::identity::Tenant;
use picket_protocol::renewal::RenewalError;
use picket_protocol::time::Timestamp;
use rusqlite::{OptionalExtension as _, Row, Transaction, params};

use super::super::{
    Certificate, EnrolOutcome, Enrolment, HostState, NotRenewed, OwnFinding, ProofBase, RenewalClaim,
    StoreError, ToProve,
};
use super::hosts::{renew, state_column};
use super::writer::Write;
use super::{count_column, findings, schema, tenant_column, time_column};

struct Token {
    tenant: Tenant,
    expires: Timestamp,
    uses: i64,
    used: i64,
}

/// What is known of the agent that asks.
struct Known {
    tenant: Tenant,
    token: Hash,
    tls_key: Hash,
    enrolled_key: PublicKey,
    certificate: String,
    expires: Timestamp,
    state: HostState,
    ledger: ProofBase,
}

/// See [`super::super::Store::to_prove`].
pub(super) fn to_prove(tx: &Transaction<'_>, request: &Enrolment) -> Result<Option<ToProve>, StoreError> {
    let Some(token) = token(tx, request)? else { return Ok(None) };
    let host = known(tx, request)?.filter(|host| host.is_to_prove(request, &token));
    Ok(host.map(|host| ToProve {
        base: host.ledger,
        tenant: host.tenant,
        renews: host.state == HostState::Active,
    }))
}

/// Enrols a host, renews the certificate of one that is, or finds that this request was answered before.
pub(super) fn enroll(write: &mut Write<'_>, request: &Enrolment) -> Result<EnrolOutcome, StoreError> {
    let Some(token) = token(write.tx, request)? else { return Ok(EnrolOutcome::UnknownToken) };
    let known = known(write.tx, request)?;
    if let (Some(host), Some(claim)) = (&known, &request.renewal)
        && host.is_to_prove(request, &token)
        && host.verdict(claim).is_none()
    {
        return Ok(EnrolOutcome::ProofNeeded);
    }
    if let Some(host) = &known
        && host.was_answered(request, &token)
    {
        return Ok(done(request, token.tenant, host.certificate.clone()));
    }
    if token.expires <= request.now {
        return Ok(EnrolOutcome::ExpiredToken);
    }
    if token.used >= token.uses {
        return Ok(EnrolOutcome::UsedToken);
    }
    if let Some(refusal) = refusal(known.as_ref(), request, &token) {
        return Ok(refusal);
    }
    let certificate = (request.issue.0)(&token.tenant).map_err(StoreError::Conflict)?;
    match known {
        Some(host) => issue_again(write, request, &host, &certificate)?,
        None => insert(write, request, &token.tenant, &certificate)?,
    }
    write.tx.execute("UPDATE token SET used = used + 1 WHERE hash = ?", [request.token])?;
    Ok(done(request, token.tenant, certificate.pem))
}

fn done(request: &Enrolment, tenant: Tenant, certificate: String) -> EnrolOutcome {
    match request.renewal {
        Some(_) => EnrolOutcome::Renewed { tenant, certificate },
        None => EnrolOutcome::Enrolled { tenant, certificate },
    }
}

fn token(tx: &Transaction<'_>, request: &Enrolment) -> Result<Option<Token>, StoreError> {
    let sql = "SELECT tenant, expires, uses, used FROM token WHERE hash = ?";
    let read = |row: &Row<'_>| {
        let (tenant, expires) = (tenant_column(row, 0)?, time_column(row, 1)?);
        Ok(Token { tenant, expires, uses: row.get(2)?, used: row.get(3)? })
    };
    Ok(tx.query_row(sql, [request.token], read).optional()?)
}

fn known(tx: &Transaction<'_>, request: &Enrolment) -> Result<Option<Known>, StoreError> {
    let sql =
        "SELECT t.name, h.token, h.tls_key, h.enrolled_key, h.certificate, h.expires, h.state, l.size, l.key
        FROM host h JOIN ledger l ON l.no = h.no JOIN tenant t ON t.no = h.tenant_no WHERE h.agent = ?";
    let read = |row: &Row<'_>| {
        Ok(Known {
            tenant: tenant_column(row, 0)?,
            token: row.get(1)?,
            tls_key: row.get(2)?,
            enrolled_key: PublicKey(row.get(3)?),
            certificate: row.get(4)?,
            expires: time_column(row, 5)?,
            state: state_column(row, 6)?,
            ledger: (count_column(row, 7)?, PublicKey(row.get(8)?)),
        })
    };
    Ok(tx.query_row(sql, [request.agent.0.as_bytes()], read).optional()?)
}

impl Known {
    fn has_keys_of(&self, request: &Enrolment) -> bool {
        self.tls_key == request.tls_key && self.enrolled_key == request.ledger_key
    }

    /// Whether it is the proof of a renewal that decides.
    fn is_to_prove(&self, request: &Enrolment, token: &Token) -> bool {
        let is_usable = token.expires > request.now && token.used < token.uses;
        let is_own = self.tenant == token.tenant && self.has_keys_of(request);
        is_own && (is_usable || (token.used >= token.uses && self.is_answer_in_force(request)))
    }

    /// Whether what the token of this request was last answered with is in force.
    fn is_answer_in_force(&self, request: &Enrolment) -> bool {
        self.token == request.token && self.state == HostState::Active && self.expires > request.now
    }

    fn verdict(&self, claim: &RenewalClaim) -> Option<Result<(), RenewalError>> {
        claim.proof.as_ref()?.verdict(self.ledger)
    }

    /// Whether this very request was answered before, with the certificate that is in force: the answer may have been
    /// lost. While the token has uses left, a renewal is a new one.
    fn was_answered(&self, request: &Enrolment, token: &Token) -> bool {
        let is_own = self.tenant == token.tenant && self.has_keys_of(request);
        is_own
            && self.is_answer_in_force(request)
            && match &request.renewal {
                // Once its records have come, who has the TLS key and an old join string is not the host by these alone.
                None => self.ledger.0 == 0,
                Some(claim) => token.used >= token.uses && self.verdict(claim) == Some(Ok(())),
            }
    }

    /// Why its certificate is not renewed. That the request comes from it is proved before anything of its state is told.
    fn refuses(&self, request: &Enrolment, claim: &RenewalClaim, token: &Token) -> Option<NotRenewed> {
        if self.tenant != token.tenant {
            return Some(NotRenewed::Unknown);
        }
        if !self.has_keys_of(request) {
            return Some(NotRenewed::OtherKeys);
        }
        // Without a verdict it did not come so far.
        if let Err(why) = self.verdict(claim).unwrap_or(Err(RenewalError::Signature)) {
            return Some(NotRenewed::LedgerKey(why));
        }
        match self.state {
            HostState::Active => None,
            HostState::Revoked => Some(NotRenewed::Revoked),
            HostState::Forked => Some(NotRenewed::Forked),
        }
    }
}

/// Why the holder of a good token gets no certificate.
fn refusal(known: Option<&Known>, request: &Enrolment, token: &Token) -> Option<EnrolOutcome> {
    match (known, &request.renewal) {
        (None, None) => None,
        (None, Some(_)) => Some(EnrolOutcome::NotRenewed(NotRenewed::Unknown)),
        (Some(host), Some(claim)) => host.refuses(request, claim, token).map(EnrolOutcome::NotRenewed),
        (Some(host), None) => {
            // It was enrolled and has not been heard of since: the answer was lost with the join string.
            let lost = host.tenant == token.tenant && host.has_keys_of(request) && host.ledger.0 == 0;
            (!lost || host.state != HostState::Active).then_some(EnrolOutcome::AgentTaken)
        }
    }
}

/// A new certificate for a host that is known.
fn issue_again(
    write: &mut Write<'_>,
    request: &Enrolment,
    host: &Known,
    certificate: &Certificate,
) -> Result<(), StoreError> {
    renew(write, request.agent, certificate)?;
    let sql = "UPDATE host SET token = ?, hostname = ?, version = ? WHERE agent = ?";
    let agent = request.agent.0.as_bytes();
    write.tx.execute(sql, params![request.token, request.hostname, request.version, agent])?;
    let Some(claim) = &request.renewal else { return Ok(()) };
    let ends = (host.expires, certificate.expires);
    let own = OwnFinding::renewed(request.agent, &request.hostname, &claim.from, ends, request.now);
    findings::raise(write, &own)
}

fn insert(
    write: &mut Write<'_>,
    request: &Enrolment,
    tenant: &Tenant,
    certificate: &Certificate,
) -> Result<(), StoreError> {
    write.tx.execute("INSERT OR IGNORE INTO tenant (name) VALUES (?)", [tenant.as_str()])?;
    let tenant_no: i64 =
        write.tx.query_row("SELECT no FROM tenant WHERE name = ?", [tenant.as_str()], |row| row.get(0))?;
    let now = request.now.nanos();
    write.tx.execute(
        "INSERT INTO host (agent, tenant_no, hostname, version, state, state_reason, enrolled, enrolled_key,
         token, tls_key, certificate, serial, expires, expiry_stage, silent)
         VALUES (?, ?, ?, ?, 0, '', ?, ?, ?, ?, ?, ?, ?, 0, 0)",
        params![
            request.agent.0.as_bytes(),
            tenant_no,
            request.hostname,
            request.version,
            now,
            request.ledger_key.0,
            request.token,
            request.tls_key,
            certificate.pem,
            certificate.serial,
            certificate.expires.nanos()
        ],
    )?;
    let no = write.tx.last_insert_rowid();
    if no >= schema::AGENTS_MAX {
        return Err(StoreError::Full("this store numbers no more agents".to_owned()));
    }
    write.tx.execute(
        "INSERT INTO ledger (no, size, edge, key, checkpoint, checkpoint_key, last_seen)
         VALUES (?, 0, x'', ?, '', ?, ?)",
        params![no, request.ledger_key.0, request.ledger_key.0, now],
    )?;
    Ok(())
}
