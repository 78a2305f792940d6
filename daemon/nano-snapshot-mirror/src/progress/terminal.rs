//! The terminal that bars are drawn on: stderr, where a failure to draw is no failure.

use std::io;

use console::Term;
use indicatif::{ProgressDrawTarget, TermLike};

/// Draws a second at most; bars change less often.
const DRAWS_A_SECOND: u8 = 20;

/// Where bars are drawn.
pub(super) fn draw_target() -> ProgressDrawTarget {
    let terminal = Term::buffered_stderr();
    if terminal.is_term() {
        ProgressDrawTarget::term_like_with_hz(Box::new(Tolerant(terminal)), DRAWS_A_SECOND)
    } else {
        ProgressDrawTarget::hidden()
    }
}

/// A terminal that may go away: `indicatif` panics when clearing bars around a log line fails.
#[derive(Debug)]
struct Tolerant(Term);

impl TermLike for Tolerant {
    fn width(&self) -> u16 {
        self.0.size().1
    }

    fn height(&self) -> u16 {
        self.0.size().0
    }

    fn move_cursor_up(&self, n: usize) -> io::Result<()> {
        tolerate(self.0.move_cursor_up(n))
    }

    fn move_cursor_down(&self, n: usize) -> io::Result<()> {
        tolerate(self.0.move_cursor_down(n))
    }

    fn move_cursor_right(&self, n: usize) -> io::Result<()> {
        tolerate(self.0.move_cursor_right(n))
    }

    fn move_cursor_left(&self, n: usize) -> io::Result<()> {
        tolerate(self.0.move_cursor_left(n))
    }

    fn write_line(&self, line: &str) -> io::Result<()> {
        tolerate(self.0.write_line(line))
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        tolerate(self.0.write_str(text))
    }

    fn clear_line(&self) -> io::Result<()> {
        tolerate(self.0.clear_line())
    }

    fn flush(&self) -> io::Result<()> {
        tolerate(self.0.flush())
    }
}

/// There is no place to report that the bars are not drawn.
#[expect(
    clippy::unnecessary_wraps,
    reason = "the trait's methods return what this returns"
)]
fn tolerate(_drawn: io::Result<()>) -> io::Result<()> {
    Ok(())
}
