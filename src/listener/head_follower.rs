//! Where HTTP/2 header blocks begin and end in what a client sends (RFC 9113 §4.1, §4.3). Nothing else
//! of the frames is looked at.

/// What HTTP/2 begins with before its frames: the preface.
const PREFACE_BYTES: usize = 24;

/// Length, type, flags and stream.
const FRAME_HEAD_BYTES: usize = 9;

const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

/// Follows what one client sends, from the first byte of its connection.
#[derive(Debug)]
pub(super) struct HeadFollower {
    preface_to_come: usize,
    frame_head: [u8; FRAME_HEAD_BYTES],
    frame_head_bytes: usize,
    payload_to_come: usize,
    /// Whether the payload to come belongs to a header block, and what is true of it afterwards.
    block_frame: Option<BlockFrame>,
    is_in_block: bool,
    /// Whether a whole frame of the open block is here, and more are to come.
    is_continued: bool,
}

#[derive(Debug, Clone, Copy)]
struct BlockFrame {
    ends_block: bool,
}

impl HeadFollower {
    pub(super) const fn new() -> Self {
        Self {
            preface_to_come: PREFACE_BYTES,
            frame_head: [0; FRAME_HEAD_BYTES],
            frame_head_bytes: 0,
            payload_to_come: 0,
            block_frame: None,
            is_in_block: false,
            is_continued: false,
        }
    }

    /// Whether the open block is longer than one frame, so that a part of it was unpacked already.
    pub(super) const fn is_continued(&self) -> bool {
        self.is_continued
    }

    /// Follows further bytes. Answers whether a header block has begun and not ended.
    pub(super) fn feed(&mut self, mut bytes: &[u8]) -> bool {
        let preface = self.preface_to_come.min(bytes.len());
        self.preface_to_come = self.preface_to_come.saturating_sub(preface);
        bytes = bytes.get(preface..).unwrap_or_default();
        while !bytes.is_empty() {
            if self.payload_to_come > 0 {
                let passed = self.payload_to_come.min(bytes.len());
                self.payload_to_come = self.payload_to_come.saturating_sub(passed);
                bytes = bytes.get(passed..).unwrap_or_default();
                self.at_frame_end();
                continue;
            }
            let wanted = FRAME_HEAD_BYTES.saturating_sub(self.frame_head_bytes);
            let taken = wanted.min(bytes.len());
            let (head, rest) = bytes.split_at(taken);
            for (place, byte) in self
                .frame_head
                .iter_mut()
                .skip(self.frame_head_bytes)
                .zip(head)
            {
                *place = *byte;
            }
            self.frame_head_bytes = self.frame_head_bytes.saturating_add(taken);
            bytes = rest;
            if self.frame_head_bytes == FRAME_HEAD_BYTES {
                self.begin_frame();
            }
        }
        self.is_in_block
    }

    fn begin_frame(&mut self) {
        self.frame_head_bytes = 0;
        let [high, middle, low, kind, flags, ..] = self.frame_head;
        let length = u32::from_be_bytes([0, high, middle, low]);
        self.payload_to_come = usize::try_from(length).unwrap_or(usize::MAX);
        if matches!(kind, HEADERS | CONTINUATION) {
            self.is_in_block = true;
            self.block_frame = Some(BlockFrame {
                ends_block: flags & END_HEADERS != 0,
            });
        }
        self.at_frame_end();
    }

    fn at_frame_end(&mut self) {
        if self.payload_to_come == 0
            && let Some(frame) = self.block_frame.take()
        {
            self.is_in_block = !frame.ends_block;
            self.is_continued = !frame.ends_block;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{CONTINUATION, END_HEADERS, HEADERS, HeadFollower};

    const DATA: u8 = 0;
    const SETTINGS: u8 = 4;

    fn frame(kind: u8, flags: u8, length: usize) -> Vec<u8> {
        let length_bytes = u32::try_from(length).expect("a short frame").to_be_bytes();
        let mut bytes = length_bytes[1..].to_vec();
        bytes.extend_from_slice(&[kind, flags, 0, 0, 0, 1]);
        bytes.extend(vec![7; length]);
        bytes
    }

    /// Whether a head is open at the end, fed in pieces of every size.
    fn is_open(frames: &[Vec<u8>], cut: usize) -> bool {
        let whole = [
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
            frames.concat(),
        ]
        .concat();
        let whole = &whole[..whole.len() - cut];
        let verdicts: Vec<bool> = (1..40)
            .map(|size| {
                let mut follower = HeadFollower::new();
                let fed: Vec<bool> = whole
                    .chunks(size)
                    .map(|piece| follower.feed(piece))
                    .collect();
                fed.last().copied().unwrap_or_default()
            })
            .collect();
        assert!(
            verdicts.windows(2).all(|two| two[0] == two[1]),
            "{verdicts:?}"
        );
        verdicts[0]
    }

    #[test]
    fn a_head_is_open_until_its_last_byte() {
        let head = |flags, length| frame(HEADERS, flags, length);
        let more = |flags, length| frame(CONTINUATION, flags, length);
        for (frames, cut, open) in [
            (vec![], 0, false),
            (vec![frame(SETTINGS, 0, 6)], 0, false),
            (vec![frame(SETTINGS, 0, 6)], 3, false),
            (vec![head(END_HEADERS, 20)], 0, false),
            (vec![head(END_HEADERS | 1, 20)], 1, true),
            (vec![head(END_HEADERS, 20)], 20, true),
            (vec![head(END_HEADERS, 20)], 21, false),
            (vec![head(END_HEADERS, 0)], 0, false),
            (vec![head(0, 20)], 0, true),
            (vec![head(0, 0)], 0, true),
            (vec![head(0, 20), more(0, 5)], 0, true),
            (vec![head(0, 20), more(END_HEADERS, 5)], 0, false),
            (vec![head(0, 20), more(END_HEADERS, 0)], 0, false),
            (vec![head(END_HEADERS, 20), frame(DATA, 0, 30)], 10, false),
            (
                vec![
                    head(END_HEADERS, 9),
                    frame(DATA, END_HEADERS, 3),
                    head(0, 2),
                ],
                0,
                true,
            ),
        ] {
            assert_eq!(is_open(&frames, cut), open, "{frames:?} less {cut}");
        }
    }
}
