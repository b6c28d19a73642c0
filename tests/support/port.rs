//! A loopback port that stays ours while nothing listens on it.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::{TcpListener, TcpSocket};

/// Holds a port by a socket that is bound and does not listen: connecting to it is refused, nobody
/// else is given it, and a listener of ours can still take it because both say `SO_REUSEADDR`.
pub struct Port {
    address: SocketAddr,
    _placeholder: TcpSocket,
}

impl Port {
    /// A free port, whichever it is.
    pub fn reserve() -> Self {
        let placeholder = reusable_socket();
        placeholder
            .bind((Ipv4Addr::LOCALHOST, 0).into())
            .expect("a free port");
        let address = placeholder.local_addr().expect("a bound socket");
        Self {
            address,
            _placeholder: placeholder,
        }
    }

    /// Where a listener would be.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Starts to listen, again if need be. Needs a Tokio runtime.
    pub fn listen(&self) -> TcpListener {
        let socket = reusable_socket();
        socket.bind(self.address).expect("the reserved port");
        socket.listen(1024).expect("a listener")
    }
}

fn reusable_socket() -> TcpSocket {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_reuseaddr(true).expect("SO_REUSEADDR");
    socket
}
