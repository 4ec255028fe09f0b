//! One TAP device: the port's end of a pod's interface.
//!
//! The kernel gives a TAP its offloads per device and keeps them across re-attachment, so they are set
//! anew every time a descriptor is obtained. Who was attached between two runs of ours may have set more than that:
//! a device that is taken over has all of it cleared. The descriptor is non-blocking and its send buffer is never
//! touched: both are conditions of the kernel's fast path for frames of up to a page.
//!
//! Limits: one queue; a ten-byte virtio-net header (24 bytes and more would switch on parsing of tunnel
//! offloads); Linux 4.x and later, segmentation of UDP from 6.2.

use std::fmt;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

use packet::VNET_HDR_LEN;
use rustix::fs::{Mode, OFlags};
use rustix::ioctl::{self, Getter, IntegerSetter, Ioctl, IoctlOutput, Opcode, Setter, Updater, opcode};

use super::PortIo;

/// Longest interface name the kernel takes (`IFNAMSIZ` less the terminating zero).
pub const IFNAME_MAX: usize = 15;

// From <linux/if_tun.h>. The sizes encoded in these numbers are those of the header's declarations, which
// for TUNSETIFF and TUNGETIFF are not those of what is passed (a `struct ifreq`).
const TUNSETPERSIST: Opcode = opcode::write::<libc::c_int>(b'T', 203);
const TUNSETIFF: Opcode = opcode::write::<libc::c_int>(b'T', 202);
const TUNSETOWNER: Opcode = opcode::write::<libc::c_int>(b'T', 204);
const TUNGETFEATURES: Opcode = opcode::read::<libc::c_uint>(b'T', 207);
const TUNSETOFFLOAD: Opcode = opcode::write::<libc::c_uint>(b'T', 208);
const TUNGETIFF: Opcode = opcode::read::<libc::c_uint>(b'T', 210);
const TUNSETVNETHDRSZ: Opcode = opcode::write::<libc::c_int>(b'T', 216);
const TUNGETDEVNETNS: Opcode = opcode::none(b'T', 227);
const TUNSETTXFILTER: Opcode = opcode::write::<libc::c_uint>(b'T', 209);
const TUNSETVNETLE: Opcode = opcode::write::<libc::c_int>(b'T', 220);
const TUNSETVNETBE: Opcode = opcode::write::<libc::c_int>(b'T', 222);
const TUNSETFILTEREBPF: Opcode = opcode::read::<libc::c_int>(b'T', 225);

const IFF_TAP: u32 = 0x0002;
const IFF_NO_PI: u32 = 0x1000;
const IFF_VNET_HDR: u32 = 0x4000;
/// Refuse to attach to a device that exists already.
const IFF_TUN_EXCL: u32 = 0x8000;
const IFF_MULTI_QUEUE: u32 = 0x0100;

const TUN_F_CSUM: u32 = 0x01;
const TUN_F_TSO4: u32 = 0x02;
const TUN_F_TSO6: u32 = 0x04;
const TUN_F_TSO_ECN: u32 = 0x08;
const TUN_F_USO4: u32 = 0x20;
const TUN_F_USO6: u32 = 0x40;

/// `struct ifreq` as these ioctls use it: a name and the first two bytes of a 24-byte union.
#[repr(C)]
#[derive(Clone, Copy)]
struct IfReq {
    name: [u8; IFNAME_MAX + 1],
    flags: u16,
    rest: [u8; 22],
}

impl IfReq {
    const EMPTY: Self = Self { name: [0; IFNAME_MAX + 1], flags: 0, rest: [0; 22] };
}

/// Which offloads a port runs with, both ways: what the pod's interface may leave to us.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Offloads(u32);

impl Offloads {
    /// None at all: every frame is a standard packet with complete checksums.
    pub const NONE: Self = Self(0);
    /// Checksums left uncomputed.
    pub const CSUM: Self = Self(TUN_F_CSUM);
    /// As [`Self::CSUM`], and TCP frames of up to 64 KiB.
    pub const CSUM_TSO: Self = Self(TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN);
    /// As [`Self::CSUM_TSO`], and UDP frames of up to 64 KiB. The kernel wants both USO bits or none.
    pub const ALL: Self = Self(Self::CSUM_TSO.0 | TUN_F_USO4 | TUN_F_USO6);

    /// Richest first. What a kernel does not know it refuses whole, so the next rung is tried.
    const LADDER: [Self; 4] = [Self::ALL, Self::CSUM_TSO, Self::CSUM, Self::NONE];

