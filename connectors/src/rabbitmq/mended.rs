//! A stream of AMQP frames, mended where lapin could not read what strangers have sent.
//!
//! ```text
//! broker ─► bytes ─► frames: heads of messages are held until they are whole, and mended in place ─► bytes ─► lapin
//! ```
//!
//! AMQP lets short strings (names of headers, `correlation_id`, routing keys) be any bytes, and tables lie in tables without bound, and
//! RabbitMQ looks at neither. lapin ends the connection over the first and the process over the second, and the broker delivers the
//! message again: its queue would stand still for ever. So bytes that are no UTF-8 become `?`, and a table too deep an array of
//! bytes, which has the same form. No length changes. Bodies pass as they are.

use futures::io::{AsyncRead, AsyncWrite};
use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

/// Tables and arrays within each other; lapin takes one step of its stack for each. Deeper ones stay bytes.
const DEPTH_MAX: usize = 32;

/// The largest head that is held (bytes). RabbitMQ agrees on frames of 128 KiB unless it is told otherwise; a larger one passes as it is.
const HEAD_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Bytes read at once while no body passes.
const CHUNK_BYTES: usize = 8 * 1024;

const FRAME_METHOD: u8 = 1;
const FRAME_HEADER: u8 = 2;
const FRAME_BODY: u8 = 3;
const FRAME_HEARTBEAT: u8 = 8;
/// Type, channel and size stand before the payload of a frame, one byte ends it.
const FRAME_BEGIN_BYTES: usize = 7;
const FRAME_END_BYTES: usize = 1;

/// The class `basic`, and its methods with strings of whoever published.
const BASIC: u16 = 60;
const BASIC_RETURN: u16 = 50;
const BASIC_DELIVER: u16 = 60;

/// A stream whose reading side is mended.
#[derive(Debug)]
pub(super) struct Mended<S> {
    stream: S,
    frames: Frames,
    /// Read, mended, and not taken yet.
    ready: Vec<u8>,
    taken: usize,
    /// Heads that were mended: told once.
    told: bool,
}

impl<S> Mended<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, frames: Frames::default(), ready: Vec::new(), taken: 0, told: false }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Mended<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        loop {
            if this.taken < this.ready.len() {
                let count = buffer.len().min(this.ready.len() - this.taken);
                buffer[..count].copy_from_slice(&this.ready[this.taken..this.taken + count]);
                this.taken += count;
                return Poll::Ready(Ok(count));
            }
            this.ready.clear();
            this.taken = 0;
            if this.frames.passing > 0 && !buffer.is_empty() {
                let most = usize::try_from(this.frames.passing).unwrap_or(usize::MAX);
                let room = buffer.len().min(most);
                let read = ready!(Pin::new(&mut this.stream).poll_read(cx, &mut buffer[..room]))?;
                this.frames.passing -= read as u64;
                return Poll::Ready(Ok(read));
            }
            let mut chunk = [0; CHUNK_BYTES];
            let read = ready!(Pin::new(&mut this.stream).poll_read(cx, &mut chunk))?;
            if read == 0 {
                // What was held of a frame that never became whole is of no use to anybody.
                return Poll::Ready(Ok(0));
            }
            let mended = this.frames.take(&chunk[..read], &mut this.ready);
            if mended > 0 && !std::mem::replace(&mut this.told, true) {
                tracing::warn!(
                    "A message has names or properties that are no UTF-8, or tables too deep; such bytes are replaced."
                );
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Mended<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buffer)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, buffers)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(cx)
    }
}

/// Where in the frames the stream is.
#[derive(Debug, Default)]
pub(super) struct Frames {
    /// Of a frame that is not whole, or whose beginning is not.
    held: Vec<u8>,
    /// Bytes to the end of a frame that passes as it is.
    passing: u64,
}

