//! Small writes in one piece, and how much of large ones waits in the kernel.
//!
//! hyper writes a head and a body as two pieces of one call. The kernel takes longer to gather them than
//! it takes to copy some hundred bytes beforehand, and longer even for a single piece that is written so.

use std::io::IoSlice;

use socket2::SockRef;

/// How much is copied at most, which is most heads with a small body. It lies on the stack.
const MAX_COPIED: usize = 1024;

/// What may wait in the kernel until a peer that is slow has room for it. Without a bound that is megabytes
/// for each connection, which count in the control group of the process.
#[cfg(target_os = "linux")]
const MAX_UNSENT_BYTES: u32 = 128 * 1024;

/// Bounds what was written and not sent. What is on its way over the network is not meant. Where the kernel
/// does not know the option, more waits there.
pub(crate) fn hold_little_unsent(socket: &SockRef<'_>) {
    #[cfg(target_os = "linux")]
    if let Err(error) = socket.set_tcp_notsent_lowat(MAX_UNSENT_BYTES) {
        tracing::debug!(%error, "cannot bound what waits to be sent");
    }
    #[cfg(not(target_os = "linux"))]
    let _ = socket;
}

/// Where pieces are put together.
pub(crate) struct Space([u8; MAX_COPIED]);

impl Space {
    pub(crate) const fn new() -> Self {
        Self([0; MAX_COPIED])
    }

    /// The pieces as one, if there is but one of them or they are small together.
    pub(crate) fn join<'b>(&'b mut self, pieces: &'b [IoSlice<'_>]) -> Option<&'b [u8]> {
        let mut filled = pieces.iter().filter(|piece| !piece.is_empty());
        let first = filled.next().map_or(&[][..], |piece| piece);
        if filled.next().is_none() {
            return Some(first);
        }
        let mut copied = 0_usize;
        for piece in pieces {
            let end = copied.checked_add(piece.len())?;
            self.0.get_mut(copied..end)?.copy_from_slice(piece);
            copied = end;
        }
        self.0.get(..copied)
    }
}

#[cfg(test)]
mod tests {
    use super::{MAX_COPIED, Space};
    use std::io::IoSlice;

    /// Pieces, and what they are together.
    type Row<'r> = (&'r [&'r [u8]], Option<&'r [u8]>);

    #[test]
    fn pieces_are_joined_in_their_order_where_they_fit() {
        let large = [b'x'; MAX_COPIED + 1];
        let (fits, rest) = (&large[..MAX_COPIED - 1], &large[..2]);
        let rows: [Row<'_>; 9] = [
            (&[], Some(b"")),
            (&[b""], Some(b"")),
            (&[b"head", b"body"], Some(b"headbody")),
            (&[b"", b"a", b"", b"b", b"c", b""], Some(b"abc")),
            (&[b"", &large], Some(&large)),
            (&[fits, b"x"], Some(&large[..MAX_COPIED])),
            (&[fits, rest], None),
            (&[b"a", &large], None),
            (&[&large, b"a"], None),
        ];
        for (pieces, joined) in rows {
            let slices: Vec<_> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
            assert_eq!(Space::new().join(&slices), joined, "{}", pieces.len());
        }
    }
}
