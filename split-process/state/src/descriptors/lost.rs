//! Descriptors that cannot survive.
