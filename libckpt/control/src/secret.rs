//! The job's secret: 32 random bytes that every process of the job and its tools know.
//!
//! Lower half and tools. It travels over the job's MPI, or in a file only its owner can read.

use std::fmt;
use std::fs::File;
use std::io::Read as _;

use crate::ControlError;

/// The job's secret. Never printed by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret([u8; 32]);

impl Secret {
    /// A new one from the kernel's random number generator.
    ///
    /// # Errors
    /// When the generator cannot be read.
    pub fn generate() -> Result<Self, ControlError> {
        random_bytes().map(Self)
    }

    /// One that was made elsewhere (received over MPI).
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes, to be sent over a channel that only the job can read.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// 64 hexadecimal digits, for a file of mode 0600.
    pub fn to_hex(&self) -> String {
        self.0.iter().map(|b| format!("{b:02x}")).collect()
    }

    /// The reverse of [`Secret::to_hex`]; `None` unless it is exactly 64 hexadecimal digits.
    pub fn from_hex(text: &str) -> Option<Self> {
        let text = text.trim().as_bytes();
        if text.len() != 64 {
            return None;
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
            let high = char::from(pair[0]).to_digit(16)?;
            let low = char::from(pair[1]).to_digit(16)?;
            *byte = u8::try_from(high * 16 + low).ok()?;
        }
        Some(Self(bytes))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// 32 bytes from the kernel's random number generator.
pub(crate) fn random_bytes() -> Result<[u8; 32], ControlError> {
    let path = "/dev/urandom";
    let mut bytes = [0; 32];
    File::open(path)
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(|e| ControlError::io("read", path, e))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_there_and_back() {
        let secret = Secret::generate().expect("random bytes");
        assert_eq!(Secret::from_hex(&secret.to_hex()), Some(secret.clone()));
        assert_eq!(Secret::from_hex("00"), None);
        assert_eq!(Secret::from_hex(&"g".repeat(64)), None);
        assert_eq!(format!("{secret:?}"), "Secret(..)");
        assert_ne!(Secret::generate().expect("random bytes"), secret);
    }
}
