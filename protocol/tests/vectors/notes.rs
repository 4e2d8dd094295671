//! Signed notes, checkpoints and cosignatures.

use picket_protocol::checkpoint::{Checkpoint, CheckpointError, SignedCheckpoint, verify_cosignature};
use picket_protocol::crypto::{SigningKey, from_base64, from_base64_exact, hex};
use picket_protocol::note::{KeyKind, Note, NoteError, SIGNATURES_MAX, VerifierKey};
use picket_protocol::time::Timestamp;

// golang.org/x/mod, sumdb/note/note_test.go at 02c991387e35f9e4c0a9b7ce137717055f8d716d.
const PETER: &str = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
const PETER_PRIVATE: &str = "AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz";
const ENOCH: &str = "EnochRoot+af0cfe78+ATtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop";
const TEXT: &str =
    "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n";
const PETER_LINE: &str = "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";
const ENOCH_LINE: &str = "— EnochRoot rwz+eBzmZa0SO3NbfRGzPCpDckykFXSdeX+MNtCOXm2/5n2tiOHp+vAF1aGrQ5ovTG01oOTGwnWLox33WWd1RvMc+QQ=\n";

fn key(text: &str) -> VerifierKey {
    VerifierKey::parse(text).unwrap()
}

/// C2SP signed-note, "Verifier keys": the example key and note (taken from the suites of three implementations
/// that quote the specification, among them tlog_scales and metamorphic-log).
#[test]
fn example_of_signed_note() {
    let text = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k";
    let foo = key(text);
    assert_eq!(hex(&foo.public().0), "e932791ae6e7a840a46164c904786426d5e7821dd8b29a00d61cae72afdd4da4");
    assert_eq!((foo.kind(), hex(&foo.key_id()).as_str()), (KeyKind::Ed25519, "530d903a"));
    assert_eq!(foo.to_string(), text);
    let note = "This is an example message.\n\n— example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n";
    let parsed = Note::parse(note.as_bytes()).unwrap();
    parsed.verify(&foo).unwrap();
    assert_eq!(parsed.to_string(), note);
}

/// C2SP signed-note at 055287621bf3cd13ff4394418a3e8efc2d5e8ed7, the note at its head: a blank line and letters
/// outside of ASCII in the text. The document does not give the key.
#[test]
fn poem_of_signed_note() {
    let note = "Ognuno sta solo sul cuor della terra\ntrafitto da un raggio di sole:\n\ned è subito sera.\n\n— quasimodo.example/salvatore NnugSzTjtVAewIS+Z/iJhUPeFDkO/5QQ2i5ddnGITLlC+EhfLW9oJKONrMouFSQU0xMcXxj99ihAQwaqP3ZekRwNtIc=\n";
    let parsed = Note::parse(note.as_bytes()).unwrap();
    assert!(parsed.text().ends_with("sole:\n\ned è subito sera.\n"));
    let [signature] = parsed.signatures() else { panic!("one signature") };
    assert_eq!(signature.name, "quasimodo.example/salvatore");
    assert_eq!((hex(&signature.key_id).as_str(), signature.bytes.len()), ("367ba04b", 64));
    assert_eq!(parsed.to_string(), note);
}

/// note_test.go, `TestSign`.
#[test]
fn go_signs_the_same() {
    let private = from_base64(PETER_PRIVATE).unwrap();
    let (1, seed) = (private[0], &private[1..]) else { panic!("an Ed25519 key") };
    let signer = SigningKey::from_seed(seed.try_into().unwrap());
    let mut note = Note::new(TEXT.to_owned()).unwrap();
    note.sign("PeterNeumann", &signer).unwrap();
    assert_eq!(note.to_string(), format!("{TEXT}\n{PETER_LINE}"));
    // A signature by the same key is replaced.
    note.add_signature(&key(PETER), vec![1, 2, 3]);
    note.sign("PeterNeumann", &signer).unwrap();
    assert_eq!(note.to_string(), format!("{TEXT}\n{PETER_LINE}"));
    assert_eq!(Note::new("abc".to_owned()), Err(NoteError::NotText));
    assert!(note.sign("bad name", &signer).is_err());
}

/// note_test.go, `TestNewVerifier`.
#[test]
fn go_manglings_of_a_verifier_key() {
    assert_eq!(key(PETER).to_string(), PETER);
    for from in 0..=PETER.len() {
        for to in from + 1..=PETER.len() {
            let cut = &PETER[from..to];
            assert!(cut.len() == PETER.len() || VerifierKey::parse(cut).is_err(), "{cut}");
        }
    }
    for at in 0..PETER.len() {
        let mut changed = PETER.as_bytes().to_vec();
        changed[at] += 1;
        assert!(VerifierKey::parse(std::str::from_utf8(&changed).unwrap()).is_err());
    }
    for bad in [
        "PeterNeumann+cc469956+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TWBADKEY==",
        "PeterNeumann+173116ae+ZRpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
    ] {
        assert!(VerifierKey::parse(bad).is_err());
    }
}

