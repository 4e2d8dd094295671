//! What package managers keep.

use crate::sense::packages::{dpkg, pip, rpm};

/// Every stanza has a name.
pub fn dpkg_status(input: &[u8]) -> bool {
    let stanzas = dpkg::status::parse(input);
    assert!(stanzas.iter().all(|stanza| !stanza.name.is_empty()));
    let held: usize = stanzas.iter().flat_map(|stanza| &stanza.conffiles).map(|(path, _)| path.len()).sum();
    assert!(held <= input.len(), "paths were in the file");
    !stanzas.is_empty()
}

/// What is read is written back as it was: a path can be no other's, and no path has another's digest.
pub fn dpkg_sums(input: &[u8]) -> bool {
    let sums: Vec<_> = dpkg::sums(input).collect();
    for (name, digest) in &sums {
        assert!(!name.is_empty() && !name.contains(&b'\n'));
        let line = [picket_protocol::crypto::hex(digest).as_bytes(), b"  ", name].concat();
        assert_eq!(dpkg::sums(&line).next(), Some((*name, *digest)));
    }
    assert!(sums.len() <= input.len() / 35 + 1);
    !sums.is_empty()
}

/// What a header holds is no more than it can.
pub fn rpm_header(input: &[u8]) -> bool {
    let Some(header) = rpm::header::Header::parse(input) else { return false };
    let _ = (header.text(1_000), header.version(), header.numbers(1_030).count());
    let paths = header.paths();
    assert!(paths.iter().all(|path| path.len() <= 2 * input.len() + 1));
    let held: usize = paths.iter().map(Vec::len).sum();
    assert!(held <= rpm::header::PATHS_BYTES_MAX, "paths of {held} bytes");
    true
}

/// What is read can be written so that it is read again.
pub fn pip_record(input: &[u8]) -> bool {
    let records = pip::records(input);
    let mut digests = 0;
    for (path, digest) in &records {
        assert!(!path.is_empty() && !path.contains(&b'\n'));
        let quoted = String::from_utf8_lossy(path).replace('"', "\"\"");
        let hash = digest.map(|digest| {
            let text = picket_protocol::crypto::to_base64(&digest).replace('+', "-").replace('/', "_");
            format!("sha256={}", text.trim_end_matches('='))
        });
        let line = format!("\"{quoted}\",{},1\r\n", hash.unwrap_or_default());
        let again = pip::records(line.as_bytes());
        let lossy = String::from_utf8_lossy(path).into_owned().into_bytes();
        assert_eq!(again, [(lossy, *digest)], "{}", line.escape_debug());
        digests += usize::from(digest.is_some());
    }
    digests > 0
}