    /// May checksums be left to the other side?
    #[must_use]
    pub fn csum(self) -> bool {
        self.0 & TUN_F_CSUM != 0
    }

    /// May TCP frames exceed the MTU?
    #[must_use]
    pub fn tso(self) -> bool {
        self.0 & TUN_F_TSO4 != 0
    }

    /// May UDP frames exceed the MTU?
    #[must_use]
    pub fn uso(self) -> bool {
        self.0 & TUN_F_USO4 != 0
    }
}

impl fmt::Display for Offloads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.csum(), self.tso(), self.uso()) {
            (false, ..) => "none",
            (true, false, _) => "csum",
            (true, true, false) => "csum,tso",
            (true, true, true) => "csum,tso,uso",
        })
    }
}

/// How to obtain a TAP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TapFlags {
    /// Ask for offloads; otherwise all are cleared.
    pub offload: bool,
    /// Fail if a device of that name exists, instead of attaching to it.
    pub must_create: bool,
}

impl Default for TapFlags {
    fn default() -> Self {
        Self { offload: true, must_create: true }
    }
}

/// An interface name that the kernel, `/proc/sys` or `ip` would not take.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "{0:?} is not an interface name: 1 to 15 visible ASCII characters without '/', ':' and '%', and not '.', '..', 'all' or 'default'"
)]
pub struct InvalidIfname(String);

/// Checks an interface name. Stricter than the kernel: `%` would be a pattern, and `all` and `default`
/// name other things in `/proc/sys/net`.
///
/// # Errors
/// [`InvalidIfname`] with the rule.
pub fn check_ifname(name: &str) -> Result<(), InvalidIfname> {
    let good = (1..=IFNAME_MAX).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_graphic() && !b"/:%".contains(&b))
        && !matches!(name, "." | ".." | "all" | "default");
    if good { Ok(()) } else { Err(InvalidIfname(name.chars().take(64).collect())) }
}

/// A TAP device, attached. The device goes away with its last descriptor, unless [`keep`] was called.
///
/// Taking a device away makes the kernel wait for all its readers, some 20 ms: drop it on the control
/// thread, never on a worker.
#[derive(Debug)]
pub struct Tap {
    fd: OwnedFd,
    name: String,
    offloads: Offloads,
}

impl Tap {
    /// Creates, or attaches to, the TAP `ifname` in the network namespace of the calling thread.
    ///
    /// # Errors
    /// As the kernel gives them. ENOENT: no `/dev/net/tun`; EPERM: no CAP_NET_ADMIN in the namespace;
    /// EBUSY: it exists and `must_create`, or another descriptor is attached; EINVAL: a bad name, or an
    /// interface of another kind.
    pub fn open(ifname: &str, flags: TapFlags) -> io::Result<Self> {
        check_ifname(ifname).map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?;
        let fd = rustix::fs::open(
            c"/dev/net/tun",
            OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let mut req = IfReq::EMPTY;
        for (to, from) in req.name.iter_mut().zip(ifname.bytes()) {
            *to = from;
        }
        let excl = if flags.must_create { IFF_TUN_EXCL } else { 0 };
        req.flags = (IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | excl) as u16;
        // SAFETY: TUNSETIFF reads and writes one `struct ifreq`, which `IfReq` matches in size and layout.
        unsafe { ioctl::ioctl(&fd, Updater::<TUNSETIFF, IfReq>::new(&mut req))? };
        if !flags.must_create {
            clear(&fd);
        }
        Self::prepare(fd, flags.offload)
    }

    /// Takes over a descriptor that someone else attached: checks that it is a single-queue TAP with a
    /// virtio-net header, and sets header size, offloads and file flags as [`Tap::open`] does.
    ///
    /// # Errors
    /// `InvalidInput` when it is something else; otherwise as the kernel gives them (EBADFD: the device
    /// was deleted).
    pub fn from_fd(fd: OwnedFd, offload: bool) -> io::Result<Self> {
        let flags = rustix::fs::fcntl_getfl(&fd)?;
        if !flags.contains(OFlags::NONBLOCK) {
            rustix::fs::fcntl_setfl(&fd, flags | OFlags::NONBLOCK)?;
        }
        rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)?;
        Self::prepare(fd, offload)
    }

