//! Where ranks of a node meet.
