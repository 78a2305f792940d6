//! Reads numbers at offsets of untrusted byte slices.

/// The `N` bytes at `offset`, if `bytes` reaches that far.
pub(crate) fn array_at<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..offset.checked_add(N)?)?.try_into().ok()
}

/// Concatenates `parts` and fills the rest with zeros. Parts that do not fit are left out.
pub(crate) fn joined<const N: usize>(parts: &[&[u8]]) -> [u8; N] {
    let mut bytes = [0; N];
    let mut rest = bytes.as_mut_slice();
    for part in parts {
        let Some((place, behind)) = rest.split_at_mut_checked(part.len()) else {
            break;
        };
        place.copy_from_slice(part);
        rest = behind;
    }
    bytes
}

/// A little-endian 16-bit number.
pub(crate) fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    array_at(bytes, offset).map(u16::from_le_bytes)
}

/// A little-endian 32-bit number.
pub(crate) fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    array_at(bytes, offset).map(u32::from_le_bytes)
}

/// A little-endian 64-bit number.
pub(crate) fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    array_at(bytes, offset).map(u64::from_le_bytes)
}

/// A big-endian 128-bit number.
pub(crate) fn u128_be_at(bytes: &[u8], offset: usize) -> Option<u128> {
    array_at(bytes, offset).map(u128::from_be_bytes)
}

/// A big-endian 64-bit number.
pub(crate) fn u64_be_at(bytes: &[u8], offset: usize) -> Option<u64> {
    array_at(bytes, offset).map(u64::from_be_bytes)
}
