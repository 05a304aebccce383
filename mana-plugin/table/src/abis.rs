//! The constants of the ABIs that programs are built with.

/// The text of the list.
pub const ABIS_TEXT: &str = include_str!("../abis.txt");

/// An ABI that a stub speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abi {
    /// Open MPI 4 and 5: handles are pointers.
    OpenMpi,
    /// MPICH and what has its ABI: handles are `int`.
    Mpich,
    /// That of the MPI 5.0 standard: what the halves speak to each other, so nothing is translated.
    Standard,
}

/// One constant in both ABIs.
#[derive(Clone, Debug)]
pub struct AbiConstant {
    /// The standard's name.
    pub name: &'static str,
    /// In Open MPI: a number or the name of a data symbol.
    pub openmpi: Option<&'static str>,
    /// In MPICH.
    pub mpich: Option<&'static str>,
    /// Its Fortran integer in Open MPI.
    pub openmpi_fortran: Option<i32>,
}

impl AbiConstant {
    /// What it is in an ABI.
    pub fn text(&self, abi: Abi) -> Option<&'static str> {
        match abi {
            Abi::OpenMpi => self.openmpi,
            Abi::Mpich => self.mpich,
            Abi::Standard => None,
        }
    }

    /// Its number in an ABI, if it is one.
    pub fn number(&self, abi: Abi) -> Option<i64> {
        let text = self.text(abi)?;
        match text.strip_prefix("0x") {
            Some(hex) => i64::from_str_radix(hex, 16).ok(),
            None => text.parse().ok(),
        }
    }
}

/// All constants of the list.
pub fn abi_constants() -> Vec<AbiConstant> {
    let field = |word: Option<&'static str>| word.filter(|w| *w != "-");
    ABIS_TEXT
        .lines()
        .filter(|l| !l.starts_with('#'))
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            Some(AbiConstant {
                name: words.next()?,
                openmpi: field(words.next()),
                mpich: field(words.next()),
                openmpi_fortran: field(words.next()).and_then(|w| w.parse().ok()),
            })
        })
        .collect()
}
