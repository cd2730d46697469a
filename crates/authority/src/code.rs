//! The join code: everything a home needs to find its edge, to know it, and to be let in, in 60 characters that a person
//! can read out and type.
//!
//! | bits | what |
//! |---:|---|
//! | 8 | version, 1 |
//! | 32 | the edge's IPv4 address; zero if the code carries none |
//! | 16 | the TCP port |
//! | 128 | the first bits of the SHA-256 of the authority's certificate (DER) |
//! | 80 | the secret |
//! | 6 | zero |
//! | 30 | checksum |
//!
//! They are written big end first in Crockford's base32, without `I`, `L`, `O` and `U`. The checksum is that of Bech32m
//! ([BIP 350](https://github.com/bitcoin/bips/blob/master/bip-0350.mediawiki)): any error in up to four characters is
//! found, of others all but one in a thousand million. An IPv6 address has no room here.

use std::fmt;
use std::net::Ipv4Addr;

use aws_lc_rs::digest;
use secrecy::SecretString;

const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const VERSION: u8 = 1;
/// Characters in all, and those of them that are the checksum.
const LENGTH: usize = 60;
const CHECKSUM: usize = 6;
/// Bytes that are encoded.
const BYTES: usize = 33;
/// Characters that are printed together.
const GROUP: usize = 5;
/// BIP 173's generator and BIP 350's constant.
const GENERATOR: [u32; 5] = [0x3b6a_57b2, 0x2650_8e6d, 0x1ea1_19fa, 0x3d42_33dd, 0x2a14_62b3];
const CONSTANT: u32 = 0x2bc8_30a3;

/// Why a text is no join code. What it says shows at most one character of the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodeError {
    /// A character that no code has.
    #[error("its character {at} is {found:?}, which no code has: look at the code again")]
    Character {
        /// The character.
        found: char,
        /// Where, counted from 1 without spaces and dashes.
        at: usize,
    },
    /// Too short or too long.
    #[error("it has {found} characters without spaces and dashes, a code has {LENGTH}: look at the code again")]
    Length {
        /// How many it has; counting ends at 1,000.
        found: usize,
    },
    /// Mistyped.
    #[error("it is mistyped somewhere: look at the code again")]
    Checksum,
    /// Made by another release.
    #[error("it is of version {0}, this release knows {VERSION}: install the same release as on the edge")]
    Version(u8),
    /// It says what no code says.
    #[error("it is not a code that an edge has made: ask for a new one there with `agentctl code new`")]
    Content,
}

/// The first 128 bits of the SHA-256 of an authority's certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([u8; 16]);

impl Fingerprint {
    /// Of a certificate, DER.
    #[must_use]
    pub fn of(certificate: &[u8]) -> Self {
        let mut first = [0; 16];
        let whole = digest::digest(&digest::SHA256, certificate);
        for (to, from) in first.iter_mut().zip(whole.as_ref()) {
            *to = *from;
        }
        Self(first)
    }
}

/// What lets a home in, once.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub(crate) [u8; 10]);

impl Secret {
    /// A new one, of 80 random bits.
    #[must_use]
    pub fn random() -> Self {
        Self(rand::random())
    }

    /// As hexadecimal digits, for the request that redeems it.
    #[must_use]
    pub fn to_hex(&self) -> SecretString {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into()
    }

    /// Reads what [`Secret::to_hex`] wrote; none if it is anything else.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        let mut bytes = [0; 10];
        if text.len() != 2 * bytes.len() {
            return None;
        }
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
            let value = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
            let (high, low) = (pair.first().copied().and_then(value)?, pair.get(1).copied().and_then(value)?);
            *byte = high << 4 | low;
        }
        Some(Self(bytes))
    }

    /// What is kept of it.
    pub(crate) fn hash(&self) -> [u8; 32] {
        let mut hash = [0; 32];
        for (to, from) in hash.iter_mut().zip(digest::digest(&digest::SHA256, &self.0).as_ref()) {
            *to = *from;
        }
        hash
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Where the edge takes requests to join.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Its IPv4 address; none where it has none, or it is not known: who joins then says where the edge is.
    pub address: Option<Ipv4Addr>,
    /// The TCP port, never 0.
    pub port: u16,
}

/// A join code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinCode {
    /// Where the edge is.
    pub place: Place,
    /// By what the edge is known.
    pub fingerprint: Fingerprint,
    /// What lets the holder in.
    pub secret: Secret,
}

