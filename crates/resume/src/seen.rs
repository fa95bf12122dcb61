//! Which datagrams of one direction of one attempt were received.

/// Datagrams of one direction of one attempt. So few that all of them are remembered: no window slides, and
/// none that is merely late is taken for a repeated one.
pub const NUMBERS: u8 = 64;

#[derive(Clone, Copy, Default, Debug)]
pub struct Seen(u64);

impl Seen {
    /// Whether a datagram of this number may still come. A number that no sender uses has come already.
    pub fn is_new(self, number: u8) -> bool {
        number < NUMBERS && self.0 & (1 << number) == 0
    }

    /// Notes a number that is new. Only what was authentic may be noted.
    pub fn note(&mut self, number: u8) {
        if number < NUMBERS {
            self.0 |= 1 << number;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_comes_once_in_any_order_and_no_other_comes_at_all() {
        let mut seen = Seen::default();
        for number in [63, 0, 17, 1, 62] {
            assert!(seen.is_new(number));
            seen.note(number);
            assert!(!seen.is_new(number));
        }
        assert!(seen.is_new(2) && !seen.is_new(NUMBERS) && !seen.is_new(255));
        seen.note(255);
        assert!(seen.is_new(2));
    }
}
