//! Skeleton: replaced by the crate's owner.
