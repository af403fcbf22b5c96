//! The hypeman server as an engine, over its HTTP API.
