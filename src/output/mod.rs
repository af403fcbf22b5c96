//! Reports as tables or JSON.
