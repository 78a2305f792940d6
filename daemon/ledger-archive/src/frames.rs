//! Decodes zstd frames as their bytes arrive.

use zstd::zstd_safe::{self, DCtx, DParameter, InBuffer, OutBuffer};

use crate::error::{ExtractError, Refusal};

/// The largest window a frame may ask for: 128 MiB, which is what `zstd -d` allows.
const WINDOW_LOG_MAX: u32 = 27;

/// zstd's numbers of errors, from `zstd_errors.h`; those below 100 are stable.
const PREFIX_UNKNOWN: usize = 10;
const WINDOW_TOO_LARGE: usize = 16;
const CHECKSUM_WRONG: usize = 22;
const DICTIONARY_WRONG: usize = 32;

/// Decodes one frame after the other, skippable ones included.
pub(crate) struct FrameReader {
    context: DCtx<'static>,
    out: Vec<u8>,
    /// Bytes of the archive consumed.
    at: u64,
    /// No frame is open.
    between_frames: bool,
    /// The decoder may return more content without further input.
    holds_back: bool,
}

/// The result of one step of decoding.
pub(crate) struct DecodedChunk<'a> {
    /// Bytes of the input that were consumed.
    pub(crate) taken: usize,
    /// Content.
    pub(crate) content: &'a [u8],
}

impl FrameReader {
    /// Starts at byte `at` of the archive, where a frame starts.
    pub(crate) fn new(at: u64) -> Result<Self, ExtractError> {
        let mut context = DCtx::try_create().ok_or(ExtractError::Memory)?;
        context
            .set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX))
            .map_err(|_| ExtractError::Memory)?;
        Ok(Self {
            context,
            out: vec![0; DCtx::out_size()],
            at,
            between_frames: true,
            holds_back: false,
        })
    }

    /// Bytes of the archive consumed so far.
    pub(crate) fn at(&self) -> u64 {
        self.at
    }

    /// Whether the byte at [`FrameReader::at`] starts a frame.
    pub(crate) fn between_frames(&self) -> bool {
        self.between_frames
    }

    /// Whether [`FrameReader::step`] has use for an empty input.
    pub(crate) fn holds_back(&self) -> bool {
        self.holds_back
    }

    /// Decodes some of `input`, never beyond a frame's end.
    pub(crate) fn step(&mut self, input: &[u8]) -> Result<DecodedChunk<'_>, Refusal> {
        let mut input = InBuffer::around(input);
        let mut out = OutBuffer::around(self.out.as_mut_slice());
        let result = self.context.decompress_stream(&mut out, &mut input);
        let (taken, given) = (input.pos(), out.pos());
        self.at += taken as u64;
        match result {
            Ok(hint) => {
                self.between_frames = hint == 0;
                self.holds_back = hint != 0 && given == self.out.len();
                Ok(DecodedChunk {
                    taken,
                    content: self.out.get(..given).unwrap_or_default(),
                })
            }
            Err(code) => Err(self.refusal(code)),
        }
    }

    fn refusal(&self, code: usize) -> Refusal {
        let at = self.at;
        // The code is the negated number.
        match code.wrapping_neg() {
            PREFIX_UNKNOWN if self.between_frames => Refusal::TrailingGarbage { at },
            WINDOW_TOO_LARGE => Refusal::Window { at },
            CHECKSUM_WRONG => Refusal::FrameChecksum { at },
            DICTIONARY_WRONG => Refusal::FrameDictionary { at },
            _ => Refusal::Frame {
                at,
                reason: zstd_safe::get_error_name(code),
            },
        }
    }
}
