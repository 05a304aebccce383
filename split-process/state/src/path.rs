//! A path of the file system as bytes, so that a name that is not UTF-8 survives serialisation.

use std::ffi::{CString, OsStr};
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// A path as the kernel knows it: any bytes but NUL.
#[derive(Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FilePath(Vec<u8>);

impl FilePath {
    /// The path made of `bytes`.
    pub fn new(bytes: impl Into<Vec<u8>>) -> FilePath {
        FilePath(bytes.into())
    }

    /// Its bytes, without a NUL.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// As a path of the standard library.
    pub fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }

    /// As a C string; bytes after an embedded NUL (which a path cannot have) are cut off.
    pub(crate) fn to_c_string(&self) -> CString {
        let end = self.0.iter().position(|&b| b == 0).unwrap_or(self.0.len());
        CString::new(&self.0[..end]).unwrap_or_default()
    }
}

impl From<&Path> for FilePath {
    fn from(path: &Path) -> FilePath {
        FilePath(path.as_os_str().as_bytes().to_vec())
    }
}

impl fmt::Display for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}
