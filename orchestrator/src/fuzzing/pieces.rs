//! Takes the bytes of a fuzzer apart. Whatever they are, there is an answer: what is missing is empty, or zero.

/// What is left of the bytes.
pub(super) struct Pieces<'a>(pub &'a [u8]);

impl<'a> Pieces<'a> {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or_default()
    }

    /// Two bytes, the lower one first.
    pub(super) fn short(&mut self) -> u16 {
        u16::from(self.byte()) | u16::from(self.byte()) << 8
    }

    /// So many bytes, or as many as there are.
    pub(super) fn take(&mut self, bytes: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(bytes.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// As many bytes as a byte before them says.
    pub(super) fn little(&mut self) -> &'a [u8] {
        let bytes = self.byte();
        self.take(usize::from(bytes))
    }

    /// As many bytes as two bytes before them say.
    pub(super) fn sized(&mut self) -> &'a [u8] {
        let bytes = self.short();
        self.take(usize::from(bytes))
    }

    pub(super) fn rest(&mut self) -> &'a [u8] {
        self.take(usize::MAX)
    }
}
