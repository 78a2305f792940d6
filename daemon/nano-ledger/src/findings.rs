//! Findings of a scan: the first example and a count.

/// Findings of one kind: their number and the first example.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    count: u64,
    first: String,
}

impl Findings {
    pub(crate) fn add(&mut self, example: impl FnOnce() -> String) {
        if self.count == 0 {
            self.first = example();
        }
        self.count += 1;
    }

    /// Appends later findings.
    pub(crate) fn append(&mut self, later: Self) {
        if self.count == 0 {
            self.first = later.first;
        }
        self.count += later.count;
    }

    /// Whether there is no finding.
    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The first finding and the number of others; `None` when there is none.
    pub(crate) fn describe(&self) -> Option<String> {
        match self.count {
            0 => None,
            1 => Some(self.first.clone()),
            count => Some(format!("{}, and {} more", self.first, count - 1)),
        }
    }
}
