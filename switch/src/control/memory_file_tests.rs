//! A write that ends at any byte, bits that flip, and files of strangers.

use super::*;
use proptest::prelude::*;

const OLDEST: &[u8] = b"the first content, longer than those that come after it";
const OLD: &[u8] = b"the content before";
const NEW: &[u8] = b"the content after it";

/// A file after these writes.
fn written(contents: &[&[u8]]) -> MemoryFile {
    let mut memory = MemoryFile::create().unwrap();
    contents.iter().for_each(|content| memory.write(content).unwrap());
    memory
}

#[test]
fn the_newest_content_is_read_by_whoever_has_the_file() {
    let mut memory = MemoryFile::create().unwrap();
    assert_eq!(memory.read(), None);
    for n in 0..5u8 {
        memory.write(&[n; 10]).unwrap();
        assert_eq!(memory.read(), Some(vec![n; 10]));
        // Another process goes on where this one was, in the slot that is not the newest.
        let mut other = memory.try_clone().unwrap();
        assert_eq!(other.read(), Some(vec![n; 10]));
        other.write(&[n, 100]).unwrap();
        assert_eq!(memory.read(), Some(vec![n, 100]));
        memory = MemoryFile::from_fd(OwnedFd::from(other));
    }
    memory.write(b"").unwrap();
    assert_eq!(memory.read(), Some(Vec::new()));
}

#[test]
fn a_write_that_ends_at_any_byte_leaves_the_content_before() {
    // Over an empty slot, over an older content, and over one that begins the same.
    for before in [&[OLD][..], &[OLDEST, OLD], &[NEW, OLD]] {
        let sequence = before.len() as u64 + 1;
        let slot = before.len() % 2;
        let header = header(NEW, sequence).unwrap();
        let whole = HEADER + NEW.len();
        for cut in 0..=whole {
            let memory = written(before);
            let mut left = cut;
            for (at, bytes) in steps(SLOTS[slot], &header, NEW) {
                let part = bytes.len().min(left);
                memory.file.write_all_at(&bytes[..part], at).unwrap();
                left -= part;
            }
            let expected = if cut == whole { NEW } else { OLD };
            assert_eq!(memory.read().as_deref(), Some(expected), "cut at {cut} of {whole}");
            // And the next process can write.
            let mut next = memory.try_clone().unwrap();
            next.write(b"goes on").unwrap();
            assert_eq!(memory.read().as_deref(), Some(&b"goes on"[..]));
        }
    }
}

#[test]
fn a_flipped_bit_costs_one_content_at_most() {
    let memory = written(&[OLD, NEW]);
    let mut seen = [0, 0];
    for (slot, content) in [(0, OLD), (1, NEW)] {
        for bit in 0..8 * (HEADER + content.len()) {
            let at = SLOTS[slot] + bit as u64 / 8;
            let mut byte = [0];
            memory.file.read_exact_at(&mut byte, at).unwrap();
            memory.file.write_all_at(&[byte[0] ^ 1 << (bit % 8)], at).unwrap();
            let expected = if slot == 0 { NEW } else { OLD };
            assert_eq!(memory.read().as_deref(), Some(expected), "slot {slot}, bit {bit}");
            memory.file.write_all_at(&byte, at).unwrap();
            seen[slot] += 1;
        }
    }
    assert!(seen.iter().all(|&bits| bits > 8 * HEADER));
    assert_eq!(memory.read().as_deref(), Some(NEW));
}

#[test]
fn sequence_numbers_wrap() {
    let mut memory = MemoryFile::create().unwrap();
    memory.next = Some((1, u64::MAX));
    for content in [OLDEST, OLD, NEW] {
        memory.write(content).unwrap();
        assert_eq!(memory.read().as_deref(), Some(content));
        memory = memory.try_clone().unwrap();
    }
}

#[test]
fn what_is_too_long_is_refused_and_changes_nothing() {
    let mut memory = written(&[OLD]);
    let error = memory.write(&vec![0; MAX_CONTENT + 1]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
    assert_eq!(memory.read().as_deref(), Some(OLD));
    // A length of a stranger that the file has no bytes for.
    let mut lies = [0; HEADER];
    lies[..8].copy_from_slice(&MAGIC);
    lies[8..12].copy_from_slice(&VERSION.to_le_bytes());
    for length in [1u32, MAX_CONTENT as u32, u32::MAX] {
        lies[12..16].copy_from_slice(&length.to_le_bytes());
        let memory = MemoryFile::create().unwrap();
        memory.file.write_all_at(&lies, 0).unwrap();
        assert_eq!(memory.read(), None);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Bytes of strangers in both slots, with a header that begins as ours does or not.
    #[test]
    fn garbage_is_no_content(
        garbage in proptest::collection::vec(any::<u8>(), 0..200),
        other in proptest::collection::vec(any::<u8>(), 0..200),
        ours: bool,
    ) {
        let memory = MemoryFile::create().unwrap();
        for (slot, mut bytes) in [(0, garbage), (1, other)] {
            if ours && bytes.len() > 16 {
                bytes[..8].copy_from_slice(&MAGIC);
                bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
                bytes[13..16].copy_from_slice(&[0; 3]);
            }
            memory.file.write_all_at(&bytes, SLOTS[slot]).unwrap();
        }
        prop_assert_eq!(memory.read(), None);
        let mut memory = memory;
        memory.write(NEW).unwrap();
        let read = memory.read();
        prop_assert_eq!(read.as_deref(), Some(NEW));
    }

    /// Any content comes back, whatever was there before.
    #[test]
    fn contents_come_back(contents in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 1..6)) {
        let mut memory = MemoryFile::create().unwrap();
        for content in &contents {
            memory.write(content).unwrap();
            let read = memory.read();
            prop_assert_eq!(read.as_ref(), Some(content));
        }
    }
}
