use proptest::prelude::*;

use super::*;

const PLAIN: Methods = Methods {
    plain: true,
    rc4: false,
};
const RC4: Methods = Methods {
    plain: false,
    rc4: true,
};
const BOTH: Methods = Methods {
    plain: true,
    rc4: true,
};
const SWARM: SwarmHash = SwarmHash::from_bytes([9; 20]);

fn entropy(seed: u8, padding: u16) -> [u8; ENTROPY_LEN] {
    let mut entropy = [0; ENTROPY_LEN];
    let mut byte = seed;
    for random in &mut entropy {
        byte = byte.wrapping_mul(181).wrapping_add(101);
        *random = byte;
    }
    [entropy[SECRET_LEN], entropy[SECRET_LEN + 1]] = padding.to_be_bytes();
    entropy
}

/// The two ends of a wire.
enum End {
    Initiator(Initiator),
    Responder(Responder),
}

impl End {
    fn step(&mut self) -> Result<Step, MseError> {
        match self {
            Self::Initiator(end) => end.step(),
            Self::Responder(end) => end.step(),
        }
    }

    fn receive(&mut self, bytes: &[u8]) {
        match self {
            Self::Initiator(end) => end.receive(bytes),
            Self::Responder(end) => end.receive(bytes),
        }
    }

