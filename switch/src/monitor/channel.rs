//! Messages and descriptors over a Unix stream socket.

use std::io::{self, IoSlice, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::message::MAX_MESSAGE;

/// One end.
#[derive(Debug)]
pub struct Channel(UnixStream);

impl Channel {
    /// An end of a connected stream socket that blocks.
    #[must_use]
    pub const fn new(stream: UnixStream) -> Self {
        Self(stream)
    }

    /// Two ends.
    ///
    /// # Errors
    /// Those of `socketpair`.
    pub fn pair() -> io::Result<(UnixStream, UnixStream)> {
        UnixStream::pair()
    }

    /// How long each wait for bytes, or for room, may take from now on; it then fails with `WouldBlock`, and the
    /// connection is of no further use.
    ///
    /// # Errors
    /// A limit of zero.
    pub fn limit(&self, limit: Duration) -> io::Result<()> {
        self.0.set_read_timeout(Some(limit))?;
        self.0.set_write_timeout(Some(limit))
    }

    /// Sends one message and perhaps a descriptor, which stays open here.
    ///
    /// # Errors
    /// `InvalidInput` for a message that is too long, before anything was sent; those of the socket.
    pub fn send<T: Serialize>(&mut self, message: &T, fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let body = postcard::to_stdvec(message).map_err(io::Error::other)?;
        if body.len() > MAX_MESSAGE {
            let text = format!("a message of {} bytes exceeds {MAX_MESSAGE}", body.len());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        // Bounded above, so it fits.
        let head = (body.len() as u32).to_be_bytes();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let fds: Vec<BorrowedFd<'_>> = fd.into_iter().collect();
        if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(&fds)) {
            return Err(io::Error::other("no room for a descriptor"));
        }
        // The descriptor goes with the first byte; four bytes are never split.
        let parts = [IoSlice::new(&head)];
        let sent = retry(|| sendmsg(self.0.as_fd(), &parts, &mut ancillary, SendFlags::NOSIGNAL))?;
        self.0.write_all(head.get(sent..).unwrap_or_default())?;
        self.0.write_all(&body)
    }

    /// Waits for one message.
    ///
    /// # Errors
    /// `UnexpectedEof` when the other end is closed; `InvalidData` for what is no message.
    pub fn recv<T: DeserializeOwned>(&mut self) -> io::Result<(T, Option<OwnedFd>)> {
        let mut head = [0_u8; 4];
        let mut fd = None;
        let mut filled = 0;
        while filled < head.len() {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let mut parts = [IoSliceMut::new(head.get_mut(filled..).unwrap_or_default())];
            let got = retry(|| recvmsg(self.0.as_fd(), &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC))?;
            for message in ancillary.drain() {
                if let RecvAncillaryMessage::ScmRights(fds) = message {
                    fd = fds.last().or(fd);
                }
            }
            if got.bytes == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            filled += got.bytes;
        }
        let length = u32::from_be_bytes(head) as usize;
        let invalid = |text: String| io::Error::new(io::ErrorKind::InvalidData, text);
        if length > MAX_MESSAGE {
            return Err(invalid(format!("a message of {length} bytes exceeds {MAX_MESSAGE}")));
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body)?;
        let message = postcard::from_bytes(&body).map_err(|e| invalid(e.to_string()))?;
        Ok((message, fd))
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(rustix::io::Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::message::{Reply, Request};
    use proptest::prelude::*;

    fn channels() -> (Channel, Channel) {
        let (a, b) = Channel::pair().unwrap();
        (Channel::new(a), Channel::new(b))
    }

    #[test]
    fn messages_and_descriptors_arrive_in_order() {
        let (mut a, mut b) = channels();
        let file = tempfile::tempfile().unwrap();
        file.set_len(4711).unwrap();
        a.send(&Reply::Mtu(1500), None).unwrap();
        a.send(&Reply::Socket, Some(file.as_fd())).unwrap();
        a.send(&Reply::Done, None).unwrap();
        assert!(matches!(b.recv::<Reply>().unwrap(), (Reply::Mtu(1500), None)));
        let (reply, fd) = b.recv::<Reply>().unwrap();
        assert_eq!(reply, Reply::Socket);
        assert_eq!(std::fs::File::from(fd.unwrap()).metadata().unwrap().len(), 4711);
        assert!(matches!(b.recv::<Reply>().unwrap(), (Reply::Done, None)));
        drop(a);
        assert_eq!(b.recv::<Reply>().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_length_out_of_bounds_is_refused_before_memory_is_taken() {
        let (a, mut b) = channels();
        (&a.0).write_all(&u32::MAX.to_be_bytes()).unwrap();
        assert_eq!(b.recv::<Request>().unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    proptest! {
        #[test]
        fn garbage_is_an_error(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let (a, mut b) = channels();
            (&a.0).write_all(&(body.len() as u32).to_be_bytes()).unwrap();
            (&a.0).write_all(&body).unwrap();
            // Some bytes are messages; what is not must be told from them without a panic.
            if let Err(e) = b.recv::<Request>() {
                prop_assert_eq!(e.kind(), io::ErrorKind::InvalidData);
            }
        }
    }
}
