//! The memory of a process, without waiting for anybody: pages that it holds are read, and no others. Whoever owns a process can
//! map into it a file that never answers (FUSE, a host that is gone), or a device for which a read is an act. So of what is no
//! anonymous memory only regular files of this host's own disks are read; and of all only pages that `/proc/PID/pagemap` says
//! are there, which leaves the process as it was as well: what it never touched stays out of memory, and is zeros here.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;

use picket_protocol::evidence::Entry;
use rustix::fs::{MemfdFlags, major, memfd_create, minor};

use super::bundle::{Bundle, Stopped, note};
use super::mounts::{Kind, Mounts};
use super::processes::{link, program, read_text, still_it};

/// Bytes of the list of regions.
const MAPS_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Regions of one process's memory.
const REGIONS_MAX: usize = 20_000;
/// Bytes of one process's memory, and at most half of a bundle.
pub const MEMORY_BYTES_MAX: u64 = 1024 * 1024 * 1024;
/// Bytes of one region.
const REGION_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Pages that are asked for at once.
const PAGES: usize = 512;

/// A mapped region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Region {
    start: u64,
    end: u64,
    flags: String,
    device: (u32, u32),
    inode: u64,
    /// With `\012` for a newline, as the kernel writes it.
    name: String,
}

impl Region {
    pub fn parse(line: &str) -> Option<Self> {
        let mut words = line.splitn(6, ' ');
        let (start, end) = words.next()?.split_once('-')?;
        let (start, end) = (u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?);
        let flags = words.next()?.to_owned();
        let (major, minor) = words.nth(1)?.split_once(':')?;
        let device = (u32::from_str_radix(major, 16).ok()?, u32::from_str_radix(minor, 16).ok()?);
        let inode = words.next()?.parse().ok()?;
        let name = words.next().unwrap_or_default().trim_start_matches(' ').to_owned();
        (start < end).then_some(Self { start, end, flags, device, inode, name })
    }

    /// Whether no file is behind it.
    pub fn is_anonymous(&self) -> bool {
        self.inode == 0 && self.device == (0, 0)
    }

    /// Whether it holds all of these addresses.
    pub fn holds(&self, from: u64, to: u64) -> bool {
        self.start <= from && to <= self.end
    }

    /// What can be read at all: the kernel's own pages are in each process.
    fn is_memory(&self) -> bool {
        self.flags.starts_with('r')
            && !matches!(self.name.as_str(), "[vvar]" | "[vvar_vclock]" | "[vsyscall]")
    }

    /// What only memory holds comes before what a file holds as well.
    fn is_of_a_file(&self) -> bool {
        self.inode != 0 && !self.flags.contains('w')
    }
}

/// Whose files answer by themselves, by the device of their file system.
pub(super) struct Answering<'a> {
    host: &'a Mounts,
    /// Of the process, which may have mounts of its own.
    process: Mounts,
    /// Of files that have no name: shared memory, with ordinary and with huge pages.
    nameless: Vec<(u32, u32)>,
}

impl<'a> Answering<'a> {
    pub fn for_process(pid: u32, host: &'a Mounts) -> Self {
        let device = |flags| {
            let metadata = File::from(memfd_create(c"", flags).ok()?).metadata().ok()?;
            Some((major(metadata.dev()), minor(metadata.dev())))
        };
        let nameless = [MemfdFlags::CLOEXEC, MemfdFlags::CLOEXEC | MemfdFlags::HUGETLB];
        let nameless = nameless.into_iter().filter_map(device).collect();
        Self { host, process: Mounts::of(pid), nameless }
    }

    /// Why it is left alone, if it is.
    fn word(&self, device: (u32, u32)) -> Option<&'static str> {
        if self.nameless.contains(&device) {
            return None;
        }
        let kind = self.host.by_device(device).or_else(|| self.process.by_device(device));
        kind.unwrap_or(Kind::Remote).word()
    }

    /// Why a region is left alone, if it is. What is no regular file is a device, which is asked for only after its file system.
    fn leaves(&self, pid: u32, region: &Region) -> Option<&'static str> {
        if region.is_anonymous() {
            return None;
        }
        self.word(region.device).or_else(|| {
            let path = format!("/proc/{pid}/map_files/{:x}-{:x}", region.start, region.end);
            (!std::fs::metadata(path).is_ok_and(|metadata| metadata.is_file())).then_some("device")
        })
    }

    /// Why the program of a process is left alone, if it is: by what of it is mapped, without asking its file system.
    pub fn leaves_program(&self, pid: u32) -> Option<&'static str> {
        let program = link(Path::new(&format!("/proc/{pid}/exe")));
        let program = program.as_str().unwrap_or_default().replace('\n', "\\012");
        let maps = read_text(Path::new(&format!("/proc/{pid}/maps")), MAPS_BYTES_MAX).unwrap_or_default();
        let mut regions = maps.lines().filter_map(Region::parse);
        match regions.find(|region| region.inode != 0 && region.name == program) {
            Some(region) => self.word(region.device),
            None => Some("unmapped"),
        }
    }
}

