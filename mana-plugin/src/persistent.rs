//! Persistent collectives: a recipe, kept with an inactive request.
//!
//! Lower half. `MPI_Start` calls the non-blocking collective of the same name with the recipe's
//! arguments, through its gate, and takes over the request that comes out. So nothing of it has to be
//! rebuilt at a restart, and a library without persistent collectives will do. The arrays are copies:
//! the library may look at them as long as the request lives.

use crate::collectives;
use crate::generated;
use crate::requests;
use crate::state::{core, Kept, Outcome, Phase};
use mpi_std::*;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The arguments of one persistent collective.
#[derive(Debug, Serialize, Deserialize)]
pub struct Recipe {
    procedure: String,
    words: Vec<u64>,
    arrays: Vec<Option<Vec<u64>>>,
    uses: Vec<u64>,
}

impl Recipe {
    /// Without arguments.
    pub fn new(procedure: &str) -> Recipe {
        Recipe {
            procedure: procedure.to_owned(),
            words: Vec::new(),
            arrays: Vec::new(),
            uses: Vec::new(),
        }
    }

    /// Appends an argument.
    pub fn word(&mut self, word: u64) {
        self.words.push(word);
    }

    /// Notes a datatype or operation that must live as long as the recipe.
    pub fn uses(&mut self, word: u64) {
        self.uses.push(word);
    }

    /// Appends an array of `n` numbers or handles; null where it is not `significant`.
    ///
    /// # Safety
    /// `from` is null or has `n` elements, or `significant` is false.
    pub unsafe fn array<T: Copy>(&mut self, from: *const T, n: usize, significant: bool) {
        if from.is_null() || !significant {
            self.arrays.push(None);
            return;
        }
        let bytes = n * size_of::<T>();
        let mut copy = vec![0u64; bytes.div_ceil(8).max(1)];
        // SAFETY: the caller's promise; the copy has room for them.
        unsafe {
            std::ptr::copy_nonoverlapping(from.cast::<u8>(), copy.as_mut_ptr().cast(), bytes)
        };
        self.arrays.push(Some(copy));
    }

    /// The last array holds datatypes that must live as long as the recipe.
    pub fn uses_last(&mut self) {
        if let Some(Some(words)) = self.arrays.last() {
            self.uses.extend(words);
        }
    }

    /// Its procedure.
    pub fn procedure(&self) -> &str {
        &self.procedure
    }

    /// An argument.
    pub fn at(&self, index: usize) -> u64 {
        self.words.get(index).copied().unwrap_or(0)
    }

    /// An array.
    pub fn pointer(&self, index: usize) -> *const u64 {
        match self.arrays.get(index) {
            Some(Some(words)) => words.as_ptr(),
            _ => std::ptr::null(),
        }
    }
}

/// Stores the request of a recipe; its word.
pub fn make(comm: u32, recipe: Recipe) -> Outcome<u64> {
    let word = collectives::started(comm, MPI_REQUEST_NULL, Vec::new(), &recipe.uses)?;
    if let Some(index) = requests::index(word)? {
        let r = core().request(index)?;
        r.phase = Phase::Inactive;
        r.persistent = true;
        let kept = r.kept.get_or_insert_with(|| Box::new(Kept::default()));
        kept.recipe = Some(Arc::new(recipe));
    }
    Ok(word)
}

/// Starts persistent collective `index` (inactive).
pub fn start(index: u32) -> Outcome {
    let c = core();
    let r = c.request(index)?;
    let comm = r.comm;
    let recipe = match r.kept.as_ref().and_then(|k| k.recipe.clone()) {
        Some(recipe) => recipe,
        None => return Err(MPI_ERR_INTERN),
    };
    let word = c.comm_word(comm);
    let mut started = MPI_REQUEST_NULL;
    // SAFETY: the recipe's own arguments; the output argument is ours.
    unsafe { generated::start_persistent(&recipe, word, &mut started) }?;
    let c = core();
    let Some(other) = requests::index(started)? else {
        return Err(MPI_ERR_INTERN);
    };
    let real = c.request(other)?.real;
    let words = match c.request(other)?.kept.as_mut() {
        Some(kept) => std::mem::take(&mut kept.words),
        None => Vec::new(),
    };
    c.remove_request(other);
    let r = c.request(index)?;
    r.real = real;
    r.phase = Phase::Active;
    if let Some(kept) = r.kept.as_mut() {
        kept.words = words;
    }
    Ok(())
}
