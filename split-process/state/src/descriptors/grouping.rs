//! Which numbers share a description.