impl Frames {
    /// Takes what was read and puts out what is whole. Answers how many heads were mended.
    pub(super) fn take(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) -> usize {
        let mut mended = 0;
        while !bytes.is_empty() {
            if self.passing > 0 {
                let most = usize::try_from(self.passing).unwrap_or(usize::MAX);
                let (pass, rest) = bytes.split_at(bytes.len().min(most));
                out.extend_from_slice(pass);
                self.passing -= pass.len() as u64;
                bytes = rest;
                continue;
            }
            let wanted = match self.size() {
                None => FRAME_BEGIN_BYTES,
                Some(size) => FRAME_BEGIN_BYTES + size + FRAME_END_BYTES,
            };
            let (more, rest) = bytes.split_at(bytes.len().min(wanted - self.held.len()));
            self.held.extend_from_slice(more);
            bytes = rest;
            if self.held.len() < wanted {
                break;
            }
            match self.size() {
                Some(size) if is_head(self.held[0]) && size <= HEAD_BYTES_MAX => {
                    if self.held.len() < FRAME_BEGIN_BYTES + size + FRAME_END_BYTES {
                        continue;
                    }
                    let kind = self.held[0];
                    let payload = &mut self.held[FRAME_BEGIN_BYTES..FRAME_BEGIN_BYTES + size];
                    let mut mend = Mend::default();
                    // One that makes no sense is lapin's to judge.
                    let _ = match kind {
                        FRAME_METHOD => mend.method(payload),
                        _ => mend.header(payload),
                    };
                    mended += usize::from(mend.replaced);
                }
                Some(size)
                    if matches!(self.held[0], FRAME_BODY | FRAME_HEARTBEAT)
                        || is_head(self.held[0]) =>
                {
                    self.passing = (size + FRAME_END_BYTES) as u64;
                }
                // No frame: the broker speaks another protocol, and says so.
                _ => self.passing = u64::MAX,
            }
            out.append(&mut self.held);
        }
        mended
    }

    /// Bytes of the payload, once the beginning of the frame is there.
    fn size(&self) -> Option<usize> {
        let begin = self.held.get(3..FRAME_BEGIN_BYTES)?;
        Some(u32::from_be_bytes(begin.try_into().ok()?) as usize)
    }
}

fn is_head(kind: u8) -> bool {
    matches!(kind, FRAME_METHOD | FRAME_HEADER)
}

/// Walks over a head. `None` where it ends too early, or has something in it that AMQP does not.
#[derive(Default)]
struct Mend {
    replaced: bool,
}

/// Where the walk goes on.
type At = Option<usize>;

impl Mend {
    fn method(&mut self, payload: &mut [u8]) -> At {
        let (class, method) = (number(payload, 0)?, number(payload, 2)?);
        match (class, method) {
            // Consumer tag, delivery tag, redelivered; then exchange and routing key.
            (BASIC, BASIC_DELIVER) => {
                let at = self.short(payload, 4)?;
                let at = self.short(payload, at + 9)?;
                self.short(payload, at)
            }
            // Code, text, exchange, routing key.
            (BASIC, BASIC_RETURN) => {
                let at = self.short(payload, 6)?;
                let at = self.short(payload, at)?;
                self.short(payload, at)
            }
            _ => Some(payload.len()),
        }
    }

    /// Class, weight, size of the body, flags; then the properties that the flags name, from the highest bit down.
    fn header(&mut self, payload: &mut [u8]) -> At {
        const PROPERTIES: [Property; 14] = {
            use Property::{Fixed, Short, Table};
            [
                Short,
                Short,
                Table,
                Fixed(1),
                Fixed(1),
                Short,
                Short,
                Short,
                Short,
                Fixed(8),
                Short,
                Short,
                Short,
                Short,
            ]
        };
        let (class, flags) = (number(payload, 0)?, number(payload, 12)?);
        if class != BASIC {
            return Some(payload.len());
        }
        let mut at = 14;
        for (place, property) in PROPERTIES.iter().enumerate() {
            if flags & (0x8000 >> place) == 0 {
                continue;
            }
            at = match property {
                Property::Short => self.short(payload, at)?,
                Property::Fixed(bytes) => at + bytes,
                Property::Table => {
                    let (begin, end) = long(payload, at)?;
                    self.table(payload.get_mut(begin..end)?, 1);
                    end
                }
            };
        }
        Some(at)
    }

