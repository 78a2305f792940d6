//! The result of a command.

/// The result of a command that did not fail. `main` turns it into an exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The command completed.
    Done,
    /// A signal interrupted the command. The next run resumes its work.
    Interrupted,
    /// A snapshot was made and not published.
    Unpublished,
    /// The command's answer, or the reason why it ended, is this exit code.
    Code(u8),
}