    /// Goes as far as it can; what it sends is added to `wire`.
    fn go(&mut self, wire: &mut Vec<u8>, swarm: SwarmHash) -> Result<Option<Established>, Failed> {
        loop {
            match self.step().map_err(Failed::Error)? {
                Step::Receive => return Ok(None),
                Step::Send(bytes) => wire.extend(bytes),
                Step::Find(name) if name == HiddenSwarm::of(swarm) => match self {
                    Self::Responder(end) => end.accept(swarm),
                    Self::Initiator(_) => panic!("an initiator knows the swarm"),
                },
                Step::Find(_) => return Err(Failed::OtherSwarm),
                Step::Done(established) => return Ok(Some(*established)),
            }
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Failed {
    Error(MseError),
    OtherSwarm,
}

struct Talk {
    offer: Methods,
    take: Methods,
    padding: [u16; 2],
    initial: Vec<u8>,
    portion: usize,
    swarm: SwarmHash,
}

impl Default for Talk {
    fn default() -> Self {
        Self {
            offer: BOTH,
            take: BOTH,
            padding: [17, 400],
            initial: b"hello".to_vec(),
            portion: usize::MAX,
            swarm: SWARM,
        }
    }
}

impl Talk {
    /// Both ends after the handshake; `more` is sent by the initiator behind its initial bytes.
    fn run(self) -> Result<[Established; 2], Failed> {
        let a = Initiator::new(
            SWARM,
            self.offer,
            self.initial,
            &entropy(1, self.padding[0]),
        );
        let b = Responder::new(self.take, &entropy(2, self.padding[1]));
        let (mut a, mut b) = (End::Initiator(a), End::Responder(b));
        let (mut to_a, mut to_b) = (Vec::new(), Vec::new());
        let (mut a_done, mut b_done) = (None, None);
        while a_done.is_none() || b_done.is_none() {
            if a_done.is_none() {
                a_done = a.go(&mut to_b, self.swarm)?;
            }
            if b_done.is_none() {
                b_done = b.go(&mut to_a, self.swarm)?;
            }
            let portion = self.portion.min(to_a.len());
            a.receive(&to_a.drain(..portion).collect::<Vec<_>>());
            let portion = self.portion.min(to_b.len());
            b.receive(&to_b.drain(..portion).collect::<Vec<_>>());
        }
        Ok([a_done, b_done].map(Option::unwrap))
    }
}

#[test]
fn both_ends_agree_on_the_method_and_prefer_plain_text() {
    for (offer, take, encrypted) in [
        (BOTH, BOTH, Some(false)),
        (BOTH, PLAIN, Some(false)),
        (BOTH, RC4, Some(true)),
        (PLAIN, BOTH, Some(false)),
        (PLAIN, PLAIN, Some(false)),
        (PLAIN, RC4, None),
        (RC4, BOTH, Some(true)),
        (RC4, PLAIN, None),
        (RC4, RC4, Some(true)),
    ] {
        let talk = Talk {
            offer,
            take,
            ..Talk::default()
        };
        match talk.run() {
            Ok([a, b]) => {
                assert_eq!(Some(a.ciphers.is_some()), encrypted, "{offer:?} {take:?}");
                assert_eq!(Some(b.ciphers.is_some()), encrypted, "{offer:?} {take:?}");
                assert_eq!((&*a.early, &*b.early), (&b""[..], &b"hello"[..]));
            }
            Err(failed) => {
                assert_eq!(encrypted, None);
                assert_eq!(failed, Failed::Error(MseError::NoMethod(offer.bits())));
            }
        }
    }
}

#[test]
fn what_follows_an_encrypted_handshake_can_be_read_by_the_other_end() {
    let talk = Talk {
        offer: RC4,
        ..Talk::default()
    };
    let [a, b] = talk.run().unwrap();
    let (mut a, mut b) = (a.ciphers.unwrap(), b.ciphers.unwrap());
    let mut bytes = *b"a request";
    a.outgoing.apply(&mut bytes);
    assert_ne!(&bytes, b"a request");
    b.incoming.apply(&mut bytes);
    assert_eq!(&bytes, b"a request");
    let mut bytes = *b"an answer";
    b.outgoing.apply(&mut bytes);
    a.incoming.apply(&mut bytes);
    assert_eq!(&bytes, b"an answer");
}

#[test]
fn an_unknown_swarm_is_asked_for_by_its_hidden_name() {
    let talk = Talk {
        swarm: SwarmHash::from_bytes([8; 20]),
        ..Talk::default()
    };
    assert_eq!(talk.run().unwrap_err(), Failed::OtherSwarm);
}

/// A responder that has heard a key and this much padding, and then what follows.
fn responder_after(padding: usize, then: &[u8]) -> (Responder, [u8; 20], Result<Step, MseError>) {
    let theirs = exchange::Exchange::new(&entropy(3, 0));
    let mut responder = Responder::new(BOTH, &entropy(2, 0));
    responder.receive(&theirs.opening());
    let Ok(Step::Send(key)) = responder.step() else {
        panic!("the key comes first");
    };
    let shared = theirs.agree(&key.try_into().unwrap()).unwrap();
    responder.receive(&vec![0xaa; padding]);
    assert!(matches!(responder.step(), Ok(Step::Receive)));
    let name = shared.mask(HiddenSwarm::of(SWARM).0);
    responder.receive(&shared.mark());
    responder.receive(&name);
    let _ = responder.step();
    responder.accept(SWARM);
    let mut hidden = then.to_vec();
    shared.cipher_of_initiator(SWARM).apply(&mut hidden);
    responder.receive(&hidden);
    let step = responder.step();
    (responder, shared.mark(), step)
}

#[test]
fn offers_are_judged() {
    let sent = |result: Result<Step, MseError>| result.map(|step| matches!(step, Step::Send(_)));
    for (then, expected) in [
        (&b"\0\0\0\0\0\0\0\0\0\0\0\x03\0\0\0\0"[..], Ok(true)),
        (b"\0\0\0\0\0\0\0\0\0\0\0\x03\0\0\0", Ok(false)),
        (b"\0\0\0\0\0\0\0\0\0\0\0\x03\0\x02ab\0\x01c", Ok(true)),
        (b"\0\0\0\0\0\0\0\0\0\0\0\x03\0\x02ab\0\x02c", Ok(false)),
        (b"\0\0\0\0\0\0\0\0\xff\0\0\x02\0\0\0\0", Ok(true)),
        (
            b"\0\0\0\0\0\0\0\x01\0\0\0\x03\0\0\0\0",
            Err(MseError::Verification),
        ),
        (
            b"\0\0\0\0\0\0\0\0\0\0\0\x04\0\0\0\0",
            Err(MseError::NoMethod(4)),
        ),
        (
            b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
            Err(MseError::NoMethod(0)),
        ),
        (
            b"\0\0\0\0\0\0\0\0\0\0\0\x03\x02\x01\0\0",
            Err(MseError::Padding(513)),
        ),
    ] {
        let (_, _, step) = responder_after(0, then);
        assert_eq!(sent(step), expected, "{}", then.escape_ascii());
    }
}

#[test]
fn padding_is_searched_to_its_longest_and_no_further() {
    let fine = b"\0\0\0\0\0\0\0\0\0\0\0\x03\0\0\0\0";
    assert!(matches!(
        responder_after(MAX_PADDING, fine).2,
        Ok(Step::Send(_))
    ));
    let mut responder = Responder::new(BOTH, &entropy(2, 0));
    responder.receive(&exchange::Exchange::new(&entropy(3, 0)).opening());
    assert!(matches!(responder.step(), Ok(Step::Send(_))));
    responder.receive(&[0xaa; MAX_PADDING + 19]);
    assert!(matches!(responder.step(), Ok(Step::Receive)));
    responder.receive(&[0xaa]);
    assert_eq!(responder.step().unwrap_err(), MseError::Lost);
}

#[test]
fn initiators_take_no_other_choice_than_they_offered() {
    for (offer, choice, padding, expected) in [
        (BOTH, 1, 0, None),
        (BOTH, 2, 512, None),
        (BOTH, 3, 0, Some(MseError::NotOffered(3))),
        (BOTH, 0, 0, Some(MseError::NotOffered(0))),
        (PLAIN, 2, 0, Some(MseError::NotOffered(2))),
        (RC4, 1, 0, Some(MseError::NotOffered(1))),
        (RC4, 2, 513, Some(MseError::Padding(513))),
    ] {
        let ours = exchange::Exchange::new(&entropy(4, 3));
        let mut initiator = Initiator::new(SWARM, offer, Vec::new(), &entropy(5, 0));
        let Ok(Step::Send(key)) = initiator.step() else {
            panic!("the key comes first");
        };
        let shared = ours.agree(&key.try_into().unwrap()).unwrap();
        initiator.receive(&ours.opening());
        assert!(matches!(initiator.step(), Ok(Step::Send(_))));
        let mut answer = VERIFICATION.to_vec();
        answer.extend_from_slice(&u32::to_be_bytes(choice));
        answer.extend_from_slice(&u16::to_be_bytes(padding));
        answer.resize(answer.len() + usize::from(padding), 0);
        answer.extend_from_slice(b"early");
        shared.cipher_of_responder(SWARM).apply(&mut answer);
        initiator.receive(&answer);
        match (initiator.step(), expected) {
            (Ok(Step::Done(established)), None) => {
                assert_eq!(established.ciphers.is_some(), choice == 2);
                assert_eq!(established.early == b"early", choice == 2);
            }
            (result, expected) => assert_eq!(result.err(), expected, "{offer:?} {choice}"),
        }
    }
}

#[test]
fn hidden_names_differ_from_swarm_to_swarm() {
    let other = SwarmHash::from_bytes([8; 20]);
    assert_ne!(HiddenSwarm::of(SWARM), HiddenSwarm::of(other));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn handshakes_come_out_the_same_however_they_are_cut(
        padding in any::<[u16; 2]>(),
        portion in 1..200_usize,
        initial in prop::collection::vec(any::<u8>(), 0..300),
        encrypted in any::<bool>(),
    ) {
        let offer = if encrypted { RC4 } else { BOTH };
        let talk = Talk { offer, padding, portion, initial: initial.clone(), ..Talk::default() };
        let [a, b] = talk.run().unwrap();
        prop_assert_eq!(a.ciphers.is_some(), encrypted);
        prop_assert_eq!(b.ciphers.is_some(), encrypted);
        prop_assert_eq!(b.early, initial);
    }

    #[test]
    fn any_bytes_are_judged_without_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..1_500),
        portion in 1..700_usize,
    ) {
        let mut ends = [
            End::Initiator(Initiator::new(SWARM, BOTH, Vec::new(), &entropy(1, 0))),
            End::Responder(Responder::new(BOTH, &entropy(2, 0))),
        ];
        for end in &mut ends {
            for portion in bytes.chunks(portion) {
                if end.go(&mut Vec::new(), SWARM).is_err() {
                    break;
                }
                end.receive(portion);
            }
        }
    }
}