/// note_test.go, `TestOpen`.
#[test]
fn go_opens_the_same() {
    let (peter, enoch) = (key(PETER), key(ENOCH));
    let parse = |text: &str| Note::parse(text.as_bytes());
    let both = parse(&format!("{TEXT}\n{PETER_LINE}{ENOCH_LINE}")).unwrap();
    assert_eq!(both.text(), TEXT);
    assert_eq!((both.verify(&peter), both.verify(&enoch)), (Ok(()), Ok(())));
    let one = parse(&format!("{TEXT}\n{PETER_LINE}")).unwrap();
    assert_eq!(one.verify(&enoch), Err(NoteError::NotSigned("EnochRoot".to_owned())));
    // Repeated lines are read; the first by a key decides.
    let abcd = |line: &str| format!("{}ABCD{}", &line[..62], &line[62..]);
    let many =
        parse(&format!("{TEXT}\n{PETER_LINE}{PETER_LINE}{ENOCH_LINE}{ENOCH_LINE}{}", abcd(ENOCH_LINE)));
    assert_eq!(many.unwrap().verify(&enoch), Ok(()));
    let spoilt = parse(&format!("{TEXT}\n{}", abcd(PETER_LINE))).unwrap();
    assert_eq!(spoilt.verify(&peter), Err(NoteError::BadSignature("PeterNeumann".to_owned())));
    let bad = [
        TEXT.to_owned(),
        format!("{TEXT}\n"),
        format!("{TEXT}\n{}", PETER_LINE.trim_end()),
        format!("\u{1}{TEXT}\n{PETER_LINE}"),
        format!(
            "{TEXT}\n— Bad Name x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM="
        ),
        format!("{TEXT}\n{PETER_LINE}Unexpected line.\n"),
        format!("{TEXT}\n{}", PETER_LINE.repeat(101)),
    ];
    for text in bad {
        assert!(parse(&text).is_err(), "{text}");
    }
    assert!(Note::parse(&[b"\xff", TEXT.as_bytes(), b"\n", PETER_LINE.as_bytes()].concat()).is_err());
    // The same line under another name, or with another key id, is not Peter's.
    for line in [PETER_LINE.replace("PeterNeumann", "CarmenSandiego"), PETER_LINE.replace("x08g", "xxxx")] {
        let note = parse(&format!("{TEXT}\n{line}")).unwrap();
        assert_eq!(note.verify(&peter), Err(NoteError::NotSigned("PeterNeumann".to_owned())));
    }
}

/// C2SP signed-note: verifiers must accept at least up to 16 signatures.
#[test]
fn sixteen_signatures() {
    let others: String = (0..15).map(|n| PETER_LINE.replace("PeterNeumann", &format!("other{n}"))).collect();
    let note = Note::parse(format!("{TEXT}\n{others}{PETER_LINE}").as_bytes()).unwrap();
    assert_eq!(note.signatures().len(), SIGNATURES_MAX);
    note.verify(&key(PETER)).unwrap();
}

/// C2SP tlog-checkpoint at 2793893976c835db049c194d8f2c4f946dcb70ba and tlog-cosignature at
/// 01194db11950a0ae2b2b2401afa0a4063a822458: the checkpoint, its cosignature, and the time in the signed
/// message. The documents give no public keys, so the signatures themselves cannot be checked.
#[test]
fn examples_of_tlog_checkpoint_and_tlog_cosignature() {
    let text = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n";
    let log_line = "— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n";
    let witness_line = "— witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==\n";
    let whole = format!("{text}\n{log_line}{witness_line}");
    let note = Note::parse(whole.as_bytes()).unwrap();
    let checkpoint = Checkpoint::parse(note.text()).unwrap();
    assert_eq!(checkpoint.origin, "example.com/behind-the-sofa");
    assert_eq!(checkpoint.size, 20_852_163);
    let root = from_base64_exact("CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=");
    assert_eq!(Some(checkpoint.root), root);
    assert!(checkpoint.extensions.is_empty());
    assert_eq!((checkpoint.to_text().as_str(), note.to_string()), (text, whole.clone()));
    let [log, witness] = note.signatures() else { panic!("two signatures") };
    assert_eq!((log.name.as_str(), log.bytes.len()), ("example.com/behind-the-sofa", 64));
    assert_eq!((witness.name.as_str(), witness.bytes.len()), ("witness.example.com/w1", 8 + 64));
    let time: [u8; 8] = witness.bytes[..8].try_into().unwrap();
    assert_eq!(u64::from_be_bytes(time), 1_679_315_147, "the time in the document's signed message");
}

