//! Why bytes are not an image.

/// What is wrong with the bytes. The caller adds the path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// Too short for what it claims to hold.
    #[error("{what} at byte {offset} needs {needed} bytes, {available} are there")]
    Truncated {
        /// The part.
        what: &'static str,
        /// Where it starts.
        offset: u64,
        /// Its length.
        needed: u64,
        /// Bytes from `offset` to the end.
        available: u64,
    },
    /// The first bytes are something else's.
    #[error("not a checkpoint image (no magic number)")]
    Magic,
    /// Made by a version whose format this one does not read.
    #[error("image format {found}, this version reads {expected}")]
    Version {
        /// In the file.
        found: u32,
        /// Ours.
        expected: u32,
    },
    /// A checksum does not match.
    #[error("checksum of {what} does not match")]
    Checksum {
        /// The part.
        what: &'static str,
    },
    /// A value that no writer produces.
    #[error("{what} has the impossible value {value}")]
    Value {
        /// The field.
        what: &'static str,
        /// Its value.
        value: u64,
    },
    /// A section that must be there is not.
    #[error("section {name} is missing")]
    NoSection {
        /// Its name.
        name: String,
    },
}
