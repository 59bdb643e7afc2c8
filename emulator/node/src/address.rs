//! An address on the loopback link, such as 169.254.169.254: there it is this node's own, and pods that reach the node reach it too.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// The label under which the address stands on the link, by which it is found and taken away.
const LABEL: &[u8] = b"lo:ebbtide";

/// An address that was added; it goes when this is dropped.
#[derive(Debug)]
pub(super) struct Address(());

impl Address {
    /// Adds an address of a single host.
    pub(super) fn add(address: Ipv4Addr) -> io::Result<Self> {
        let added = Self(());
        ask(libc::SIOCSIFADDR, |request| request.ifr_ifru.ifru_addr = inet(address))?;
        ask(libc::SIOCSIFNETMASK, |request| request.ifr_ifru.ifru_netmask = inet(Ipv4Addr::BROADCAST))?;
        Ok(added)
    }
}

impl Drop for Address {
    fn drop(&mut self) {
        // A label that is set down is removed. One that is gone already needs no more.
        let _ = ask(libc::SIOCSIFFLAGS, |request| request.ifr_ifru.ifru_flags = 0);
    }
}

/// The kernel's question about one label, filled in by `fill`.
fn ask(what: libc::Ioctl, fill: impl FnOnce(&mut libc::ifreq)) -> io::Result<()> {
    let control = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    // SAFETY: a name of bytes and a union of integers and arrays of them, for which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name.iter_mut().zip(LABEL).for_each(|(to, byte)| *to = *byte as libc::c_char);
    fill(&mut request);
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
pub(super) fn own() -> Vec<IpAddr> {
    let Ok(links) = nix::ifaddrs::getifaddrs() else { return Vec::new() };
    links
        .filter_map(|link| {
            let address = link.address?;
            address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip())).or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
        })
        .collect()
}