    /// A short string: one byte says how long it is.
    fn short(&mut self, bytes: &mut [u8], at: usize) -> At {
        let end = at + 1 + usize::from(*bytes.get(at)?);
        self.text(bytes.get_mut(at + 1..end)?);
        Some(end)
    }

    fn text(&mut self, mut bytes: &mut [u8]) {
        while let Err(error) = std::str::from_utf8(bytes) {
            let begin = error.valid_up_to();
            let end = error.error_len().map_or(bytes.len(), |odd| begin + odd);
            bytes[begin..end].fill(b'?');
            bytes = &mut bytes[end..];
            self.replaced = true;
        }
    }

    /// Names and values, up to the end.
    fn table(&mut self, bytes: &mut [u8], depth: usize) -> At {
        let mut at = 0;
        while at < bytes.len() {
            at = self.short(bytes, at)?;
            at = self.value(bytes, at, depth)?;
        }
        Some(at)
    }

    /// Values, up to the end.
    fn array(&mut self, bytes: &mut [u8], depth: usize) -> At {
        let mut at = 0;
        while at < bytes.len() {
            at = self.value(bytes, at, depth)?;
        }
        Some(at)
    }

    fn value(&mut self, bytes: &mut [u8], at: usize, depth: usize) -> At {
        let kind = *bytes.get(at)?;
        let at = at + 1;
        let end = match kind {
            b'V' => at,
            b't' | b'b' | b'B' => at + 1,
            b's' | b'U' | b'u' => at + 2,
            b'I' | b'i' | b'f' => at + 4,
            b'D' => at + 5,
            b'L' | b'l' | b'd' | b'T' => at + 8,
            b'S' | b'x' => long(bytes, at)?.1,
            b'F' | b'A' if depth >= DEPTH_MAX => {
                bytes[at - 1] = b'x';
                self.replaced = true;
                long(bytes, at)?.1
            }
            b'F' | b'A' => {
                let (begin, end) = long(bytes, at)?;
                let within = bytes.get_mut(begin..end)?;
                match kind {
                    b'F' => self.table(within, depth + 1)?,
                    _ => self.array(within, depth + 1)?,
                };
                end
            }
            _ => return None,
        };
        (end <= bytes.len()).then_some(end)
    }
}

enum Property {
    Short,
    Table,
    Fixed(usize),
}

