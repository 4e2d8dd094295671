//! Which machine this is, so that a copy of a host is not taken for the host itself.
//!
//! Two things tell machines apart, and each may be missing: `/etc/machine-id` (machine-id(5)), which every copy that was made with
//! care gets anew, and the product UUID of the firmware (SMBIOS, `/sys/class/dmi/id/product_uuid`), which hypervisors give a copy that was made
//! without. Another machine is one where either is another, where both sides know it. So what is unknown trips nothing: an empty or
//! `uninitialized` machine-id, one that systemd made up for this boot alone (`/run/machine-id`, mounted over it), a container that may not read the
//! UUID, firmware that knows none or one of those that whole series of boards share. A backup that is restored on the same machine
//! brings back the same machine-id and meets the same UUID. Some firmware changed the byte order of the UUID's first fields
//! between versions (SMBIOS 2.6): both orders count as the same.
//!
//! Only digests are kept, with a prefix of ours, as machine-id(5) asks: `machine.json` in the core's directory, [`Kept`].

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use picket_protocol::crypto::{hex, sha256};
use picket_protocol::identity::AgentId;
use uuid::Uuid;

use crate::layout::{Layout, SMALL_FILE_BYTES_MAX, read_file, write_durably};

const MACHINE_ID: &str = "/etc/machine-id";
const TRANSIENT_ID: &str = "/run/machine-id";
const PRODUCT_UUID: &str = "/sys/class/dmi/id/product_uuid";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// UUIDs that firmware has where nobody set one.
const SHARED_UUIDS: [u128; 4] =
    [0, u128::MAX, 0x0300_0200_0400_0500_0006_0007_0008_0009, 0x1234_5678_1234_5678_90ab_cdde_efaa_bbcc];

/// What is known of a machine: SHA-256 in hex.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Machine {
    /// Of its machine-id.
    pub machine_id: Option<String>,
    /// Of its product UUID.
    pub product_uuid: Option<String>,
}

/// `machine.json`: where the identity beside it was made, or was last told to be.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Kept {
    /// The machine.
    #[serde(flatten)]
    pub machine: Machine,
    /// Made by an enrolment in this boot, before any agent ran: in another boot, it may have been made in an image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made_in: Option<String>,
    /// What the state was before, where this machine is a copy of another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copied: Option<Copied>,
}

/// The state that came with a copy.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Copied {
    /// The id under which its ledger was kept.
    pub agent: Option<AgentId>,
    /// Which parts are others here.
    pub parts: Vec<String>,
}

impl Machine {
    /// This one.
    pub fn here() -> Self {
        Self::read(Path::new(MACHINE_ID), Path::new(TRANSIENT_ID), Path::new(PRODUCT_UUID))
    }

    fn read(machine_id: &Path, transient: &Path, product_uuid: &Path) -> Self {
        let text = |path: &Path| {
            let bytes = read_file(path, SMALL_FILE_BYTES_MAX).ok()?;
            Some(String::from_utf8_lossy(&bytes).trim().to_owned())
        };
        let lasting = !is_same_file(machine_id, transient);
        let id = text(machine_id).filter(|_| lasting).and_then(|text| parse_machine_id(&text));
        let product = text(product_uuid).and_then(|text| parse_product_uuid(&text));
        Self {
            machine_id: id.map(|id| digest(b"picket machine-id\n", id)),
            product_uuid: product.map(|uuid| digest(b"picket product uuid\n", uuid)),
        }
    }

    /// The parts that both know and that are others here; none: it is the same machine, as far as can be told.
    pub fn differs(&self, here: &Self) -> Vec<&'static str> {
        let other = |kept: &Option<String>, here: &Option<String>| {
            kept.as_ref().zip(here.as_ref()).is_some_and(|(kept, here)| kept != here)
        };
        let parts = [
            ("machine-id", other(&self.machine_id, &here.machine_id)),
            ("product UUID", other(&self.product_uuid, &here.product_uuid)),
        ];
        parts.into_iter().filter_map(|(name, other)| other.then_some(name)).collect()
    }

    /// With what `here` knows, and what was known before where it does not.
    fn renewed(&self, here: &Self) -> Self {
        Self {
            machine_id: here.machine_id.clone().or_else(|| self.machine_id.clone()),
            product_uuid: here.product_uuid.clone().or_else(|| self.product_uuid.clone()),
        }
    }
}

