//! The compression methods of 7z that are supported, and the names of those that are not.

use super::reader::damaged;
use crate::error::Refusal;

/// 7-Zip's numbers of the methods that are supported.
mod method {
    pub(super) const COPY: &[u8] = &[0x00];
    pub(super) const LZMA: &[u8] = &[0x03, 0x01, 0x01];
    pub(super) const LZMA2: &[u8] = &[0x21];
    /// AES-256 with a key made of a password by SHA-256.
    pub(super) const AES: &[u8] = &[0x06, 0xF1, 0x07, 0x01];

    /// The name of a method that is not supported, as 7-Zip shows it (`Methods.txt` of the LZMA SDK), with
    /// its number.
    pub(super) fn name(method: &[u8]) -> String {
        let id: String = method.iter().map(|byte| format!("{byte:02x}")).collect();
        let name = match method {
            [0x03] => "the filter Delta",
            [0x04] | [0x03, 0x03, 0x01, 0x03] => "the filter BCJ (x86)",
            [0x05] | [0x03, 0x03, 0x02, 0x05] => "the filter PPC",
            [0x06] | [0x03, 0x03, 0x04, 0x01] => "the filter IA64",
            [0x07] | [0x03, 0x03, 0x05, 0x01] => "the filter ARM",
            [0x08] | [0x03, 0x03, 0x07, 0x01] => "the filter ARMT",
            [0x09] | [0x03, 0x03, 0x08, 0x05] => "the filter SPARC",
            [0x0a] => "the filter ARM64",
            [0x0b] => "the filter RISCV",
            [0x02, 0x03, 0x02] => "the filter Swap2",
            [0x02, 0x03, 0x04] => "the filter Swap4",
            [0x03, 0x03, 0x01, 0x1b] => "the filter BCJ2 (x86)",
            [0x03, 0x04, 0x01] => "PPMd",
            [0x04, 0x01, 0x08] => "Deflate",
            [0x04, 0x01, 0x09] => "Deflate64",
            [0x04, 0x02, 0x02] => "BZip2",
            [0x04, 0xf7, 0x11, 0x01] => "Zstandard",
            [0x04, 0xf7, 0x11, 0x02] => "Brotli",
            [0x04, 0xf7, 0x11, 0x04] => "LZ4",
            [0x04, 0xf7, 0x11, 0x05] => "LZ5",
            [0x04, 0xf7, 0x11, 0x06] => "Lizard",
            _ => return format!("an unknown method ({id})"),
        };
        format!("{name} ({id})")
    }
}

/// How a stream is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coder {
    Copy,
    Lzma { props: u8, dictionary: u32 },
    Lzma2 { dictionary: u32 },
}

impl Coder {
    /// Bytes of memory for decoding, but for a constant.
    pub(super) fn dictionary(&self) -> u32 {
        match *self {
            Self::Copy => 0,
            Self::Lzma { dictionary, .. } | Self::Lzma2 { dictionary } => dictionary,
        }
    }

    pub(super) fn parse(method: &[u8], properties: &[u8]) -> Result<Self, Refusal> {
        match (method, properties) {
            (method::COPY, []) => Ok(Self::Copy),
            (method::LZMA, &[props, a, b, c, d]) => Ok(Self::Lzma {
                props,
                dictionary: u32::from_le_bytes([a, b, c, d]),
            }),
            (method::LZMA2, [40]) => Ok(Self::Lzma2 {
                dictionary: u32::MAX,
            }),
            (method::LZMA2, &[size @ 0..40]) => Ok(Self::Lzma2 {
                dictionary: (2 | u32::from(size & 1)) << (size / 2 + 11),
            }),
            (method::COPY | method::LZMA | method::LZMA2, _) => {
                Err(damaged("a method has wrong properties"))
            }
            (method::AES, _) => Err(Refusal::SevenZEncrypted),
            (method, _) => Err(Refusal::SevenZMethod {
                name: method::name(method),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dictionaries_have_7_zips_sizes() {
        for (size, dictionary) in [
            (0, 4096),
            (1, 6144),
            (24, 16 << 20),
            (39, 3 << 30),
            (40, u32::MAX),
        ] {
            let coder = Coder::parse(method::LZMA2, &[size]).unwrap();
            assert_eq!(coder.dictionary(), dictionary, "{size}");
        }
        for bad in [&[41][..], &[0xFF], &[], &[24, 0]] {
            assert!(Coder::parse(method::LZMA2, bad).is_err(), "{bad:?}");
        }
        let aes = Coder::parse(&[0x06, 0xF1, 0x07, 0x01], &[]).unwrap_err();
        assert!(matches!(aes, Refusal::SevenZEncrypted));
        for (id, shown) in [
            (&[0x04, 0x02, 0x02][..], "BZip2 (040202)"),
            (&[0x03, 0x03, 0x01, 0x03], "the filter BCJ (x86) (03030103)"),
            (&[0x7f, 0x00], "an unknown method (7f00)"),
        ] {
            let method = Coder::parse(id, &[]).unwrap_err();
            assert!(method.to_string().contains(shown), "{method}");
        }
    }
}