fn number(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// Begin and end of what four bytes say the length of.
fn long(bytes: &[u8], at: usize) -> Option<(usize, usize)> {
    let size = u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?) as usize;
    Some((at + 4, at + 4 + size))
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::{AsyncReadExt, FutureExt, io::Cursor};

    fn short(text: &[u8]) -> Vec<u8> {
        [&[text.len() as u8], text].concat()
    }

    fn sized(bytes: &[u8]) -> Vec<u8> {
        [&(bytes.len() as u32).to_be_bytes(), bytes].concat()
    }

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        [&[kind, 0, 1][..], &sized(payload), &[0xCE]].concat()
    }

    fn deliver(routing_key: &[u8]) -> Vec<u8> {
        let (tag, number) = (short(b"tag"), [0; 9]);
        let arguments =
            [&[0, 60, 0, 60][..], &tag, &number, &short(b"events"), &short(routing_key)];
        frame(FRAME_METHOD, &arguments.concat())
    }

    /// With headers, a correlation id and a message id.
    fn head(table: &[u8], correlation: &[u8]) -> Vec<u8> {
        let begin = [0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0x24, 0x80];
        frame(
            FRAME_HEADER,
            &[&begin[..], &sized(table), &short(correlation), &short(b"m1")].concat(),
        )
    }

    fn field(name: &[u8], kind: u8, value: &[u8]) -> Vec<u8> {
        [&short(name)[..], &[kind], value].concat()
    }

    /// A stream that hands out some bytes at a time.
    struct Slow(Cursor<Vec<u8>>, usize);

    impl AsyncRead for Slow {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buffer: &mut [u8],
        ) -> Poll<io::Result<usize>> {
            let room = buffer.len().min(self.1);
            Pin::new(&mut self.0).poll_read(cx, &mut buffer[..room])
        }
    }

    fn mended(bytes: &[u8], at_once: usize) -> Vec<u8> {
        let mut read = Vec::new();
        let slow = Slow(Cursor::new(bytes.to_vec()), at_once);
        let done = Mended::new(slow).read_to_end(&mut read).now_or_never();
        done.expect("it waits for nothing").expect("it reads from memory");
        read
    }

    #[test]
    fn what_is_text_passes_as_it_is_however_it_is_cut() {
        let every_kind = [
            field(b"V", b'V', b""),
            field(b"t", b't', &[1]),
            field(b"s", b's', &[0; 2]),
            field(b"I", b'I', &[0; 4]),
            field(b"D", b'D', &[0; 5]),
            field(b"T", b'T', &[0; 8]),
            field(b"raw", b'S', &sized(b"\xff\xfe")),
            field(b"x", b'x', &sized(b"\xff")),
            field("ü".as_bytes(), b'A', &sized(&[b'V', b'I', 0, 0, 0, 1])),
            field(b"F", b'F', &sized(&field(b"within", b'S', &sized(b"\xff")))),
        ]
        .concat();
        let body = frame(FRAME_BODY, &[0xFF; 20_000]);
        let heart = frame(FRAME_HEARTBEAT, b"");
        let stream =
            [deliver(b"key"), head(&every_kind, b"c-1"), body, heart, deliver(b"")].concat();
        for at_once in [1, 2, 7, 8, 100, 9_000, 100_000] {
            assert_eq!(mended(&stream, at_once), stream, "{at_once}");
        }
    }

    #[test]
    fn bytes_of_names_and_properties_that_are_no_text_are_replaced_in_place() {
        let nested = |name: &[u8]| {
            let within = field(name, b'S', &sized(b"\xff"));
            let list = [&[b'F'][..], &sized(&within)].concat();
            field(b"list", b'A', &sized(&list))
        };
        let odd = [deliver(b"k\xff"), head(&nested(b"\xc3("), b"\xffid\xe2\x82")].concat();
        let even = [deliver(b"k?"), head(&nested(b"?("), b"?id??")].concat();
        for at_once in [1, 13, 100_000] {
            assert_eq!(mended(&odd, at_once), even);
        }
    }

    #[test]
    fn tables_that_lie_too_deep_become_bytes() {
        let deep = |levels: usize, kind: u8| {
            let mut table = Vec::new();
            for _ in 0..levels {
                table = match kind {
                    b'F' => field(b"", b'F', &sized(&table)),
                    _ if table.is_empty() => vec![b'A', 0, 0, 0, 0],
                    _ => [&[b'A'][..], &sized(&table)].concat(),
                };
            }
            if kind == b'F' { table } else { field(b"a", table[0], &table[1..]) }
        };
        for kind in [b'F', b'A'] {
            let shallow = head(&deep(DEPTH_MAX - 1, kind), b"c");
            assert_eq!(mended(&shallow, 100_000), shallow);
            let before = head(&deep(20_000, kind), b"c");
            let after = mended(&before, 100_000);
            assert_eq!(before.len(), after.len());
            let changed: Vec<_> =
                before.iter().zip(&after).filter(|(before, after)| before != after).collect();
            assert_eq!(changed, [(&kind, &b'x')]);
        }
    }

    #[test]
    fn what_is_no_frame_or_makes_no_sense_passes_for_lapin_to_judge() {
        for odd in [
            b"AMQP\x00\x00\x09\x01 and no more".to_vec(),
            frame(FRAME_HEADER, &[0, 60, 0, 0]),
            frame(FRAME_METHOD, &[0, 60, 0, 60, 200, 1]),
            head(&field(b"x", b'?', b""), b"c"),
            head(&field(b"x", b'S', &[0xFF; 4]), b"c"),
            frame(77, b"?"),
        ] {
            assert_eq!(mended(&odd, 3), odd);
        }
        // Cut off: what is held is not handed out.
        assert_eq!(mended(&deliver(b"key")[..9], 3), b"");
    }
}
