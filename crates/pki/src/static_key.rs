//! The tunnel's static key (tls-crypt) as the text that every OpenVPN reads.

use rand::Rng;
use secrecy::SecretString;

const BEGIN: &str = "-----BEGIN OpenVPN Static key V1-----";
const END: &str = "-----END OpenVPN Static key V1-----";
const KEY_LEN: usize = 256;

/// Why a text is no static key.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum StaticKeyError {
    /// A marker line is missing.
    #[error("it has no lines {BEGIN:?} and {END:?}")]
    Markers,
    /// Something other than hexadecimal digits stands between the markers.
    #[error("something other than hexadecimal digits stands between its markers")]
    NotHex,
    /// It is too short or too long.
    #[error("it holds {found} hexadecimal digits instead of {wanted}", wanted = KEY_LEN * 2)]
    Length {
        /// How many digits it holds.
        found: usize,
    },
}

/// Makes a key of 2048 random bits.
#[must_use]
pub fn generate_static_key() -> SecretString {
    let mut key = [0_u8; KEY_LEN];
    rand::rng().fill_bytes(&mut key);
    let mut text = format!("#\n# 2048 bit OpenVPN static key\n#\n{BEGIN}\n");
    for line in key.chunks(16) {
        for byte in line {
            text.push_str(&format!("{byte:02x}"));
        }
        text.push('\n');
    }
    text.push_str(END);
    text.push('\n');
    text.into()
}

/// Checks that a text holds a whole key. White space and line lengths do not matter, nor does what stands outside
/// of the markers.
///
/// # Errors
/// Says what is wrong, without showing any of the key.
pub fn check_static_key(text: &str) -> Result<(), StaticKeyError> {
    let (_, rest) = text.split_once(BEGIN).ok_or(StaticKeyError::Markers)?;
    let (body, _) = rest.split_once(END).ok_or(StaticKeyError::Markers)?;
    let mut digits = 0;
    for character in body.chars().filter(|c| !c.is_whitespace()) {
        if !character.is_ascii_hexdigit() {
            return Err(StaticKeyError::NotHex);
        }
        digits += 1;
    }
    if digits == KEY_LEN * 2 { Ok(()) } else { Err(StaticKeyError::Length { found: digits }) }
}
