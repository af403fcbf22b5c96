//! hypeman's data directory as an engine: instances, VMM sockets and the snapshot store of this host.