fn is_same_file(one: &Path, other: &Path) -> bool {
    let place = |path| std::fs::metadata(path).ok().map(|found| (found.dev(), found.ino()));
    place(one).is_some_and(|found| place(other) == Some(found))
}

fn digest(prefix: &[u8], value: u128) -> String {
    hex(&sha256(&[prefix, &value.to_be_bytes()]))
}

fn parse_machine_id(text: &str) -> Option<u128> {
    let fits = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    u128::from_str_radix(text, 16).ok().filter(|id| fits && *id != 0)
}

fn parse_product_uuid(text: &str) -> Option<u128> {
    let uuid = Uuid::try_parse(text).ok()?;
    let (as_is, swapped) = (uuid.as_u128(), u128::from_be_bytes(uuid.to_bytes_le()));
    let is_shared = SHARED_UUIDS.iter().any(|shared| [as_is, swapped].contains(shared));
    (!is_shared).then_some(as_is.min(swapped))
}

/// This boot, as the kernel names it.
pub fn boot() -> Option<String> {
    std::fs::read_to_string(BOOT_ID).ok().map(|text| text.trim().to_owned())
}

/// What the state says of the machine that it was made on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing yet, or the same.
    Same,
    /// Another one: these parts differ.
    Other(Vec<&'static str>),
}

impl Kept {
    /// Reads `machine.json`; none where there is none, or one that this version cannot read.
    pub fn load(layout: &Layout) -> Option<Self> {
        let bytes = read_file(&layout.machine(), SMALL_FILE_BYTES_MAX).ok()?;
        let kept = serde_json::from_slice(&bytes);
        kept.inspect_err(|error| tracing::warn!(%error, "which machine this was is not known any more")).ok()
    }

    /// Keeps it.
    ///
    /// # Errors
    /// What the disk says.
    pub fn keep(&self, layout: &Layout) -> std::io::Result<()> {
        write_durably(&layout.machine(), &serde_json::to_vec(self)?, 0o600)
    }

    /// Whether the state was made elsewhere; `used` says whether an agent has ever run on it.
    fn judge(&self, here: &Machine, boot: Option<&str>, used: bool) -> Found {
        let differs = self.machine.differs(here);
        let unused = self.made_in.as_deref().filter(|_| !used);
        if !differs.is_empty() {
            Found::Other(differs)
        } else if unused.is_some_and(|made| boot.is_some_and(|boot| boot != made)) {
            Found::Other(vec!["boot"])
        } else {
            Found::Same
        }
    }
}

/// Compares what is kept with this machine, and keeps what was not known yet.
///
/// # Errors
/// What the disk says.
pub fn compare(layout: &Layout) -> std::io::Result<Found> {
    let here = Machine::here();
    let kept = Kept::load(layout);
    let found = kept.as_ref().map_or(Found::Same, |kept| {
        kept.judge(&here, boot().as_deref(), layout.database().exists() || layout.enrolment().exists())
    });
    if found == Found::Same {
        remember(layout, kept, &here)?;
    }
    Ok(found)
}

/// This machine is the one from now on.
///
/// # Errors
/// What the disk says.
pub fn take_over(layout: &Layout) -> std::io::Result<()> {
    remember(layout, Kept::load(layout), &Machine::here())
}

fn remember(layout: &Layout, kept: Option<Kept>, here: &Machine) -> std::io::Result<()> {
    let before = kept.clone().unwrap_or_default();
    let now = Kept { machine: before.machine.renewed(here), ..before };
    if kept.as_ref() == Some(&now) { Ok(()) } else { now.keep(layout) }
}

