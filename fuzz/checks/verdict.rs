//! Properties of `inspect` on any bytes.

use super::{ParseProgress, inspect};

/// The verdict, after making sure that it does not depend on how the bytes arrived, on what follows it, or on what
/// the scratch buffer held; and that waiting for `at_least` bytes misses nothing.
pub(crate) fn stable_verdict(bytes: &[u8], max: usize) -> ParseProgress {
    let mut scratch = Vec::new();
    let whole = inspect(bytes, max, &mut scratch);
    let mut dirty = vec![0xa5; 64];
    let mut length = 0;
    loop {
        let verdict = inspect(&bytes[..length], max, &mut dirty);
        let ParseProgress::NeedMore { at_least } = verdict else {
            assert_eq!(verdict, whole, "the verdict on {length} bytes changed with more");
            break;
        };
        assert!(length < at_least && at_least <= max, "{length} bytes, bound {max}: at least {at_least}");
        let last_in_vain = bytes.len().min(at_least - 1);
        assert_eq!(inspect(&bytes[..last_in_vain], max, &mut scratch), verdict, "a call was worth it sooner");
        if at_least > bytes.len() {
            assert_eq!(verdict, whole);
            break;
        }
        length = at_least;
    }
    assert!(scratch.len() <= max.max(64) && dirty.len() <= max.max(64));
    whole
}
