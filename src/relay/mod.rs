//! Moves bytes both ways between two sockets.