impl JoinCode {
    /// The code in groups, to be shown once.
    #[must_use]
    pub fn to_text(&self) -> SecretString {
        let address = self.place.address.unwrap_or(Ipv4Addr::UNSPECIFIED);
        let mut bytes = Vec::with_capacity(BYTES);
        bytes.push(VERSION);
        bytes.extend(address.octets());
        bytes.extend(self.place.port.to_be_bytes());
        bytes.extend(self.fingerprint.0);
        bytes.extend(self.secret.0);
        let mut symbols = to_symbols(&bytes);
        let sum = remainder(symbols.iter().copied().chain([0; CHECKSUM])) ^ CONSTANT;
        symbols.extend((0..CHECKSUM).rev().map(|at| (sum >> (5 * at) & 31) as u8));
        let mut text = String::with_capacity(LENGTH + LENGTH / GROUP);
        for (at, &symbol) in symbols.iter().enumerate() {
            if at > 0 && at % GROUP == 0 {
                text.push('-');
            }
            text.push(char::from(ALPHABET[usize::from(symbol & 31)]));
        }
        text.into()
    }

    /// Reads a code as people write it: in either case, with spaces and dashes anywhere, with `O` for 0 and `I` or `L`
    /// for 1.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, CodeError> {
        let mut symbols = Vec::with_capacity(LENGTH);
        let written = text.chars().filter(|&c| !c.is_whitespace() && !is_dash(c));
        for (at, found) in written.take(1_000).enumerate() {
            symbols.push(symbol(found).ok_or(CodeError::Character { found, at: at + 1 })?);
        }
        if symbols.len() != LENGTH {
            return Err(CodeError::Length { found: symbols.len() });
        }
        if remainder(symbols.iter().copied()) != CONSTANT {
            return Err(CodeError::Checksum);
        }
        let bytes = to_bytes(&symbols);
        let (&[version], rest) = bytes.split_first_chunk::<1>().ok_or(CodeError::Content)?;
        if version != VERSION {
            return Err(CodeError::Version(version));
        }
        let (&address, rest) = rest.split_first_chunk::<4>().ok_or(CodeError::Content)?;
        let (&port, rest) = rest.split_first_chunk::<2>().ok_or(CodeError::Content)?;
        let (&fingerprint, rest) = rest.split_first_chunk::<16>().ok_or(CodeError::Content)?;
        let (&secret, rest) = rest.split_first_chunk::<10>().ok_or(CodeError::Content)?;
        let (address, port) = (Ipv4Addr::from(address), u16::from_be_bytes(port));
        if port == 0 || rest.iter().any(|&byte| byte != 0) {
            return Err(CodeError::Content);
        }
        let address = (!address.is_unspecified()).then_some(address);
        Ok(Self { place: Place { address, port }, fingerprint: Fingerprint(fingerprint), secret: Secret(secret) })
    }
}

/// Also those that word processors make of `-`.
fn is_dash(c: char) -> bool {
    matches!(c, '-' | '_' | '\u{2010}'..='\u{2015}' | '\u{2212}')
}

fn symbol(c: char) -> Option<u8> {
    let c = match c.to_ascii_uppercase() {
        'O' => '0',
        'I' | 'L' => '1',
        other => other,
    };
    ALPHABET.iter().position(|&letter| char::from(letter) == c).and_then(|at| u8::try_from(at).ok())
}

/// Groups of five bits, the last one filled up with zeros.
fn to_symbols(bytes: &[u8]) -> Vec<u8> {
    let bit = |at: usize| bytes.get(at / 8).is_some_and(|byte| byte >> (7 - at % 8) & 1 == 1);
    let symbol = |group: usize| (0..5).fold(0_u8, |symbol, at| symbol << 1 | u8::from(bit(group * 5 + at)));
    (0..LENGTH - CHECKSUM).map(symbol).collect()
}

/// What [`to_symbols`] was given, and a last byte for the bits behind it.
fn to_bytes(symbols: &[u8]) -> Vec<u8> {
    let payload = symbols.get(..LENGTH - CHECKSUM).unwrap_or_default();
    let bit = |at: usize| payload.get(at / 5).is_some_and(|symbol| symbol >> (4 - at % 5) & 1 == 1);
    let byte = |group: usize| (0..8).fold(0_u8, |byte, at| byte << 1 | u8::from(bit(group * 8 + at)));
    (0..=BYTES).map(byte).collect()
}

