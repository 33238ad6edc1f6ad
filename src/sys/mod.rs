//! The only floor with `unsafe`: Linux's socket calls, typed and documented.
