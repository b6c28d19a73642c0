//! Where WebSocket frames begin and end in a stream of bytes (RFC 6455 §5.2). Nothing else of them
//! is looked at.

/// Follows one direction of a WebSocket connection.
#[derive(Debug)]
pub(super) struct FrameBoundary {
    place: Place,
    writing: bool,
}

#[derive(Debug, Clone, Copy)]
enum Place {
    /// Before a frame, or after one.
    Between,
    /// After the first byte of a frame.
    Length,
    /// In the extended length, with this many bytes to come.
    ExtendedLength { to_come: u8, so_far: u64, mask: u64 },
    /// In mask and payload, with this many bytes to come.
    Rest(u64),
}

impl FrameBoundary {
    pub(super) const fn new() -> Self {
        Self {
            place: Place::Between,
            writing: false,
        }
    }

    /// Whether all that was fed has been passed on, up to the end of a frame.
    pub(super) const fn is_between_frames(&self) -> bool {
        matches!(self.place, Place::Between) && !self.writing
    }

    /// Whether bytes may be passed on one by one: not when a larger write was cut short.
    pub(super) const fn can_go_on(&self) -> bool {
        !self.writing
    }

    /// Notes that what was fed is being written, or has been.
    pub(super) const fn writing(&mut self, writing: bool) {
        self.writing = writing;
    }

    /// Follows further bytes.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        let mut bytes = bytes;
        while let Some((first, rest)) = bytes.split_first() {
            bytes = rest;
            self.place = match self.place {
                Place::Between => Place::Length,
                Place::Length => after_length(*first),
                Place::ExtendedLength {
                    to_come,
                    so_far,
                    mask,
                } => {
                    let so_far = so_far.wrapping_shl(8) | u64::from(*first);
                    match to_come.saturating_sub(1) {
                        0 => rest_of(so_far.saturating_add(mask)),
                        to_come => Place::ExtendedLength {
                            to_come,
                            so_far,
                            mask,
                        },
                    }
                }
                Place::Rest(to_come) => {
                    let skipped = usize::try_from(to_come.saturating_sub(1))
                        .unwrap_or(usize::MAX)
                        .min(rest.len());
                    bytes = rest.get(skipped..).unwrap_or_default();
                    let skipped = u64::try_from(skipped).unwrap_or(u64::MAX);
                    rest_of(to_come.saturating_sub(1).saturating_sub(skipped))
                }
            };
        }
    }
}

fn after_length(byte: u8) -> Place {
    let mask = if byte & 0x80 == 0 { 0 } else { 4 };
    match byte & 0x7f {
        126 => Place::ExtendedLength {
            to_come: 2,
            so_far: 0,
            mask,
        },
        127 => Place::ExtendedLength {
            to_come: 8,
            so_far: 0,
            mask,
        },
        short => rest_of(u64::from(short).saturating_add(mask)),
    }
}

const fn rest_of(length: u64) -> Place {
    match length {
        0 => Place::Between,
        length => Place::Rest(length),
    }
}

#[cfg(test)]
mod tests {
    use super::FrameBoundary;

    fn frame(length: usize, masked: bool) -> Vec<u8> {
        let bit = if masked { 0x80 } else { 0 };
        let mut frame = vec![0x81];
        match length {
            0..=125 => frame.push(bit + u8::try_from(length).expect("short")),
            126..=65_535 => {
                frame.push(bit + 126);
                frame.extend(u16::try_from(length).expect("medium").to_be_bytes());
            }
            _ => {
                frame.push(bit + 127);
                frame.extend(u64::try_from(length).expect("long").to_be_bytes());
            }
        }
        frame.extend(vec![0x88; length + if masked { 4 } else { 0 }]);
        frame
    }

    #[test]
    fn it_is_between_frames_exactly_at_their_ends() {
        for masked in [false, true] {
            for length in [0, 1, 2, 125, 126, 127, 65_535, 65_536, 70_000] {
                for step in [1, 2, 3, 7, 1_000, 1_000_000] {
                    let bytes = [frame(length, masked), frame(5, masked)].concat();
                    let first_end = frame(length, masked).len();
                    let mut boundary = FrameBoundary::new();
                    let mut fed = 0;
                    for part in bytes.chunks(step) {
                        boundary.feed(part);
                        fed += part.len();
                        let at_end = fed == first_end || fed == bytes.len();
                        assert_eq!(
                            boundary.is_between_frames(),
                            at_end,
                            "{length} {masked} {step} {fed}"
                        );
                    }
                }
            }
        }
    }
}
