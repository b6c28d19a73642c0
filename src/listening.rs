//! Who listens on every interface of this network namespace, as Linux tells in `/proc/net`. Elsewhere, and
//! where that cannot be read, nothing is known.

use std::fs::File;
use std::io::{BufRead as _, BufReader};

/// The sockets of this network namespace, IPv4 and IPv6.
const TABLES: [&str; 2] = ["/proc/net/tcp", "/proc/net/tcp6"];

/// `TCP_LISTEN` in the kernel's numbering.
const LISTEN: &str = "0A";

/// Whether somebody listens on this port on every interface, and not on loopback only.
#[must_use]
pub fn on_every_interface(port: u16) -> bool {
    TABLES.iter().any(|table| {
        // Line by line: a busy host has many sockets.
        File::open(table).is_ok_and(|file| {
            let lines = BufReader::new(file).lines();
            lines.map_while(Result::ok).any(|line| is_open(&line, port))
        })
    })
}

/// Whether a line of the table is about a listener on this port and on the address that stands for all.
/// After its number a line has the local address, the remote one, and the state, all in hexadecimal.
fn is_open(line: &str, port: u16) -> bool {
    let mut fields = line.split_whitespace().skip(1);
    let (Some(local), Some(_), Some(state)) = (fields.next(), fields.next(), fields.next()) else {
        return false;
    };
    let Some((address, local_port)) = local.split_once(':') else {
        return false;
    };
    state == LISTEN
        && !address.is_empty()
        && address.bytes().all(|digit| digit == b'0')
        && u16::from_str_radix(local_port, 16) == Ok(port)
}

#[cfg(test)]
mod tests {
    use super::is_open;

    /// Lines as the kernel writes them, with port 4111 (100F).
    #[test]
    fn only_a_listener_on_every_interface_counts() {
        let rest = "00000000:00000000 00:00000000 00000000     0        0 21474 1 0000000000000000 100 0 0 10 0";
        for (local, remote, state, expected) in [
            ("00000000:100F", "00000000:0000", "0A", true),
            (
                "00000000000000000000000000000000:100F",
                "00000000000000000000000000000000:0000",
                "0A",
                true,
            ),
            // Loopback, of either kind and either end.
            ("0100007F:100F", "00000000:0000", "0A", false),
            ("7F000001:100F", "00000000:0000", "0A", false),
            (
                "00000000000000000000000001000000:100F",
                "00000000000000000000000000000000:0000",
                "0A",
                false,
            ),
            // Another port, a number in decimal, a connection, a socket that is bound only.
            ("00000000:1010", "00000000:0000", "0A", false),
            ("00000000:4111", "00000000:0000", "0A", false),
            ("00000000:100F", "0100007F:C350", "01", false),
            ("00000000:100F", "00000000:0000", "07", false),
            (":100F", "00000000:0000", "0A", false),
        ] {
            let line = format!("   0: {local} {remote} {state} {rest}");
            assert_eq!(is_open(&line, 4111), expected, "{line}");
        }
        let head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt";
        for line in [head, "", "0:", "0: 00000000:100F", "0: 00000000 x 0A"] {
            assert!(!is_open(line, 4111), "{line:?}");
        }
    }
}
