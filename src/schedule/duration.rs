//! Durations as users and Go write them.
