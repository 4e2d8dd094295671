//! The engine's side of trust roots: taking, refusing and recording them.

use picket_protocol::finding::Severity;
use picket_protocol::identity::{AgentId, Tenant};
use serde_json::json;

use super::super::receipt::{envelope_digest, lifecycle, safe};
use super::super::store;
use super::super::trust::{Offer, Pinned};
use super::{Engine, Moment, RespondError};

impl Engine {
    /// The host was enrolled while the agent ran.
    ///
    /// # Errors
    /// When the pinned trust root cannot be recorded.
    pub fn enrolled(&mut self, agent: AgentId, tenant: Tenant, now: Moment) -> Result<(), RespondError> {
        self.identity = Some((agent, tenant));
        self.pinned = Pinned::load(&self.context.layout.trust_root());
        self.record_trust_root(now)?;
        self.show();
        Ok(())
    }

    /// Judges a trust root.
    pub fn trust(&mut self, envelope: &[u8], now: Moment) {
        let result = match self.pinned.judge(envelope) {
            Offer::Known => Ok(()),
            Offer::Refused(reason) => self.refuse_trust_root(&reason, envelope, now),
            Offer::Newer(root) => match self.pinned.replace(envelope, *root) {
                Ok(()) => self.record_trust_root(now),
                Err(error) => self.refuse_trust_root(&format!("cannot be stored: {error}"), envelope, now),
            },
        };
        if let Err(error) = result {
            tracing::error!(%error, "what became of a trust root was not recorded");
        }
        self.show();
    }

    /// Records the trust root in force unless it was recorded before: also when somebody put the file there by hand.
    pub(super) fn record_trust_root(&mut self, now: Moment) -> Result<(), RespondError> {
        let Some(root) = self.pinned.root() else { return Ok(()) };
        let known = self.store.fact(store::TRUST_VERSION)?;
        let version = root.version.to_string();
        if known.as_ref() == Some(&version) {
            return Ok(());
        }
        let (event, title) = match &known {
            None => ("trust-pinned", format!("Trust root version {version} is pinned")),
            Some(old) => ("trust-replaced", format!("Trust root version {old} is replaced by {version}")),
        };
        let detail = json!({ "version": root.version, "expires": root.expires, "time": now.wall });
        let draft = lifecycle(Severity::Medium, event, title, detail)?;
        self.seal(vec![draft], vec![store::set_fact(store::TRUST_VERSION, version)])
    }

    fn refuse_trust_root(&mut self, reason: &str, envelope: &[u8], now: Moment) -> Result<(), RespondError> {
        let reason = safe(reason);
        tracing::warn!(reason, "a trust root was refused");
        let Some(unanswered) = self.limit.admit(now.boot) else { return Ok(()) };
        let title = format!("A trust root was refused: {reason}");
        let detail = json!({ "envelope_sha256": envelope_digest(envelope), "unanswered_before": unanswered });
        let draft = lifecycle(Severity::High, "trust-refused", title, detail)?;
        self.seal(vec![draft], Vec::new())
    }
}
