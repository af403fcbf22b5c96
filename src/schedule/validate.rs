//! The rules for what a user declares.
