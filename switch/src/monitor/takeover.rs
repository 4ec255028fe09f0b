//! One monitor takes everything over from another, as between two containers that share the directory of the socket.
//!
//! The one that asks has connected to the other's door ([`super::door`]). It is given what the other has
//! ([`super::estate`]), prepares a switch process of its own, asks for the other's to be stopped, and says when its own
//! forwards. Until then the other goes on when anything fails, or the connection ends.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::channel::Channel;
use super::door::TAKE_OVER;
use super::estate::Estate;

/// For every answer of the other monitor; its switch process has less.
const ANSWER: Duration = Duration::from_secs(10);
/// For the one that asks to prepare itself.
pub const PREPARE: Duration = Duration::from_secs(40);
/// Most descriptors that are taken.
const MOST: u32 = 200_000;

/// What is said, by either.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Word {
    /// The document of the estate comes along, and so many more words with descriptors follow.
    Estate(u32),
    /// One of them.
    Descriptor,
    /// What is declared comes along.
    State,
    /// Stop to read, or: it has stopped.
    Retire,
    /// The new one forwards.
    Over,
    /// It cannot be done.
    Refused(String),
}

/// The connection, seen from either end.
#[derive(Debug)]
pub struct Talk(Channel);

impl Talk {
    /// With one that has asked.
    #[must_use]
    pub const fn with(stream: UnixStream) -> Self {
        Self(Channel::new(stream))
    }

    /// Asks whoever has this door. `None`: nobody does.
    ///
    /// # Errors
    /// Those of the connection.
    pub fn ask(door: &Path) -> io::Result<Option<Self>> {
        let mut stream = match UnixStream::connect(door) {
            Ok(stream) => stream,
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                return Ok(None);
            }
            Err(e) => return Err(e),
        };
        stream.write_all(format!("{TAKE_OVER}\n").as_bytes())?;
        Ok(Some(Self::with(stream)))
    }

    /// Says something.
    ///
    /// # Errors
    /// Those of the connection.
    pub fn say(&mut self, word: &Word, fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        self.0.limit(ANSWER)?;
        self.0.send(word, fd)
    }

    /// Waits for a word.
    ///
    /// # Errors
    /// Those of the connection, and what the other refuses with.
    pub fn hear(&mut self, limit: Duration) -> io::Result<(Word, Option<OwnedFd>)> {
        self.0.limit(limit)?;
        match self.0.recv()? {
            (Word::Refused(text), _) => Err(io::Error::other(text)),
            heard => Ok(heard),
        }
    }

    /// Waits for this word.
    ///
    /// # Errors
    /// As [`Talk::hear`], and `InvalidData` for another word.
    pub fn expect(&mut self, word: &Word, limit: Duration) -> io::Result<Option<OwnedFd>> {
        match self.hear(limit)? {
            (heard, fd) if heard == *word => Ok(fd),
            (heard, _) => Err(invalid(format!("{heard:?} was said instead of {word:?}"))),
        }
    }

    /// Gives everything.
    ///
    /// # Errors
    /// Those of the connection.
    pub fn give(&mut self, left: &OwnedFd, fds: &[BorrowedFd<'_>], state: &OwnedFd) -> io::Result<()> {
        let count = u32::try_from(fds.len()).map_err(io::Error::other)?;
        self.say(&Word::Estate(count), Some(left.as_fd()))?;
        for fd in fds {
            self.say(&Word::Descriptor, Some(*fd))?;
        }
        self.say(&Word::State, Some(state.as_fd()))
    }

    /// Takes everything, and what is declared.
    ///
    /// # Errors
    /// As [`Talk::hear`]; what comes cannot be read.
    pub fn take(&mut self) -> io::Result<(Estate, OwnedFd)> {
        let missing = || invalid("a descriptor is missing".to_owned());
        let (count, left) = match self.hear(ANSWER)? {
            (Word::Estate(count), Some(left)) if count <= MOST => (count, left),
            (other, _) => return Err(invalid(format!("{other:?} was said first"))),
        };
        let mut fds = Vec::new();
        for _ in 0..count {
            fds.push(self.expect(&Word::Descriptor, ANSWER)?.ok_or_else(missing)?);
        }
        let state = self.expect(&Word::State, ANSWER)?.ok_or_else(missing)?;
        Ok((Estate::read(&File::from(left), fds)?, state))
    }
}

fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}