    fn prepare(fd: OwnedFd, offload: bool) -> io::Result<Self> {
        let name = name_of(&fd)?;
        // SAFETY: TUNSETVNETHDRSZ reads one int through the pointer that `Setter` passes.
        unsafe {
            ioctl::ioctl(&fd, Setter::<TUNSETVNETHDRSZ, libc::c_int>::new(VNET_HDR_LEN as libc::c_int))?
        };
        let offloads = set_offloads(&fd, offload)?;
        Ok(Self { fd, name, offloads })
    }

    /// The interface's name when it was attached.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The offloads that the kernel granted.
    #[must_use]
    pub fn offloads(&self) -> Offloads {
        self.offloads
    }

    /// Is the device still there?
    #[must_use]
    pub fn is_attached(&self) -> bool {
        get_iff(&self.fd).is_ok()
    }

    /// Gives up the descriptor without closing it.
    #[must_use]
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }
}

impl PortIo for Tap {
    #[inline]
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(&self.fd, buf)?)
    }

    #[inline]
    fn write(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        Ok(rustix::io::writev(&self.fd, parts)?)
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Tap {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// Lets a device outlive its descriptors. Its owner goes first: to a persistent TAP without one everybody may attach who
/// may open `/dev/net/tun` in its network namespace. With one it takes this user, or CAP_NET_ADMIN there.
///
/// # Errors
/// As the kernel gives them.
pub fn keep(fd: BorrowedFd<'_>, owner: u32) -> io::Result<()> {
    // SAFETY: TUNSETOWNER takes its argument by value.
    unsafe { ioctl::ioctl(fd, IntegerSetter::<TUNSETOWNER>::new_usize(owner as usize))? };
    set_persistent(fd, true)
}

/// Lets a device go with its last descriptor, wherever it is and whatever it is called by now: a pod may have moved it to
/// a namespace that nobody else knows.
///
/// # Errors
/// As the kernel gives them (EBADFD: it is gone).
pub fn release(fd: BorrowedFd<'_>) -> io::Result<()> {
    set_persistent(fd, false)
}

fn set_persistent(fd: BorrowedFd<'_>, on: bool) -> io::Result<()> {
    // SAFETY: TUNSETPERSIST takes its argument by value.
    unsafe { ioctl::ioctl(fd, IntegerSetter::<TUNSETPERSIST>::new_usize(usize::from(on)))? };
    Ok(())
}

/// Takes from a device what somebody who was attached before may have left on it: the byte order of the virtio-net
/// header, and filters of what its pod sends. A kernel that refuses one of these does not know it.
fn clear(fd: &OwnedFd) {
    // SAFETY: these read one int through the pointer that `Setter` passes; -1 is no program, which takes one away.
    unsafe {
        let _ = ioctl::ioctl(fd, Setter::<TUNSETVNETLE, libc::c_int>::new(0));
        let _ = ioctl::ioctl(fd, Setter::<TUNSETVNETBE, libc::c_int>::new(0));
        let _ = ioctl::ioctl(fd, Setter::<TUNSETFILTEREBPF, libc::c_int>::new(-1));
    }
    // SAFETY: TUNSETTXFILTER reads a `struct tun_filter`, of which two fields of 16 bits come first: flags, and how many
    // addresses follow, here none. No address is no filter.
    unsafe {
        let _ = ioctl::ioctl(fd, Setter::<TUNSETTXFILTER, [u16; 2]>::new([0, 0]));
    }
}

/// The `IFF_*` bits this kernel's TUN driver knows, for the log and for `status`.
///
/// # Errors
/// As for opening `/dev/net/tun`.
pub fn features() -> io::Result<u32> {
    let fd = rustix::fs::open(c"/dev/net/tun", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    // SAFETY: TUNGETFEATURES writes one unsigned int.
    Ok(unsafe { ioctl::ioctl(&fd, Getter::<TUNGETFEATURES, libc::c_uint>::new())? })
}

/// The present name of the device that a descriptor is attached to, in the device's namespace.
///
/// # Errors
/// `InvalidInput` when it is no single-queue TAP with a virtio-net header; otherwise as the kernel gives them (EBADFD:
/// the device was deleted; ENOTTY: it is something else).
pub fn name_of(fd: &OwnedFd) -> io::Result<String> {
    let req = get_iff(fd)?;
    let flags = u32::from(req.flags);
    let wanted = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
    if flags & (wanted | IFF_MULTI_QUEUE) != wanted {
        let text = format!("not a single-queue TAP with a virtio-net header (flags {flags:#06x})");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    let len = req.name.iter().position(|&b| b == 0).unwrap_or(req.name.len());
    Ok(String::from_utf8_lossy(req.name.get(..len).unwrap_or_default()).into_owned())
}

/// The network namespace that the device of a TAP is in by now.
///
/// # Errors
/// As the kernel gives them (EINVAL before Linux 5.2; EPERM: no CAP_NET_ADMIN in it).
pub fn netns_of(fd: &OwnedFd) -> io::Result<OwnedFd> {
    // SAFETY: TUNGETDEVNETNS takes no argument and answers by its return value, a new descriptor or an error.
    Ok(unsafe { ioctl::ioctl(fd, GetDeviceNetns) }?)
}

/// `TUNGETDEVNETNS`, whose answer is a descriptor.
struct GetDeviceNetns;

// SAFETY: the request has no argument and writes no memory.
unsafe impl Ioctl for GetDeviceNetns {
    type Output = OwnedFd;
    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        TUNGETDEVNETNS
    }

    fn as_ptr(&mut self) -> *mut libc::c_void {
        std::ptr::null_mut()
    }

    unsafe fn output_from_ptr(out: IoctlOutput, _: *mut libc::c_void) -> rustix::io::Result<OwnedFd> {
        // SAFETY: the kernel has just opened it for this process, and nobody else knows of it. It is opened
        // with O_CLOEXEC.
        Ok(unsafe { OwnedFd::from_raw_fd(out) })
    }
}

fn get_iff(fd: &OwnedFd) -> io::Result<IfReq> {
    let mut req = IfReq::EMPTY;
    // SAFETY: TUNGETIFF writes one `struct ifreq`, which `IfReq` matches in size and layout.
    unsafe { ioctl::ioctl(fd, Updater::<TUNGETIFF, IfReq>::new(&mut req))? };
    Ok(req)
}

fn set_offloads(fd: &OwnedFd, offload: bool) -> io::Result<Offloads> {
    let rungs: &[Offloads] = if offload { &Offloads::LADDER } else { &[Offloads::NONE] };
    let mut refused = None;
    for rung in rungs {
        // SAFETY: TUNSETOFFLOAD takes its argument by value.
        match unsafe { ioctl::ioctl(fd, IntegerSetter::<TUNSETOFFLOAD>::new_usize(rung.0 as usize)) } {
            Ok(()) => return Ok(*rung),
            Err(rustix::io::Errno::INVAL) => refused = Some(rustix::io::Errno::INVAL),
            Err(e) => return Err(e.into()),
        }
    }
    Err(refused.unwrap_or(rustix::io::Errno::INVAL).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ioctl_numbers_are_those_of_the_header() {
        assert_eq!(TUNSETIFF, 0x4004_54ca);
        assert_eq!(TUNSETPERSIST, 0x4004_54cb);
        assert_eq!(TUNSETOWNER, 0x4004_54cc);
        assert_eq!(TUNGETFEATURES, 0x8004_54cf);
        assert_eq!(TUNSETOFFLOAD, 0x4004_54d0);
        assert_eq!(TUNGETIFF, 0x8004_54d2);
        assert_eq!(TUNSETVNETHDRSZ, 0x4004_54d8);
        assert_eq!(TUNGETDEVNETNS, 0x54e3);
        assert_eq!(TUNSETTXFILTER, 0x4004_54d1);
        assert_eq!(TUNSETVNETLE, 0x4004_54dc);
        assert_eq!(TUNSETVNETBE, 0x4004_54de);
        assert_eq!(TUNSETFILTEREBPF, 0x8004_54e1);
        assert_eq!(size_of::<IfReq>(), size_of::<libc::ifreq>());
    }

    #[test]
    fn offloads_are_named() {
        let names: Vec<String> = Offloads::LADDER.iter().map(ToString::to_string).collect();
        assert_eq!(names, ["csum,tso,uso", "csum,tso", "csum", "none"]);
    }

    #[test]
    fn interface_names() {
        for good in ["eth0", "a", "swd-0123456789a", "veth@x", "1"] {
            assert_eq!(check_ifname(good), Ok(()), "{good}");
        }
        for bad in ["", "0123456789abcdef", "a b", "a/b", "..", ".", "tap%d", "a:1", "all", "default", "é"] {
            assert!(check_ifname(bad).is_err(), "{bad}");
        }
        assert!(Tap::open("a/b", TapFlags::default()).is_err());
    }

    #[test]
    fn something_else_is_not_adopted() {
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(Tap::from_fd(file.into(), true).is_err());
    }
}