/// An enrolment makes an identity here that no agent has used yet.
///
/// # Errors
/// What the disk says.
pub fn made_here(layout: &Layout) -> std::io::Result<()> {
    if layout.machine().exists() {
        return Ok(());
    }
    let made_in = boot().filter(|_| !layout.database().exists());
    Kept { machine: Machine::here(), made_in, copied: None }.keep(layout)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "3d1219c7c4c5404aaa1f6d2a48adfda4";
    const OTHER: &str = "4d1219c7c4c5404aaa1f6d2a48adfda4";
    const UUID: &str = "4c4c4544-0042-3510-8056-b4c04f4d3133";

    struct Host(tempfile::TempDir);

    impl Host {
        fn with(id: &str, uuid: &str) -> Self {
            let host = Self(tempfile::tempdir().expect("temporary directory"));
            host.write("machine-id", id);
            host.write("product_uuid", uuid);
            host
        }

        fn write(&self, name: &str, text: &str) {
            std::fs::write(self.0.path().join(name), format!("{text}\n")).expect("written");
        }

        fn machine(&self) -> Machine {
            let at = |name: &str| self.0.path().join(name);
            Machine::read(&at("machine-id"), &at("transient"), &at("product_uuid"))
        }
    }

    fn differs(kept: (&str, &str), here: (&str, &str)) -> Vec<&'static str> {
        Host::with(kept.0, kept.1).machine().differs(&Host::with(here.0, here.1).machine())
    }

    #[test]
    fn a_copy_has_another_machine_id_or_another_product_uuid() {
        assert!(differs((ONE, UUID), (ONE, UUID)).is_empty());
        assert_eq!(differs((ONE, UUID), (OTHER, UUID)), ["machine-id"]);
        let uuid = UUID.replace("3133", "3134");
        assert_eq!(differs((ONE, UUID), (ONE, &uuid)), ["product UUID"]);
        assert_eq!(differs((ONE, UUID), (OTHER, &uuid)), ["machine-id", "product UUID"]);
    }

    #[test]
    fn what_is_not_known_tells_nothing() {
        for id in ["", "uninitialized", "00000000000000000000000000000000", "3d12", "x".repeat(32).as_str()] {
            assert!(differs((id, UUID), (ONE, UUID)).is_empty(), "{id:?}");
            assert!(differs((ONE, UUID), (id, UUID)).is_empty(), "{id:?}");
        }
        for uuid in [
            "",
            "Not Settable",
            "03000200-0400-0500-0006-000700080009",
            "00020003-0004-0005-0006-000700080009",
        ] {
            assert!(differs((ONE, uuid), (ONE, UUID)).is_empty(), "{uuid:?}");
        }
        // SMBIOS before and after 2.6.
        assert!(differs((ONE, UUID), (ONE, "44454C4C-4200-1035-8056-B4C04F4D3133")).is_empty());
    }

    #[test]
    fn a_machine_id_of_this_boot_alone_is_none() {
        let host = Host::with(ONE, UUID);
        assert!(host.machine().machine_id.is_some());
        std::fs::hard_link(host.0.path().join("machine-id"), host.0.path().join("transient"))
            .expect("a link");
        assert_eq!(host.machine().machine_id, None);
    }

    #[test]
    fn an_identity_that_nobody_has_used_is_of_its_boot() {
        let machine = Host::with("", "").machine();
        let kept = Kept { machine: machine.clone(), made_in: Some("a".to_owned()), copied: None };
        assert_eq!(kept.judge(&machine, Some("a"), false), Found::Same);
        assert_eq!(kept.judge(&machine, Some("b"), false), Found::Other(vec!["boot"]));
        assert_eq!(kept.judge(&machine, Some("b"), true), Found::Same, "an agent has used it");
        assert_eq!(kept.judge(&machine, None, false), Found::Same);
    }
}
