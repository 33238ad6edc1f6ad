//! Quantities as people write them: `5s`, `64KiB`, `1Gbit/s`.
