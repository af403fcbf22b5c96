//! QEMU over QMP.
