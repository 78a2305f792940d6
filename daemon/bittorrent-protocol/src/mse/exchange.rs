//! The Diffie-Hellman exchange, and what is made of the common secret.

use std::fmt;

use crypto_bigint::modular::ConstMontyForm;
use crypto_bigint::{U192, U768};
use sha1::{Digest as _, Sha1};

use super::{ENTROPY_LEN, MAX_PADDING, MseError, Rc4};
use crate::hash::SwarmHash;

/// Bytes of a public key, and of the common secret.
pub(super) const KEY_LEN: usize = 96;

/// Bytes of a secret key: 160 bits, as the specification recommends.
pub(super) const SECRET_LEN: usize = 20;

crypto_bigint::const_monty_params!(
    Prime,
    U768,
    "ffffffffffffffffc90fdaa22168c234c4c6628b80dc1cd129024e088a67cc74020bbea63b139b22514a08798e3404ddef9519b3cd3a431b302b0a6df25f14374fe1356d6d51c245e485b576625e7ec6f44c42e9a63a36210000000000090563",
    "What all numbers are taken modulo."
);

type Residue = ConstMontyForm<Prime, { U768::LIMBS }>;

const GENERATOR: u8 = 2;

pub(super) fn sha1(parts: &[&[u8]]) -> [u8; 20] {
    let mut hash = Sha1::new();
    for part in parts {
        hash.update(part);
    }
    hash.finalize().into()
}

/// Our half of the exchange.
pub(super) struct Exchange {
    secret: U192,
    padding: Vec<u8>,
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Exchange")
    }
}

impl Exchange {
    pub(super) fn new(entropy: &[u8; ENTROPY_LEN]) -> Self {
        let (secret, rest) = entropy.split_at(SECRET_LEN);
        let (len, padding) = rest.split_at(2);
        let len = len
            .iter()
            .fold(0, |len, byte| len << 8 | usize::from(*byte));
        let (padding, _) = padding.split_at(len % (MAX_PADDING + 1));
        let mut bytes = [0; U192::BYTES];
        let (_, low) = bytes.split_at_mut(U192::BYTES - SECRET_LEN);
        low.copy_from_slice(secret);
        Self {
            secret: U192::from_be_slice(&bytes),
            padding: padding.to_vec(),
        }
    }

    fn raise(&self, base: &U768) -> [u8; KEY_LEN] {
        let bits = 8 * SECRET_LEN as u32;
        let power = Residue::new(base).pow_bounded_exp(&self.secret, bits);
        let mut bytes = [0; KEY_LEN];
        bytes.copy_from_slice(power.retrieve().to_be_bytes().as_ref());
        bytes
    }

    /// Our public key and padding.
    pub(super) fn opening(&self) -> Vec<u8> {
        let mut opening = self.raise(&U768::from(GENERATOR)).to_vec();
        opening.extend_from_slice(&self.padding);
        opening
    }

    /// The secret in common with who has this public key.
    pub(super) fn agree(&self, theirs: &[u8; KEY_LEN]) -> Result<Shared, MseError> {
        let key = U768::from_be_slice(theirs);
        // The powers of 0, 1 and -1 are predictable.
        let last = Residue::new(&U768::ZERO) - Residue::new(&U768::ONE);
        if key <= U768::ONE || key >= last.retrieve() {
            return Err(MseError::Key);
        }
        Ok(Shared(self.raise(&key)))
    }
}

/// The common secret.
pub(super) struct Shared([u8; KEY_LEN]);

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shared")
    }
}

impl Shared {
    /// What ends the padding of who began.
    pub(super) fn mark(&self) -> [u8; 20] {
        sha1(&[b"req1", &self.0])
    }

    /// Hides a swarm's name, and finds it again.
    pub(super) fn mask(&self, name: [u8; 20]) -> [u8; 20] {
        let mut masked = sha1(&[b"req3", &self.0]);
        for (masked, name) in masked.iter_mut().zip(name) {
            *masked ^= name;
        }
        masked
    }

