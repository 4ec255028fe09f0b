//! `sendmmsg` and `recvmmsg`: many datagrams in one system call.

use std::io;
use std::net::SocketAddrV4;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use super::BURST;
use super::payload::MAX;

/// Messages per receive.
pub const RECEIVE: usize = 64;

/// The clock ticks per second in `/proc`.
pub fn ticks_per_second() -> f64 {
    // SAFETY: sysconf takes a number and has no other effect.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    if ticks > 0 { ticks as f64 } else { 100.0 }
}

/// Asks for a receive buffer, with privilege if there is any. A smaller one works, with more loss at the socket,
/// which is counted; so failure is no error.
pub fn force_receive_buffer(fd: BorrowedFd<'_>, size: i32) {
    for option in [libc::SO_RCVBUFFORCE, libc::SO_RCVBUF] {
        let len = size_of::<i32>() as libc::socklen_t;
        let value: *const i32 = &size;
        // SAFETY: the option's value is the int that `value` points to, which lives in this frame.
        let set = unsafe { libc::setsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, option, value.cast(), len) };
        if set == 0 {
            return;
        }
    }
}

/// A destination as the kernel takes it.
pub fn raw(address: SocketAddrV4) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: address.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address.ip().octets()) },
        sin_zero: [0; 8],
    }
}

fn header(part: *mut libc::iovec, name: *mut libc::sockaddr_in, name_len: libc::socklen_t) -> libc::mmsghdr {
    // SAFETY: all-zero bytes are a valid mmsghdr: null pointers and lengths of zero.
    let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
    message.msg_hdr.msg_iov = part;
    message.msg_hdr.msg_iovlen = 1;
    message.msg_hdr.msg_name = name.cast();
    message.msg_hdr.msg_namelen = name_len;
    message
}

/// Sends up to [`BURST`] datagrams with their destinations. Gives the number that the kernel took.
///
/// # Errors
/// Those of sendmmsg(2), when it took none.
pub fn send(fd: BorrowedFd<'_>, datagrams: &[(&[u8], libc::sockaddr_in)]) -> io::Result<usize> {
    let empty = libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 };
    let mut parts = [empty; BURST];
    let mut names = [raw(SocketAddrV4::new(std::net::Ipv4Addr::UNSPECIFIED, 0)); BURST];
    let mut messages = [header(ptr::null_mut(), ptr::null_mut(), 0); BURST];
    let count = datagrams.len().min(BURST);
    for (((datagram, name), part), place) in datagrams.iter().zip(&mut parts).zip(&mut names) {
        *part = libc::iovec { iov_base: datagram.as_ptr().cast_mut().cast(), iov_len: datagram.len() };
        *place = *name;
    }
    for ((message, part), name) in messages.iter_mut().zip(&mut parts).zip(&mut names) {
        *message = header(part, name, size_of::<libc::sockaddr_in>() as libc::socklen_t);
    }
    // SAFETY: the first `count` messages point to one part and one name each, which live in this frame; the
    // parts point to slices that the caller lends for the call, and sending only reads them.
    let sent = unsafe { libc::sendmmsg(fd.as_raw_fd(), messages.as_mut_ptr(), count as libc::c_uint, 0) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// Buffers for one receive.
pub struct Buffers {
    bytes: Box<[[u8; MAX + 8]]>,
    lengths: [usize; RECEIVE],
}

impl Default for Buffers {
    fn default() -> Self {
        Self { bytes: vec![[0; MAX + 8]; RECEIVE].into_boxed_slice(), lengths: [0; RECEIVE] }
    }
}

impl Buffers {
    /// Receives what is there, up to [`RECEIVE`] datagrams, without waiting. Longer ones than [`MAX`] are cut,
    /// and found to be too long all the same.
    ///
    /// # Errors
    /// Those of recvmmsg(2); `WouldBlock` when there is none.
    pub fn receive(&mut self, fd: BorrowedFd<'_>) -> io::Result<impl Iterator<Item = &[u8]>> {
        let empty = libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 };
        let mut parts = [empty; RECEIVE];
        let mut messages = [header(ptr::null_mut(), ptr::null_mut(), 0); RECEIVE];
        for ((buffer, part), message) in self.bytes.iter_mut().zip(&mut parts).zip(&mut messages) {
            *part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
            *message = header(part, ptr::null_mut(), 0);
        }
        let flags = libc::MSG_DONTWAIT as _;
        // SAFETY: every message points to one part, every part to one buffer of the given length; all of them
        // outlive the call, and no two are the same. A null timeout is allowed.
        let got = unsafe {
            libc::recvmmsg(
                fd.as_raw_fd(),
                messages.as_mut_ptr(),
                RECEIVE as libc::c_uint,
                flags,
                ptr::null_mut(),
            )
        };
        let got = usize::try_from(got).map_err(|_| io::Error::last_os_error())?;
        for (length, message) in self.lengths.iter_mut().zip(&messages).take(got) {
            *length = message.msg_len as usize;
        }
        let filled = self.bytes.iter().zip(&self.lengths).take(got);
        Ok(filled.map(|(buffer, &length)| buffer.get(..length).unwrap_or(buffer)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
    use std::os::fd::AsFd;

    #[test]
    fn a_batch_arrives_as_it_was_sent() {
        let receiver = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let sender = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let SocketAddr::V4(to) = receiver.local_addr().unwrap() else { unreachable!() };
        let mut buffers = Buffers::default();
        let none = buffers.receive(receiver.as_fd()).map(Iterator::count);
        assert_eq!(none.unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let sent: Vec<Vec<u8>> = (1..=BURST).map(|n| vec![n as u8; n * 40]).collect();
        let batch: Vec<_> = sent.iter().map(|d| (d.as_slice(), raw(to))).collect();
        assert_eq!(send(sender.as_fd(), &batch).unwrap(), BURST);
        let got: Vec<Vec<u8>> = buffers.receive(receiver.as_fd()).unwrap().map(<[u8]>::to_vec).collect();
        assert_eq!(got, sent);
    }
}
