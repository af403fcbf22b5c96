//! What a copied image still says of the file that it refers to for unchanged data.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::stored::Stored;
use crate::finding::{Finding, Status};
use crate::snapshot::manifest::{DiskEntry, Manifest};

/// The first bytes of a qcow2 image (docs/interop/qcow2.txt in QEMU's sources).
const MAGIC: &[u8; 4] = b"QFI\xfb";
/// The longest name of a backing file, in bytes, by the same.
const NAME_MAX_BYTES: usize = 1023;

/// Images that name their backing file from their own directory: in another one they lead elsewhere. Those that are no
/// images by the VMM's word are not looked at: a guest writes what it likes to a raw disk.
pub(super) fn relative(
    stored: &Stored,
    manifest: &Manifest,
    to: &Path,
    starts: bool,
) -> Vec<Finding> {
    let named = |disk: &DiskEntry| {
        let is_image = disk.format.as_deref() == Some("qcow2");
        let file = stored.guest.open_file(&disk.file).ok()??;
        let name = name(&file).ok()??;
        (is_image && is_relative(&name)).then_some(name)
    };
    let disks = manifest.disks.iter();
    disks
        .filter_map(|disk| Some((disk, named(disk)?)))
        .map(|(disk, name)| {
            let copy = to.join(&disk.file);
            let base = disk.source.parent().unwrap_or(Path::new("/")).join(&name);
            Finding {
                status: if starts { Status::Broken } else { Status::Warning },
                ..Finding::warning(
                    "backing file",
                    disk.source.display(),
                    format!("its copy looks for {name:?} beside itself, and it is not there"),
                    format!(
                        "restore in place, or restore without --start, and then: qemu-img rebase -u -F FORMAT -b {} {}",
                        base.display(),
                        copy.display()
                    ),
                )
            }
        })
        .collect()
}

/// The name of a qcow2 image's backing file, as it stands there.
fn name(file: &File) -> io::Result<Option<String>> {
    let mut head = [0; 20];
    file.read_exact_at(&mut head, 0)?;
    let number = |at: usize, length: usize| {
        let bytes = head.iter().skip(at).take(length);
        bytes.fold(0_u64, |number, byte| number << 8 | u64::from(*byte))
    };
    let (offset, length) = (number(8, 8), number(16, 4));
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if !head.starts_with(MAGIC) || offset == 0 || length == 0 || length > NAME_MAX_BYTES {
        return Ok(None);
    }
    let mut name = vec![0; length];
    file.read_exact_at(&mut name, offset)?;
    Ok(String::from_utf8(name).ok())
}

/// Whether it depends on where the image lies: it is no absolute path, and begins with no protocol.
fn is_relative(name: &str) -> bool {
    let first = name.split('/').next().unwrap_or_default();
    !name.starts_with('/') && !first.contains(':')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(name: &str) -> File {
        let file = tempfile::tempfile().unwrap();
        let mut head = MAGIC.to_vec();
        head.extend([0, 0, 0, 3]);
        head.extend(512_u64.to_be_bytes());
        head.extend(u32::try_from(name.len()).unwrap().to_be_bytes());
        file.write_all_at(&head, 0).unwrap();
        file.write_all_at(name.as_bytes(), 512).unwrap();
        file
    }

    #[test]
    fn the_name_of_a_backing_file_is_read_and_a_relative_one_told_from_others() {
        for (text, expected) in [
            ("base.qcow2", true),
            ("../images/base.raw", true),
            ("/images/base.raw", false),
            ("nbd://host/x", false),
            ("json:{}", false),
        ] {
            let found = name(&image(text)).unwrap().unwrap();
            assert_eq!((found.as_str(), is_relative(&found)), (text, expected));
        }
        assert_eq!(name(&image("")).unwrap(), None);
        assert_eq!(name(&image(&"x".repeat(2000))).unwrap(), None);
        let raw = tempfile::tempfile().unwrap();
        raw.set_len(4096).unwrap();
        assert_eq!(name(&raw).unwrap(), None);
    }
}
