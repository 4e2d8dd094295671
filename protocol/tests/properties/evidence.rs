//! The format of age, chunks of evidence, and what stands in a manifest.

use picket_protocol::age::{AgeError, CHUNK_BYTES, Header, NONCE_BYTES, Recipient, Sealer, TAG_BYTES};
use picket_protocol::evidence::{CHUNK_BYTES_MAX, Chunk, ChunkError, ManifestTree, name_of};
use proptest::collection::vec;
use proptest::prelude::*;
use ring::rand::SystemRandom;
use x25519_dalek::{X25519_BASEPOINT_BYTES, x25519};
use zeroize::Zeroizing;

fn recipient(secret: [u8; 32]) -> Recipient {
    Recipient(x25519(secret, X25519_BASEPOINT_BYTES))
}

fn seal(secrets: &[[u8; 32]], plain: &[u8], pieces: usize) -> Vec<u8> {
    let recipients: Vec<Recipient> = secrets.iter().map(|secret| recipient(*secret)).collect();
    let (mut file, mut sealer) = Sealer::begin(&recipients, &SystemRandom::new()).unwrap();
    for piece in plain.chunks(pieces) {
        sealer.push(piece, &mut file).unwrap();
    }
    sealer.finish(&mut file).unwrap();
    file
}

fn open(secret: [u8; 32], file: &[u8]) -> Result<Vec<u8>, AgeError> {
    let (header, length) = Header::parse(file)?.ok_or(AgeError::Header("cut"))?;
    let agree = |share: &[u8; 32]| Some(Zeroizing::new(x25519(secret, *share)));
    let key = header.open(&recipient(secret), &agree)?;
    let (nonce, rest) = file[length..].split_first_chunk::<NONCE_BYTES>().ok_or(AgeError::Chunk(0))?;
    let mut opener = key.payload(nonce)?;
    let mut plain = Vec::new();
    let mut chunks: Vec<Vec<u8>> = rest.chunks(CHUNK_BYTES + TAG_BYTES).map(<[u8]>::to_vec).collect();
    let count = chunks.len();
    if count == 0 {
        return Err(AgeError::Chunk(0));
    }
    for (at, chunk) in chunks.iter_mut().enumerate() {
        plain.extend_from_slice(opener.chunk(chunk, at + 1 == count)?);
    }
    Ok(plain)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_sealed_opens_for_each_recipient_and_nobody_else(
        secrets in vec(any::<[u8; 32]>(), 1..4),
        stranger in any::<[u8; 32]>(),
        plain in prop_oneof![vec(any::<u8>(), 0..300), (0..3_usize, 0..3_usize).prop_map(|(chunks, more)| vec![7; (chunks * CHUNK_BYTES + more).saturating_sub(1)])],
        pieces in 1..100_000_usize,
    ) {
        let file = seal(&secrets, &plain, pieces);
        for secret in &secrets {
            prop_assert_eq!(open(*secret, &file), Ok(plain.clone()));
        }
        prop_assume!(!secrets.iter().any(|secret| recipient(*secret) == recipient(stranger)));
        prop_assert_eq!(open(stranger, &file), Err(AgeError::NotForUs));
    }

    #[test]
    fn no_byte_of_a_file_can_be_changed_or_left_out(plain in vec(any::<u8>(), 0..200), at in any::<prop::sample::Index>(), xor in 1..=255_u8) {
        let secret = [3; 32];
        let file = seal(&[secret], &plain, 9);
        let mut changed = file.clone();
        changed[at.index(file.len())] ^= xor;
        prop_assert!(open(secret, &changed).is_err());
        prop_assert!(open(secret, &file[..at.index(file.len())]).is_err());
    }

    #[test]
    fn chunks_are_read_back(id in any::<u128>(), offset in any::<u64>(), more in 0..9_u64, bytes in vec(any::<u8>(), 0..500)) {
        let end = offset.checked_add(bytes.len() as u64).and_then(|end| end.checked_add(more));
        let chunk = Chunk { evidence: uuid::Uuid::from_u128(id), offset, total: end.unwrap_or(u64::MAX), bytes };
        let body = chunk.to_frame().unwrap().body;
        match end {
            Some(_) => prop_assert_eq!(Chunk::from_body(&body), Ok(chunk)),
            None => prop_assert!(Chunk::from_body(&body).is_err() || chunk.bytes.is_empty()),
        }
        for cut in 0..32 {
            prop_assert_eq!(Chunk::from_body(&body[..cut]), Err(ChunkError::Length(cut)));
        }
    }

    #[test]
    fn a_name_leads_nowhere_else(path in vec(any::<u8>(), 0..200)) {
        let name = name_of("files", &path);
        prop_assert!(name == "files" || name.starts_with("files/"));
        prop_assert!(name.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' '));
        prop_assert!(!name.split('/').any(|part| part.is_empty() || part == "." || part == ".."));
    }

    #[test]
    fn different_paths_have_different_names(one in "(/[ -~\u{80}-\u{fff}]{1,9}){1,3}", other in "(/[ -~\u{80}-\u{fff}]{1,9}){1,3}") {
        let parts = |path: &str| path.split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect::<Vec<_>>();
        prop_assert_eq!(parts(&one) == parts(&other), name_of("f", one.as_bytes()) == name_of("f", other.as_bytes()));
    }
}

#[test]
fn a_chunk_has_its_bounds() {
    let chunk = |bytes: usize| Chunk {
        evidence: uuid::Uuid::nil(),
        offset: 0,
        total: 1 << 40,
        bytes: vec![0; bytes],
    };
    assert!(chunk(CHUNK_BYTES_MAX).to_frame().is_ok() && chunk(CHUNK_BYTES_MAX + 1).to_frame().is_err());
    let behind = Chunk { total: 2, ..chunk(3) };
    assert_eq!(Chunk::from_body(&behind.to_frame().unwrap().body), Err(ChunkError::Bounds));
}

#[test]
fn the_order_of_lines_counts() {
    let root = |lines: &[&str]| {
        let mut tree = ManifestTree::default();
        lines.iter().for_each(|line| tree.push(line.as_bytes()));
        (tree.lines(), tree.root())
    };
    assert_eq!(root(&["a", "b"]), root(&["a", "b"]));
    assert_ne!(root(&["a", "b"]).1, root(&["b", "a"]).1);
    assert_ne!(root(&["a"]).1, root(&["a", ""]).1);
}

#[test]
fn files_are_sealed_to_somebody_and_to_few() {
    let random = SystemRandom::new();
    assert!(matches!(Sealer::begin(&[], &random), Err(AgeError::Recipients)));
    assert!(matches!(Sealer::begin(&[recipient([1; 32]); 17], &random), Err(AgeError::Recipients)));
    assert!(
        matches!(Sealer::begin(&[Recipient([0; 32])], &random), Err(AgeError::Agreement)),
        "of small order"
    );
}