    /// The cipher for what is sent by who began.
    pub(super) fn cipher_of_initiator(&self, swarm: SwarmHash) -> Rc4 {
        Rc4::new(&sha1(&[b"keyA", &self.0, swarm.as_bytes()]))
    }

    /// The cipher for what is sent by who answers.
    pub(super) fn cipher_of_responder(&self, swarm: SwarmHash) -> Rc4 {
        Rc4::new(&sha1(&[b"keyB", &self.0, swarm.as_bytes()]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        data_encoding::HEXLOWER.encode(bytes)
    }

    fn exchange(first: u8) -> Exchange {
        let mut entropy = [0; ENTROPY_LEN];
        for (at, byte) in (first..).zip(entropy.iter_mut().take(SECRET_LEN)) {
            *byte = at;
        }
        Exchange::new(&entropy)
    }

    /// Computed with Python's `pow`.
    #[test]
    fn keys_and_secrets_are_powers_modulo_the_prime() {
        let (a, b) = (exchange(1), exchange(200));
        assert_eq!(
            hex(&a.opening()),
            "96e112dab29e8c5272accb9b17b26887ce54a144a4e3b697c7d159b7a817e556b0918db2b4c658e02a87f7e5fb14b18a553e084cbf3dad2d30f16596ccb982d406258c61b30c5c1dae2ddc60bdbd48d79896312aad63238c39e1a633821eb693"
        );
        assert_eq!(
            hex(&b.opening()),
            "03c593e7dcfea0f15646f07b91aab5c9d94bea8862cfa18beb3f0621fc92df7a76dbb155a5d50b5e9f66def0854433675e74fb2b5c0c3a2ae060a0f6d417fd429f5368a632bbb0008609ab2e9520a8fec77abb2631833b72ac8a5028ae2b76c2"
        );
        let key = |exchange: &Exchange| exchange.opening().try_into().unwrap();
        let (ab, ba) = (a.agree(&key(&b)).unwrap(), b.agree(&key(&a)).unwrap());
        assert_eq!(
            hex(&ab.0),
            "2821a957fd9c8fd5c7c11aa203a8ea7381deb98dd43569f5e9564b001b40aff0708be4e5dcc07bf35d9bdb055a2ad2b989cf30456f27f00bd1bcc11bf22b75896c10732d840666bfd0731965a439f3c28ad5311d5d1a0f09baea34cbffd58af9"
        );
        assert_eq!(ab.0, ba.0);
    }

    #[test]
    fn keys_whose_secrets_anybody_knows_are_refused() {
        let exchange = exchange(1);
        let prime = Residue::new(&U768::ZERO) - Residue::new(&U768::ONE);
        let minus_one = prime.retrieve();
        for (key, fine) in [
            (U768::ZERO, false),
            (U768::ONE, false),
            (U768::from(2_u8), true),
            (minus_one.wrapping_sub(&U768::ONE), true),
            (minus_one, false),
            (minus_one.wrapping_add(&U768::ONE), false),
            (U768::MAX, false),
        ] {
            let mut bytes = [0; KEY_LEN];
            bytes.copy_from_slice(key.to_be_bytes().as_ref());
            assert_eq!(exchange.agree(&bytes).is_ok(), fine, "{key}");
        }
    }

    #[test]
    fn padding_is_as_long_as_its_two_bytes_say() {
        for (length, len) in [(0_u16, 0), (1, 1), (512, 512), (513, 0), (514, 1)] {
            let mut entropy = [3; ENTROPY_LEN];
            let [high, low] = length.to_be_bytes();
            (entropy[SECRET_LEN], entropy[SECRET_LEN + 1]) = (high, low);
            assert_eq!(Exchange::new(&entropy).opening().len(), KEY_LEN + len);
        }
    }
}