/// BIP 173's `bech32_polymod`.
fn remainder(symbols: impl Iterator<Item = u8>) -> u32 {
    symbols.fold(1, |sum, symbol| {
        let top = sum >> 25;
        let shifted = (sum & 0x1ff_ffff) << 5 ^ u32::from(symbol);
        let add = |sum, (at, generator): (usize, &u32)| if top >> at & 1 == 1 { sum ^ generator } else { sum };
        GENERATOR.iter().enumerate().fold(shifted, add)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use secrecy::ExposeSecret;

    prop_compose! {
        fn code()(address in any::<u32>(), port in 1_u16.., fingerprint in any::<[u8; 16]>(), secret in any::<[u8; 10]>()) -> JoinCode {
            let address = Ipv4Addr::from(address);
            JoinCode {
                place: Place { address: (!address.is_unspecified()).then_some(address), port },
                fingerprint: Fingerprint(fingerprint),
                secret: Secret(secret),
            }
        }
    }

    fn text(code: &JoinCode) -> String {
        code.to_text().expose_secret().to_owned()
    }

    #[test]
    fn the_checksum_is_bip_350s() {
        // "A1LQFN3A", one of its valid strings: human-readable part "a" and no data.
        let bech32 = "qpzry9x8gf2tvdw0s3jn54khce6mua7l";
        let data = "lqfn3a".chars().map(|c| bech32.find(c).unwrap() as u8);
        assert_eq!(remainder([b'a' >> 5, 0, b'a' & 31].into_iter().chain(data)), CONSTANT);
    }

    #[test]
    fn a_code_is_sixty_characters_in_groups() {
        let code = JoinCode {
            place: Place { address: Some(Ipv4Addr::new(192, 0, 2, 1)), port: 1194 },
            fingerprint: Fingerprint::of(b"certificate"),
            secret: Secret([7; 10]),
        };
        let text = text(&code);
        assert_eq!(text.len(), 71);
        assert_eq!(text.split('-').map(str::len).collect::<Vec<_>>(), [5; 12]);
        assert_eq!(format!("{:?}", code.secret), "Secret(..)");
        assert_eq!(Secret::from_hex(code.secret.to_hex().expose_secret()), Some(code.secret));
    }

    #[test]
    fn what_is_no_code_says_why() {
        assert_eq!(JoinCode::parse(""), Err(CodeError::Length { found: 0 }));
        assert_eq!(JoinCode::parse("01u"), Err(CodeError::Character { found: 'u', at: 3 }));
        assert_eq!(JoinCode::parse(&"0".repeat(61)), Err(CodeError::Length { found: 61 }));
        assert_eq!(JoinCode::parse(&"0".repeat(60)), Err(CodeError::Checksum));
        let sealed = |bytes: &[u8]| {
            let mut symbols = to_symbols(bytes);
            let sum = remainder(symbols.iter().copied().chain([0; CHECKSUM])) ^ CONSTANT;
            symbols.extend((0..CHECKSUM).rev().map(|at| (sum >> (5 * at) & 31) as u8));
            symbols.iter().map(|&symbol| char::from(ALPHABET[usize::from(symbol)])).collect::<String>()
        };
        assert_eq!(JoinCode::parse(&sealed(&[2; 33])), Err(CodeError::Version(2)));
        // Port 0; bits behind the secret.
        assert_eq!(JoinCode::parse(&sealed(&[1, 0, 0, 0, 0, 0, 0])), Err(CodeError::Content));
        assert_eq!(JoinCode::parse(&sealed(&[[1; 33].as_slice(), &[4]].concat())), Err(CodeError::Content));
    }

    proptest! {
        #[test]
        fn parsing_gives_back_what_was_written(code in code()) {
            let text = text(&code);
            prop_assert_eq!(JoinCode::parse(&text), Ok(code.clone()));
            let typed = text.to_lowercase().replace('-', " ").replace('0', "o").replace('1', "l");
            prop_assert_eq!(JoinCode::parse(&typed), Ok(code));
        }

        #[test]
        fn parsing_never_panics(text in ".*", digits in "[0-9a-zA-Z -]{50,80}") {
            prop_assert!(JoinCode::parse(&text).is_err());
            prop_assert!(JoinCode::parse(&digits).is_err());
        }

    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn every_single_error_is_found(code in code()) {
            let plain: Vec<char> = text(&code).chars().filter(|&c| c != '-').collect();
            for at in 0..plain.len() {
                for &letter in ALPHABET {
                    let mut wrong = plain.clone();
                    wrong[at] = char::from(letter);
                    let read = JoinCode::parse(&wrong.iter().collect::<String>());
                    prop_assert_eq!(read.is_ok(), wrong == plain);
                }
                let mut left_out = plain.clone();
                left_out.remove(at);
                prop_assert!(JoinCode::parse(&left_out.iter().collect::<String>()).is_err());
                let mut swapped = plain.clone();
                swapped.swap(at, (at + 1) % plain.len());
                prop_assert_eq!(JoinCode::parse(&swapped.iter().collect::<String>()).is_ok(), swapped == plain);
            }
        }
    }
}
