//! What this host says of itself: directories, who starts `run-due`, the clock. Only looks, and changes nothing; the
//! paths that are looked at are arguments.

pub mod crontab;
pub mod directory;
pub mod libvirt;
pub mod priority;
pub mod sandbox;
pub mod systemd;
pub mod time_sync;
