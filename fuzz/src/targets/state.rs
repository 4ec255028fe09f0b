//! `state`: the file of the desired state as a disk may hand it back. What is read means the same after it was
//! written again, and no single flipped bit goes unnoticed.
//!
//! Input: a file; or, when the first byte is `{`, the document in one.

use crate::input::mix;
use ctl::desired::DesiredState;
use ctl::desired::document::Notation;
use switch::control::state::{decode, encode};

pub fn run(data: &[u8]) -> u64 {
    if data.first() == Some(&b'{') {
        let Ok(text) = std::str::from_utf8(data) else { return 1 };
        let Ok(state) = DesiredState::parse(text, Notation::Json) else { return 2 };
        let checked = state.check().is_ok();
        let generation = data.len() as u64 * 0x0101_0101;
        let file = encode(&state, generation).expect("a state can be written");
        match decode(&file) {
            Ok(got) => assert_eq!(got, (state, generation)),
            Err(e) => assert!(!checked, "{e}"),
        }
        let bit = ((data.len() * 2_654_435_761) ^ usize::from(data[data.len() / 2])) % (file.len() * 8);
        let mut spoilt = file;
        spoilt[bit / 8] ^= 1 << (bit % 8);
        assert!(decode(&spoilt).is_err(), "bit {bit} was flipped");
        return 3 + u64::from(checked);
    }
    match decode(data) {
        Ok((state, generation)) => {
            state.check().expect("only checked states are handed out");
            let file = encode(&state, generation).expect("a state can be written");
            assert_eq!(decode(&file), Ok((state, generation)));
            7
        }
        Err(e) => {
            assert!(!e.is_empty());
            // The first words name the kind of damage.
            mix(8, e.bytes().take(12).fold(0, |a, b| a * 31 + u64::from(b)))
        }
    }
}