/// Takes the program and the memory of a process, which goes on meanwhile.
pub(super) fn memory(
    pid: u32,
    started: u64,
    mounts: &Mounts,
    bundle: &mut Bundle<'_>,
) -> Result<(), Stopped> {
    let whole = Entry { name: format!("memory/{pid}"), ..Entry::default() };
    if !still_it(pid, started) {
        bundle.skip(whole, "ended");
        return Ok(());
    }
    let opened = File::open(format!("/proc/{pid}/mem")).and_then(|memory| {
        let pagemap = File::open(format!("/proc/{pid}/pagemap"))?;
        let maps = read_text(Path::new(&format!("/proc/{pid}/maps")), MAPS_BYTES_MAX)?;
        Ok((memory, pagemap, maps))
    });
    let (memory, pagemap, maps) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            bundle.skip(Entry { note: Some(error.to_string()), ..whole }, "unreadable");
            return Ok(());
        }
    };
    // The descriptors are of the memory that was opened: a number that is given away afterwards changes nothing.
    if !still_it(pid, started) {
        bundle.skip(whole, "ended");
        return Ok(());
    }
    bundle.bytes(Entry { name: format!("memory/{pid}/maps"), ..Entry::default() }, maps.as_bytes())?;
    let mut regions: Vec<Region> =
        maps.lines().filter_map(Region::parse).filter(Region::is_memory).take(REGIONS_MAX).collect();
    regions.sort_by_key(Region::is_of_a_file);
    let answering = Answering::for_process(pid, mounts);
    let mut left = MEMORY_BYTES_MAX.min(bundle.sealed_max() / 2);
    let page = page_bytes();
    for region in regions {
        let mut entry = Entry {
            name: format!("memory/{pid}/{:012x}-{:012x}", region.start, region.end),
            ..Entry::default()
        };
        note(&mut entry, format!("{} {}", region.flags, region.name).trim());
        if let Some(why) = answering.leaves(pid, &region) {
            bundle.skip(entry, why);
            continue;
        }
        let whole = region.end - region.start;
        let size = whole.min(REGION_BYTES_MAX).min(left);
        if size == 0 {
            bundle.skip(entry, "memory-full");
            continue;
        }
        if size < whole {
            entry.whole = Some(whole);
            bundle.count("cut");
        }
        left -= size;
        let (at, end) = (region.start, region.start + size);
        let mut source = Memory { memory: &memory, pagemap: &pagemap, page, at, end };
        bundle.stream(entry, size, &mut source)?;
    }
    program(pid, "program", mounts, bundle)
}

/// Bytes of a page, as the kernel told this process when it began.
fn page_bytes() -> u64 {
    const PAGE_SIZE: u64 = 6;
    let told = std::fs::read("/proc/self/auxv").unwrap_or_default();
    let number = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_ne_bytes);
    let mut pairs = told.chunks_exact(16).map(|pair| pair.split_at(8));
    let found = pairs.find(|(key, _)| number(key) == PAGE_SIZE).map(|(_, value)| number(value));
    found.filter(|bytes| bytes.is_power_of_two() && *bytes >= 4_096).unwrap_or(4_096)
}

/// Reads a region; pages that are not there, or cannot be read, are zeros.
struct Memory<'a> {
    memory: &'a File,
    pagemap: &'a File,
    page: u64,
    at: u64,
    end: u64,
}

