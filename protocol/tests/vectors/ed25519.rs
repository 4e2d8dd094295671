//! RFC 8032, and what it leaves open.

use picket_protocol::crypto::{PublicKey, SigningKey};

use crate::{unhex, unhex32};

/// RFC 8032, section 7.1: TEST 1, 2, 3 and SHA(abc); seed, public key, message, signature. (TEST 1024 is not
/// here: it checks nothing about lengths that our own property tests do not.)
const RFC_8032: [[&str; 4]; 4] = [
    [
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ],
    [
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ],
    [
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ],
    [
        "833fe62409237b9d62ec77587520911e9a759cec1d19755b7da901b96dca3d42",
        "ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf",
        "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
        "dc2a4459e7369633a52b1bf277839a00201009a3efbf3ecb69bea2186c26b58909351fc9ac90b3ecfdfbc7c66431e0303dca179c138ac17ad9bef1177331a704",
    ],
];

#[test]
fn keys_and_signatures_of_rfc_8032() {
    for [seed, public, message, signature] in RFC_8032 {
        let (key, message, signature) =
            (SigningKey::from_seed(unhex32(seed)), unhex(message), unhex(signature));
        assert_eq!(key.public().0, unhex32(public));
        assert_eq!(key.sign(&message).as_slice(), signature);
        assert!(key.public().verifies(&message, &signature));
        for at in 0..signature.len() {
            let mut changed = signature.clone();
            changed[at] ^= 1;
            assert!(!key.public().verifies(&message, &changed), "byte {at} of the signature changed");
        }
    }
}

/// RFC 8032, 5.1.7: S must be below the group order, or each signature has a twin.
#[test]
fn a_signature_has_no_twin() {
    // The order L of section 5.1, little-endian.
    let order = unhex32("edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010");
    let [_, public, message, signature] = RFC_8032[2];
    let mut twin = unhex(signature);
    let mut carry = 0_u16;
    for (byte, add) in twin[32..].iter_mut().zip(order) {
        let sum = u16::from(*byte) + u16::from(add) + carry;
        *byte = (sum & 0xff) as u8;
        carry = sum >> 8;
    }
    assert_eq!(carry, 0);
    assert!(!PublicKey(unhex32(public)).verifies(&unhex(message), &twin));
}

/// The points of small order (libsodium's list in `ge25519_has_small_order`; their orders are easily computed
/// from the curve's equation). RFC 8032 alone would accept what nobody signed.
#[test]
fn keys_of_small_order_sign_nothing() {
    let identity = "0100000000000000000000000000000000000000000000000000000000000000";
    let mut forged = unhex(identity);
    forged.extend([0; 32]);
    let by_rfc = ring::signature::UnparsedPublicKey::new(&ring::signature::ED25519, unhex(identity));
    assert!(by_rfc.verify(b"anything", &forged).is_ok(), "the attack works where nobody looks");
    let weak = [
        "0000000000000000000000000000000000000000000000000000000000000000",
        identity,
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    ];
    for point in weak {
        for sign in [0, 0x80] {
            let mut key = PublicKey(unhex32(point));
            key.0[31] |= sign;
            assert!(key.is_weak());
            assert!(!key.verifies(b"anything", &forged));
            assert_eq!(PublicKey::parse(&key.to_string()), None);
        }
    }
    for [_, public, ..] in RFC_8032 {
        assert!(!PublicKey(unhex32(public)).is_weak());
    }
}
