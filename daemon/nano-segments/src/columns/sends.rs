//! The columns `destinations` and `amounts` of sends.

use crate::coder::{CoderError, Decoder, Encoder, Num, Tree};
use crate::columns::key::KeyModel;
use crate::columns::kinds::Kind;
use crate::error::SegmentError;
use crate::head::{Column, Head};
use crate::runs::{Amount, Block, Number, Runs};

/// The greatest power of ten that divides an amount.
const GREATEST_EXPONENT: u32 = 38;
/// Stands for the whole balance in the place of an exponent.
const WHOLE: u32 = 63;

/// Returns the column of destinations.
pub(crate) fn write_destinations(runs: &Runs<Number>, known: u64, keys: usize) -> Vec<u8> {
    let mut to = Encoder::default();
    let mut model = KeyModel::new(known, keys);
    for (destination, _) in runs.blocks().iter().filter_map(Block::send) {
        model.put(&mut to, destination);
    }
    to.finish()
}

/// Returns the column of amounts.
pub(crate) fn write_amounts(runs: &Runs<Number>) -> Vec<u8> {
    let mut to = Encoder::default();
    let (mut exponents, mut digits) = (Tree::new(6), Num::default());
    for (_, amount) in runs.blocks().iter().filter_map(Block::send) {
        match amount {
            Amount::Whole => exponents.put(&mut to, WHOLE),
            Amount::Raw(raw) => {
                let (exponent, number) = without_zeros(raw);
                exponents.put(&mut to, exponent);
                digits.put(&mut to, number);
            }
        }
    }
    to.finish()
}

/// Reads destination and amount of each send, in order.
pub(crate) fn read(
    destinations: &[u8],
    amounts: &[u8],
    head: &Head,
    kinds: &[Kind],
) -> Result<Vec<(Number, Amount)>, SegmentError> {
    let sends = || kinds.iter().enumerate().filter(|(_, kind)| kind.is_send());
    let error = |error, place| SegmentError::coder(error, Column::Destinations, place);
    let mut from = Decoder::new(destinations).map_err(|e| error(e, 0))?;
    let mut model = KeyModel::new(head.known, head.keys as usize);
    let mut destinations = Vec::new();
    for (place, _) in sends() {
        destinations.push(model.get(&mut from).map_err(|e| error(e, place))?);
    }
    from.finish().map_err(|e| error(e, kinds.len()))?;

    let error = |error, place| SegmentError::coder(error, Column::Amounts, place);
    let mut from = Decoder::new(amounts).map_err(|e| error(e, 0))?;
    let (mut exponents, mut digits) = (Tree::new(6), Num::default());
    let mut read = Vec::with_capacity(destinations.len());
    for (destination, (place, kind)) in destinations.into_iter().zip(sends()) {
        let exponent = exponents.get(&mut from).map_err(|e| error(e, place))?;
        let amount = if exponent == WHOLE {
            Amount::Whole
        } else {
            let raw = digits.get(&mut from).map_err(|e| error(e, place))?;
            read_amount(exponent, raw, *kind)
                .ok_or_else(|| error(CoderError::Range, place))?
                .ok_or(SegmentError::NotCanonical {
                    place,
                    what: "the amount",
                })?
        };
        read.push((destination, amount));
    }
    from.finish().map_err(|e| error(e, kinds.len()))?;
    Ok(read)
}

/// `None` if the amount is out of range, `Some(None)` if it would be written otherwise.
fn read_amount(exponent: u32, digits: u128, kind: Kind) -> Option<Option<Amount>> {
    if exponent > GREATEST_EXPONENT {
        return None;
    }
    let raw = digits.checked_mul(10_u128.pow(exponent))?;
    let canonical = without_zeros(raw) == (exponent, digits) && (raw > 0 || kind == Kind::Send);
    Some(canonical.then_some(Amount::Raw(raw)))
}

/// An amount as a power of ten and what is left.
fn without_zeros(mut raw: u128) -> (u32, u128) {
    let mut exponent = 0;
    while raw != 0 && exponent < GREATEST_EXPONENT && raw.is_multiple_of(10) {
        raw /= 10;
        exponent += 1;
    }
    (exponent, raw)
}
