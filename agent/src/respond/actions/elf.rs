//! What a program or library of this kind of machine (ELF, 64 bits, little-endian; elf(5)) says that it needs to be loaded. Pure: the
//! bytes come from a function, and only the few that are asked for are read.

/// Program headers, entries of the dynamic section, and bytes of a text that are read; what is beyond is left out.
const HEADERS_MAX: usize = 64;
const ENTRIES_MAX: usize = 1_024;
const TEXT_BYTES_MAX: usize = 1_024;

/// `e_ident`: the magic, `ELFCLASS64`, `ELFDATA2LSB`.
const IDENT: [u8; 6] = [0x7f, b'E', b'L', b'F', 2, 1];
/// Sizes of the file's header, of a program header and of an entry of the dynamic section.
const FILE_HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;
const ENTRY: usize = 16;
/// `PT_LOAD`, `PT_DYNAMIC`.
const LOAD: u64 = 1;
const DYNAMIC: u64 = 2;
/// `DT_NULL`, `DT_NEEDED`, `DT_STRTAB`, `DT_RPATH`, `DT_RUNPATH`.
const NULL: u64 = 0;
const NEEDED: u64 = 1;
const TEXTS: u64 = 5;
const PATH: u64 = 15;
const RUN_PATH: u64 = 29;

/// What is needed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Names of libraries, or paths where there is a slash in one.
    pub libraries: Vec<String>,
    /// Where they are looked for first, as written: `$ORIGIN` may be in it.
    pub places: Vec<String>,
}

/// What the file says; none where it is no such file, or is linked with nothing. `read` gives the bytes from an offset on, fewer at the
/// file's end.
pub fn needs(read: impl Fn(u64, usize) -> Vec<u8>) -> Option<Needs> {
    let header = read(0, FILE_HEADER);
    if header.get(..IDENT.len())? != IDENT || number(&header, 54, 2)? != 56 {
        return None;
    }
    let count = usize::try_from(number(&header, 56, 2)?).ok()?.min(HEADERS_MAX);
    let table = read(number(&header, 32, 8)?, count * PROGRAM_HEADER);
    // Kind, place in the file, address, bytes in the file.
    let parts: Vec<[u64; 4]> = table
        .chunks_exact(PROGRAM_HEADER)
        .filter_map(|part| {
            Some([number(part, 0, 4)?, number(part, 8, 8)?, number(part, 16, 8)?, number(part, 32, 8)?])
        })
        .collect();
    let [_, place, _, bytes] = *parts.iter().find(|[kind, ..]| *kind == DYNAMIC)?;
    let bytes = usize::try_from(bytes).ok()?.min(ENTRIES_MAX * ENTRY);
    let section = read(place, bytes);
    let entries =
        section.chunks_exact(ENTRY).filter_map(|entry| Some((number(entry, 0, 8)?, number(entry, 8, 8)?)));
    let entries: Vec<(u64, u64)> = entries.take_while(|(kind, _)| *kind != NULL).collect();
    let (_, texts) = entries.iter().find(|(kind, _)| *kind == TEXTS)?;
    let texts = place_of(&parts, *texts)?;
    let all = |wanted: &[u64]| -> Vec<String> {
        let own = entries.iter().filter(|(kind, _)| wanted.contains(kind));
        own.filter_map(|(_, at)| text(&read(texts.checked_add(*at)?, TEXT_BYTES_MAX))).collect()
    };
    let places =
        all(&[PATH, RUN_PATH]).iter().flat_map(|places| places.split(':').map(str::to_owned)).collect();
    Some(Needs { libraries: all(&[NEEDED]), places })
}

/// Where in the file an address is.
fn place_of(parts: &[[u64; 4]], address: u64) -> Option<u64> {
    parts.iter().find_map(|[kind, place, from, bytes]| {
        let within = address.checked_sub(*from).filter(|within| *kind == LOAD && within < bytes)?;
        place.checked_add(within)
    })
}

fn number(bytes: &[u8], at: usize, length: usize) -> Option<u64> {
    let own = bytes.get(at..at.checked_add(length)?)?;
    Some(own.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

/// One that ends, is not empty, and is text.
fn text(bytes: &[u8]) -> Option<String> {
    let end = bytes.iter().position(|byte| *byte == 0)?;
    let own = bytes.get(..end).filter(|own| !own.is_empty())?;
    String::from_utf8(own.to_vec()).ok()
}
