//! Addresses on the loopback link, such as 169.254.169.254: there it is this node's own, and pods that reach the node reach it too.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// An address that was added; it goes when this is dropped, which must happen in the same network namespace.
#[derive(Debug)]
pub(crate) struct Address {
    /// Under which it stands on the link, `lo:1`.
    label: String,
}

impl Address {
    /// Adds an address of a single host under a label that nobody else uses, at most 15 bytes that begin with `lo:`.
    pub(crate) fn add(label: &str, address: Ipv4Addr) -> io::Result<Self> {
        let added = Self { label: label.to_owned() };
        ask(libc::SIOCSIFADDR, label, |request| request.ifr_ifru.ifru_addr = inet(address))?;
        ask(libc::SIOCSIFNETMASK, label, |request| request.ifr_ifru.ifru_netmask = inet(Ipv4Addr::BROADCAST))?;
        Ok(added)
    }
}

impl Drop for Address {
    fn drop(&mut self) {
        // A label that is set down is removed. One that is gone already needs no more.
        let _ = ask(libc::SIOCSIFFLAGS, &self.label, |request| request.ifr_ifru.ifru_flags = 0);
    }
}

/// Sets the loopback link of a new network namespace up, and sends to it whatever has no other way: there a packet to an address that
/// nobody has is lost without an answer, as it is behind a security group.
pub(crate) fn start_loopback() -> io::Result<()> {
    ask(libc::SIOCSIFFLAGS, "lo", |request| request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short)?;
    let mut name = *b"lo\0";
    // SAFETY: integers and pointers, for which zero is a value.
    let mut route: libc::rtentry = unsafe { std::mem::zeroed() };
    route.rt_dst = inet(Ipv4Addr::UNSPECIFIED);
    route.rt_genmask = inet(Ipv4Addr::UNSPECIFIED);
    route.rt_flags = libc::RTF_UP;
    route.rt_dev = name.as_mut_ptr().cast();
    let control = control()?;
    // SAFETY: the request reads a `struct rtentry` and the name that it points to; both live during the call.
    let result = unsafe { libc::ioctl(control.as_raw_fd(), libc::SIOCADDRT, &raw const route) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn control() -> io::Result<std::os::fd::OwnedFd> {
    Ok(socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?)
}

/// The kernel's question about one label, filled in by `fill`.
fn ask(what: libc::Ioctl, label: &str, fill: impl FnOnce(&mut libc::ifreq)) -> io::Result<()> {
    // SAFETY: a name of bytes and a union of integers and arrays of them, for which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays zero.
    let room = request.ifr_name.len() - 1;
    request.ifr_name[..room].iter_mut().zip(label.as_bytes()).for_each(|(to, byte)| *to = *byte as libc::c_char);
    fill(&mut request);
    let control = control()?;
    // SAFETY: these requests read a `struct ifreq`, which lives during the call.
    let result = unsafe { libc::ioctl(control.as_raw_fd(), what, &raw const request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn inet(address: Ipv4Addr) -> libc::sockaddr {
    let inet = libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: 0,
        sin_addr: libc::in_addr { s_addr: u32::from(address).to_be() },
        sin_zero: [0; 8],
    };
    // SAFETY: both are 16 bytes of integers; `sockaddr` is the form in which the kernel takes any address.
    unsafe { std::mem::transmute::<libc::sockaddr_in, libc::sockaddr>(inet) }
}

/// The addresses of this machine, as its links have them now.
pub(crate) fn own() -> Vec<IpAddr> {
    let Ok(links) = nix::ifaddrs::getifaddrs() else { return Vec::new() };
    links
        .filter_map(|link| {
            let address = link.address?;
            address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip())).or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
        })
        .collect()
}
