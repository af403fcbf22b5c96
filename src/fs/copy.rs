//! Reflink and sparse copies.
