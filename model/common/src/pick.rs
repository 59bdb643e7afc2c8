//! Choices. Everything undetermined in a run (latencies, faults, order of events, ids) is drawn from a [`Pick`],
//! so that a run is a sequence of numbers and replays from a seed, from fuzz input or by enumeration.

/// A source of choices.
pub trait Pick {
    /// A number in `0..n`. `n` must be at least 1; `pick(1)` is always 0.
    fn pick(&mut self, n: usize) -> usize;

    /// Whether there is nothing more to choose: whoever goes on as long as he likes stops here.
    fn is_over(&self) -> bool {
        false
    }

    /// True with a probability of `num` in `den`.
    fn chance(&mut self, num: usize, den: usize) -> bool {
        self.pick(den.max(1)) < num
    }
}

/// A seeded source: SplitMix64. The same seed gives the same choices on every machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seeded(u64);

impl Seeded {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A child source for one purpose. Draws from it do not shift the draws of any other child, so one more
    /// choice in one place leaves every other place as it was.
    pub fn child(&self, purpose: &str) -> Self {
        let mut hash = self.0 ^ 0x9e37_79b9_7f4a_7c15;
        for byte in purpose.bytes() {
            hash = mix(hash ^ u64::from(byte));
        }
        Self(hash)
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }
}

impl Pick for Seeded {
    fn pick(&mut self, n: usize) -> usize {
        if n <= 1 {
            return 0;
        }
        // The bias of the modulo is below 2^-32 for every n in use here.
        (self.next_u64() % n as u64) as usize
    }
}

/// Choices read from bytes, for fuzzing; zeros when the bytes are used up.
#[derive(Debug, Clone)]
pub struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The bytes that are not used yet.
    pub fn rest(&self) -> &[u8] {
        self.0
    }
}

impl Pick for Bytes<'_> {
    fn pick(&mut self, n: usize) -> usize {
        let mut value = 0usize;
        let mut span = 1usize;
        while span < n {
            let Some((first, rest)) = self.0.split_first() else { break };
            self.0 = rest;
            value = (value << 8) | usize::from(*first);
            span = span.saturating_mul(256);
        }
        if n <= 1 { 0 } else { value % n }
    }

    fn is_over(&self) -> bool {
        self.0.is_empty()
    }
}

/// Scrambles 64 bits (the finalizer of SplitMix64): a bijection, so distinct inputs stay distinct.
pub fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The 17 hexadecimal digits of an AWS resource id, made from a seed and a dense key: reproducible and, for one
/// seed, collision-free (`mix` is a bijection; the 17th digit depends on the key too).
pub fn hex17(seed: u64, key: u64) -> String {
    Hex17::new(seed, key).to_string()
}

/// What [`hex17`] gives, to be written where it is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hex17(u64);

impl Hex17 {
    pub fn new(seed: u64, key: u64) -> Self {
        Self(mix(seed ^ mix(key)))
    }
}

impl std::fmt::Display for Hex17 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Written for each row of an answer: digit by digit is several times as fast as a format with padding.
        let mut digits = [b'0'; 17];
        for (at, byte) in digits[1..].iter_mut().enumerate() {
            *byte = b"0123456789abcdef"[(self.0 >> (60 - 4 * at)) as usize & 15];
        }
        f.write_str(std::str::from_utf8(&digits).map_err(|_| std::fmt::Error)?)
    }
}

/// Undoes [`mix`].
fn unmix(mut z: u64) -> u64 {
    z = (z ^ (z >> 31) ^ (z >> 62)).wrapping_mul(0x3196_42b2_d24d_8ec3);
    z = (z ^ (z >> 27) ^ (z >> 54)).wrapping_mul(0x96de_1b17_3f11_9089);
    z ^ (z >> 30) ^ (z >> 60)
}

/// The key from which [`hex17`] made these digits; none when they are not 17 lower-case digits of the form it gives.
pub fn unhex17(seed: u64, digits: &str) -> Option<u64> {
    let [b'0', body @ ..] = digits.as_bytes() else { return None };
    let body: &[u8; 16] = body.try_into().ok()?;
    let (mut number, mut valid) = (0, true);
    for byte in body {
        // Which of the two comes is as good as random: no branch, so that none is guessed wrong.
        let (digit, letter) = (byte.wrapping_sub(b'0'), byte.wrapping_sub(b'a'));
        valid &= (digit < 10) | (letter < 6);
        number = (number << 4) | u64::from(if digit < 10 { digit } else { letter.wrapping_add(10) });
    }
    valid.then(|| unmix(unmix(number) ^ seed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_back() {
        for key in [0, 1, 77, u64::MAX] {
            assert_eq!(unhex17(3, &hex17(3, key)), Some(key));
        }
        assert_eq!(unhex17(3, "0123"), None);
        assert_eq!(unhex17(3, "0ABCDEFABCDEFABCD"), None);
    }

    #[test]
    fn the_same_seed_gives_the_same_choices() {
        let draw = |seed| {
            let mut pick = Seeded::new(seed);
            (0..32).map(|_| pick.pick(1000)).collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }

    #[test]
    fn a_child_does_not_shift_another() {
        let root = Seeded::new(1);
        let mut a = root.child("latency");
        a.next_u64();
        assert_eq!(root.child("faults"), Seeded::new(1).child("faults"));
        assert_ne!(root.child("faults"), root.child("latency"));
    }

    #[test]
    fn bytes_run_out_as_zeros() {
        let mut pick = Bytes::new(&[5, 6]);
        assert_eq!(pick.pick(10), 5);
        assert_eq!(pick.rest(), [6]);
        assert_eq!(pick.pick(10), 6);
        assert_eq!(pick.pick(10), 0);
        assert!(pick.is_over());
    }

    #[test]
    fn ids_have_seventeen_digits_and_differ() {
        let ids: std::collections::BTreeSet<_> = (0..10_000).map(|key| hex17(3, key)).collect();
        assert_eq!(ids.len(), 10_000);
        assert!(ids.iter().all(|id| id.len() == 17));
    }
}
