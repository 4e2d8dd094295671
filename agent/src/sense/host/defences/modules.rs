//! Reads which kernel modules are loaded, by the kernel's list, by `/sys/module`, and by what the kernel is tainted
//! with; hears of loads by uevents.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, BufRead as _, BufReader};
use std::path::Path;

use rustix::net::netlink;

use crate::detect::defences::modules::Module;
use crate::netlink::Netlink;
use crate::sys::Instruction;

/// Modules that are kept.
const MODULES_MAX: usize = 4_096;
/// Taints that only a module can have brought: their bits and letters.
const TAINTS: [(u32, char); 3] = [(1, 'F'), (12, 'O'), (13, 'E')];

/// The socket that hears of modules that come and go, and of no other device.
///
/// # Errors
/// When no descriptor is left.
pub fn listen() -> io::Result<Netlink> {
    Netlink::open_filtered(Some(netlink::KOBJECT_UEVENT), 1, &filter())
}

/// Uevents begin `add@/module/…` and `remove@/module/…`.
fn filter() -> [Instruction; 6] {
    const LOAD_WORD: u16 = 0x20;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    let module = u32::from_be_bytes(*b"/mod");
    [
        (LOAD_WORD, 0, 0, 4),
        (JUMP_IF_EQUAL, 3, 0, module),
        (LOAD_WORD, 0, 0, 7),
        (JUMP_IF_EQUAL, 1, 0, module),
        (RETURN, 0, 0, 0),
        (RETURN, 0, 0, u32::MAX),
    ]
}

/// The modules.
///
/// # Errors
/// `NotFound` on a kernel without modules.
pub fn read(root: &Path, files: &mut Files) -> io::Result<BTreeMap<String, Module>> {
    let list = fs::read_to_string(root.join("proc/modules")).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => io::Error::new(error.kind(), "this kernel loads no modules"),
        _ => error,
    })?;
    files.look_up(root, list.lines().filter_map(|line| line.split_whitespace().next()));
    let mut found = BTreeMap::new();
    // `name size used users state address (taints)`.
    for line in list.lines().take(MODULES_MAX) {
        let mut fields = line.split_whitespace();
        let Some(name) = fields.next() else { continue };
        let taints =
            fields.last().and_then(|last| last.strip_prefix('(')?.strip_suffix(')')).unwrap_or_default();
        let taints: String = taints.chars().filter(char::is_ascii_uppercase).collect();
        let has_file = files.0.get(name).copied().unwrap_or(true);
        found.insert(name.to_owned(), Module { taints, has_file, ..Module::default() });
    }
    // The list is read again: a module that came between the two looks does not hide.
    let hidden = live(root).into_iter().filter(|name| !found.contains_key(name)).collect::<Vec<_>>();
    let list = if hidden.is_empty() { list } else { fs::read_to_string(root.join("proc/modules"))? };
    for name in hidden {
        let listed = list.lines().any(|line| line.split_whitespace().next() == Some(&name));
        if !listed && live(root).contains(&name) {
            found.insert(name, Module { has_file: true, hidden: true, ..Module::default() });
        }
    }
    for (letter, module) in unexplained(root, &found) {
        found.insert(format!("taint {letter}"), module);
    }
    Ok(found)
}

/// Which loaded modules have a file of that name among the kernel's own: the index of those is long, and read only
/// when a module comes that was not looked up before.
#[derive(Clone, Debug, Default)]
pub struct Files(BTreeMap<String, bool>);

impl Files {
    fn look_up<'a>(&mut self, root: &Path, names: impl Iterator<Item = &'a str>) {
        let new: Vec<&str> = names.filter(|name| !self.0.contains_key(*name)).take(MODULES_MAX).collect();
        if new.is_empty() || self.0.len() > MODULES_MAX {
            return;
        }
        let own = own_modules(root);
        for name in new {
            let has_file = own.as_ref().is_none_or(|own| own.contains(name));
            self.0.insert(name.to_owned(), has_file);
        }
    }
}

/// Modules that are loaded by what sysfs says: those built in have no state.
fn live(root: &Path) -> BTreeSet<String> {
    let Ok(entries) = fs::read_dir(root.join("sys/module")) else { return BTreeSet::new() };
    let live = entries.flatten().filter(|entry| {
        fs::read_to_string(entry.path().join("initstate")).is_ok_and(|state| state.trim() == "live")
    });
    live.filter_map(|entry| entry.file_name().into_string().ok()).take(MODULES_MAX).collect()
}

/// Taints of the kernel that no listed module has.
fn unexplained(root: &Path, found: &BTreeMap<String, Module>) -> Vec<(char, Module)> {
    let text = fs::read_to_string(root.join("proc/sys/kernel/tainted")).unwrap_or_default();
    let tainted: u64 = text.trim().parse().unwrap_or_default();
    let missing = TAINTS.into_iter().filter(|(bit, letter)| {
        tainted >> bit & 1 == 1 && !found.values().any(|module| module.taints.contains(*letter))
    });
    let module = |letter: char| Module {
        taints: letter.to_string(),
        has_file: true,
        only_taint: true,
        ..Module::default()
    };
    missing.map(|(_, letter)| (letter, module(letter))).collect()
}

/// Names of the files among the running kernel's modules, as the kernel spells them; none when there is no index.
fn own_modules(root: &Path) -> Option<BTreeSet<String>> {
    let release = rustix::system::uname();
    let release = release.release().to_str().ok()?.to_owned();
    let index = ["lib/modules", "usr/lib/modules"]
        .iter()
        .find_map(|place| fs::File::open(root.join(place).join(&release).join("modules.dep")).ok())?;
    // `kernel/net/foo.ko.xz: kernel/net/bar.ko.xz`.
    let names = BufReader::new(index).lines().map_while(Result::ok).filter_map(|line| {
        let path = line.split(':').next()?;
        let file = Path::new(path).file_name()?.to_str()?;
        Some(file.split(".ko").next()?.replace('-', "_"))
    });
    Some(names.collect())
}
