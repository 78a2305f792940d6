//! How a command ended.

/// How a command ended that did not fail; the program turns it into an exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Everything that was asked for is done.
    Done,
    /// A signal came first. What was done is kept for the next run.
    Interrupted,
    /// A snapshot was made and not published.
    Unpublished,
    /// The command answered a question, or runs beside another process, with this exit code.
    Code(u8),
}
