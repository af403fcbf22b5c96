//! Frames, against damage and against the tools that everybody has.

use std::io::{Seek as _, SeekFrom};
use std::process::{Command, Stdio};

use super::*;

/// Something that packs well, with zeros at several places.
fn content(length: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(7);
    let mut content = vec![0; length];
    for (index, block) in content.chunks_mut(4096).enumerate() {
        if index % 3 == 0 {
            let word = random.u64(..).to_le_bytes();
            for (byte, from) in block.iter_mut().zip(word.iter().cycle()) {
                *byte = *from;
            }
        } else if index % 7 == 0 {
            random.fill(block);
        }
    }
    content
}

fn file(content: &[u8]) -> File {
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(content, 0).unwrap();
    file
}

fn packed(source: &File, format: Format, level: u8) -> File {
    let target = tempfile::tempfile().unwrap();
    let mut seen = Vec::new();
    let length = pack(source, &target, format, level, &|| false, &mut |piece| {
        seen.extend_from_slice(piece);
        Ok(())
    });
    assert_eq!(length.unwrap(), seen.len() as u64);
    assert!(seen == bytes(source), "what was seen is what is there");
    (&target).seek(SeekFrom::Start(0)).unwrap();
    target
}

fn bytes(file: &File) -> Vec<u8> {
    let length = file.metadata().unwrap().len();
    let mut bytes = vec![0; usize::try_from(length).unwrap()];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

fn unpacked(frame: &File, format: Format) -> Result<File, FrameError> {
    let mut frame = frame;
    frame.seek(SeekFrom::Start(0)).unwrap();
    let target = tempfile::tempfile().unwrap();
    unpack_into(frame, format, None, &target, &|| false, &|_| {})?;
    Ok(target)
}

#[test]
fn what_was_packed_is_unpacked_with_holes() {
    for length in [0, 1, 4095, CHUNK_BYTES, (5 << 20) + 17] {
        let source = file(&content(length));
        for (format, level) in [
            (Format::Zstd, 1),
            (Format::Zstd, 9),
            (Format::Lz4, 0),
            (Format::Lz4, 9),
        ] {
            let frame = packed(&source, format, level);
            let told = content_bytes(&frame, format).unwrap();
            // The lz4 format has no way to say that nothing is in a frame.
            let expected = (length > 0 || format == Format::Zstd).then_some(length as u64);
            assert_eq!(told, expected, "{format:?} {length}");
            let back = unpacked(&frame, format).unwrap();
            assert!(bytes(&back) == bytes(&source), "{format:?} {length}");
        }
    }
    let source = file(&[7]);
    source.set_len(64 << 20).unwrap();
    source.write_all_at(&[8], 40 << 20).unwrap();
    for format in Format::ALL {
        let back = unpacked(&packed(&source, format, 1), format).unwrap();
        assert!(bytes(&back) == bytes(&source));
        let blocks = std::os::unix::fs::MetadataExt::blocks(&back.metadata().unwrap());
        assert!(blocks * 512 < 1 << 20, "{blocks}");
    }
}

#[test]
fn what_is_no_whole_frame_is_damaged() {
    let source = file(&content(3 << 20));
    for format in Format::ALL {
        let whole = bytes(&packed(&source, format, 1));
        // Where a zstd frame says how large a window it wants, a flip may leave its content as it is.
        for at in [0, 6, 30, whole.len() / 2, whole.len() - 1] {
            let mut flipped = whole.clone();
            flipped[at] ^= 8;
            let result = unpacked(&file(&flipped), format);
            let is_damaged = matches!(result, Err(FrameError::Damaged(_)));
            assert!(
                is_damaged,
                "{format:?} {at}: {:?}: {result:?}",
                &whole[..20]
            );
        }
        for length in [0, 3, 20, whole.len() / 2, whole.len() - 1] {
            let error = unpacked(&file(&whole[..length]), format).unwrap_err();
            let said = error.to_string();
            assert!(matches!(error, FrameError::Damaged(_)), "{length}: {said}");
            assert!(
                length < 20 || said.contains("cut"),
                "{format:?} {length}: {said}"
            );
        }
        let behind = [&whole[..], b"x"].concat();
        let error = unpacked(&file(&behind), format).unwrap_err();
        assert!(error.to_string().contains("behind"), "{error}");
        let twice = [&whole[..], &whole[..]].concat();
        assert!(unpacked(&file(&twice), format).is_err());
        let error = content_bytes(&file(b"none"), format).unwrap_err();
        assert!(error.to_string().contains("begin"), "{error}");
        let mut frame = &file(&whole);
        frame.seek(SeekFrom::Start(0)).unwrap();
        let bounded = unpack(frame, format, Some(100), &|| false, &mut |_| Ok(()));
        assert!(bounded.unwrap_err().to_string().contains("100 bytes"));
    }
}

#[test]
fn it_ends_when_it_is_told_to() {
    let source = file(&content(3 << 20));
    for format in Format::ALL {
        let target = tempfile::tempfile().unwrap();
        let error = pack(&source, &target, format, 1, &|| true, &mut |_| Ok(()));
        assert!(matches!(error, Err(FrameError::Cancelled)));
        let frame = packed(&source, format, 1);
        let error = unpack(&frame, format, None, &|| true, &mut |_| Ok(()));
        assert!(matches!(error, Err(FrameError::Cancelled)));
    }
}

#[test]
fn a_frame_is_one_for_the_tools_and_theirs_is_one_for_us() {
    let content = content((2 << 20) + 5);
    let source = file(&content);
    for (format, tool) in [(Format::Zstd, "zstd"), (Format::Lz4, "lz4")] {
        let run = |arguments: &[&str], mut input: &File| {
            input.seek(SeekFrom::Start(0)).unwrap();
            let output = Command::new(tool)
                .args(arguments)
                .stdin(Stdio::from(input.try_clone().unwrap()))
                .output()
                .unwrap();
            assert!(output.status.success(), "{output:?}");
            output.stdout
        };
        if Command::new(tool).arg("--version").output().is_err() {
            support::skip::skipped(&format!("frames for {tool}: install {tool}"));
            continue;
        }
        assert!(run(&["-dc"], &packed(&source, format, 3)) == content);
        for level in ["-1", "-9"] {
            let theirs = file(&run(&["-c", level], &source));
            assert!(bytes(&unpacked(&theirs, format).unwrap()) == content);
        }
    }
}
