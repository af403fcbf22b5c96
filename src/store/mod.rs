//! Schedule files and locks.