/// A checkpoint of a public log with cosignatures of public witnesses, made by other programs: the suite of
/// tlog_scales (test_signing.py, `TestCheckpointVerification`); the key of remora.n621.de stands also in
/// github.com/transparency-dev/formats, note/note_cosigv1_test.go at 091ce41666c09683aa9350785e572be27f0c026d.
/// It has signatures of types that we do not know, which are to be ignored.
#[test]
fn a_real_cosigned_checkpoint() {
    let text = include_str!("arche2025h1-checkpoint.txt");
    let log =
        key("arche2025h1.staging.ct.transparency.dev+ba2f06c0+AU0vHmlGCS/PdN8b2OaGmKprLI8HKM+dJ472xgFYh15f");
    let witness = key("remora.n621.de+da77ade7+BOvN63jn/bLvkieywe8R6UYAtVtNbZpXh34x7onlmtw2");
    assert_eq!((log.kind(), witness.kind()), (KeyKind::Ed25519, KeyKind::Cosignature));
    let signed = SignedCheckpoint::open(text.as_bytes(), &log).unwrap();
    assert_eq!(signed.checkpoint().size, 1_432_088_532);
    assert_eq!(signed.to_text(), text);
    assert_eq!(signed.cosigned_at(&witness), Ok(Timestamp::from_seconds(0x6a12_2120)));
    // Each key verifies its own kind of signature only.
    assert!(signed.note().verify(&witness).is_err());
    assert!(signed.cosigned_at(&log).is_err());
    // Whatever is changed in the text, both signatures fail.
    let end = text.find("\n\n").unwrap();
    for at in 0..end {
        let mut changed = text.as_bytes().to_vec();
        changed[at] ^= 1;
        if let Ok(note) = Note::parse(&changed) {
            assert!(note.verify(&log).is_err() && verify_cosignature(&note, &witness).is_err(), "byte {at}");
        }
    }
}

/// transparency-dev/formats, note_cosigv1_test.go (as above), `TestCoSigV1NewVerifier` and `TestCosignatureTimestamp`.
#[test]
fn keys_and_times_of_transparency_dev() {
    key("TEST+7997405c+AQcC+FTVKf0jlTdHDY3rbevmnKxxPjigCXlVtGe6RIr6");
    for bad in [
        "bananas.sigstore.dev+12344556",
        "rekor.sigstore.dev+12345678+THIS_IS_NOT_BASE64!",
        "rekor.sigstore.dev+12345678+AwEB",
    ] {
        assert!(VerifierKey::parse(bad).is_err(), "{bad}");
    }
    let line = "— w ZGhGuQAAAABm/qTPeyKXD+R2rzyQsxPiP8mXum7qq/iF0u4vanlqJyocWODBt97w9uL+8qT7S5gxEHWWOworDcFiEBYJXORmnFBOBA==\n";
    let note = Note::parse(format!("text\n\n{line}").as_bytes()).unwrap();
    let time: [u8; 8] = note.signatures()[0].bytes[..8].try_into().unwrap();
    assert_eq!(u64::from_be_bytes(time), 1_727_964_367);
}

/// transparency-dev/formats, log/checkpoint_test.go at 7a6ef700ee5660b2580c9da92063af300820fdee, `TestUnmarshalLogState`,
/// with a root of 32 bytes where that package takes any length.
#[test]
fn checkpoint_texts_of_transparency_dev() {
    let root = "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=";
    let valid = format!("Log\n9944\n{root}\nlots\nof\nlines\n");
    let checkpoint = Checkpoint::parse(&valid).unwrap();
    assert_eq!((checkpoint.origin.as_str(), checkpoint.size), ("Log", 9944));
    assert_eq!(checkpoint.extensions, ["lots", "of", "lines"]);
    let cases = [
        ("Head\n9944\n".to_owned(), "root"),
        (format!("\n9944\n{root}\n"), "origin"),
        (format!("Log\n123\n{root}"), "last"),
        (format!("Log\nbananas\n{root}\n"), "size"),
        (format!("Log\n-34\n{root}\n"), "size"),
        (format!("Log\n3438945738945739845734895735\n{root}\n"), "size"),
        ("Log\n123\nThisIsn'tBase64\n".to_owned(), "root"),
        ("Log\n123\nYmFuYW5hcw==\n".to_owned(), "root"),
        // tlog-checkpoint: extension lines must be non-empty, sizes have no leading zeroes.
        (format!("Log\n9944\n{root}\n\n\n\n"), "extension"),
        (format!("Log\n09944\n{root}\n"), "size"),
        (format!("Log\n+9944\n{root}\n"), "size"),
    ];
    for (text, line) in cases {
        assert_eq!(Checkpoint::parse(&text), Err(CheckpointError::Malformed(line)), "{text:?}");
    }
}