impl Memory<'_> {
    /// How many bytes from here on are of pages that are alike, and whether these are there.
    fn run(&self) -> io::Result<(u64, bool)> {
        const PRESENT_OR_SWAPPED: u64 = 0b11 << 62;
        let first = self.at / self.page;
        let mut told = [0; PAGES * 8];
        let count = self.pagemap.read_at(&mut told, first * 8)?;
        let mut pages = told
            .chunks_exact(8)
            .take(count / 8)
            .map(|bits| bits.try_into().map_or(0, u64::from_ne_bytes) & PRESENT_OR_SWAPPED != 0);
        // Beyond what is told nothing is mapped.
        let Some(there) = pages.next() else { return Ok((self.end - self.at, false)) };
        let alike = 1 + u64::try_from(pages.take_while(|page| *page == there).count()).unwrap_or(0);
        let until = (first + alike).saturating_mul(self.page).min(self.end);
        Ok((until - self.at, there))
    }
}

impl Read for Memory<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at >= self.end {
            return Ok(0);
        }
        let (run, there) = self.run()?;
        let length = usize::try_from(run).unwrap_or(usize::MAX).min(buffer.len());
        let Some(piece) = buffer.get_mut(..length).filter(|piece| !piece.is_empty()) else { return Ok(0) };
        let read = if there { self.memory.read_at(piece, self.at) } else { Ok(0) };
        let count = match read {
            Ok(count) if count > 0 => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
            // To the next page, or all that is not there.
            _ => {
                let page = usize::try_from(self.page - self.at % self.page).unwrap_or(piece.len());
                let count = if there { page.min(piece.len()) } else { piece.len() };
                piece.iter_mut().take(count).for_each(|byte| *byte = 0);
                count
            }
        };
        self.at = self.at.saturating_add(u64::try_from(count).unwrap_or(0));
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_are_read_as_the_kernel_writes_them() {
        let line = "7f2c5a000000-7f2c5a021000 rw-p 00000000 00:00 0 ";
        let heap = Region::parse(line).expect("a region");
        assert_eq!((heap.start, heap.end, heap.name.as_str()), (0x7f2c_5a00_0000, 0x7f2c_5a02_1000, ""));
        assert!(heap.is_memory() && heap.is_anonymous() && !heap.is_of_a_file());
        let text = Region::parse("5581-5582 r-xp 00002000 08:1f 131        /usr/bin/some  thing (deleted)")
            .expect("a region");
        assert_eq!(text.name, "/usr/bin/some  thing (deleted)");
        assert_eq!((text.device, text.inode), ((8, 0x1f), 131));
        assert!(text.is_of_a_file() && !text.is_anonymous());
        for none in ["", "x-y rw-p", "5-4 rw-p 0 0:0 0", "1-2", "1-2 r--p 0 08 1", "1-2 r--p 0 0:0 x"] {
            assert_eq!(Region::parse(none), None, "{none}");
        }
        for not in ["1-2 ---p 0 0:0 0", "1-2 r--p 0 0:0 0 [vvar]"] {
            assert!(!Region::parse(not).expect("a region").is_memory(), "{not}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_line_is_read_without_harm(line in ".{0,200}") {
            Region::parse(&line);
        }
    }

    fn own<'a>(memory: &'a File, pagemap: &'a File, at: u64, end: u64) -> Memory<'a> {
        Memory { memory, pagemap, page: page_bytes(), at, end }
    }

    #[test]
    fn own_memory_is_read_and_holes_are_zeros() {
        let secret = std::hint::black_box(vec![0xa5_u8; 3 * 4_096]);
        let file = File::open("/proc/self/mem").expect("own memory");
        let pagemap = File::open("/proc/self/pagemap").expect("own pages");
        let at = u64::try_from(secret.as_ptr().addr()).expect("an address");
        let mut read = vec![0; secret.len()];
        own(&file, &pagemap, at, at + 3 * 4_096).read_exact(&mut read).expect("it is there");
        assert_eq!(read, secret);
        // Nothing is mapped at the first page.
        let mut nothing = vec![1; 8_192];
        own(&file, &pagemap, 0, 8_192).read_exact(&mut nothing).expect("zeros");
        assert!(nothing.iter().all(|byte| *byte == 0));
    }

    #[test]
    fn only_what_answers_by_itself_is_read() {
        let host = Mounts::now();
        let pid = std::process::id();
        let answering = Answering::for_process(pid, &host);
        assert_eq!(answering.leaves_program(pid), None);
        for (line, word) in [
            // Nobody knows such a file system: FUSE of another namespace, one that was unmounted.
            ("1000-2000 r--s 0 fff:fffff 9 /memfd:it looks like one", Some("remote")),
            ("1000-2000 rw-p 0 00:00 0 [heap]", None),
        ] {
            assert_eq!(answering.leaves(pid, &Region::parse(line).expect("a region")), word, "{line}");
        }
    }
}
