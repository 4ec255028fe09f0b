//! A file in memory that outlives the process that writes it.
//!
//! The monitor holds a duplicate of its descriptor and hands it to the next switch process. The file has two slots that
//! are written in turn, each a header and a content:
//!
//! | bytes | header field, integers little-endian |
//! |---|---|
//! | 8 | `swd-mem\0` |
//! | 4 | version of this format |
//! | 4 | length of the content in bytes |
//! | 8 | sequence number, one more than that of the other slot; it may wrap |
//! | 4 | CRC-32 (IEEE) of the fields above and the content |
//!
//! The content is written before its header, and the slot that holds the newest content is not the one that is written:
//! a process that dies at any byte of a write leaves the content before it, whole. A slot whose checksum does not match
//! counts as empty. The checksum guards against accidents; whoever reads must expect anything, because a process that
//! was taken over can write anything.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;

use rustix::fs::{MemfdFlags, memfd_create};

const MAGIC: [u8; 8] = *b"swd-mem\0";
const VERSION: u32 = 1;
const HEADER: usize = 28;
/// Where the checksum is; everything before it is covered by it.
const CHECKSUM: usize = 24;

/// Longest content in bytes. A node with 262,144 learned addresses and 10,000 ports needs about 8 MiB.
pub const MAX_CONTENT: usize = 64 << 20;

/// Where the slots begin. What is never written takes no memory.
const SLOTS: [u64; 2] = [0, (HEADER + MAX_CONTENT) as u64];

/// Two slots in one file.
#[derive(Debug)]
pub struct MemoryFile {
    file: File,
    /// Slot and sequence number of the next write, once that is known.
    next: Option<(usize, u64)>,
}

/// What a header says.
struct Header {
    length: usize,
    sequence: u64,
    checksum: u32,
}

impl MemoryFile {
    /// An empty one.
    ///
    /// # Errors
    /// No memory or no descriptors.
    pub fn create() -> io::Result<Self> {
        Ok(Self::from_fd(memfd_create("swd-memory", MemfdFlags::CLOEXEC)?))
    }

    /// One that somebody made, empty or not.
    #[must_use]
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self { file: File::from(fd), next: None }
    }

    /// Another handle to the same file. Only one of them may write.
    ///
    /// # Errors
    /// No descriptors.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { file: self.file.try_clone()?, next: None })
    }

    /// Replaces the content.
    ///
    /// # Errors
    /// A content longer than [`MAX_CONTENT`], or no memory. The content before is still there then.
    pub fn write(&mut self, content: &[u8]) -> io::Result<()> {
        let (slot, sequence) = match self.next {
            Some(next) => next,
            None => match self.newest() {
                Some((slot, sequence, _)) => (1 - slot, sequence.wrapping_add(1)),
                None => (0, 1),
            },
        };
        for (at, bytes) in steps(SLOTS[slot], &header(content, sequence)?, content) {
            self.file.write_all_at(bytes, at)?;
        }
        self.next = Some((1 - slot, sequence.wrapping_add(1)));
        Ok(())
    }

    /// The newest content that is whole; `None` if there is none.
    #[must_use]
    pub fn read(&self) -> Option<Vec<u8>> {
        self.newest().map(|(_, _, content)| content)
    }

    fn newest(&self) -> Option<(usize, u64, Vec<u8>)> {
        let mut found: Vec<(usize, Header)> =
            (0..SLOTS.len()).filter_map(|slot| Some((slot, self.header(slot)?))).collect();
        if let [(_, a), (_, b)] = &found[..]
            && (b.sequence.wrapping_sub(a.sequence) as i64) > 0
        {
            found.swap(0, 1);
        }
        found
            .into_iter()
            .find_map(|(slot, header)| Some((slot, header.sequence, self.content(slot, &header)?)))
    }

    fn header(&self, slot: usize) -> Option<Header> {
        let mut bytes = [0; HEADER];
        self.file.read_exact_at(&mut bytes, SLOTS[slot]).ok()?;
        let (magic, rest) = bytes.split_first_chunk::<8>()?;
        let (version, rest) = rest.split_first_chunk::<4>()?;
        let (length, rest) = rest.split_first_chunk::<4>()?;
        let (sequence, rest) = rest.split_first_chunk::<8>()?;
        let checksum = rest.first_chunk::<4>()?;
        let length = u32::from_le_bytes(*length) as usize;
        let ours = *magic == MAGIC && u32::from_le_bytes(*version) == VERSION && length <= MAX_CONTENT;
        ours.then(|| Header {
            length,
            sequence: u64::from_le_bytes(*sequence),
            checksum: u32::from_le_bytes(*checksum),
        })
    }

    fn content(&self, slot: usize, header: &Header) -> Option<Vec<u8>> {
        let at = SLOTS[slot] + HEADER as u64;
        // A length that the file has no bytes for is not worth memory.
        if self.file.metadata().ok()?.len() < at + header.length as u64 {
            return None;
        }
        let mut content = vec![0; header.length];
        self.file.read_exact_at(&mut content, at).ok()?;
        (checksum(&fields(&content, header.sequence)?, &content) == header.checksum).then_some(content)
    }
}

impl AsFd for MemoryFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl From<MemoryFile> for OwnedFd {
    fn from(memory: MemoryFile) -> Self {
        memory.file.into()
    }
}

/// The header without its checksum; `None` when the content is too long.
fn fields(content: &[u8], sequence: u64) -> Option<[u8; CHECKSUM]> {
    let length = u32::try_from(content.len()).ok().filter(|_| content.len() <= MAX_CONTENT)?;
    let mut fields = [0; CHECKSUM];
    fields[..8].copy_from_slice(&MAGIC);
    fields[8..12].copy_from_slice(&VERSION.to_le_bytes());
    fields[12..16].copy_from_slice(&length.to_le_bytes());
    fields[16..].copy_from_slice(&sequence.to_le_bytes());
    Some(fields)
}

fn checksum(fields: &[u8; CHECKSUM], content: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(fields);
    crc.update(content);
    crc.finalize()
}

fn header(content: &[u8], sequence: u64) -> io::Result<[u8; HEADER]> {
    let fields = fields(content, sequence).ok_or_else(|| {
        let text = format!("{} bytes to remember, more than {MAX_CONTENT}", content.len());
        io::Error::new(io::ErrorKind::FileTooLarge, text)
    })?;
    let mut header = [0; HEADER];
    header[..CHECKSUM].copy_from_slice(&fields);
    header[CHECKSUM..].copy_from_slice(&checksum(&fields, content).to_le_bytes());
    Ok(header)
}

/// What a write does, in order: where, and with which bytes.
fn steps<'a>(slot: u64, header: &'a [u8; HEADER], content: &'a [u8]) -> [(u64, &'a [u8]); 2] {
    [(slot + HEADER as u64, content), (slot, header)]
}

#[cfg(test)]
#[path = "memory_file_tests.rs"]
mod tests;
