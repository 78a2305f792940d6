//! The third pass of L3: compares every send with what received it, sorted by the hash of the send.

use crate::blocks::block::{self, Id};
use crate::blocks::schema::{ID_LEN, hex};
use crate::blocks::sort::Sorter;
use crate::bytes::{array_at, joined, u128_be_at};
use crate::findings::Findings;
use crate::lmdb::tables::Table;
use crate::summary::scan::next_pending;
use crate::verify::error::VerifyError;
use crate::verify::ledger::Ledger;

/// Sorts moves as [`Move::to_bytes`] writes them.
pub(super) type Moves = Sorter<{ Move::LEN }>;

/// What a move is. Sends sort before what receives them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MoveKind {
    /// A block that sends.
    Sent = 0,
    /// A block that receives.
    Received = 1,
    /// A row of `pending`.
    Receivable = 2,
}

/// One end of a transfer: a send, a receive or a row of `pending`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Move {
    /// Hash of the send.
    pub(super) send: Id,
    pub(super) kind: MoveKind,
    /// The receiving account.
    pub(super) receiver: Id,
    pub(super) amount: u128,
    /// Epoch of the send.
    pub(super) epoch: u8,
    /// Whether the block is cemented; `false` for a row of `pending`.
    pub(super) is_cemented: bool,
    /// The sending account; zero for a receive, which does not name it.
    pub(super) sender: Id,
}

impl Move {
    const LEN: usize = ID_LEN + 1 + ID_LEN + 16 + 1 + 1 + ID_LEN;

    /// The record for sorting: by the hash of the send, then by [`MoveKind`].
    pub(super) fn to_bytes(self) -> [u8; Self::LEN] {
        joined(&[
            &self.send,
            &[self.kind as u8],
            &self.receiver,
            &self.amount.to_be_bytes(),
            &[self.epoch, u8::from(self.is_cemented)],
            &self.sender,
        ])
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote.
    fn from_bytes(bytes: &[u8; Self::LEN]) -> Option<Self> {
        let kind = match bytes.get(ID_LEN)? {
            0 => MoveKind::Sent,
            1 => MoveKind::Received,
            2 => MoveKind::Receivable,
            _ => return None,
        };
        Some(Self {
            send: array_at(bytes, 0)?,
            kind,
            receiver: array_at(bytes, ID_LEN + 1)?,
            amount: u128_be_at(bytes, 2 * ID_LEN + 1)?,
            epoch: *bytes.get(2 * ID_LEN + 17)?,
            is_cemented: *bytes.get(2 * ID_LEN + 18)? != 0,
            sender: array_at(bytes, 2 * ID_LEN + 19)?,
        })
    }
}

/// Compares every send with what received it. Returns what is wrong with receivables, and with the order in which
/// blocks were cemented.
pub(super) fn match_moves(
    ledger: &Ledger<'_>,
    pending: &Table,
    mut moves: Moves,
    mut findings: Findings,
) -> Result<(Findings, Findings), VerifyError> {
    let file = ledger.file;
    let mut pace = ledger.options.pace("receivables", pending.tree.entries());
    let mut rows = file.entries(pending);
    while let Some((key, row)) = next_pending(file, &mut rows)? {
        pace.step()?;
        let (receiver, send) = key.split_at(ID_LEN);
        let (Some(receiver), Some(send)) = (array_at(receiver, 0), array_at(send, 0)) else {
            continue;
        };
        let Some(epoch) = block::epoch(row.epoch) else {
            findings.add(|| format!("the receivable of send {} is of no epoch", hex(&send)));
            continue;
        };
        let receivable = Move {
            send,
            kind: MoveKind::Receivable,
            receiver,
            amount: row.amount,
            epoch,
            is_cemented: false,
            sender: row.source,
        };
        moves.push(receivable.to_bytes())?;
    }
    let mut sorted = moves.finish()?;
    let mut cementing = Findings::default();
    let mut pace = ledger.options.pace("matching", 0);
    // The last send, and whether it was received.
    let mut last: Option<(Move, bool)> = None;
    while let Some(bytes) = sorted.next()? {
        pace.step()?;
        let Some(this) = Move::from_bytes(&bytes) else {
            continue;
        };
        if this.kind == MoveKind::Sent {
            untaken(last.replace((this, false)), &mut findings);
            continue;
        }
        let taken = match &mut last {
            Some((sent, taken)) if sent.send == this.send => Some((&*sent, taken)),
            _ => None,
        };
        let name = if this.kind == MoveKind::Received {
            "receive"
        } else {
            "receivable"
        };
        let fault = match taken {
            None => Some("has no send"),
            Some((_, true)) => Some("takes what was taken already"),
            Some((sent, taken)) => {
                *taken = true;
                if this.kind == MoveKind::Received && this.is_cemented && !sent.is_cemented {
                    cementing.add(|| {
                        format!(
                            "the receive of send {} is cemented and that is not",
                            hex(&sent.send)
                        )
                    });
                }
                if sent.receiver != this.receiver {
                    Some("is another account's")
                } else if sent.amount != this.amount {
                    Some("is of another amount")
                } else if sent.epoch != this.epoch {
                    Some("is of another epoch")
                } else if this.kind == MoveKind::Receivable && sent.sender != this.sender {
                    Some("names another sender")
                } else {
                    None
                }
            }
        };
        if let Some(fault) = fault {
            findings.add(|| format!("a {name} of send {} {fault}", hex(&this.send)));
        }
    }
    untaken(last, &mut findings);
    Ok((findings, cementing))
}

/// Adds a finding for a send without a receive and without a row in `pending`.
fn untaken(sent: Option<(Move, bool)>, findings: &mut Findings) {
    if let Some((sent, false)) = sent {
        findings.add(|| {
            format!(
                "send {} is neither received nor receivable",
                hex(&sent.send)
            )
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moves_are_read_as_they_were_written_and_sends_come_first() {
        let sent = Move {
            send: [1; ID_LEN],
            kind: MoveKind::Sent,
            receiver: [2; ID_LEN],
            amount: 3 << 100,
            epoch: 4,
            is_cemented: true,
            sender: [5; ID_LEN],
        };
        let mut before = [0; Move::LEN];
        for kind in [MoveKind::Sent, MoveKind::Received, MoveKind::Receivable] {
            let bytes = Move { kind, ..sent }.to_bytes();
            assert_eq!(Move::from_bytes(&bytes), Some(Move { kind, ..sent }));
            assert!(before < bytes, "{kind:?}");
            before = bytes;
        }
        let next = Move {
            send: [2; ID_LEN],
            ..sent
        };
        assert!(before < next.to_bytes());
        before[ID_LEN] = 3;
        assert_eq!(Move::from_bytes(&before), None);
    }
}
